"""The terms of the variational bound: `noisestep.reference.bound.vlb_terms`. Reads three tensors, writes a column."""

import math
from math import prod
from typing import get_args

import torch
import triton
import triton.language as tl
from noisestep.reference._arguments import level_count
from torch import Tensor

from ..backends import eager, native
from ..backends.triton import kernels
from ..backends.triton.launch import kernel, layout_of, rows_of, words_of
from ..backends.triton.tiling import offsets, program_of_row, store_sum
from ..schedule import COLUMNS, DeviceSchedule, Prediction, Variance
from .checks import (
    check_batch,
    check_clip,
    check_constant,
    check_like,
    check_option,
    check_schedule,
    check_timesteps,
    output_shape,
)
from .pairwise_sum import run_pairwise_sum
from .registered import Registered

# the outermost levels reach to infinity: further than any mean is off, with a square that float64 still holds
_INFINITY = 1e9
_INFINITE_EDGE = tl.constexpr(_INFINITY)


@triton.jit
def _mills(z):
    """(1 - Phi(z)) / phi(z) for z >= 4, by Laplace's continued fraction; 40 terms leave less than 1e-13 of it."""
    value = z
    for k in tl.static_range(40):
        value = z + (40 - k) / value
    return 1.0 / value


@triton.jit
def _log_likelihood_kernel(x_0, mean, log_variance, half_bin):
    """`_Parts._log_likelihood` without the library functions that Triton lacks."""
    inverse_sigma = tl.exp(-0.5 * log_variance)
    low = tl.where(x_0 < half_bin - 1, -_INFINITE_EDGE, (x_0 - half_bin - mean) * inverse_sigma)
    high = tl.where(x_0 > 1 - half_bin, _INFINITE_EDGE, (x_0 + half_bin - mean) * inverse_sigma)
    # an interval on the left is mirrored: near lies towards 0, far in the right tail
    mirrored = low + high < 0
    near, far = tl.where(mirrored, -high, low), tl.where(mirrored, -low, high)
    between = tl.erf(far * 0.7071067811865476) - tl.erf(near * 0.7071067811865476)
    tail_near, tail_far = tl.maximum(near, 4.0), tl.maximum(far, 4.0)
    share = _mills(tail_near) - _mills(tail_far) * tl.exp((tail_near - tail_far) * (tail_near + tail_far) * 0.5)
    in_tail = tl.log(tl.where(near < 4.0, 1.0, share)) - 0.5 * tail_near * tail_near - 0.9189385332046727
    return tl.where(near < 4.0, tl.log(tl.where(near < 4.0, between, 1.0) * 0.5), in_tail)


