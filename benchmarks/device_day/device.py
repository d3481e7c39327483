"""Time on the device, from CUDA graphs, beside what other code takes for the same function."""

import math
from collections.abc import Iterator
from typing import Any

import torch

from . import gpu
from .calls import TENSORS, Call, calls
from .day import Budget

SHAPES = ((4, 4, 64, 64), (64, 4, 64, 64), (64, 4, 1024, 1024), (64, 3, 32, 32), (64, 4, 256, 256))
QUICK = ((4, 4, 64, 64), (64, 4, 64, 64))
TINY = ((2, 3, 8, 8),)
DTYPES = (torch.bfloat16, torch.float32)
# torch.compile takes seconds for each
COMPILED = ((64, 4, 64, 64), (64, 4, 1024, 1024))
# a graph holds fewer calls of a batch from this size on
_LARGE = 1 << 24


def shapes(quick: bool) -> tuple[tuple[int, ...], ...]:
    """The batches that are timed."""
    if not gpu.PRESENT:
        return TINY
    return QUICK if quick else SHAPES


def is_compiled(shape: tuple[int, ...]) -> bool:
    """Whether torch.compile is timed on a batch."""
    return gpu.PRESENT and shape in COMPILED


def rows(budget: Budget) -> Iterator[tuple[str, Any]]:
    """{"us", "tbs", "how"} by "op | provider | shape | dtype"; a call that raises has its error there.

    tbs is the fewest bytes that the function has to move, over the time. how is "graph", or "wall" for a call
    that waits for the device, and for all of them where there is none.
    """
    for shape in shapes(budget.quick):
        for dtype in DTYPES:
            for call in calls(shape, dtype, compiled=is_compiled(shape)):
                name = "x".join(map(str, shape)), str(dtype).removeprefix("torch.")
                yield " | ".join((call.op, call.provider, *name)), _time(call, shape, dtype, budget.quick)
            if gpu.PRESENT:
                torch.cuda.empty_cache()


def _time(call: Call, shape: tuple[int, ...], dtype: torch.dtype, quick: bool) -> Any:
    elements = math.prod(shape)
    effort = dict(times=20 if elements < _LARGE else 4, rounds=5 if quick else 11)
    with torch.set_grad_enabled(call.grad):
        try:
            seconds = (gpu.wall_seconds if call.waits else gpu.device_seconds)(call.run, **effort)
        except Exception as error:
            return f"{type(error).__name__}: {str(error)[:300]}"
    moved = TENSORS[call.op] * elements * dtype.itemsize
    how = "graph" if gpu.PRESENT and not call.waits else "wall"
    return dict(us=round(seconds * 1e6, 2), tbs=round(moved / seconds / 1e12, 3), how=how)
