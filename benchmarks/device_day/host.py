"""Microseconds until a call on a small batch returns: what a loop over small batches waits for."""

from collections.abc import Iterator
from typing import Any

import torch

from .. import gpu
from ..calls import calls, case_of
from .day import Budget
from .device import OPS

SHAPE = (4, 3, 32, 32)


def rows(budget: Budget) -> Iterator[tuple[str, Any]]:
    """µs of each call, by "op | provider"; a call that raises has its error there."""
    times, rounds = (100, 3 if budget.quick else 7) if gpu.PRESENT else (3, 1)
    for call in (call for op in OPS for call in calls(op, case_of(SHAPE), compiled=gpu.PRESENT)):
        with torch.set_grad_enabled(call.grad):
            try:
                found: Any = round(min(gpu.host_rounds(call.run, times=times, rounds=rounds)) * 1e6, 2)
            except Exception as error:
                found = f"{type(error).__name__}: {error}"
        yield f"{call.op} | {call.provider}", found
