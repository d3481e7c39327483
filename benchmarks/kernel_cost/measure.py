"""The kernels timed with device events, where a GPU is there."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch
import triton
from noisestep.accelerated.backends import Launch

from . import ours
from .cache import Cache
from .cases import CASES, SHAPES, batch
from .cost import KernelCost
from .specialise import capture, is_batch_sized, name_of


@dataclass(frozen=True)
class Time:
    """A kernel's cost as counted, and the median seconds of its launch."""

    cost: KernelCost
    seconds: float

    def __str__(self) -> str:
        cost, least = self.cost, prod(SHAPES[self.cost.shape]) / self.cost.bound.rate
        where = f"{cost.case} [{cost.kernel}] ({cost.shape}, {cost.dtype}, {cost.layout})"
        return f"{where}: {self.seconds * 1e6:.2f} µs, {self.seconds / least:.2f} x the bound by {cost.bound.by}"


def capability() -> int:
    """The GPU's compute capability, 90 for sm_90."""
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


def measured(cache: Cache) -> Iterator[Time]:
    """Each launch that walks a batch, after a warm-up."""
    for case in CASES:
        costs = {(c.shape, c.dtype, c.layout, c.kernel): c for c in ours.costs(cache, (capability(),), (case,))}
        for (shape, dtype, layout, kernel), cost in costs.items():
            x = batch(SHAPES[shape], dtype, layout)
            for launch in capture(case.prepare(x)):
                if is_batch_sized(launch, x) and name_of(launch) == kernel:
                    yield Time(cost, _seconds(launch))


def _seconds(launch: Launch) -> float:
    arguments = {
        key: value.cuda() if isinstance(value, torch.Tensor) else value for key, value in launch.arguments.items()
    }

    def run() -> None:
        launch.kernel[launch.grid](**arguments, **launch.options)

    return statistics.median(triton.testing.do_bench(run, warmup=25, rep=100, return_mode="all")) * 1e-3
