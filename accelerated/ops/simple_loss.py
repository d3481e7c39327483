"""L_simple: `noisestep.reference.loss.simple_loss`. Reads the prediction, writes its weighted residual."""

import torch
from torch import Tensor

from ..arithmetic import per_sample, rows_at, stored, tree_sum, unit_range
from ..checks import (
    FLOATS,
    check_batch,
    check_like,
    check_noise,
    check_option,
    check_range,
    check_schedule,
    check_timesteps,
    check_weight,
    compute_dtype,
)
from ..noise import NOWHERE, Noise, normal_at
from ..schedule import DeviceSchedule, Prediction


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
    dtype = compute_dtype(output)
    if prediction == "x_0":
        target = unit_range(x_0).to(dtype)
    else:
        if eps is None:
            address = (seed, seed_tensor, stream, step, step_tensor, sample, sample_tensor)
            eps = normal_at(*address, shape=output.shape, device=output.device)
        target = eps.to(dtype)
    if prediction == "v":
        if not t.is_cuda:
            check_range(t, table.shape[0] - 1)
        signal, noise = rows_at(table, t, output)
        target = signal * target - noise * unit_range(x_0).to(dtype)
    residual = output.to(dtype) - target
    n = residual[0].numel() if len(residual) else 1
    losses = tree_sum((residual * residual).flatten(1)) * (1 / n)
    if weight is not None:
        losses = weight * losses
        residual = per_sample(weight, residual) * residual
    return losses, stored(residual, output, output.dtype) if with_residual else output.new_empty(0)


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


@torch.library.custom_op("noisestep::simple_loss_backward", mutates_args=())
def _simple_loss_backward(grad_losses: Tensor, residual: Tensor) -> Tensor:
    # an op without a derivative of its own: a second one is refused, not silently wrong
    n = residual[0].numel() if len(residual) else 1
    scale = per_sample(grad_losses * (2 / n), residual)
    return stored(scale * residual.to(grad_losses.dtype), residual, residual.dtype)


@_simple_loss_backward.register_fake
def _(grad_losses, residual):
    return torch.empty_like(residual)


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad_losses: Tensor, grad_residual: Tensor):
    (residual,) = ctx.saved_tensors
    return _simple_loss_backward(grad_losses, residual), *(None,) * 14


_simple_loss.register_autograd(_backward, setup_context=_save)


def simple_loss(
    output: Tensor,
    noise: Noise | Tensor | None,
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
    order. Differentiable once, in `output` alone.

    Parameters
    ----------
    output : Tensor, shape (B, ...)
        The network's, float32, float16, bfloat16 or float64.
    noise : Noise, Tensor or None
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
    eps, address = (None, NOWHERE) if prediction == "x_0" else check_noise(noise, output, "output")
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
    return losses if reduction == "none" else tree_sum(losses[None])[0] / len(losses)
