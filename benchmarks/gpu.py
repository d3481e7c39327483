"""The lines that name CUDA: waiting, capturing a graph, timing. Without a GPU, the same functions time the CPU."""

import contextlib
import gc
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

PRESENT = torch.cuda.is_available()
DEVICE = torch.device("cuda", 0) if PRESENT else torch.device("cpu")
# clock cycles of an idle kernel, about a millisecond, behind which the host queues what is timed
_HEAD_START = 2_000_000


def head_start() -> None:
    """Queue an idle kernel, behind which the host queues what is timed."""
    torch.cuda._sleep(_HEAD_START)


def synchronize() -> None:
    """Wait until the device has nothing left to do."""
    if PRESENT:
        torch.cuda.synchronize()


def capture(call: Callable[[], Any], *, times: int = 1, warmup: int = 3) -> tuple[Any, Any]:
    """Warm a call up and capture it in a CUDA graph, on a stream of its own.

    A capture that fails raises the error of the call, not the one that CUDA reports afterwards, and leaves nothing
    behind that would fail the next one.

    Parameters
    ----------
    call : function
        Makes its own leaves, so that autograd's nodes belong to the capturing stream.
    times : int
        How often the graph repeats the call.
    warmup : int
        Calls before the capture, on the same stream.

    Returns
    -------
    graph : torch.cuda.CUDAGraph
    result : object
        What the last captured call returned; a replay overwrites it.
    """
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    # the context gives the stream back also when the capture fails; torch.cuda.graph would not
    with torch.cuda.stream(stream), _no_garbage_collection():
        for _ in range(warmup):
            call()
        torch.cuda.synchronize()
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            for _ in range(times):
                result = call()
            graph.capture_end()
        except Exception:
            _end_failed_capture(graph)
            raise
    torch.cuda.current_stream().wait_stream(stream)
    return graph, result


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    # an object that dies during a capture may free or wait, which a capture forbids
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _end_failed_capture(graph: Any) -> None:
    with contextlib.suppress(RuntimeError):
        graph.capture_end()
    # the generator still believes that it is being captured; a copy of its state does not
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    generator.graphsafe_set_state(generator.clone_state())


def device_rounds(call: Callable[[], Any], *, times: int, rounds: int) -> list[float]:
    """Seconds that a call takes on the device, in each of the replays of a CUDA graph of `times` calls."""
    if not PRESENT:
        return wall_rounds(call, times=1, rounds=1)
    graph, _ = capture(call, times=times)
    return _events(graph.replay, times, rounds)


def queued_rounds(call: Callable[[], Any], *, times: int, rounds: int) -> list[float]:
    """The same without a graph: for calls that take longer than the host needs to queue them."""
    if not PRESENT:
        return wall_rounds(call, times=1, rounds=1)

    def queue() -> None:
        for _ in range(times):
            call()

    return _events(queue, times, rounds)


def _events(go: Callable[[], Any], times: int, rounds: int) -> list[float]:
    go()
    seconds = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        head_start()
        begin.record()
        go()
        end.record()
        end.synchronize()
        seconds.append(begin.elapsed_time(end) * 1e-3 / times)
    return seconds


def wall_rounds(call: Callable[[], Any], *, times: int, rounds: int) -> list[float]:
    """Seconds until a call's result is there, in each round: for calls that wait for the device themselves."""
    call()
    seconds = []
    for _ in range(rounds):
        synchronize()
        begin = time.perf_counter()
        for _ in range(times):
            call()
        synchronize()
        seconds.append((time.perf_counter() - begin) / times)
    return seconds


def host_rounds(call: Callable[[], Any], *, times: int, rounds: int) -> list[float]:
    """Seconds until a call returns, in each round. The queue is emptied between them, so it never fills."""
    for _ in range(min(times, 30)):
        call()
    seconds = []
    for _ in range(rounds):
        synchronize()
        begin = time.perf_counter()
        for _ in range(times):
            call()
        seconds.append((time.perf_counter() - begin) / times)
    synchronize()
    return seconds


@contextmanager
def waiting_forbidden() -> Iterator[None]:
    """Whatever makes the host wait for the device raises RuntimeError."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@contextmanager
def waits_noted() -> Iterator[list[tuple[str, int]]]:
    """Collects the file and the line of each place where the host waits for the device."""
    places: list[tuple[str, int]] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield places
        finally:
            torch.cuda.set_sync_debug_mode("default")
            places += [(w.filename, w.lineno) for w in caught if "synchronizing" in str(w.message)]
