"""multistep: bits as on the eager backend, which is within its bound of the reference (test_multistep.py)."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from noisestep.accelerated.address import REVERSE
from noisestep.accelerated.ops import multistep
from noisestep.accelerated.schedule import StepTable
from op_cases import Case
from torch import Tensor

from .description import ADDRESS, BOTH, FLOATS, GIVEN_EPS, LAYOUTS, PLACE, PREDICTION, SCALARS, Description
from .reverse_step import numbers


@dataclass(frozen=True)
class Method:
    """The options of one step."""

    prediction: str = "eps"
    memory: str = "x_0"
    entries: int = 2
    noisy: bool = True
    clip: tuple[float, float] | None = None
    guidance: float | None = None
    temperature: float = 1.0

    learned = False

    def fitting(self, case: Case) -> "Method":
        """The same, but with v where eps says nothing of x_0."""
        return self if case.sees_signal or self.prediction != "eps" else replace(self, prediction="v")

    def coefficients(self, case: Case) -> np.ndarray:
        """(T + 1, 3 + K), of the size that a solver's have, and of both signs."""
        table = np.random.default_rng(case.T).uniform(-1, 1, (case.T + 1, 3 + self.entries))
        table[:, -1] = np.abs(table[:, -1]) if self.noisy else 0
        return table

    def table(self, case: Case) -> StepTable:
        """The table on the device of the case."""
        how: Any = dict(prediction=self.prediction, memory=self.memory)
        return case.device_schedule.step_table(self.coefficients(case), **how)


def arguments(
    case: Case,
    method: Method,
    eps_dtype: str | None = None,
    history_dtype: str | None = None,
    *,
    joined: bool = False,
) -> tuple:
    """(table, x_t, output, history, t, noise) for a step."""
    output: Any = case.tensor(2)
    if method.guidance is not None:
        output = output, case.tensor(3)
        output = case.arranged(torch.cat(output)) if joined else output
    eps: Any = case.noise() if eps_dtype is None else case.tensor(4, dtype=getattr(torch, eps_dtype))
    dtype = history_dtype and getattr(torch, history_dtype)
    history = [case.tensor(5 + k, dtype=dtype) for k in range(method.entries)]
    return method.table(case), case.tensor(1), output, history, case.t(), eps


def _call(*arguments: Any, keep: str | None, **options: Any) -> Tensor | tuple[Tensor, Tensor]:
    """x_s, and D where it is kept: in memory like x_t's, in float32, or in the place of the last of the history."""
    x_t, history = arguments[1], arguments[3]
    if keep is None or (keep == "history" and not history):
        return multistep(*arguments, **options)
    place = history[-1] if keep == "history" else torch.empty_like(x_t, dtype=None if keep == "new" else torch.float32)
    return multistep(*arguments, keep=place, **options), place


def _prepare(
    case: Case,
    *,
    scalars: str = "numbers",
    keep: str | None = "new",
    in_place: bool = False,
    eps_dtype: str | None = None,
    history_dtype: str | None = None,
    joined: bool = False,
    **options: Any,
) -> tuple[tuple, dict]:
    method = Method(**options).fitting(case)
    made = arguments(case, method, eps_dtype, history_dtype, joined=joined)
    chosen = dict(clip=method.clip, guidance=method.guidance) | numbers(case, method, scalars)
    return made, chosen | dict(keep=keep, in_place=in_place)


_CHAIN: dict[str, Any] = {"stream": REVERSE, "in_tensors": "step", "clip": (-1.0, 1.0)}

Description(
    "multistep",
    _call,
    _prepare,
    {
        **PLACE,
        "dtype": FLOATS,
        "layout": LAYOUTS,
        **ADDRESS,
        **GIVEN_EPS,
        **PREDICTION,
        "memory": ("x_0", "eps"),
        "entries": (0, 1, 2, 3, 4),
        "noisy": BOTH,
        "history_dtype": (None, "float32", "bfloat16"),
        "clip": (None, (-1, 1), (-0.3, 0.7)),
        "guidance": (None, 7.5, 0.0),
        "temperature": (1.0, 0.5),
        **SCALARS,
        "joined": BOTH,
        "keep": (None, "new", "float32", "history"),
        "in_place": BOTH,
    },
    counted={
        "multistep, two earlier x_0, clipped": {**_CHAIN, "noisy": False},
        "multistep, one earlier x_0, clipped, noise": {**_CHAIN, "entries": 1},
    },
    budgets={
        "multistep, two earlier x_0, clipped": {"bfloat16": 21, "float32": 17},
        # a tenth above reverse_step, the history and D included
        "multistep, one earlier x_0, clipped, noise": {"bfloat16": 51, "float32": 48},
    },
    timed={**_CHAIN, "noisy": False},
)
