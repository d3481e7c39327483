"""The elementwise kernels with programs of other sizes: elements a thread, and warps a program."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from noisestep.accelerated.address import FORWARD, NoiseAddress
from noisestep.accelerated.ops import q_sample, reverse_step
from torch import Tensor

from ..variants import times
from . import gpu
from .calls import T, schedule
from .day import Budget
from .device import DTYPES

SHAPES = ((4, 4, 64, 64), (64, 4, 64, 64), (64, 4, 256, 256), (64, 4, 1024, 1024))


def rows(budget: Budget) -> Iterator[tuple[str, Any]]:
    """{"us", "same"} by "op | shape | dtype | size"."""
    if not gpu.PRESENT:
        yield "skipped", "needs a GPU"
        return
    for shape in shapes(budget.quick):
        # a graph of fewer launches where each takes long
        seconds = partial(gpu.device_seconds, times=20 if math.prod(shape) < 1 << 24 else 4, rounds=5)
        for dtype in DTYPES:
            for op, call in ops(shape, dtype).items():
                with torch.no_grad():
                    for size, found in times(call, seconds):
                        name = "x".join(map(str, shape)), str(dtype).removeprefix("torch.")
                        yield " | ".join((op, *name, size)), found


def compile_sizes(quick: bool) -> None:
    """Launch all that `rows` times, once."""
    for shape in shapes(quick):
        for dtype in DTYPES:
            for call in ops(shape, dtype).values():
                for _ in times(call, lambda launch: 0.0):
                    pass


def shapes(quick: bool) -> tuple[tuple[int, ...], ...]:
    """The batches that are timed."""
    return SHAPES[: 2 if quick else len(SHAPES)]


def ops(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Callable[[], Tensor]]:
    """A call of each elementwise op on a batch."""
    x = torch.randn(shape, device=gpu.DEVICE).to(dtype)
    t, one_t = torch.randint(1, 1001, shape[:1], device=gpu.DEVICE), torch.tensor(T, device=gpu.DEVICE)
    at, tables = NoiseAddress(0, FORWARD, 3), schedule(gpu.DEVICE)
    return {
        "q_sample": lambda: q_sample(tables, x, t, at),
        "reverse_step": lambda: reverse_step(tables, x, x, one_t, at, clip=(-1, 1)),
    }
