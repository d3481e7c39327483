"""x_{t-1} from x_t: `noisestep.reference.reverse`. Reads x_t and the output, writes x_{t-1} (and x_0 when asked)."""

import functools
import math
from collections.abc import Sequence
from typing import Literal, overload

import torch
import triton.language as tl
from torch import Tensor

from ..address import NOWHERE, NoiseAddress
from ..backends import eager, native
from ..backends.triton import kernels
from ..backends.triton.launch import ADDRESS, constants_of, kernel, layout_of, numbers_of, pointers_of, rows_of
from ..backends.triton.tiling import access, accesses, program_of_row
from ..schedule import COLUMNS, DeviceSchedule, Prediction, Variance
from .checks import (
    check_batch,
    check_clip,
    check_like,
    check_memory,
    check_noise,
    check_number,
    check_option,
    check_schedule,
    check_timesteps,
    compute_dtype,
    output_shape,
)
from .noise import normal
from .registered import Registered


@kernel(numbers=ADDRESS)
def _kernel(
    x_t_ptr, output_ptr, unconditional_ptr, eps_ptr, x_s_ptr, x_0_ptr, t_ptr, table_ptr, seed_ptr, step_ptr, sample_ptr,
    seed_low, seed_high, step, sample_low, sample_high,
    rows, NOISY: tl.constexpr, CLIP: tl.constexpr, OWN_EPS: tl.constexpr, LEARNED: tl.constexpr, C: tl.constexpr,
    T_ROWS: tl.constexpr, STREAM: tl.constexpr, STEP_ROWS: tl.constexpr, n, inner, TILING: tl.constexpr,
):  # fmt: skip
    """C is `schedule.COLUMNS`."""
    row, program = program_of_row(TILING)
    compute: tl.constexpr = table_ptr.dtype.element_ty
    c = table_ptr + kernels.row_of_table(t_ptr, row, rows, T_ROWS, len(C))
    x_0_from_x, x_0_from_out = tl.load(c + C.x_0_from_x), tl.load(c + C.x_0_from_out)
    from_x_0, from_x, from_out = tl.load(c + C.from_x_0), tl.load(c + C.from_x), tl.load(c + C.from_out)
    unclipped_from_x, unclipped_from_out = tl.load(c + C.unclipped_from_x), tl.load(c + C.unclipped_from_out)
    sigma = tl.load(c + C.sigma)
    half_log_beta, half_log_posterior = tl.load(c + C.half_log_beta), tl.load(c + C.half_log_posterior)
    guidance, low, high = tl.load(c + C.guidance), tl.load(c + C.low), tl.load(c + C.high)
    # a learned variance has its own channels behind those of the prediction: pixel by pixel, or behind them all
    behind = n if TILING.order == "contiguous" else TILING.channels
    if NOISY and eps_ptr is None:
        address = (seed_ptr, seed_low, seed_high, step_ptr, step, sample_ptr, sample_low, sample_high)
        fresh = kernels.normals(address, row, program, inner, STREAM, STEP_ROWS, TILING)
    for i in tl.static_range(accesses(TILING)):
        offset, number = access(i, row, program, n, inner, TILING)
        mask = None if TILING.whole else number < n
        out_offset = offset
        if LEARNED and TILING.order == "contiguous":
            out_offset += row * n
        elif LEARNED:
            out_offset += offset - (offset - row * n).to(program.dtype) % TILING.channels
        x = kernels.upcast(tl.load(x_t_ptr + offset, mask=mask), compute)
        out = kernels.upcast(tl.load(output_ptr + out_offset, mask=mask), compute)
        if unconditional_ptr is not None:
            without = kernels.upcast(tl.load(unconditional_ptr + out_offset, mask=mask), compute)
            out = without + guidance * (out - without)
        if CLIP or x_0_ptr is not None:
            x_0 = x_0_from_x * x + x_0_from_out * out
        if CLIP:
            x_0 = tl.clamp(x_0, low, high, propagate_nan=tl.PropagateNan.ALL)
            x_s = from_x_0 * x_0 + from_x * x
            if OWN_EPS:
                x_s += from_out * out
        else:
            x_s = unclipped_from_x * x + unclipped_from_out * out
        if NOISY:
            scale = sigma
            if LEARNED:
                fraction = kernels.upcast(tl.load(output_ptr + out_offset + behind, mask=mask), compute)
                if unconditional_ptr is not None:
                    other = kernels.upcast(tl.load(unconditional_ptr + out_offset + behind, mask=mask), compute)
                    fraction = other + guidance * (fraction - other)
                share = (fraction + 1) * 0.5
                scale = sigma * tl.exp(share * half_log_beta + (1 - share) * half_log_posterior)
            eps = fresh[i] if eps_ptr is None else tl.load(eps_ptr + offset, mask=mask)
            x_s += scale * kernels.upcast(eps, compute)
        tl.store(x_s_ptr + offset, kernels.cast(x_s, x_s_ptr), mask=mask)
        if x_0_ptr is not None:
            tl.store(x_0_ptr + offset, kernels.cast(x_0, x_0_ptr), mask=mask)


