"""x_t ~ q(x_t | x_0): `noisestep.reference.forward.q_sample`. Reads x_0, writes x_t (and eps when asked)."""

from typing import Literal, overload

import torch
import triton.language as tl
from torch import Tensor

from ..address import NoiseAddress
from ..backends import eager, native
from ..backends.triton import kernels
from ..backends.triton.launch import ADDRESS, constants_of, kernel, layout_of, numbers_of, pointers_of, rows_of
from ..backends.triton.tiling import access, accesses, program_of_row
from ..schedule import DeviceSchedule
from .checks import (
    FLOATS,
    check_batch,
    check_dtype,
    check_noise,
    check_schedule,
    check_switch,
    check_timesteps,
    compute_dtype,
)
from .noise import normal
from .registered import Registered


@kernel(numbers=ADDRESS)
def _kernel(
    x_0_ptr, eps_ptr, x_t_ptr, eps_out_ptr, t_ptr, table_ptr, seed_ptr, step_ptr, sample_ptr,
    seed_low, seed_high, step, sample_low, sample_high,
    rows, T_ROWS: tl.constexpr, STREAM: tl.constexpr, STEP_ROWS: tl.constexpr, n, inner, TILING: tl.constexpr,
):  # fmt: skip
    row, program = program_of_row(TILING)
    compute: tl.constexpr = table_ptr.dtype.element_ty
    coefficients = table_ptr + kernels.row_of_table(t_ptr, row, rows, T_ROWS, 2)
    signal, noise = tl.load(coefficients), tl.load(coefficients + 1)
    if eps_ptr is None:
        address = (seed_ptr, seed_low, seed_high, step_ptr, step, sample_ptr, sample_low, sample_high)
        fresh = kernels.normals(address, row, program, inner, STREAM, STEP_ROWS, TILING)
    for i in tl.static_range(accesses(TILING)):
        offset, number = access(i, row, program, n, inner, TILING)
        mask = None if TILING.whole else number < n
        x_0 = kernels.unit_range(tl.load(x_0_ptr + offset, mask=mask), compute)
        eps = fresh[i] if eps_ptr is None else tl.load(eps_ptr + offset, mask=mask)
        x_t = signal * x_0 + noise * eps.to(compute)
        tl.store(x_t_ptr + offset, kernels.cast(x_t, x_t_ptr), mask=mask)
        if eps_out_ptr is not None:
            tl.store(eps_out_ptr + offset, kernels.cast(eps, eps_out_ptr), mask=mask)


_q_sample = Registered(
    "q_sample(Tensor x_0, Tensor t, Tensor table, Tensor? eps, Address address, ScalarType dtype, bool return_eps) "
    "-> (Tensor, Tensor)"
)


@_q_sample.triton
def _(x_0, t, table, eps, address, dtype, return_eps):
    layout = layout_of(x_0, dtype)
    x_t = layout.write(x_0, dtype)
    eps_out = layout.write(x_0, dtype) if return_eps else None
    t, t_rows = rows_of(t)
    _kernel(
        layout,
        (layout.reads(x_0), layout.read(eps), x_t, eps_out, t, table, *pointers_of(address)),
        numbers_of(address),
        (table.shape[0], t_rows, *constants_of(address)),
    )
    return layout.finished(x_t, x_0), None if eps_out is None else layout.finished(eps_out, x_0)


@_q_sample.native
def _(x_0, t, table, eps, address, dtype, return_eps):
    if dtype == torch.float64 or not native.takes(x_0, eps):
        return NotImplemented
    return native.q_sample(x_0, t, table, eps, address, dtype, return_eps)


@_q_sample.eager
def _(x_0, t, table, eps, address, dtype, return_eps):
    if t.is_cpu:
        eager.check_range(t, table.shape[0] - 1)
    if eps is None:
        eps = normal(address, x_0.shape, x_0.device)
    signal, noise = eager.rows_at(table, t, x_0)
    x_t = signal * eager.unit_range(x_0, table.dtype) + noise * eps.to(table.dtype)
    # a copy even of an eps that was given: an op's result must not be its argument
    eps_out = torch.empty_like(x_0, dtype=dtype).copy_(eps) if return_eps else None
    return eager.cast(x_t, x_0, dtype), eps_out


