"""How a call is timed: on the host's clock, on the device's own where there is one, and in pairs for a ratio."""

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

from . import gpu

THREADS = 2
# calls in a CUDA graph, and calls in turn on the host's clock beside a GPU, whose queue they do not fill
IN_A_GRAPH, IN_A_QUEUE = 32, 100
_DEVICE_ROUNDS, _HOST_ROUNDS = 100, 50
# of one measurement on a CPU: how long it should take, and how many rounds it may have
_SECONDS, _FEWEST, _MOST = 0.2, 8, 200


class DeviceTimer:
    """A clock for pytest-benchmark, which asks it before and after a round: seconds a call, between two events.

    A round is a replay of a CUDA graph of `IN_A_GRAPH` calls. Before the first event an idle kernel is queued, behind
    which the host has the time to queue the graph.
    """

    def __init__(self) -> None:
        self._start: Any = None

    def __call__(self) -> float:
        event = torch.cuda.Event(enable_timing=True)
        if self._start is None:
            gpu.head_start()
            event.record()
            self._start = event
            return 0.0
        event.record()
        event.synchronize()
        milliseconds = self._start.elapsed_time(event)
        self._start = None
        return float(milliseconds) / 1e3 / IN_A_GRAPH


class HostTimer:
    """The same on the host's clock; the device's queue is empty when a round begins."""

    def __init__(self) -> None:
        self._runs = False

    def __call__(self) -> float:
        if not self._runs:
            gpu.synchronize()
        self._runs = not self._runs
        return time.perf_counter()


# which clock times what: the calls of a CPU, and on a GPU what a call takes of the host and of the device
CLOCKS: dict[str, Callable[[], Any]] = {"cpu": lambda: time.perf_counter, "host": HostTimer, "device": DeviceTimer}


def measure(benchmark: Any, call: Callable[[], object], clock: str, *, waits: bool = False) -> float | None:
    """Time a call that has run before; the median in seconds, or None where timing is switched off.

    Parameters
    ----------
    benchmark : fixture of pytest-benchmark
        Whose timer is the clock's.
    call : function
    clock : str
        One of `CLOCKS`.
    waits : bool
        Whether the call waits for the device, so that no graph can hold it.
    """
    if clock == "device":
        if waits:
            graph_or_loop: Callable[[], object] = lambda: [call() for _ in range(IN_A_GRAPH)]  # noqa: E731
        else:
            graph_or_loop = gpu.capture(call, times=IN_A_GRAPH)[0].replay
        benchmark.pedantic(graph_or_loop, rounds=_DEVICE_ROUNDS, warmup_rounds=1)
    elif clock == "host":
        benchmark.pedantic(call, rounds=_HOST_ROUNDS, iterations=IN_A_QUEUE, warmup_rounds=1)
    else:
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


def card(clock: str = "device") -> str:
    """The GPU, or the processor where there is none or where the clock is a CPU's."""
    if gpu.PRESENT and clock != "cpu":
        return torch.cuda.get_device_name(gpu.DEVICE)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def surroundings(clock: str) -> dict[str, str | int]:
    """What a time depends on besides the code: for `extra_info`."""
    facts: dict[str, str | int] = {"device": card(clock)}
    for package in ("noisestep", "torch", "triton", "numpy", "diffusers"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    return facts | {
        "threads": torch.get_num_threads(),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "not set"),
    }