def _launch(
    x_t, output, unconditional, t, table, eps, address, noisy, clip, own_eps, learned, return_x_0, *, in_place=False
):
    layout = layout_of(x_t, x_t.dtype)
    x = layout.reads(x_t)
    # an element is read by the thread that writes it, and before it does
    x_s = x if in_place else layout.write(x_t, x_t.dtype)
    x_0 = layout.write(x_t, x_t.dtype) if return_x_0 else None
    outputs = (layout.read(output), layout.read(unconditional), layout.read(eps))
    t, t_rows = rows_of(t)
    _kernel(
        layout,
        (x, *outputs, x_s, x_0, t, table, *pointers_of(address)),
        numbers_of(address),
        (table.shape[0], noisy, clip, own_eps, learned, COLUMNS, t_rows, *constants_of(address)),
    )
    predicted = None if x_0 is None else layout.finished(x_0, x_t)
    if not in_place:
        return layout.finished(x_s, x_t), predicted
    if x is not x_t:
        x_t.copy_(x)
    return x_t, predicted


def _native(
    x_t, output, unconditional, t, table, eps, address, noisy, clip, own_eps, learned, return_x_0, *, in_place=False
):
    if learned or not native.takes(x_t, output, unconditional, eps):
        return NotImplemented
    x_s = x_t if in_place else torch.empty_like(x_t)
    options = dict(noisy=noisy, clip=clip, own_eps=own_eps, return_x_0=return_x_0)
    return x_s, native.reverse_step(x_t, output, unconditional, t, table, eps, address, x_s, **options)


def _eager(
    x_t, output, unconditional, t, table, eps, address, noisy, clip, own_eps, learned, return_x_0, *, in_place=False
):
    if t.is_cpu:
        eager.check_range(t, table.shape[0] - 1)
    c = eager.reverse_row(table, t, x_t)
    x, out = x_t.to(table.dtype), output.to(table.dtype)
    if unconditional is not None:
        without = unconditional.to(table.dtype)
        out = without + c.guidance * (out - without)
    sigma = c.sigma
    if learned:
        out, fraction = out.chunk(2, dim=1)
        sigma = eager.sigma_in_range(c, fraction)
    noise = None
    if noisy:
        if eps is None:
            eps = normal(address, x_t.shape, x_t.device)
        noise = sigma * eps.to(table.dtype)
    bound = functools.partial(torch.clamp, min=c.low, max=c.high) if clip else None
    x_s, x_0 = eager.reverse_update(c, x, out, noise, bound=bound, own_eps=own_eps)
    # x_0 first: in place, x_s may be written over what it is made of
    predicted = eager.cast(x_0, x_t, x_t.dtype) if return_x_0 else None
    return x_t.copy_(x_s) if in_place else eager.cast(x_s, x_t, x_t.dtype), predicted


# what both registered ops take after x_t
_ARGUMENTS = (
    "Tensor output, Tensor? unconditional, Tensor t, Tensor table, Tensor? eps, Address address, "
    "bool noisy, bool clip, bool own_eps, bool learned, bool return_x_0"
)
_reverse_step = Registered(f"reverse_step(Tensor x_t, {_ARGUMENTS}) -> (Tensor, Tensor)")
_reverse_step.triton(_launch)
_reverse_step.native(_native)
_reverse_step.eager(_eager)


@_reverse_step.fake
def _(x_t, *rest):
    return torch.empty_like(x_t), _fake_x_0(x_t, *rest)


_reverse_step_in_place = Registered(f"reverse_step_(Tensor(a!) x_t, {_ARGUMENTS}) -> Tensor")


def _in_place(implementation):
    def run(x_t, output, unconditional, t, table, eps, address, *options):
        check_memory(x_t, output=output, unconditional=unconditional, noise=eps)
        arguments = (x_t, output, unconditional, t, table, eps, address, *options)
        result = implementation(*arguments, in_place=True)
        return result if result is NotImplemented else result[1]

    return run


_reverse_step_in_place.triton(_in_place(_launch))
_reverse_step_in_place.native(_in_place(_native))
_reverse_step_in_place.eager(_in_place(_eager))
_reverse_step_in_place.fake(lambda x_t, *rest: _fake_x_0(x_t, *rest))


def _fake_x_0(x_t, *rest):
    return torch.empty_like(x_t) if rest[-1] else None


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
        Write x_{t-1} over x_t, and return x_t. The output and the noise may be x_t itself, but not share some of its
        memory in another way.
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
    t = check_timesteps(t, schedule, x_t, "x_t")
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
        if x_t.requires_grad and torch.is_grad_enabled():
            raise ValueError("in_place=True would overwrite an x_t that requires a gradient; pass x_t.detach()")
        x_s, x_0 = x_t, _reverse_step_in_place(x_t, output, unconditional, t, table, eps, address, *options)
    else:
        x_s, x_0 = _reverse_step(x_t, output, unconditional, t, table, eps, address, *options)
    return (x_s, x_0) if return_x_0 else x_s


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
