"""One reverse step as improved-diffusion takes it, from the network's output: for its patch and for our process."""

from collections.abc import Callable

import torch
from torch import Tensor

from ...address import NoiseAddress
from ...ops import reverse_step
from ...schedule import Prediction, Variance
from ..zero_based import ZeroBased


def sample_and_x_0(
    tables: ZeroBased,
    output: Tensor,
    x: Tensor,
    t: Tensor,
    noise: Tensor | NoiseAddress | None,
    *,
    kind: Prediction,
    variance: Variance,
    eta: float | None,
    clip: tuple[float, float] | None,
    denoised_fn: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """x_{t-1} and the predicted x_0, as improved-diffusion returns them: "sample" and "pred_xstart".

    Parameters
    ----------
    tables : ZeroBased
    output : Tensor
        The network's, with twice the channels of x where the variance is learned.
    x : Tensor, shape (B, C, ...)
        x_t.
    t : Tensor of int64, shape (B,)
        In 0..T - 1.
    noise : Tensor or NoiseAddress, optional
        Drawn by `randn_like` if left out, at t = 0 too, where it is not added.
    kind, variance : str
        What the network predicts, and the variance of a step.
    eta : float, optional
        DDIM's; None for the ancestral step.
    clip : (float, float), optional
        The range of the predicted x_0.
    denoised_fn : callable, optional
        What the predicted x_0 goes through before the clip.
    """
    noise = torch.randn_like(x) if noise is None else noise
    fraction = None
    if variance == "learned_range" and (eta is not None or denoised_fn is not None):
        output, fraction = output.chunk(2, dim=1)
    if denoised_fn is not None:
        _, x_0 = reverse_step(tables, x, output, t, None, prediction=kind, variance="zero", return_x_0=True)
        x_0 = denoised_fn(x_0)
        output, kind, clip = x_0 if clip is None else x_0.clamp(*clip), "x_0", None
        if fraction is not None and eta is None:
            output = torch.cat([output, fraction], dim=1)
    sample, x_0 = reverse_step(
        tables, x, output, t, noise, prediction=kind, clip=clip, variance=variance, eta=eta, return_x_0=True
    )
    return {"sample": sample, "pred_xstart": x_0}
