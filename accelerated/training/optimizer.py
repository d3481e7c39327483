"""The learning-rate schedule, and the EMA of the weights."""

import math

import torch
from torch import nn


def learning_rate(step: int, *, peak: float, warmup: int, steps: int, schedule: str) -> float:
    """Learning rate of an optimizer step: linear warm-up, then the schedule.

        lr = peak · (step + 1) / warmup                 for step < warmup, and after that, with
        u  = (step − warmup) / (steps − warmup) in [0, 1):
        lr = peak · {(1 + cos πu) / 2, 1 − u, 1}        for "cosine", "linear", "constant"

    Parameters
    ----------
    step : int
        0..steps − 1.
    peak : float
        The learning rate at the end of the warm-up.
    warmup, steps : int
        Steps of the warm-up, and of the whole run; warmup < steps.
    schedule : {"cosine", "linear", "constant"}

    Returns
    -------
    float
        Depends on the step alone, so that there is no state to save.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    u = (step - warmup) / (steps - warmup)
    if schedule == "cosine":
        return peak * (1 + math.cos(math.pi * u)) / 2
    return peak * (1 - u) if schedule == "linear" else peak


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Update the EMA of the weights in place: ema ← d · ema + (1 − d) · weights.

    d = min(decay, (2 + step) / (11 + step)), so that the random initial weights are forgotten early (the rule of
    TensorFlow's ExponentialMovingAverage with num_updates = 1 + step).

    Parameters
    ----------
    ema, model : Module
        Two networks of the same shape; buffers are copied.
    step : int
        The optimizer step just made, counted from 0.
    decay : float
        In [0, 1); 0 copies the weights.
    """
    d = min(decay, (2 + step) / (11 + step)) if decay else 0.0
    torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - d)
    for old, new in zip(ema.buffers(), model.buffers(), strict=True):
        old.copy_(new)
