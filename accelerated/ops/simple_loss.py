"""L_simple: `noisestep.reference.loss.simple_loss`. Reads the prediction, writes its weighted residual or gradient."""

from collections.abc import Callable
from math import prod
from typing import Any, get_args

import numpy as np
import torch
import triton.language as tl
from torch import Tensor

from ..address import NOWHERE, Address, NoiseAddress
from ..backends import eager, native
from ..backends.triton import kernels
from ..backends.triton.launch import (
    ADDRESS,
    BLOCKS,
    constants_of,
    kernel,
    layout_of,
    numbers_of,
    pointers_of,
    rows_of,
    words_of,
)
from ..backends.triton.tiling import access, accesses, program_of_row, store_sum
from ..schedule import DeviceSchedule, Prediction
from .checks import (
    FLOATS,
    check_batch,
    check_constant,
    check_like,
    check_noise,
    check_number,
    check_option,
    check_schedule,
    check_timesteps,
    check_weight,
    compute_dtype,
)
from .noise import normal
from .pairwise_sum import run_pairwise_sum
from .registered import Registered

# values that one program of `_losses_kernel` adds up
_MOST = 1 << 14


@kernel(numbers=(*ADDRESS, "scale_low", "scale_high"))
def _kernel(
    output_ptr, x_0_ptr, eps_ptr, residual_ptr, sums_ptr, t_ptr, table_ptr, weight_ptr, seed_ptr, step_ptr, sample_ptr,
    seed_low, seed_high, step, sample_low, sample_high, scale_low, scale_high,
    rows, PREDICTION: tl.constexpr, SCALED: tl.constexpr, T_ROWS: tl.constexpr, STREAM: tl.constexpr,
    STEP_ROWS: tl.constexpr, n, inner, TILING: tl.constexpr,
):  # fmt: skip
    """Each program's sum of squares, and the weighted residual; with SCALED that times a scale, the gradient."""
    row, program = program_of_row(TILING)
    compute: tl.constexpr = sums_ptr.dtype.element_ty
    if PREDICTION != "x_0" and eps_ptr is None:
        address = (seed_ptr, seed_low, seed_high, step_ptr, step, sample_ptr, sample_low, sample_high)
        fresh = kernels.normals(address, row, program, inner, STREAM, STEP_ROWS, TILING)
    if PREDICTION == "v":
        coefficients = table_ptr + kernels.row_of_table(t_ptr, row, rows, T_ROWS, 2)
        signal, noise = tl.load(coefficients), tl.load(coefficients + 1)
    if weight_ptr is not None:
        weight = tl.load(weight_ptr + row)
    if SCALED:
        scale = kernels.float_of_words(scale_low, scale_high).to(compute)
    sums = ()
    for i in tl.static_range(accesses(TILING)):
        offset, number = access(i, row, program, n, inner, TILING)
        mask = None if TILING.whole else number < n
        if PREDICTION == "x_0":
            target = kernels.unit_range(tl.load(x_0_ptr + offset, mask=mask), compute)
        else:
            eps = fresh[i] if eps_ptr is None else tl.load(eps_ptr + offset, mask=mask)
            target = eps.to(compute)
        if PREDICTION == "v":
            x_0 = kernels.unit_range(tl.load(x_0_ptr + offset, mask=mask), compute)
            target = signal * target - noise * x_0
        residual = kernels.upcast(tl.load(output_ptr + offset, mask=mask), compute) - target
        squares = residual * residual
        if not TILING.whole:
            squares = tl.where(mask, squares, 0.0)
        # a sum over two elements has one order
        sums += (squares if TILING.vector >= 4 else tl.sum(squares, axis=1),)  # type: ignore[assignment]
        if residual_ptr is not None:
            if weight_ptr is not None:
                residual = weight * residual
            stored = kernels.cast(residual, residual_ptr)
            if SCALED:
                # rounded once more, as where the gradient is made from a residual in memory
                stored = kernels.cast(scale * kernels.upcast(stored, compute), residual_ptr)
            tl.store(residual_ptr + offset, stored, mask=mask)
    total = sums[0]  # type: ignore[misc]
    if TILING.vector == 1:
        total = (sums[0] + sums[1]) + (sums[2] + sums[3])  # type: ignore[misc]
    elif TILING.vector == 2:
        total = sums[0] + sums[1]  # type: ignore[misc]
    store_sum(sums_ptr, row, program, kernels.pairwise_sum(total, total.shape[0]))


