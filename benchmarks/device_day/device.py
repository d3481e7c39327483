"""Time on the device, from CUDA graphs, beside what other code takes for the same function."""

import math
import statistics
from collections.abc import Iterator
from typing import Any

import torch

from .. import gpu
from ..calls import PASSES, Call, calls, cases, name_of
from .day import Budget

SHAPES = ((4, 4, 64, 64), (64, 4, 64, 64), (64, 4, 1024, 1024), (64, 3, 32, 32), (64, 4, 256, 256))
QUICK = ((4, 4, 64, 64), (64, 4, 64, 64))
TINY = ((2, 3, 8, 8),)
DTYPES = ("bfloat16", "float32")
# the ops of a training or sampling step
OPS = (*PASSES, "noise", "q_sample", "reverse_step", "simple_loss", "loss_and_gradient")
# torch.compile takes seconds for each
COMPILED = ((64, 4, 64, 64), (64, 4, 1024, 1024))
# a graph holds fewer calls of a batch from this size on
_LARGE = 1 << 24


def shapes(quick: bool) -> tuple[tuple[int, ...], ...]:
    """The batches that are timed."""
    if not gpu.PRESENT:
        return TINY
    return QUICK if quick else SHAPES


def timed(quick: bool) -> Iterator[Call]:
    """What is timed, in turn: all ops on a batch before the next one."""
    for shape in shapes(quick):
        for dtype in DTYPES:
            for op in OPS:
                for case in cases(op, (shape,), (dtype,)):
                    yield from calls(op, case, compiled=gpu.PRESENT and shape in COMPILED)
            if gpu.PRESENT:
                torch.cuda.empty_cache()


def rows(budget: Budget) -> Iterator[tuple[str, Any]]:
    """{"us", "tbs", "how", "rounds"} by "op | provider | shape | dtype"; a call that raises has its error there.

    tbs is the fewest bytes that the function has to move, over the time. how is "graph", or "wall" for a call
    that waits for the device, and for all of them where there is none. rounds has the microseconds of each round.
    """
    for call in timed(budget.quick):
        yield " | ".join((call.op, call.provider, *name_of(call.op, call.case).split("-"))), _time(call, budget.quick)


def _time(call: Call, quick: bool) -> Any:
    effort = dict(times=20 if math.prod(call.case.shape) < _LARGE else 4, rounds=5 if quick else 11)
    with torch.set_grad_enabled(call.grad):
        try:
            rounds = (gpu.wall_rounds if call.waits else gpu.device_rounds)(call.run, **effort)
        except Exception as error:
            return f"{type(error).__name__}: {str(error)[:300]}"
    seconds = statistics.median(rounds)
    how = "graph" if gpu.PRESENT and not call.waits else "wall"
    return dict(
        us=round(seconds * 1e6, 2),
        tbs=round(call.bytes / seconds / 1e12, 3),
        how=how,
        rounds=[round(x * 1e6, 3) for x in rounds],
    )