@_q_sample.fake
def _(x_0, t, table, eps, address, dtype, return_eps):
    x_t = torch.empty_like(x_0, dtype=dtype)
    return x_t, torch.empty_like(x_t) if return_eps else None


def _save(ctx, inputs, output):
    ctx.save_for_backward(inputs.t, inputs.table)
    ctx.dtypes = inputs.x_0.dtype, None if inputs.eps is None else inputs.eps.dtype
    if output[1] is not None:
        ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad_x_t):
    t, table = ctx.saved_tensors
    signal, noise = eager.rows_at(table, t, grad_x_t)
    x_0_dtype, eps_dtype = ctx.dtypes
    return {
        "x_0": (signal * grad_x_t).to(x_0_dtype) if ctx.wanted.x_0 else None,
        "eps": (noise * grad_x_t).to(eps_dtype) if ctx.wanted.eps else None,
    }


_q_sample.backward(_save, _backward)


@overload
def q_sample(
    schedule: DeviceSchedule,
    x_0: Tensor,
    t: Tensor | int,
    noise: NoiseAddress | Tensor,
    *,
    dtype: torch.dtype | None = None,
    return_eps: Literal[False] = False,
) -> Tensor: ...
@overload
def q_sample(
    schedule: DeviceSchedule,
    x_0: Tensor,
    t: Tensor | int,
    noise: NoiseAddress | Tensor,
    *,
    dtype: torch.dtype | None = None,
    return_eps: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def q_sample(
    schedule: DeviceSchedule,
    x_0: Tensor,
    t: Tensor | int,
    noise: NoiseAddress | Tensor,
    *,
    dtype: torch.dtype | None = None,
    return_eps: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Noised images from q(x_t | x_0) (the chapter's "Recap: Sampling from the Forward Process").

        x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps,    eps ~ N(0, I)

    Computed in float32 (float64 where x_0 is float64), and rounded once. Differentiable in x_0 and in a
    given eps.

    Parameters
    ----------
    schedule : DeviceSchedule
        On the device of x_0.
    x_0 : Tensor, shape (B, ...)
        float32, float16, bfloat16 or float64; or uint8, whose levels 0..255 become [-1, 1] on the way in.
        Any rank and memory layout; the result has the same layout.
    t : Tensor of int64 or int32, shape (B,) or (), or int
        In 0..T; t = 0 leaves clean data, and has no place in a training batch. Checked on a CPU. On a GPU it is not
        read back: a t out of range takes the nearest row of the table.
    noise : NoiseAddress or Tensor
        The address that eps is made from, or eps itself, shape (B, ...).
    dtype : torch.dtype, optional
        Of the result; that of x_0 by default, float32 for uint8.
    return_eps : bool
        Also return eps, rounded to `dtype`.

    Returns
    -------
    x_t : Tensor, shape (B, ...)
    eps : Tensor, shape (B, ...)
        Only with ``return_eps=True``.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit together, with both sides of the disagreement.
    """
    check_switch("return_eps", return_eps)
    check_batch("x_0", x_0, dtypes=(*FLOATS, torch.uint8))
    check_schedule(schedule, x_0, "x_0")
    t = check_timesteps(t, schedule, x_0, "x_0")
    eps, address = check_noise(noise, x_0, "x_0")
    if dtype is None:
        dtype = torch.float32 if x_0.dtype == torch.uint8 else x_0.dtype
    check_dtype(dtype)
    table = schedule.forward_table(compute_dtype(x_0))
    x_t, eps = _q_sample(x_0, t, table, eps, address, dtype, return_eps)
    return (x_t, eps) if return_eps else x_t