@kernel(numbers=("batch", "programs", "share_low", "share_high"))
def _losses_kernel(
    sums_ptr, losses_ptr, weight_ptr, batch, programs, share_low, share_high,
    ROWS: tl.constexpr, PROGRAMS: tl.constexpr, MEAN: tl.constexpr,
):  # fmt: skip
    """The loss of each sample from its programs' sums, or the mean of all, ROWS samples a program."""
    compute: tl.constexpr = sums_ptr.dtype.element_ty
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, PROGRAMS)
    mask = (row[:, None] < batch) & (column[None, :] < programs)
    sums = tl.load(sums_ptr + row[:, None].to(tl.int64) * programs + column[None, :], mask=mask, other=0.0)
    share = kernels.float_of_words(share_low, share_high).to(compute)
    losses = kernels.pairwise_sum_of_rows(sums, ROWS, PROGRAMS) * share
    if weight_ptr is not None:
        losses = tl.load(weight_ptr + row, mask=row < batch, other=0.0) * losses
    if MEAN:
        # a row beyond the batch is 0
        tl.store(losses_ptr, kernels.divide(kernels.pairwise_sum(losses, ROWS), batch))
    else:
        tl.store(losses_ptr + row, losses, mask=row < batch)


@kernel(numbers=("batch",))
def _mean_kernel(total_ptr, mean_ptr, batch):
    total = tl.load(total_ptr)
    tl.store(mean_ptr, kernels.divide(total, batch))


