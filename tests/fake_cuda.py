"""A GPU that is not there: the names of torch.cuda that the benchmarks use, with CUDA's rules of capture."""

import inspect
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

REAL_GRAPH = torch.cuda.CUDAGraph


class FakeCuda:
    """What has been asked of the device."""

    def __init__(self) -> None:
        self.current = FakeStream()
        self.default = self.current
        self.capturing: FakeGraph | None = None
        self.broken = False
        self.sync_debug_mode = "default"
        self.generator = FakeGenerator()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put the names into torch.cuda; one that it does not have is an error."""
        card = SimpleNamespace(multi_processor_count=1, major=9, minor=0, total_memory=1 << 34)
        names = dict(
            Stream=FakeStream,
            Event=FakeEvent,
            CUDAGraph=lambda: FakeGraph(self),
            current_stream=lambda: self.current,
            stream=self.stream,
            synchronize=self.synchronize,
            set_sync_debug_mode=self.set_sync_debug_mode,
            get_device_name=lambda device: "fake",
            get_device_properties=lambda device: card,
            current_device=lambda: 0,
            default_generators=(self.generator,),
            empty_cache=lambda: None,
            _sleep=lambda cycles: None,
        )
        for name, value in names.items():
            # made by torch only when a GPU is first used
            monkeypatch.setattr(torch.cuda, name, value, raising=name != "_sleep")

    @contextmanager
    def stream(self, stream: "FakeStream") -> Any:
        """Work goes to a stream."""
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def synchronize(self) -> None:
        """Wait, which breaks a capture."""
        if self.capturing:
            self.broken = True
            raise RuntimeError("operation not permitted when stream is capturing")

    def set_sync_debug_mode(self, mode: str) -> None:
        """What is to happen when the host waits."""
        assert mode in ("default", "warn", "error")
        self.sync_debug_mode = mode


class FakeStream:
    """A stream whose work is done at once."""

    def wait_stream(self, stream: "FakeStream") -> None:
        """Come after another."""

    def synchronize(self) -> None:
        """Wait for this one."""


class FakeEvent:
    """An event; a millisecond lies between two."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.enable_timing = enable_timing

    def record(self) -> None:
        """Now."""

    def synchronize(self) -> None:
        """Wait."""

    def elapsed_time(self, end: "FakeEvent") -> float:
        """Milliseconds."""
        assert self.enable_timing
        assert end.enable_timing
        return 1.0


class FakeGenerator:
    """The device's generator, which a capture takes, and which a failed one does not give back."""

    def __init__(self) -> None:
        self.capturing = False

    def clone_state(self) -> "FakeGenerator":
        """A copy, which is not captured."""
        return FakeGenerator()

    def graphsafe_set_state(self, state: "FakeGenerator") -> None:
        """Take a state over."""
        self.capturing = state.capturing


class FakeGraph:
    """A graph that does nothing when it is replayed."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.replays = 0

    def capture_begin(self, *args: Any, **kwargs: Any) -> None:
        """Begin, on another stream than the default one, with a generator that nothing else captures."""
        inspect.signature(REAL_GRAPH.capture_begin).bind(self, *args, **kwargs)
        assert self.cuda.current is not self.cuda.default
        assert self.cuda.capturing is None
        if self.cuda.generator.capturing:
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")
        self.cuda.capturing, self.cuda.generator.capturing = self, True

    def capture_end(self) -> None:
        """End; a broken capture keeps the generator."""
        assert self.cuda.capturing is self
        self.cuda.capturing = None
        if self.cuda.broken:
            self.cuda.broken = False
            raise RuntimeError("operation failed due to a previous error during capture")
        self.cuda.generator.capturing = False

    def replay(self) -> None:
        """Count."""
        self.replays += 1
