"""How a call is timed: on the device's own clock where there is one, and in pairs where a ratio is wanted."""

import functools
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

THREADS = 2
# of one measurement on a CPU: how long it should take, and how many rounds it may have
_SECONDS, _FEWEST, _MOST = 0.2, 3, 200
_DEVICE_ROUNDS = 100


class DeviceTimer:
    """A clock for pytest-benchmark, which asks it before and after a round: seconds between two events on a GPU.

    The host's clock would time the launch, which returns at once, or with it a synchronisation. Before the first
    event a write of 256 MB is queued: it leaves nothing of the op's in the cache, and the host has the time to queue
    the op behind it, so that gaps between launches count only where an op has many of them (as Triton's do_bench).
    """

    def __init__(self) -> None:
        self._start: Any = None

    def __call__(self) -> float:
        event = torch.cuda.Event(enable_timing=True)
        if self._start is None:
            _flush().zero_()
            event.record()
            self._start = event
            return 0.0
        event.record()
        event.synchronize()
        milliseconds = self._start.elapsed_time(event)
        self._start = None
        return milliseconds / 1e3


@functools.cache
def _flush() -> Tensor:
    return torch.empty(1 << 28, dtype=torch.int8, device="cuda")


def measure(benchmark: Any, call: Callable[[], object], *, on_device: bool) -> float | None:
    """Time a call that has run before; the median in seconds, or None where timing is switched off."""
    rounds, iterations = _DEVICE_ROUNDS, 1
    if not on_device:
        once = _seconds(call)
        # a round of a millisecond or more, which the clock's own cost does not change
        iterations = max(1, int(1e-3 / once))
        rounds = min(max(int(_SECONDS / (once * iterations)), _FEWEST), _MOST)
    benchmark.pedantic(call, rounds=rounds, iterations=iterations, warmup_rounds=max(1, rounds // 5))
    return benchmark.stats.stats.median if benchmark.stats else None


@dataclass(frozen=True)
class Pairs:
    """Two calls timed in turn: the median seconds of each, and the median of theirs / ours over the pairs."""

    ours: float
    theirs: float
    ratio: float


def measure_pairs(
    benchmark: Any, ours: Callable[[], object], theirs: Callable[[], object], *, rounds: int, warmup: int
) -> Pairs:
    """Time two calls in turn in one process, so that whatever else the machine does falls on both."""
    for _ in range(warmup):
        ours(), theirs()
    pairs: list[tuple[float, float]] = []
    benchmark.group = "ours and theirs, one after the other"
    benchmark.pedantic(lambda: pairs.append((_seconds(ours), _seconds(theirs))), rounds=rounds)
    ratio = statistics.median(theirs / ours for ours, theirs in pairs)
    benchmark.extra_info["ratio"] = round(ratio, 2)
    return Pairs(statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs), ratio)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def surroundings(device: str) -> dict[str, str | int]:
    """What a time depends on besides the code: for `extra_info`."""
    facts: dict[str, str | int] = {"device": torch.cuda.get_device_name() if device == "cuda" else _processor()}
    for package in ("noisestep", "torch", "triton", "numpy", "diffusers"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    return facts | {
        "threads": torch.get_num_threads(),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "not set"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
