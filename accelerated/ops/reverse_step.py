"""x_{t-1} from x_t: `noisestep.reference.reverse`. Reads x_t and the output, writes x_{t-1} (and x_0 when asked)."""

import math
from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..address import NOWHERE, Address, NoiseAddress
from ..backends.eager import like_input, rows_at, stored
from ..backends.native import calls as native
from ..backends.triton.kernels import normals, row_of_table, widened
from ..backends.triton.kernels import stored as stored_kernel
from ..backends.triton.launch import Layout, address_arguments, as_rows, launch, use_kernels
from ..backends.triton.tiling import piece, pieces, program_of_row
from ..noise import normal_at
from ..schedule import COLUMNS, DeviceSchedule, Prediction, Variance
from .checks import (
    check_batch,
    check_clip,
    check_like,
    check_noise,
    check_number,
    check_option,
    check_range,
    check_schedule,
    check_timesteps,
    compute_dtype,
    output_shape,
)


@triton.jit(do_not_specialize=["seed_low", "seed_high", "step", "sample_low", "sample_high"])
def _kernel(
    x_t_ptr,
    output_ptr,
    unconditional_ptr,
    eps_ptr,
    x_s_ptr,
    x_0_ptr,
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
    NOISY: tl.constexpr,
    CLIP: tl.constexpr,
    OWN_EPS: tl.constexpr,
    LEARNED: tl.constexpr,
    COLUMNS: tl.constexpr,
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
    c = table_ptr + row_of_table(t_ptr, row, rows, T_ROWS, COLUMNS)
    c_0, c_1, c_2, c_3, c_4, sigma = (
        tl.load(c),
        tl.load(c + 1),
        tl.load(c + 2),
        tl.load(c + 3),
        tl.load(c + 4),
        tl.load(c + 5),
    )
    of_x, of_out = tl.load(c + 6), tl.load(c + 7)
    half_log_beta, half_log_posterior = tl.load(c + 8), tl.load(c + 9)
    guidance, low, high = tl.load(c + 10), tl.load(c + 11), tl.load(c + 12)
    # a learned variance has its own channels behind those of the prediction: pixel by pixel, or behind them all
    behind = n if WALK == "contiguous" else CHANNELS
    if NOISY and eps_ptr is None:
        address = (seed_ptr, seed_low, seed_high, step_ptr, step, sample_ptr, sample_low, sample_high)
        made = normals(address, row, program, inner, STREAM, STEP_ROWS, WALK, CHANNELS, VECTOR, BLOCKS)
    for i in tl.static_range(pieces(WALK, VECTOR)):
        offset, place = piece(i, row, program, n, inner, WALK, CHANNELS, VECTOR, BLOCKS)
        mask = None if WHOLE else place < n
        out_offset = offset
        if LEARNED and WALK == "contiguous":
            out_offset += row * n
        elif LEARNED:
            out_offset += offset - (offset - row * n).to(program.dtype) % CHANNELS
        x = widened(tl.load(x_t_ptr + offset, mask=mask), compute)
        out = widened(tl.load(output_ptr + out_offset, mask=mask), compute)
        if unconditional_ptr is not None:
            without = widened(tl.load(unconditional_ptr + out_offset, mask=mask), compute)
            out = without + guidance * (out - without)
        if CLIP or x_0_ptr is not None:
            x_0 = c_0 * x + c_1 * out
        if CLIP:
            x_0 = tl.clamp(x_0, low, high, propagate_nan=tl.PropagateNan.ALL)
            x_s = c_2 * x_0 + c_3 * x
            if OWN_EPS:
                x_s += c_4 * out
        else:
            x_s = of_x * x + of_out * out
        if NOISY:
            scale = sigma
            if LEARNED:
                between = widened(tl.load(output_ptr + out_offset + behind, mask=mask), compute)
                if unconditional_ptr is not None:
                    other = widened(tl.load(unconditional_ptr + out_offset + behind, mask=mask), compute)
                    between = other + guidance * (between - other)
                share = (between + 1) * 0.5
                scale = sigma * tl.exp(share * half_log_beta + (1 - share) * half_log_posterior)
            eps = made[i] if eps_ptr is None else tl.load(eps_ptr + offset, mask=mask)
            x_s += scale * widened(eps, compute)
        tl.store(x_s_ptr + offset, stored_kernel(x_s, x_s_ptr), mask=mask)
        if x_0_ptr is not None:
            tl.store(x_0_ptr + offset, stored_kernel(x_0, x_0_ptr), mask=mask)


def _launch(
    x_t: Tensor,
    output: Tensor,
    unconditional: Tensor | None,
    t: Tensor,
    table: Tensor,
    eps: Tensor | None,
    address: Address,
    noisy: bool,
    clip: bool,
    own_eps: bool,
    learned: bool,
    return_x_0: bool,
    in_place: bool,
) -> tuple[Tensor, Tensor | None]:
    layout = Layout(x_t, x_t.dtype)
    x = x_t.contiguous(memory_format=layout.format)
    # an element is read by the thread that writes it, and before it does
    x_s = x if in_place else layout.write(x_t, x_t.dtype)
    x_0 = layout.write(x_t, x_t.dtype) if return_x_0 else None
    launch(
        _kernel,
        layout.grid,
        x_t_ptr=x,
        output_ptr=layout.read(output),
        unconditional_ptr=layout.read(unconditional),
        eps_ptr=layout.read(eps),
        x_s_ptr=x_s,
        x_0_ptr=x_0,
        table_ptr=table,
        rows=len(table),
        NOISY=noisy,
        CLIP=clip,
        OWN_EPS=own_eps,
        LEARNED=learned,
        COLUMNS=COLUMNS,
        **as_rows(t),
        **layout.arguments(),
        **address_arguments(address),
    )
    if in_place and x is not x_t:
        x_t.copy_(x)
    return x_t if in_place else like_input(x_s, x_t), None if x_0 is None else like_input(x_0, x_t)


def _in_torch(
    x_t: Tensor,
    output: Tensor,
    unconditional: Tensor | None,
    t: Tensor,
    table: Tensor,
    eps: Tensor | None,
    address: Address,
    noisy: bool,
    clip: bool,
    own_eps: bool,
    learned: bool,
    return_x_0: bool,
    in_place: bool,
) -> tuple[Tensor, Tensor | None]:
    """The same on the PyTorch path."""
    if not learned and native.takes(x_t, output, unconditional, eps):
        x_s = x_t if in_place else torch.empty_like(x_t)
        options = dict(noisy=noisy, clip=clip, own_eps=own_eps, return_x_0=return_x_0)
        return x_s, native.reverse_step(x_t, output, unconditional, t, table, eps, address, x_s, **options)
    c = rows_at(table, t, x_t)
    x, out = x_t.to(table.dtype), output.to(table.dtype)
    if unconditional is not None:
        without = unconditional.to(table.dtype)
        out = without + c[10] * (out - without)
    sigma = c[5]
    if learned:
        out, place = out.chunk(2, dim=1)
        share = (place + 1) * 0.5
        sigma = sigma * torch.exp(share * c[8] + (1 - share) * c[9])
    x_0 = c[0] * x + c[1] * out
    if clip:
        x_0 = torch.clamp(x_0, c[11], c[12])
        x_s = c[2] * x_0 + c[3] * x
        if own_eps:
            x_s = x_s + c[4] * out
    else:
        x_s = c[6] * x + c[7] * out
    if noisy:
        if eps is None:
            eps = normal_at(address, x_t.shape, x_t.device)
        x_s = x_s + sigma * eps.to(table.dtype)
    # x_0 first: in place, x_s may be written over what it is made of
    predicted = stored(x_0, x_t, x_t.dtype) if return_x_0 else None
    return x_t.copy_(x_s) if in_place else stored(x_s, x_t, x_t.dtype), predicted


# what both registered ops take: x_t first, then these
_ARGUMENTS = (
    "Tensor output, Tensor? unconditional, Tensor t, Tensor table, Tensor? eps, SymInt seed, Tensor? seed_tensor, "
    "SymInt stream, SymInt step, Tensor? step_tensor, SymInt sample, Tensor? sample_tensor, "
    "bool noisy, bool clip, bool own_eps, bool learned, bool return_x_0"
)


@torch.library.custom_op(
    "noisestep::reverse_step", mutates_args=(), schema=f"(Tensor x_t, {_ARGUMENTS}) -> (Tensor, Tensor)"
)
def _reverse_step(x_t: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _run(x_t, *rest, in_place=False)


@_reverse_step.register_fake
def _(x_t, *rest):
    return torch.empty_like(x_t), _fake_x_0(x_t, *rest)


@torch.library.custom_op(
    "noisestep::reverse_step_", mutates_args=("x_t",), schema=f"(Tensor(a!) x_t, {_ARGUMENTS}) -> Tensor"
)
def _reverse_step_in_place(x_t: Tensor, *rest: Any) -> Tensor:
    return _run(x_t, *rest, in_place=True)[1]


@_reverse_step_in_place.register_fake
def _(x_t, *rest):
    return _fake_x_0(x_t, *rest)


def _run(
    x_t: Tensor,
    output: Tensor,
    unconditional: Tensor | None,
    t: Tensor,
    table: Tensor,
    eps: Tensor | None,
    *rest: Any,
    in_place: bool,
) -> tuple[Tensor, Tensor]:
    address, options = rest[:7], rest[7:]
    if t.is_cpu:
        check_range(t, len(table) - 1)
    run: Any = _launch if use_kernels(x_t) else _in_torch
    x_s, x_0 = run(x_t, output, unconditional, t, table, eps, address, *options, in_place)
    return x_s, x_t.new_empty(0) if x_0 is None else x_0


def _fake_x_0(x_t, *rest):
    return torch.empty_like(x_t) if rest[-1] else x_t.new_empty(0)


@overload
def reverse_step(
    schedule: DeviceSchedule,
    x_t: Tensor,
    output: Tensor | tuple[Tensor, Tensor],
    t: Tensor | int,
    noise: NoiseAddress | Tensor | None,
    *,
    prediction: Prediction = "eps",
    clip: tuple[float, float] | None = None,
    variance: Variance = "posterior",
    eta: float | None = None,
    rederive_eps: bool = True,
    guidance: float | None = None,
    temperature: float = 1.0,
    in_place: bool = False,
    return_x_0: Literal[False] = False,
) -> Tensor: ...
@overload
def reverse_step(
    schedule: DeviceSchedule,
    x_t: Tensor,
    output: Tensor | tuple[Tensor, Tensor],
    t: Tensor | int,
    noise: NoiseAddress | Tensor | None,
    *,
    prediction: Prediction = "eps",
    clip: tuple[float, float] | None = None,
    variance: Variance = "posterior",
    eta: float | None = None,
    rederive_eps: bool = True,
    guidance: float | None = None,
    temperature: float = 1.0,
    in_place: bool = False,
    return_x_0: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def reverse_step(
    schedule: DeviceSchedule,
    x_t: Tensor,
    output: Tensor | tuple[Tensor, Tensor],
    t: Tensor | int,
    noise: NoiseAddress | Tensor | None,
    *,
    prediction: Prediction = "eps",
    clip: tuple[float, float] | None = None,
    variance: Variance = "posterior",
    eta: float | None = None,
    rederive_eps: bool = True,
    guidance: float | None = None,
    temperature: float = 1.0,
    in_place: bool = False,
    return_x_0: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """One step of the reverse process, x_t to x_{t-1} (the chapter's "The Reverse Sampling Process").

        x_{t-1} = 1/sqrt(alpha_t) (x_t - (1 - alpha_t)/sqrt(1 - alpha_bar_t) eps_theta) + sigma_t z,    no z at t = 1

    and its relatives: from predictions of x_0 or v, with x_0 clipped, with another variance, guided, or
    DDIM's. Every coefficient is a row of a table; nothing is read back to the host. For fewer steps than
    the network was trained on, pass the `DeviceSchedule` of a respaced schedule. Not differentiable.

    Parameters
    ----------
    schedule : DeviceSchedule
        On the device of x_t.
    x_t : Tensor, shape (B, ...)
        float32, float16, bfloat16 or float64, any rank and memory layout.
    output : Tensor, shape (B, ...), or a pair of them
        The network's prediction; twice the channels (axis 1) with ``variance="learned_range"``. With
        `guidance`: the pair (unconditional, conditional), or both joined on axis 0 in that order.
    t : Tensor of int64 or int32, shape (B,) or (), or int
        A timestep for each sample, in 0..T; t = 0 leaves x_t alone. Checked on a CPU. On a GPU it is not read back: a t
        out of range takes the nearest row of the table.
    noise : NoiseAddress, Tensor or None
        The address that z is made from, or z itself; None where the update adds none.
    prediction : {"eps", "x_0", "v"}
        What the network predicts.
    clip : (float, float), optional
        The range that the predicted x_0 is clipped to.
    variance : {"posterior", "beta", "zero", "learned_range"}
        sigma_t^2 of the chapter's update: the posterior's, beta_t, none, or between the first two as the network's
        second half says (Nichol & Dhariwal 2021, eq. 15, with outputs in [-1, 1]).
    eta : float, optional
        In [0, 1]: DDIM's update (Song et al. 2021, eq. 12 and 16) in place of the chapter's.
    rederive_eps : bool
        DDIM with `clip`: whether eps follows from the clipped x_0 or stays as predicted.
    guidance : float, optional
        Classifier-free guidance: unconditional + guidance (conditional - unconditional).
    temperature : float
        What z is multiplied by, at least 0: above 1 for more variety, below for less.
    in_place : bool
        Write x_{t-1} over x_t, and return x_t.
    return_x_0 : bool
        Also return the predicted x_0, clipped where asked.

    Returns
    -------
    x_{t-1} : Tensor, shape (B, ...)
        Dtype and memory layout of x_t.
    x_0 : Tensor, shape (B, ...)
        Only with ``return_x_0=True``.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit together, with both sides of the disagreement.
    """
    check_batch("x_t", x_t)
    check_schedule(schedule, x_t, "x_t")
    check_option("prediction", prediction, ("eps", "x_0", "v"))
    check_option("variance", variance, ("posterior", "beta", "zero", "learned_range"))
    t = check_timesteps(t, x_t, "x_t")
    learned = variance == "learned_range" and eta is None
    clip = check_clip(clip)
    check_number("temperature", temperature, 0, math.inf)
    if eta is not None:
        check_number("eta", eta, 0, 1)
    if guidance is not None:
        check_number("guidance", guidance, -math.inf, math.inf)
    output, unconditional = _check_outputs(output, x_t, guidance, learned)
    table = schedule.reverse_table(
        prediction=prediction,
        variance=variance,
        eta=eta,
        rederive_eps=rederive_eps,
        clip=clip,
        guidance=guidance,
        temperature=temperature,
        dtype=compute_dtype(x_t),
    )
    noisy = schedule.is_noisy(variance=variance, eta=eta)
    if noise is None and noisy:
        raise ValueError(f"this update adds noise (variance={variance!r}, eta={eta}); noise must not be None")
    eps, address = (None, NOWHERE) if noise is None else check_noise(noise, x_t, "x_t")
    if not noisy:
        eps, address = None, NOWHERE
    own_eps = eta is not None and not rederive_eps
    options = (noisy, clip is not None, own_eps, learned, return_x_0)
    if in_place:
        _check_in_place(x_t)
        x_s, x_0 = x_t, _reverse_step_in_place(x_t, output, unconditional, t, table, eps, *address, *options)
    else:
        x_s, x_0 = _reverse_step(x_t, output, unconditional, t, table, eps, *address, *options)
    return (x_s, x_0) if return_x_0 else x_s


def _check_in_place(x_t: Tensor) -> None:
    """x_t can be written to: it is nobody's leaf, and each of its elements has a place of its own."""
    if x_t.requires_grad and torch.is_grad_enabled():
        raise ValueError("in_place=True would overwrite an x_t that requires a gradient; pass x_t.detach()")
    if any(stride == 0 and n > 1 for stride, n in zip(x_t.stride(), x_t.shape, strict=True)):
        raise ValueError(
            f"in_place=True needs an x_t with memory of its own for each element, got an expanded one "
            f"(shape {tuple(x_t.shape)}, strides {x_t.stride()})"
        )


def _check_outputs(output: object, x_t: Tensor, guidance: float | None, learned: bool) -> tuple[Tensor, Tensor | None]:
    """The network's output, and the unconditional one where there is guidance, with the shapes they must have."""
    shape = output_shape(x_t, learned)
    if guidance is None:
        return check_like("output", output, x_t, "x_t", shape=shape), None
    if isinstance(output, Tensor):
        check_like("output", output, x_t, "x_t with guidance", shape=(2 * shape[0], *shape[1:]))
        output = output.chunk(2)
    if not isinstance(output, Sequence) or len(output) != 2:
        raise TypeError(
            "with guidance, output must be a tensor of two batches or a pair (unconditional, conditional), "
            f"got {type(output).__name__}"
        )
    unconditional, conditional = (
        check_like(f"the {name} output", part, x_t, "x_t", shape=shape)
        for name, part in zip(("unconditional", "conditional"), output, strict=True)
    )
    return conditional, unconditional
