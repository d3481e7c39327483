"""x_t ~ q(x_t | x_0): `noisestep.reference.forward.q_sample`. Reads x_0, writes x_t (and eps when asked)."""

from typing import Literal, overload

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..address import Address, NoiseAddress
from ..backends.eager import like_input, per_sample, rows_at, stored, unit_range
from ..backends.native import calls as native
from ..backends.triton.kernels import normals, row_of_table
from ..backends.triton.kernels import stored as stored_kernel
from ..backends.triton.kernels import unit_range as unit_range_kernel
from ..backends.triton.launch import Layout, address_arguments, as_rows, launch, use_kernels
from ..backends.triton.tiling import piece, pieces, program_of_row
from ..noise import normal_at
from ..schedule import DeviceSchedule
from .checks import (
    FLOATS,
    check_batch,
    check_dtype,
    check_noise,
    check_range,
    check_schedule,
    check_timesteps,
    compute_dtype,
)


@triton.jit(do_not_specialize=["seed_low", "seed_high", "step", "sample_low", "sample_high"])
def _kernel(
    x_0_ptr,
    eps_ptr,
    x_t_ptr,
    eps_out_ptr,
    t_ptr,
    table_ptr,
    rows,
    n,
    inner,
    seed_ptr,
    seed_low,
    seed_high,
    step_ptr,
    step,
    sample_ptr,
    sample_low,
    sample_high,
    T_ROWS: tl.constexpr,
    STREAM: tl.constexpr,
    STEP_ROWS: tl.constexpr,
    WALK: tl.constexpr,
    CHANNELS: tl.constexpr,
    WIDE: tl.constexpr,
    WHOLE: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    row, program = program_of_row(WIDE)
    compute: tl.constexpr = table_ptr.dtype.element_ty
    coefficients = table_ptr + row_of_table(t_ptr, row, rows, T_ROWS, 2)
    signal, noise = tl.load(coefficients), tl.load(coefficients + 1)
    if eps_ptr is None:
        address = (seed_ptr, seed_low, seed_high, step_ptr, step, sample_ptr, sample_low, sample_high)
        made = normals(address, row, program, inner, STREAM, STEP_ROWS, WALK, CHANNELS, VECTOR, BLOCKS)
    for i in tl.static_range(pieces(WALK, VECTOR)):
        offset, place = piece(i, row, program, n, inner, WALK, CHANNELS, VECTOR, BLOCKS)
        mask = None if WHOLE else place < n
        x_0 = unit_range_kernel(tl.load(x_0_ptr + offset, mask=mask), compute)
        eps = made[i] if eps_ptr is None else tl.load(eps_ptr + offset, mask=mask)
        x_t = signal * x_0 + noise * eps.to(compute)
        tl.store(x_t_ptr + offset, stored_kernel(x_t, x_t_ptr), mask=mask)
        if eps_out_ptr is not None:
            tl.store(eps_out_ptr + offset, stored_kernel(eps, eps_out_ptr), mask=mask)


def _launch(
    x_0: Tensor,
    t: Tensor,
    table: Tensor,
    eps: Tensor | None,
    address: Address,
    dtype: torch.dtype,
    return_eps: bool,
) -> tuple[Tensor, Tensor]:
    layout = Layout(x_0, dtype)
    x_t = layout.write(x_0, dtype)
    eps_out = layout.write(x_0, dtype) if return_eps else None
    launch(
        _kernel,
        layout.grid,
        x_0_ptr=layout.read(x_0),
        eps_ptr=layout.read(eps),
        x_t_ptr=x_t,
        eps_out_ptr=eps_out,
        table_ptr=table,
        rows=len(table),
        **as_rows(t),
        **layout.arguments(),
        **address_arguments(address),
    )
    if eps_out is None:
        return like_input(x_t, x_0), x_0.new_empty(0, dtype=dtype)
    return like_input(x_t, x_0), like_input(eps_out, x_0)


@torch.library.custom_op("noisestep::q_sample", mutates_args=())
def _q_sample(
    x_0: Tensor,
    t: Tensor,
    table: Tensor,
    eps: Tensor | None,
    seed: int,
    seed_tensor: Tensor | None,
    stream: int,
    step: int,
    step_tensor: Tensor | None,
    sample: int,
    sample_tensor: Tensor | None,
    dtype: torch.dtype,
    return_eps: bool,
) -> tuple[Tensor, Tensor]:
    if t.is_cpu:
        check_range(t, table.shape[0] - 1)
    address = (seed, seed_tensor, stream, step, step_tensor, sample, sample_tensor)
    if use_kernels(x_0):
        return _launch(x_0, t, table, eps, address, dtype, return_eps)
    if dtype == table.dtype and native.takes(x_0, eps):
        x_t, eps_out = native.q_sample(x_0, t, table, eps, address, return_eps)
        return x_t, x_0.new_empty(0, dtype=dtype) if eps_out is None else eps_out
    if eps is None:
        eps = normal_at(address, x_0.shape, x_0.device)
    signal, noise = rows_at(table, t, x_0)
    x_t = signal * unit_range(x_0, table.dtype) + noise * eps.to(table.dtype)
    # a copy even of an eps that was given: an op's result must not be its argument
    eps_out = torch.empty_like(x_0, dtype=dtype).copy_(eps) if return_eps else x_0.new_empty(0, dtype=dtype)
    return stored(x_t, x_0, dtype), eps_out


@_q_sample.register_fake
def _(
    x_0,
    t,
    table,
    eps,
    seed,
    seed_tensor,
    stream,
    step,
    step_tensor,
    sample,
    sample_tensor,
    dtype,
    return_eps,
):
    x_t = torch.empty_like(x_0, dtype=dtype)
    return x_t, torch.empty_like(x_t) if return_eps else x_0.new_empty(0, dtype=dtype)


def _save(ctx, inputs, output) -> None:
    x_0, t, table, eps = inputs[:4]
    ctx.save_for_backward(t, table)
    ctx.dtypes = x_0.dtype, None if eps is None else eps.dtype
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad_x_t: Tensor, grad_eps: Tensor):
    t, table = ctx.saved_tensors
    signal, noise = (per_sample(rows, grad_x_t) for rows in table[t.clamp(0, table.shape[0] - 1)].unbind(-1))
    x_0_dtype, eps_dtype = ctx.dtypes
    for_x_0 = (signal * grad_x_t).to(x_0_dtype) if ctx.needs_input_grad[0] else None
    for_eps = (noise * grad_x_t).to(eps_dtype) if ctx.needs_input_grad[3] else None
    return for_x_0, None, None, for_eps, *(None,) * 9


_q_sample.register_autograd(_backward, setup_context=_save)


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
        In 0..T; t = 0 leaves clean data. Checked on a CPU. On a GPU it is not read back: a t out of range takes the
        nearest row of the table.
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
    check_batch("x_0", x_0, dtypes=(*FLOATS, torch.uint8))
    check_schedule(schedule, x_0, "x_0")
    t = check_timesteps(t, x_0, "x_0")
    eps, address = check_noise(noise, x_0, "x_0")
    if dtype is None:
        dtype = torch.float32 if x_0.dtype == torch.uint8 else x_0.dtype
    check_dtype(dtype)
    table = schedule.forward_table(compute_dtype(x_0))
    x_t, eps = _q_sample(x_0, t, table, eps, *address, dtype, return_eps)
    return (x_t, eps) if return_eps else x_t
