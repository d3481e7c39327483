"""The optimizer's course over a run: its learning rate, and the running average of the weights."""

import math

import torch
from torch import nn


def learning_rate(step: int, *, highest: float, warmup: int, steps: int, decay: str) -> float:
    """Learning rate of an optimizer step: a linear rise over `warmup` steps, then the way down to zero.

        lr = highest · (step + 1) / warmup                 for step < warmup, and from there on, with
        u  = (step − warmup) / (steps − warmup) in [0, 1):
        lr = highest · {(1 + cos πu) / 2, 1 − u, 1}        for "cosine", "linear", "constant"

    Parameters
    ----------
    step : int
        0..steps − 1.
    highest : float
        The learning rate at the end of the rise.
    warmup, steps : int
        Steps of the rise, and of the whole run; warmup < steps.
    decay : {"cosine", "linear", "constant"}

    Returns
    -------
    float
        A function of the step alone: a resumed run has nothing to remember.
    """
    if step < warmup:
        return highest * (step + 1) / warmup
    done = (step - warmup) / (steps - warmup)
    if decay == "cosine":
        return highest * (1 + math.cos(math.pi * done)) / 2
    return highest * (1 - done) if decay == "linear" else highest


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Move the averaged weights towards the weights: average ← d · average + (1 − d) · weights, in place.

    d = min(decay, (2 + step) / (11 + step)), so that the random weights of the beginning are forgotten early
    on (the rule of TensorFlow's ExponentialMovingAverage, with 1 + step updates made).

    Parameters
    ----------
    average, model : Module
        Two networks of the same shape; buffers are copied.
    step : int
        The optimizer step just made, from 0.
    decay : float
        In [0, 1); 0 copies the weights.
    """
    d = min(decay, (2 + step) / (11 + step)) if decay else 0.0
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - d)
    for kept, new in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(new)
