"""DDIM backwards: `noisestep.reference.samplers.inversion`, in the fused op."""

import torch
from noisestep.reference._arguments import MOST_ROWS, integer
from noisestep.reference.prediction import Prediction
from noisestep.reference.samplers.inversion import inversion_coefficients
from noisestep.reference.schedule import Schedule
from torch import Tensor, nn

from ..ops import multistep
from ..ops.checks import check_batch, check_labels, check_values_of, device_of_values
from ..schedule import DeviceSchedule


@torch.inference_mode()
def invert(
    model: nn.Module,
    schedule: Schedule,
    images: Tensor,
    *,
    labels: Tensor | None = None,
    steps: int | None = None,
    grid: str = "uniform",
    prediction: Prediction = "eps",
    batch_size: int = 100,
    device: str | torch.device = "cpu",
) -> Tensor:
    """x_T of images: from there, DDIM with eta = 0, unclipped, leads back to them up to an error of first order.

    Parameters
    ----------
    model : Module
        `model(x, t, label)`; in evaluation mode.
    schedule : Schedule
        The chain that the model was trained on.
    images : Tensor
        float32 (count, C, H, W), in [−1, 1].
    labels : Tensor, optional
        int64 (count,); the class of each image.
    steps, grid, prediction, batch_size, device
        As in `noisestep.accelerated.sample`.

    Returns
    -------
    Tensor
        float32 (count, C, H, W), on the CPU.

    Raises
    ------
    TypeError, ValueError
        Labels of another shape, a batch size that is no positive integer, and what the schedule and the op refuse.
    """
    check_values_of("images", check_batch("images", images))
    if not len(images):
        raise ValueError(f"images must be at least one, got shape {tuple(images.shape)}")
    device, batch_size = device_of_values(device), integer("batch_size", batch_size, 1, MOST_ROWS)
    check_labels(labels, len(images))
    chain = schedule if steps is None else schedule.respace(steps, grid)
    tables = DeviceSchedule(chain, device)
    table = tables.step_table(inversion_coefficients(chain), prediction=prediction, memory="eps")
    inverted = []
    for start in range(0, len(images), batch_size):
        x = images[start : start + batch_size].to(device, copy=True)
        label = None if labels is None else labels[start : start + batch_size].to(device)
        for t in range(1, tables.T + 1):
            output = model(x, tables.timesteps[t].expand(len(x)), label)
            multistep(table, x, output, [], t, None, in_place=True)
        inverted.append(x.cpu())
    return torch.cat(inverted)