@kernel(numbers=("bin_low", "bin_high", "low_low", "low_high", "high_low", "high_high"))
def _kernel(
    x_0_ptr, x_t_ptr, output_ptr, sums_ptr, t_ptr, table_ptr,
    bin_low, bin_high, low_low, low_high, high_low, high_high,
    rows, VARIANCE: tl.constexpr, CLIP: tl.constexpr, C: tl.constexpr, T_ROWS: tl.constexpr,
    n, inner, TILING: tl.constexpr,
):  # fmt: skip
    """C is `schedule.COLUMNS`."""
    row, program = program_of_row(TILING)
    element = program * (4 * TILING.blocks) + tl.arange(0, 4 * TILING.blocks)
    within = offsets(element, inner, TILING.channels)
    mask = element < n
    begin = kernels.row_of_table(t_ptr, row, rows, T_ROWS, len(C))
    c = table_ptr + begin
    x_0 = tl.load(x_0_ptr + row * n + within, mask=mask, other=0).to(tl.float64)
    x = tl.load(x_t_ptr + row * n + within, mask=mask, other=0).to(tl.float64)
    half_log_beta, half_log_posterior = tl.load(c + C.half_log_beta), tl.load(c + C.half_log_posterior)
    log_variance = tl.zeros(x.shape, tl.float64) + 2 * (half_log_beta if VARIANCE == "beta" else half_log_posterior)
    out_offset, behind = row * n + within, n
    if VARIANCE == "learned_range":
        # the variance's channels stand behind those of the prediction
        out_offset = 2 * row * n + within
        if TILING.channels > 1:
            out_offset += within // TILING.channels * TILING.channels
            behind = TILING.channels
        share = (tl.load(output_ptr + out_offset + behind, mask=mask, other=0).to(tl.float64) + 1) * 0.5
        log_variance = 2 * (share * half_log_beta + (1 - share) * half_log_posterior)
    out = tl.load(output_ptr + out_offset, mask=mask, other=0).to(tl.float64)
    predicted = tl.load(c + C.x_0_from_x) * x + tl.load(c + C.x_0_from_out) * out
    if CLIP:
        low, high = kernels.float_of_words(low_low, low_high), kernels.float_of_words(high_low, high_high)
        predicted = tl.clamp(predicted, low, high, propagate_nan=tl.PropagateNan.ALL)
    from_x_0 = tl.load(c + C.from_x_0)
    # row 1: the decoder
    if begin == len(C):
        mean = from_x_0 * predicted + tl.load(c + C.from_x) * x
        nats = -_log_likelihood_kernel(x_0, mean, log_variance, kernels.float_of_words(bin_low, bin_high))
    else:
        difference = from_x_0 * (x_0 - predicted)
        log_ratio = 2 * half_log_posterior - log_variance
        square = difference * difference * tl.exp(-log_variance)
        nats = (tl.exp(log_ratio) - 1 - log_ratio + square) * 0.5
    store_sum(sums_ptr, row, program, kernels.pairwise_sum(tl.where(mask, nats, 0.0), 4 * TILING.blocks))


# four elements a thread: with 32, float64 spills 1304 bytes of a thread's registers, and ptxas takes 37 s instead of 2
_BLOCKS = 32
_ARGUMENTS = (
    "Tensor x_0, Tensor x_t, Tensor output, Tensor t, Tensor table, str variance, float? low, float? high, "
    "SymInt levels"
)
_vlb_terms = Registered(f"vlb_terms({_ARGUMENTS}) -> Tensor")


def _bits_a_dimension(nats: Tensor, x_t: Tensor) -> Tensor:
    return nats / (max(1, prod(x_t.shape[1:])) * math.log(2))


@_vlb_terms.triton
def _(x_0, x_t, output, t, table, variance, low, high, levels):
    layout = layout_of(x_t, x_t.dtype, sums=True, blocks=_BLOCKS)
    sums = table.new_empty((layout.shape[0], layout.programs_a_row))
    t, t_rows = rows_of(t)
    _kernel(
        layout,
        (layout.read(x_0), layout.reads(x_t), layout.read(output), sums, t, table),
        words_of(1 / (levels - 1), *((0.0, 0.0) if low is None else (low, high))),
        (table.shape[0], variance, low is not None, COLUMNS, t_rows),
    )
    return _bits_a_dimension(run_pairwise_sum(sums), x_t)


@_vlb_terms.native
def _(x_0, x_t, output, t, table, variance, low, high, levels):
    if not x_t.is_cpu or not native.takes():
        return NotImplemented
    return native.vlb_terms(x_0, x_t, output, t, table, variance, low, high, levels)


@_vlb_terms.eager
def _(x_0, x_t, output, t, table, variance, low, high, levels):
    if t.is_cpu:
        eager.check_range(t, table.shape[0] - 1)
    nats = _Parts(x_0, x_t, output, t, table, variance, low, high, levels).nats()
    return _bits_a_dimension(eager.pairwise_sum(nats.reshape(len(x_t), prod(x_t.shape[1:]))), x_t)


@_vlb_terms.fake
def _(x_0, x_t, output, t, table, variance, low, high, levels):
    return x_t.new_empty(x_t.shape[0], dtype=torch.float64)


