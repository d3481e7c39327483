"""advance: a sum of integers."""

import torch
from noisestep.accelerated.ops import advance
from op_cases import Case
from torch import Tensor

from .description import Description


def _prepare(case: Case, *, start: int, by: int, axes: int) -> tuple[tuple, dict]:
    return (torch.full((1,) * axes, start, device=case.device), by), {}


def _near(actual: Tensor, case: Case, *, start: int, by: int, axes: int) -> None:
    assert actual.shape == (1,) * axes
    assert actual.item() == start + by


Description(
    "advance",
    advance,
    _prepare,
    {"start": (0, 5, 2**40, -(2**40)), "by": (1, -1, 0, 2**31 - 1, -(2**31)), "axes": (0, 1, 2)},
    near=_near,
    timed={"start": 5, "by": 1, "axes": 0},
)
