"""simple_loss and loss_and_gradient: bits as on the eager backend (test_simple_loss.py has that one's bounds)."""

from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any
from unittest import mock

import torch
from noisestep.accelerated.ops import loss_and_gradient, simple_loss
from op_cases import FLOATS, Case
from torch import Tensor

from .description import ADDRESS, BOTH, GIVEN_EPS, INPUTS, LAYOUTS, PLACE, PREDICTION, Description

_module = import_module("noisestep.accelerated.ops.simple_loss")


def prepare(
    case: Case,
    *,
    prediction: str = "eps",
    x_0_dtype: str | None = None,
    weighted: bool = False,
    eps_dtype: str | None = None,
    **options: Any,
) -> tuple[tuple, dict]:
    """The arguments of the loss: (output, noise), and its options; x_0 is of the case's dtype by default."""
    eps = case.noise() if eps_dtype is None else case.tensor(2, dtype=getattr(torch, eps_dtype))
    options["prediction"] = prediction
    if prediction != "eps":
        options["x_0"] = case.tensor(3, dtype=x_0_dtype and getattr(torch, x_0_dtype))
    if prediction in ("v", "flow"):
        options |= dict(schedule=case.device_schedule, t=case.t(first=1))
    if weighted:
        options["weight"] = torch.rand(case.shape[0], generator=torch.Generator().manual_seed(4)).to(case.device)
    return (case.tensor(1), eps), options


def _adding(most: int | None) -> AbstractContextManager[Any]:
    # what is timed does without the patch
    return nullcontext() if most is None else mock.patch.object(_module, "_MOST", most)


def loss_with_gradient(
    output: Tensor, noise: Any, *, gradient: str | None = "own", most: int | None = None, **options: Any
) -> Tensor | tuple[Tensor, Tensor]:
    """The loss, and its gradient for a number upstream of each sample, in memory as `gradient` says.

    `most` is how many sums one program adds up: with few, more launches are needed, as for large batches.
    """
    with _adding(most):
        if gradient is None:
            return simple_loss(output, noise, **options)
        output = output.detach().requires_grad_()
        loss = simple_loss(output, noise, **options)
        if gradient == "implicit":
            return loss.detach(), torch.autograd.grad(loss, output)[0]
        upstream = torch.arange(2, 2 + loss.numel(), device=loss.device, dtype=loss.dtype).reshape(loss.shape)
        if gradient == "expanded":
            upstream = upstream.new_full((), 3).expand(loss.shape)
        if gradient == "strided" and loss.ndim:
            upstream = torch.stack((upstream, -upstream), dim=1)[:, 0]
        return loss.detach(), torch.autograd.grad(loss, output, upstream)[0]


def _both(output: Tensor, noise: Any, *, most: int | None = None, **options: Any) -> tuple[Tensor, Tensor]:
    with _adding(most):
        return loss_and_gradient(output, noise, **options)


_FACTORS = {
    **PLACE,
    "dtype": FLOATS,
    "layout": LAYOUTS,
    **ADDRESS,
    **GIVEN_EPS,
    **PREDICTION,
    "x_0_dtype": INPUTS,
    "weighted": BOTH,
    "most": (None, 2),
}

# what is asked for: a reduction, and the gradient for numbers upstream that are in memory in some way
_ASKED = (("mean", "own"), ("mean", None), ("none", "own"), ("none", None), ("none", "expanded"), ("none", "strided"))


def _prepare(case: Case, *, asked: tuple[str, str | None] = _ASKED[0], **options: Any) -> tuple[tuple, dict]:
    return prepare(case, reduction=asked[0], gradient=asked[1], **options)


Description(
    "simple_loss",
    loss_with_gradient,
    _prepare,
    {**_FACTORS, "asked": _ASKED},
    elementwise=False,
    counted={
        "simple_loss with gradient": {},
        "simple_loss with gradient, v, weighted": {"prediction": "v", "weighted": True},
    },
    budgets={"simple_loss with gradient": {"bfloat16": 42, "float32": 45}},
    timed={"asked": ("mean", "implicit")},
)
Description(
    "loss_and_gradient",
    _both,
    prepare,
    {**_FACTORS, "scale": (1.0, 0.3, -1024.0)},
    elementwise=False,
    counted={"loss_and_gradient": {}},
    budgets={"loss_and_gradient": {"bfloat16": 42, "float32": 45}},
)