_vlb_terms_backward = Registered(f"vlb_terms_backward(Tensor grad, {_ARGUMENTS}) -> Tensor")


@_vlb_terms_backward.eager
def _(grad, x_0, x_t, output, t, table, variance, low, high, levels):
    # the parts are made again, so that the forward pass keeps nothing but its arguments
    parts = _Parts(x_0, x_t, output, t, table, variance, low, high, levels)
    scale = eager.per_sample(grad / (parts.n * math.log(2)), x_t)
    for_prediction, for_log_variance = parts.gradient()
    gradient = scale * for_prediction
    if variance == "learned_range":
        ends = (parts.c.half_log_beta - parts.c.half_log_posterior) / 2
        gradient = torch.cat([gradient, scale * for_log_variance * ends], dim=1)
    return eager.cast(gradient, output, output.dtype)


@_vlb_terms_backward.fake
def _(grad, x_0, x_t, output, t, table, variance, low, high, levels):
    return torch.empty_like(output)


def _save(ctx, inputs, output):
    ctx.save_for_backward(inputs.x_0, inputs.x_t, inputs.output, inputs.t, inputs.table)
    ctx.options = inputs.variance, inputs.low, inputs.high, inputs.levels


def _backward(ctx, grad):
    return {"output": _vlb_terms_backward(grad, *ctx.saved_tensors, *ctx.options)}


_vlb_terms.backward(_save, _backward)


class _Parts:
    """What a term is made of, in float64, element by element."""

    def __init__(
        self,
        x_0: Tensor,
        x_t: Tensor,
        output: Tensor,
        t: Tensor,
        table: Tensor,
        variance: str,
        low: float | None,
        high: float | None,
        levels: int,
    ) -> None:
        self.c = c = eager.reverse_row(table, t, x_t)
        self.n = max(1, prod(x_t.shape[1:]))
        self.decoded = eager.per_sample(t, x_t) == 1
        x_0, x, out = x_0.double(), x_t.double(), output.double()
        self.log_variance = 2 * (c.half_log_beta if variance == "beta" else c.half_log_posterior)
        if variance == "learned_range":
            out, fraction = out.chunk(2, dim=1)
            share = (fraction + 1) / 2
            self.log_variance = 2 * (share * c.half_log_beta + (1 - share) * c.half_log_posterior)
        self.log_ratio = 2 * c.half_log_posterior - self.log_variance
        predicted = c.x_0_from_x * x + c.x_0_from_out * out
        # what reaches the output of the network through the prediction
        self.slope = c.x_0_from_out.expand_as(predicted)
        if low is not None and high is not None:
            self.slope = torch.where((predicted >= low) & (predicted <= high), self.slope, 0.0)
            predicted = torch.clamp(predicted, low, high)
        # both means have the same part in x_t
        self.difference = c.from_x_0 * (x_0 - predicted)
        # the decoder: the edges of the level of x_0 in units of sigma from the mean
        mean, half_bin = c.from_x_0 * predicted + c.from_x * x, 1 / (levels - 1)
        self.inverse_sigma = torch.exp(-self.log_variance / 2)
        self.low = torch.where(x_0 < -1 + half_bin, -_INFINITY, (x_0 - half_bin - mean) * self.inverse_sigma)
        self.high = torch.where(x_0 > 1 - half_bin, _INFINITY, (x_0 + half_bin - mean) * self.inverse_sigma)

    def nats(self) -> Tensor:
        """KL divergence, or where t is 1 the decoder's negative log-likelihood."""
        square = self.difference**2 * torch.exp(-self.log_variance)
        divergence = (torch.expm1(self.log_ratio) - self.log_ratio + square) / 2
        return torch.where(self.decoded, -self._log_likelihood(), divergence)

    def gradient(self) -> tuple[Tensor, Tensor]:
        """The derivatives of the nats by the network's prediction and by half the log of the variance."""
        square = self.difference**2 * torch.exp(-self.log_variance)
        by_mean = -self.difference * torch.exp(-self.log_variance)
        by_half_log = 1 - torch.exp(self.log_ratio) - square
        log_likelihood = self._log_likelihood()
        at_low, at_high = (
            torch.exp(-edge * edge / 2 - math.log(2 * math.pi) / 2 - log_likelihood) for edge in (self.low, self.high)
        )
        by_mean = torch.where(self.decoded, (at_high - at_low) * self.inverse_sigma, by_mean)
        by_half_log = torch.where(self.decoded, self.high * at_high - self.low * at_low, by_half_log)
        return by_mean * self.c.from_x_0 * self.slope, by_half_log

    def _log_likelihood(self) -> Tensor:
        # an interval on the right is mirrored: the left tail is known to full precision
        mirrored = self.low + self.high > 0
        low, high = torch.where(mirrored, -self.high, self.low), torch.where(mirrored, -self.low, self.high)
        log_high = torch.special.log_ndtr(high)
        return log_high + torch.log(-torch.expm1(torch.special.log_ndtr(low) - log_high))


