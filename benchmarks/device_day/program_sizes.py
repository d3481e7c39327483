"""The elementwise kernels with programs of other sizes: elements a thread, and warps a program."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

from .. import gpu
from ..calls import case_of
from ..described import Case
from ..sweep import launch_of, times
from .day import Budget
from .device import DTYPES

OPS = ("q_sample", "reverse_step")
SHAPES = ((4, 4, 64, 64), (64, 4, 64, 64), (64, 4, 256, 256), (64, 4, 1024, 1024))


def rows(budget: Budget) -> Iterator[tuple[str, Any]]:
    """{"us", "same"} by "op | shape | dtype | size"."""
    if not gpu.PRESENT:
        yield "skipped", "needs a GPU"
        return
    for op, case in resized(budget.quick):
        # a graph of fewer launches where each takes long
        rounds = partial(gpu.device_rounds, times=20 if math.prod(case.shape) < 1 << 24 else 4, rounds=5)
        for size, found in times(*launch_of(op, case), rounds):
            yield " | ".join((op, "x".join(map(str, case.shape)), case.dtype, size)), found


def compile_sizes(quick: bool) -> None:
    """Launch all that `rows` times, once."""
    for op, case in resized(quick):
        for _ in times(*launch_of(op, case), lambda launch: [0.0]):
            pass


def resized(quick: bool) -> Iterator[tuple[str, Case]]:
    """The ops and batches that are timed."""
    for shape in SHAPES[: 2 if quick else len(SHAPES)]:
        for dtype in DTYPES:
            for op in OPS:
                yield op, case_of(shape, dtype)
