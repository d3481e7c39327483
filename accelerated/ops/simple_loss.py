"""L_simple: `noisestep.reference.loss.simple_loss`. Reads the prediction, writes its weighted residual."""

from math import prod

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..address import NOWHERE, Address, NoiseAddress
from ..backends.eager import like_input, pairwise_sum, per_sample, rows_at, stored, unit_range
from ..backends.native import calls as native
from ..backends.triton.kernels import normals, row_of_table, widened
from ..backends.triton.kernels import pairwise_sum as pairwise_sum_kernel
from ..backends.triton.kernels import stored as stored_kernel
from ..backends.triton.kernels import unit_range as unit_range_kernel
from ..backends.triton.launch import BLOCKS, Layout, address_arguments, as_rows, launch, use_kernels
from ..backends.triton.tiling import piece, pieces, program_of_row, store_sum
from ..noise import normal_at
from ..schedule import DeviceSchedule, Prediction
from .checks import (
    FLOATS,
    check_batch,
    check_constant,
    check_like,
    check_noise,
    check_option,
    check_range,
    check_schedule,
    check_timesteps,
    check_weight,
    compute_dtype,
)
from .pairwise_sum import fixed_sum


@triton.jit(do_not_specialize=["seed_low", "seed_high", "step", "sample_low", "sample_high"])
def _kernel(
    output_ptr,
    x_0_ptr,
    t_ptr,
    table_ptr,
    rows,
    weight_ptr,
    eps_ptr,
    residual_ptr,
    sums_ptr,
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
    PREDICTION: tl.constexpr,
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
    compute: tl.constexpr = sums_ptr.dtype.element_ty
    if PREDICTION != "x_0" and eps_ptr is None:
        address = (seed_ptr, seed_low, seed_high, step_ptr, step, sample_ptr, sample_low, sample_high)
        made = normals(address, row, program, inner, STREAM, STEP_ROWS, WALK, CHANNELS, VECTOR, BLOCKS)
    if PREDICTION == "v":
        coefficients = table_ptr + row_of_table(t_ptr, row, rows, T_ROWS, 2)
        signal, noise = tl.load(coefficients), tl.load(coefficients + 1)
    if weight_ptr is not None:
        weight = tl.load(weight_ptr + row)
    sums = ()
    for i in tl.static_range(pieces(WALK, VECTOR)):
        offset, place = piece(i, row, program, n, inner, WALK, CHANNELS, VECTOR, BLOCKS)
        mask = None if WHOLE else place < n
        if PREDICTION == "x_0":
            target = unit_range_kernel(tl.load(x_0_ptr + offset, mask=mask), compute)
        else:
            eps = made[i] if eps_ptr is None else tl.load(eps_ptr + offset, mask=mask)
            target = eps.to(compute)
        if PREDICTION == "v":
            x_0 = unit_range_kernel(tl.load(x_0_ptr + offset, mask=mask), compute)
            target = signal * target - noise * x_0
        residual = widened(tl.load(output_ptr + offset, mask=mask), compute) - target
        squares = residual * residual
        if not WHOLE:
            squares = tl.where(mask, squares, 0.0)
        # a sum over two elements has one order
        sums += (squares if VECTOR >= 4 else tl.sum(squares, axis=1),)  # type: ignore[assignment]
        if residual_ptr is not None:
            if weight_ptr is not None:
                residual = weight * residual
            tl.store(residual_ptr + offset, stored_kernel(residual, residual_ptr), mask=mask)
    total = sums[0]  # type: ignore[misc]
    if VECTOR == 1:
        total = (sums[0] + sums[1]) + (sums[2] + sums[3])  # type: ignore[misc]
    elif VECTOR == 2:
        total = sums[0] + sums[1]  # type: ignore[misc]
    store_sum(sums_ptr, row, program, pairwise_sum_kernel(total, total.shape[0]))


def _launch(
    output: Tensor,
    x_0: Tensor | None,
    t: Tensor | None,
    table: Tensor | None,
    weight: Tensor | None,
    eps: Tensor | None,
    address: Address,
    prediction: str,
    with_residual: bool,
) -> tuple[Tensor, Tensor | None]:
    """The sums of squares (B,) and the weighted residual."""
    layout = Layout(output, output.dtype, sums=True)
    residual = layout.write(output, output.dtype) if with_residual else None
    sums = output.new_empty((layout.shape[0], layout.programs_a_row), dtype=compute_dtype(output))
    launch(
        _kernel,
        layout.grid,
        output_ptr=layout.read(output),
        x_0_ptr=layout.read(x_0),
        table_ptr=table,
        rows=0 if table is None else len(table),
        weight_ptr=weight,
        eps_ptr=layout.read(eps),
        residual_ptr=residual,
        sums_ptr=sums,
        PREDICTION=prediction,
        **(dict(t_ptr=None, T_ROWS=False) if t is None else as_rows(t)),
        **layout.arguments(),
        **address_arguments(address),
    )
    return fixed_sum(sums), None if residual is None else like_input(residual, output)


def _in_torch(
    output: Tensor,
    x_0: Tensor | None,
    t: Tensor | None,
    table: Tensor | None,
    weight: Tensor | None,
    eps: Tensor | None,
    address: Address,
    prediction: str,
    with_residual: bool,
) -> tuple[Tensor, Tensor | None]:
    """The same on the PyTorch path."""
    if native.takes(output, x_0, eps):
        sums, residual = native.simple_loss(output, x_0, t, table, weight, eps, address, prediction, with_residual)
        return pairwise_sum(sums), residual
    dtype = compute_dtype(output)
    if prediction == "x_0" and x_0 is not None:
        target = unit_range(x_0, dtype)
    else:
        target = (normal_at(address, output.shape, output.device) if eps is None else eps).to(dtype)
    if prediction == "v" and x_0 is not None and t is not None and table is not None:
        signal, noise = rows_at(table, t, output)
        target = signal * target - noise * unit_range(x_0, dtype)
    residual = output.to(dtype) - target
    sums = pairwise_sum((residual * residual).reshape(len(residual), prod(residual.shape[1:])))
    if not with_residual:
        return sums, None
    if weight is not None:
        residual = per_sample(weight, residual) * residual
    return sums, stored(residual, output, output.dtype)


@torch.library.custom_op("noisestep::simple_loss", mutates_args=())
def _simple_loss(
    output: Tensor,
    x_0: Tensor | None,
    t: Tensor | None,
    table: Tensor | None,
    weight: Tensor | None,
    eps: Tensor | None,
    seed: int,
    seed_tensor: Tensor | None,
    stream: int,
    step: int,
    step_tensor: Tensor | None,
    sample: int,
    sample_tensor: Tensor | None,
    prediction: str,
    with_residual: bool,
) -> tuple[Tensor, Tensor]:
    address = (seed, seed_tensor, stream, step, step_tensor, sample, sample_tensor)
    if t is not None and table is not None and t.is_cpu:
        check_range(t, len(table) - 1)
    run = _launch if use_kernels(output) else _in_torch
    sums, residual = run(output, x_0, t, table, weight, eps, address, prediction, with_residual)
    n = prod(output.shape[1:])
    losses = sums * (1 / n) if n else sums
    if weight is not None:
        losses = weight * losses
    return losses, output.new_empty(0) if residual is None else residual


@_simple_loss.register_fake
def _(
    output,
    x_0,
    t,
    table,
    weight,
    eps,
    seed,
    seed_tensor,
    stream,
    step,
    step_tensor,
    sample,
    sample_tensor,
    prediction,
    with_residual,
):
    losses = output.new_empty(output.shape[0], dtype=compute_dtype(output))
    return losses, torch.empty_like(output) if with_residual else output.new_empty(0)


@triton.jit
def _backward_kernel(
    residual_ptr, scale_ptr, gradient_ptr, n, WIDE: tl.constexpr, WHOLE: tl.constexpr, BLOCKS: tl.constexpr
):
    """Each sample times its scale, in the order of memory, whatever the layout."""
    row, program = program_of_row(WIDE)
    place = program * (4 * BLOCKS) + tl.arange(0, 4 * BLOCKS)
    mask = None if WHOLE else place < n
    scale = tl.load(scale_ptr + row)
    residual = widened(tl.load(residual_ptr + row * n + place, mask=mask), scale.dtype)
    tl.store(gradient_ptr + row * n + place, stored_kernel(scale * residual, gradient_ptr), mask=mask)


@torch.library.custom_op("noisestep::simple_loss_backward", mutates_args=())
def _simple_loss_backward(grad_losses: Tensor, residual: Tensor, output: Tensor) -> Tensor:
    # an op that depends on output and has no derivative of its own: a second one is refused, not silently 0
    scale = grad_losses * (2 / max(1, prod(residual.shape[1:])))
    if not use_kernels(residual):
        return stored(per_sample(scale, residual) * residual.to(scale.dtype), residual, residual.dtype)
    # with little to do for an element, a thread takes more of them
    layout = Layout(residual, residual.dtype, blocks=2 * BLOCKS)
    gradient = layout.write(residual, residual.dtype)
    arguments = layout.arguments()
    launch(
        _backward_kernel,
        layout.grid,
        residual_ptr=layout.read(residual),
        scale_ptr=scale,
        gradient_ptr=gradient,
        **{name: arguments[name] for name in ("n", "WIDE", "WHOLE", "BLOCKS", "num_warps")},
    )
    return like_input(gradient, residual)


@_simple_loss_backward.register_fake
def _(grad_losses, residual, output):
    return torch.empty_like(residual)


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(output[1], inputs[0])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad_losses: Tensor, grad_residual: Tensor):
    return _simple_loss_backward(grad_losses, *ctx.saved_tensors), *(None,) * 14