def vlb_terms(
    schedule: DeviceSchedule,
    x_0: Tensor,
    x_t: Tensor,
    output: Tensor,
    t: Tensor | int,
    *,
    prediction: Prediction = "eps",
    clip: tuple[float, float] | None = None,
    variance: Variance = "posterior",
    levels: int = 256,
) -> Tensor:
    """The bound's term at t, in bits per dimension (Ho et al. 2020, eq. 5; Nichol & Dhariwal 2021, section 2).

        L_{t-1} = KL( q(x_{t-1} | x_t, x_0) || p_theta(x_{t-1} | x_t) ),    L_0 = -log p_theta(x_0 | x_1)

    Computed in float64: its parts cancel. Differentiable once, in `output` alone, as a learned variance needs it;
    other tensors that require a gradient are refused.

    Parameters
    ----------
    schedule : DeviceSchedule
        On the device of x_t.
    x_0, x_t : Tensor, shape (B, ...)
        Clean images in [-1, 1] and the same noised, float32, float16, bfloat16 or float64.
    output : Tensor, shape (B, ...)
        The network's prediction; twice the channels (axis 1) with ``variance="learned_range"``.
    t : Tensor of int64 or int32, shape (B,) or (), or int
        In 1..T. Checked on a CPU to be in 0..T; on a GPU it is not read back, and a t out of range takes the nearest
        row of the table.
    prediction : {"eps", "x_0", "v", "flow"}
        What the network predicts.
    clip : (float, float), optional
        The range that the predicted x_0 is clipped to.
    variance : {"posterior", "beta", "learned_range"}
        Of p_theta. The posterior's is 0 at t = 1, where the schedule's ``first_log_variance`` stands in.
    levels : int
        Levels of the image, at least 2, spread evenly over [-1, 1].

    Returns
    -------
    Tensor of float64, shape (B,)

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit together, with both sides of the disagreement.
    """
    check_batch("x_t", x_t)
    check_like("x_0", x_0, x_t, "x_t")
    check_constant("x_t", x_t)
    check_constant("x_0", x_0)
    check_schedule(schedule, x_t, "x_t")
    check_option("prediction", prediction, get_args(Prediction))
    check_option("variance", variance, ("posterior", "beta", "learned_range"))
    levels = level_count(levels)
    t = check_timesteps(t, schedule, x_t, "x_t")
    check_like("output", output, x_t, "x_t", shape=output_shape(x_t, variance == "learned_range"))
    low, high = check_clip(clip) or (None, None)
    table = schedule.reverse_table(prediction=prediction, variance=variance, dtype=torch.float64)
    return _vlb_terms(x_0, x_t, output, t, table, variance, low, high, levels)