def _power_of_two(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def _losses(sums: Tensor, weight: Tensor | None, n: int, mean: bool) -> Tensor:
    """The losses (B,), or their mean (), from the sums (B, programs) of a kernel."""
    batch, programs = sums.shape
    share = words_of(1 / max(1, n))
    if mean and _power_of_two(batch) * _power_of_two(programs) <= _MOST:
        mean_loss = sums.new_empty(())
        grid, constants = (1, 1, 1), (_power_of_two(batch), _power_of_two(programs), True)
        _losses_kernel(grid, (sums, mean_loss, weight), (batch, programs, *share), constants, warps=4)
        return mean_loss
    if programs > _MOST:
        sums, programs = run_pairwise_sum(sums)[:, None], 1
    losses = sums.new_empty(batch)
    grid, constants = (batch, 1, 1), (1, _power_of_two(programs), False)
    _losses_kernel(grid, (sums, losses, weight), (batch, programs, *share), constants, warps=4)
    if not mean:
        return losses
    # the mean of many: the sum first, then one row whose share is 1
    total, mean_loss = run_pairwise_sum(losses[None]), sums.new_empty(())
    _mean_kernel((1, 1, 1), (total, mean_loss), (batch,), ())
    return mean_loss


def _launch(output, x_0, t, table, weight, eps, address, prediction, mean, residual, scale):
    """The losses or their mean, and the residual or with a scale the gradient."""
    layout = layout_of(output, output.dtype, sums=True)
    written = layout.write(output, output.dtype) if residual else None
    sums = output.new_empty((layout.shape[0], layout.programs_a_row), dtype=compute_dtype(output))
    t, t_rows = (None, False) if t is None else rows_of(t)
    _kernel(
        layout,
        (
            layout.read(output),
            layout.read(x_0),
            layout.read(eps),
            written,
            sums,
            t,
            table,
            weight,
            *pointers_of(address),
        ),
        (*numbers_of(address), *words_of(0.0 if scale is None else scale)),
        (
            0 if table is None else table.shape[0],
            prediction,
            scale is not None,
            t_rows,
            *constants_of(address),
        ),
    )
    return _losses(sums, weight, layout.n, mean), None if written is None else layout.finished(written, output)


def _eager(output, x_0, t, table, weight, eps, address, prediction, mean, residual, scale):
    if t is not None and t.is_cpu:
        eager.check_noisy(t, table)
    dtype = compute_dtype(output)
    if prediction == "x_0":
        target = eager.unit_range(x_0, dtype)
    else:
        target = (normal(address, output.shape, output.device) if eps is None else eps).to(dtype)
    if prediction == "v":
        signal, noise = eager.rows_at(table, t, output)
        target = signal * target - noise * eager.unit_range(x_0, dtype)
    difference = output.to(dtype) - target
    n = prod(output.shape[1:])
    losses = eager.pairwise_sum((difference * difference).reshape(len(output), n)) * (1 / max(1, n))
    if weight is not None:
        losses = weight * losses
    if mean:
        losses = eager.mean(losses)
    if not residual:
        return losses, None
    if weight is not None:
        difference = eager.per_sample(weight, difference) * difference
    written = eager.cast(difference, output, output.dtype)
    return losses, written if scale is None else eager.cast(scale * written.to(dtype), output, output.dtype)


def _native(output, x_0, t, table, weight, eps, address, prediction, mean, residual, scale):
    if not native.takes(output, x_0, eps):
        return NotImplemented
    return native.simple_loss(output, x_0, t, table, weight, eps, address, prediction, mean, residual, scale)


def _fake(output, x_0, t, table, weight, eps, address, prediction, mean, residual, scale):
    losses = output.new_empty(() if mean else output.shape[0], dtype=compute_dtype(output))
    return losses, torch.empty_like(output) if residual else None


_ARGUMENTS = (
    "Tensor output, Tensor? x_0, Tensor? t, Tensor? table, Tensor? weight, Tensor? eps, Address address, str prediction"
)
_simple_loss = Registered(f"simple_loss({_ARGUMENTS}, bool mean, bool residual) -> (Tensor, Tensor)")
_loss_and_gradient = Registered(f"loss_and_gradient({_ARGUMENTS}, float scale) -> (Tensor, Tensor)")


def _of_loss(implementation: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: implementation(*arguments, scale=None)


def _of_gradient(implementation: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: implementation(*arguments[:-1], mean=True, residual=True, scale=arguments[-1])


for _op, _of in ((_simple_loss, _of_loss), (_loss_and_gradient, _of_gradient)):
    _op.triton(_of(_launch))
    _op.native(_of(_native))
    _op.eager(_of(_eager))
    _op.fake(_of(_fake))


@kernel(numbers=("batch", "inverse_low", "inverse_high", "share_low", "share_high"))
def _backward_kernel(
    residual_ptr, grad_ptr, gradient_ptr, batch, inverse_low, inverse_high, share_low, share_high,
    MEAN: tl.constexpr, GRAD_STRIDE: tl.constexpr, n, inner, TILING: tl.constexpr,
):  # fmt: skip
    """Each sample times its scale, in the order of memory, whatever the layout."""
    row, program = program_of_row(TILING)
    place = program * (4 * TILING.blocks) + tl.arange(0, 4 * TILING.blocks)
    mask = None if TILING.whole else place < n
    grad = tl.load(grad_ptr + row * GRAD_STRIDE)
    if MEAN:
        if grad.dtype == tl.float64:
            grad = kernels.divide(grad, batch)
        else:
            # correctly rounded, with no branch: a quotient of two numbers of 24 bits is further than 2^-49 of its size
            # from a tie, and this product within 2^-52 of it
            grad = (grad.to(tl.float64) * kernels.float_of_words(inverse_low, inverse_high)).to(tl.float32)
    scale = grad * kernels.float_of_words(share_low, share_high).to(grad.dtype)
    residual = kernels.upcast(tl.load(residual_ptr + row * n + place, mask=mask), scale.dtype)
    tl.store(gradient_ptr + row * n + place, kernels.cast(scale * residual, gradient_ptr), mask=mask)


# it depends on output and has no derivative of its own: a second one is refused, not silently 0
_simple_loss_backward = Registered(
    "simple_loss_backward(Tensor grad, Tensor residual, Tensor output, bool mean) -> Tensor"
)


@_simple_loss_backward.triton
def _(grad, residual, output, mean):
    # with little to do for an element, a thread takes more of them
    layout = layout_of(residual, residual.dtype, blocks=2 * BLOCKS)
    gradient = layout.write(residual, residual.dtype)
    stride = grad.stride(0) if grad.ndim else 0
    if stride > 1:
        grad, stride = grad.contiguous(), 1
    _backward_kernel(
        layout,
        (layout.reads(residual), grad, gradient),
        (len(residual), *words_of(1 / max(1, len(residual))), *words_of(2 / max(1, layout.n))),
        (mean, stride),
    )
    return layout.finished(gradient, residual)


@_simple_loss_backward.native
def _(grad, residual, output, mean):
    if grad.dtype != torch.float32 or not native.takes(residual):
        return NotImplemented
    return native.simple_loss_backward(grad, residual, mean)


@_simple_loss_backward.eager
def _(grad, residual, output, mean):
    if mean:
        grad = eager.divide(grad, len(residual))
    scale = grad * (2 / max(1, prod(residual.shape[1:])))
    return eager.cast(eager.per_sample(scale, residual) * residual.to(scale.dtype), residual, residual.dtype)


@_simple_loss_backward.fake
def _(grad, residual, output, mean):
    return torch.empty_like(residual)


def _save(ctx, inputs, output):
    # no residual where nothing wants a gradient
    if output[1] is not None:
        ctx.save_for_backward(output[1], inputs.output)
        ctx.mark_non_differentiable(output[1])
    ctx.mean = inputs.mean


def _backward(ctx, grad):
    return {"output": _simple_loss_backward(grad, *ctx.saved_tensors, ctx.mean)}


_simple_loss.backward(_save, _backward)


def simple_loss(
    output: Tensor,
    noise: NoiseAddress | Tensor | None,
    *,
    prediction: Prediction = "eps",
    schedule: DeviceSchedule | None = None,
    t: Tensor | int | None = None,
    x_0: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """The training objective L_simple (the chapter's "The Loss Function"), eps made anew from its address.

        L = w || target - output ||^2 / n,
        target = eps, x_0, v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0 or flow = eps - x_0

    with n elements a sample: the mean that the chapter's code takes (``MSELoss``), where its formula has
    the sum. Computed in float32 (float64 where output is float64); a sample's squares are added up in a fixed
    order. Differentiable once, in `output` alone; other tensors that require a gradient are refused.

    Parameters
    ----------
    output : Tensor, shape (B, ...)
        The network's, float32, float16, bfloat16 or float64.
    noise : NoiseAddress, Tensor or None
        The address that eps was made from, or eps itself; None where the target is x_0.
    prediction : {"eps", "x_0", "v", "flow"}
        What the network predicts.
    schedule : DeviceSchedule
        For v and flow.
    t : Tensor of int64 or int32, shape (B,) or (), or int
        For v and flow, in 1..T: at t = 0 there is no noise to learn. Checked on a CPU.
    x_0 : Tensor, shape (B, ...)
        For x_0, v and flow: clean images, floating or uint8.
    weight : Tensor of float32, shape (B,), optional
        w, one a sample, such as min-SNR-gamma's at each t.
    reduction : {"mean", "none"}
        The mean over samples, or the loss of each.

    Returns
    -------
    Tensor of float32 (float64 where output is), shape () or (B,)

    Raises
    ------
    TypeError, ValueError
        For arguments that are missing or do not fit together, with both sides of the disagreement.
    """
    arguments = _checked(output, noise, prediction, schedule, t, x_0, weight)
    check_option("reduction", reduction, ("mean", "none"))
    wanted = torch.is_grad_enabled() and output.requires_grad
    loss, _ = _simple_loss(output, *arguments, reduction == "mean", wanted)
    return loss


def loss_and_gradient(
    output: Tensor,
    noise: NoiseAddress | Tensor | None,
    *,
    prediction: Prediction = "eps",
    schedule: DeviceSchedule | None = None,
    t: Tensor | int | None = None,
    x_0: Tensor | None = None,
    weight: Tensor | None = None,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """The mean of `simple_loss` and its gradient in one pass, for a loop that knows what it multiplies its loss by.

        loss, gradient = loss_and_gradient(output, address, scale=0.5)
        output.backward(gradient)

    does what ``(0.5 * simple_loss(output, address)).backward()`` does, in fewer launches and with half of the memory
    traffic. The gradient is rounded to the dtype of `output`: with float16, `scale` is where the factor of a gradient
    scaler belongs.

    Parameters
    ----------
    output, noise, prediction, schedule, t, x_0, weight
        As for `simple_loss`.
    scale : float
        What the loss is multiplied by before it is differentiated; finite. The loss that is returned is not multiplied.

    Returns
    -------
    loss : Tensor of float32 (float64 where output is), shape ()
    gradient : Tensor
        d (scale loss) / d output, in the shape, dtype and layout of `output`. Neither carries a gradient of its own.

    Raises
    ------
    TypeError, ValueError
        As `simple_loss`.
    """
    scale = check_number("scale", scale, -float("inf"), float("inf"))
    with torch.no_grad():
        arguments = _checked(output, noise, prediction, schedule, t, x_0, weight)
        factor = _gradient_scale(output, scale)
        return _loss_and_gradient(output.detach(), *arguments, factor)


def _gradient_scale(output: Tensor, scale: float) -> float:
    """scale 2 / (B n), rounded where `simple_loss` and its backward pass round it."""
    share = 2 / max(1, prod(output.shape[1:]))
    if output.dtype == torch.float64:
        return scale / max(1, len(output)) * share
    return float(np.float32(scale) / np.float32(max(1, len(output))) * np.float32(share))


def _checked(
    output: Tensor,
    noise: NoiseAddress | Tensor | None,
    prediction: Prediction,
    schedule: DeviceSchedule | None,
    t: Tensor | int | None,
    x_0: Tensor | None,
    weight: Tensor | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None, Address, str]:
    """(x_0, t, table, weight, eps, address, prediction) as the registered ops take them.

    Of the two velocities they know v alone: flow is v with a table of ones.
    """
    check_batch("output", output)
    check_option("prediction", prediction, get_args(Prediction))
    for name, constant in (("noise", noise), ("x_0", x_0), ("weight", weight)):
        check_constant(name, constant)
    eps, address = (None, NOWHERE)
    if noise is not None or prediction != "x_0":
        eps, address = check_noise(noise, output, "output")
    if prediction == "x_0":
        eps, address = None, NOWHERE
    table = None
    if prediction == "eps":
        x_0 = t = None
    else:
        if x_0 is None:
            raise ValueError(f'prediction="{prediction}" needs x_0, got None')
        check_like("x_0", x_0, output, "output", dtypes=(*FLOATS, torch.uint8))
    if prediction in ("v", "flow"):
        if schedule is None or t is None:
            raise ValueError(f'prediction="{prediction}" needs schedule and t, got schedule={schedule!r}, t={t!r}')
        table = check_schedule(schedule, output, "output").target_table(prediction, compute_dtype(output))
        t = check_timesteps(t, schedule, output, "output")
    else:
        t = None
    if weight is not None:
        weight = check_weight(weight, output, "output")
    return x_0, t, table, weight, eps, address, "v" if prediction == "flow" else prediction
