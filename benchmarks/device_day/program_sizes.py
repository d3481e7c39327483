"""The elementwise kernels with programs of other sizes: elements a thread, and warps a program."""

from collections.abc import Callable, Iterator
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
_LARGE = 1 << 24


def rows(budget: Budget) -> Iterator[tuple[str, Any]]:
    """{"us", "same"} by "op | shape | dtype | size"."""
    if not gpu.PRESENT:
        yield "skipped", "needs a GPU"
        return
    for shape in SHAPES[: 2 if budget.quick else len(SHAPES)]:
        for dtype in DTYPES:
            for op, call in _ops(shape, dtype).items():

                def seconds(launch: Callable[[], Any]) -> float:
                    elements = torch.Size(shape).numel()  # noqa: B023
                    return gpu.device_seconds(launch, times=20 if elements < _LARGE else 4, rounds=5)

                with torch.no_grad():
                    for size, found in times(call, seconds):
                        name = "x".join(map(str, shape)), str(dtype).removeprefix("torch.")
                        yield " | ".join((op, *name, size)), found


def _ops(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Callable[[], Tensor]]:
    x = torch.randn(shape, device=gpu.DEVICE).to(dtype)
    t, one_t = torch.randint(1, 1001, shape[:1], device=gpu.DEVICE), torch.tensor(T, device=gpu.DEVICE)
    at, tables = NoiseAddress(0, FORWARD, 3), schedule(gpu.DEVICE)
    return {
        "q_sample": lambda: q_sample(tables, x, t, at),
        "reverse_step": lambda: reverse_step(tables, x, x, one_t, at, clip=(-1, 1)),
    }