_simple_loss.register_autograd(_backward, setup_context=_save)


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

        L = w || target - output ||^2 / n,  target = eps, x_0 or v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0

    with n elements a sample: the mean that the chapter's code takes (``MSELoss``), where its formula has
    the sum. Computed in float32 (float64 where output is float64); a sample's squares are added up in a fixed
    order. Differentiable once, in `output` alone; other tensors that require a gradient are refused.

    Parameters
    ----------
    output : Tensor, shape (B, ...)
        The network's, float32, float16, bfloat16 or float64.
    noise : NoiseAddress, Tensor or None
        The address that eps was made from, or eps itself; None where the target is x_0.
    prediction : {"eps", "x_0", "v"}
        What the network predicts.
    schedule : DeviceSchedule
        For v.
    t : Tensor of int64 or int32, shape (B,) or (), or int
        For v, in 0..T.
    x_0 : Tensor, shape (B, ...)
        For x_0 and v: clean images, floating or uint8.
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
    check_batch("output", output)
    check_option("prediction", prediction, ("eps", "x_0", "v"))
    check_option("reduction", reduction, ("mean", "none"))
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
    if prediction == "v":
        if schedule is None or t is None:
            raise ValueError(f'prediction="v" needs schedule and t, got schedule={schedule!r}, t={t!r}')
        t = check_timesteps(t, output, "output")
        table = check_schedule(schedule, output, "output").forward_table(compute_dtype(output))
    else:
        t = None
    if weight is not None:
        weight = check_weight(weight, output, "output")
    losses, _ = _simple_loss(
        output,
        x_0,
        t,
        table,
        weight,
        eps,
        *address,
        prediction,
        torch.is_grad_enabled() and output.requires_grad,
    )
    return losses if reduction == "none" else fixed_sum(losses[None])[0] / len(losses)
