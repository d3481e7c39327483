"""Methods of denoising-diffusion-pytorch's `GaussianDiffusion` on the ops."""

from typing import Any

import torch
from torch import Tensor

from ..ops import q_sample, reverse_step, simple_loss
from ..schedule import Prediction
from .methods import FORWARD, POSTERIOR, X_0_FROM_EPS, Method, Tables, plain

SIGNS = ("objective", "p_losses")
PREDICTIONS: dict[str, Prediction] = {"pred_noise": "eps", "pred_x0": "x_0", "pred_v": "v"}


def _q_sample(tables: Tables, target: Any, x_start: Tensor, t: Tensor, noise: Tensor | None = None) -> Any:
    given = () if noise is None else (noise,)
    if target.immiscible or not plain(x_start, t, *given):
        return NotImplemented
    return q_sample(tables.on(x_start.device), x_start, t, torch.randn_like(x_start) if noise is None else noise)


def _p_losses(
    tables: Tables,
    target: Any,
    x_start: Tensor,
    t: Tensor,
    noise: Tensor | None = None,
    offset_noise_strength: float | None = None,
    loss_reduction: str = "mean",
) -> Any:
    given = () if noise is None else (noise,)
    strength = target.offset_noise_strength if offset_noise_strength is None else offset_noise_strength
    constants = (x_start, target.loss_weight, *given)
    if (
        target.immiscible
        or target.self_condition
        or strength > 0
        or target.objective not in PREDICTIONS
        or not plain(x_start, t, *given)
        or x_start.ndim != 4
        or target.loss_weight.dtype != torch.float32
        or any(constant.requires_grad for constant in constants)
    ):
        return NotImplemented
    schedule = tables.on(x_start.device)
    noise = torch.randn_like(x_start) if noise is None else noise
    return simple_loss(
        target.model(q_sample(schedule, x_start, t, noise), t, None),
        noise,
        prediction=PREDICTIONS[target.objective],
        schedule=schedule,
        t=t,
        x_0=x_start,
        weight=target.loss_weight[t],
        reduction="none" if loss_reduction == "none" else "mean",
    )


@torch.inference_mode()
def _p_sample(tables: Tables, target: Any, x: Tensor, t: int, x_self_cond: Tensor | None = None) -> Any:
    if type(t) is not int or target.objective not in PREDICTIONS:
        return NotImplemented
    steps = torch.full((len(x),), t, device=target.device)
    if not plain(x, steps):
        return NotImplemented
    return reverse_step(
        tables.on(x.device),
        x,
        target.model(x, steps, x_self_cond),
        t,
        torch.randn_like(x) if t > 0 else None,
        prediction=PREDICTIONS[target.objective],
        variance="posterior" if t > 0 else "zero",
        clip=(-1.0, 1.0),
        return_x_0=True,
    )


METHODS = {
    "q_sample": Method(_q_sample, (), FORWARD),
    "p_losses": Method(_p_losses, ("q_sample", "predict_v"), FORWARD),
    "p_sample": Method(
        _p_sample,
        (
            "p_mean_variance",
            "model_predictions",
            "predict_start_from_noise",
            "predict_start_from_v",
            "predict_noise_from_start",
            "q_posterior",
        ),
        (*FORWARD, *X_0_FROM_EPS, *POSTERIOR),
    ),
}

# of 2.3.0 to 2.3.4
KNOWN = {
    name: frozenset([digest])
    for name, digest in {
        "q_sample": "fb612c6b93279b39",
        "p_losses": "e620a46af0f23fdd",
        "predict_v": "bc1046a1a7252b33",
        "p_sample": "9cff6b386e05a3c1",
        "p_mean_variance": "d0af89f5974b69e6",
        "model_predictions": "3c207a1627a91875",
        "predict_start_from_noise": "624b85b7191636a5",
        "predict_noise_from_start": "2c4ead4bb2835714",
        "predict_start_from_v": "f81d50f1302f3eb2",
        "q_posterior": "66243d188ea2ef19",
    }.items()
}
