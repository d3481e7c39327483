"""A Triton driver whose GPU is the emulator: ``kernel[grid](...)`` specialises, compiles and launches as on a device.

    with on("sm_90"):
        kernel[(programs,)](x, y, n, BLOCK=1024, enable_fp_fusion=False)    # tensors on the CPU

Everything up to the compiled text is Triton's own: which arguments are constants, which are promised to be divisible by
16, what the options are. The last stage, which would assemble the text, hands it on instead.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase

from . import amd, ptx
from .memory import Buffer


@dataclass(frozen=True)
class Target:
    """A GPU that Triton compiles for.

    Parameters
    ----------
    name : str
    triton : GPUTarget
    shared : int
        Bytes of shared memory that a program may ask for.
    """

    name: str
    triton: GPUTarget
    shared: int


# shared memory: "Technical Specifications per Compute Capability" of the CUDA programming guide; AMD: 64 KiB of LDS
TARGETS = {
    target.name: target
    for target in (
        Target("sm_80", GPUTarget("cuda", 80, 32), 163 << 10),
        Target("sm_90", GPUTarget("cuda", 90, 32), 227 << 10),
        Target("sm_100", GPUTarget("cuda", 100, 32), 227 << 10),
        Target("gfx942", GPUTarget("hip", "gfx942", 64), 64 << 10),
        Target("gfx1100", GPUTarget("hip", "gfx1100", 32), 64 << 10),
    )
}


@dataclass
class Settings:
    """How launches run; see `on`."""

    sched: str = "lockstep"
    seed: int = 0
    counts: Counter[tuple[str, str]] | None = None
    approximate: int | None = None
    edit: Callable[[str], str] | None = None
    shared: Callable[[int], int] | None = None
    seen: list[Any] | None = None


@contextmanager
def on(
    name: str,
    *,
    sched: str = "lockstep",
    seed: int = 0,
    counts: Counter[tuple[str, str]] | None = None,
    approximate: int | None = None,
    edit: Callable[[str], str] | None = None,
    shared: Callable[[int], int] | None = None,
    seen: list[Any] | None = None,
) -> Iterator[None]:
    """Triton kernels that are launched in here run in the emulator, on tensors in the host's memory.

    Kernels must have been defined without ``TRITON_INTERPRET``, as those for a GPU are. What is compiled is cached in a
    folder of its own, `cache_folder`: the last stage of it is text, which must never be taken for machine code.

    Parameters
    ----------
    name : {"sm_80", "sm_90", "sm_100", "gfx942", "gfx1100"}
    sched : {"lockstep", "random"}
        The order in which warps run.
    seed : int
        Of that order.
    counts : Counter, optional
        Gains what was issued and executed; see `emulator.ptx.launch`.
    approximate : int, optional
        A seed for the errors of approximate instructions.
    edit : callable, optional
        Changes the compiled text before it runs: for planting faults.
    shared : callable, optional
        Changes the bytes of shared memory that a launch gives.
    seen : list, optional
        Gains (kernel's name, text, shared bytes) of each launch.

    Raises
    ------
    ValueError
        For a target that is not one of these.
    """
    if name not in TARGETS:
        raise ValueError(f"target must be one of {', '.join(TARGETS)}, got {name!r}")
    settings = Settings(sched, seed, counts, approximate, edit, shared, seen)
    config, folder = triton.runtime.driver, cache_folder()
    with (
        triton.knobs.cache.scope(),
        mock.patch.object(triton.knobs.runtime, "add_stages_inspection_hook", _text_is_the_binary),
        mock.patch.object(config, "_active", EmulatedDriver(TARGETS[name], settings)),
    ):
        triton.knobs.cache.dir = str(folder)
        yield


def cache_folder() -> Path:
    """Where the emulator's compiled kernels are cached: beside Triton's own cache folder, as it is set now."""
    folder = Path(triton.knobs.cache.dir)
    return folder.with_name(f"{folder.name}-emulated")


class EmulatedDriver(DriverBase):
    """What Triton asks of a device, answered without one.

    Parameters
    ----------
    target : Target
    settings : Settings
    """

    def __init__(self, target: Target, settings: Settings) -> None:
        super().__init__()
        self.target = target
        self.settings = settings
        # no registers or spills are known; 1024 threads are the most of a program
        self.utils = SimpleNamespace(
            get_device_properties=lambda device: {"max_shared_mem": target.shared},
            load_binary=lambda name, text, shared, device: (name, text, 0, 0, 1024),
            unload_module=lambda module: None,
        )

    @classmethod
    def is_active(cls) -> bool:
        return True

    def get_current_target(self) -> GPUTarget:
        return self.target.triton

    def get_current_device(self) -> str:
        # Triton keeps kernels by device
        return f"emulated {self.target.name}"

    def get_current_stream(self, device: str) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def map_python_to_cpp_type(self, ty: str) -> str:
        raise NotImplementedError("the emulator builds no launcher in C++")

    def get_benchmarker(self) -> Any:
        raise NotImplementedError("the emulator tells nothing of time")

    def launcher_cls(self, source: Any, metadata: Any) -> Callable[..., None]:
        """What launches a compiled kernel, in whatever way is set when it does."""
        types = list(source.signature.values())

        def run(x: int, y: int, z: int, stream: int, text: bytes, packed: Any, launched: Any, *rest: Any) -> None:
            # two hooks, then the kernel's arguments
            values = [value for value, kind in zip(rest[2:], types, strict=True) if kind != "constexpr"]
            triton.runtime.driver.active.execute(text.decode(), metadata, (x, y, z), values)

        return run

    def execute(self, text: str, metadata: Any, grid: tuple[int, int, int], values: list[Any]) -> None:
        """Run compiled text on a grid."""
        settings = self.settings
        shared = metadata.shared
        if settings.seen is not None:
            settings.seen.append((metadata.name, text, shared))
        if settings.edit is not None:
            text = settings.edit(text)
        if settings.shared is not None:
            shared = settings.shared(shared)
        run = ptx.launch if self.target.triton.backend == "cuda" else amd.launch
        run(
            text,
            grid,
            [_buffer(value) if isinstance(value, torch.Tensor) else value for value in values],
            num_warps=metadata.num_warps,
            shared=shared,
            sched=settings.sched,
            seed=settings.seed,
            counts=settings.counts,
            approximate=settings.approximate,
        )


def _buffer(tensor: torch.Tensor) -> Buffer:
    """The memory that a tensor spans."""
    if tensor.device.type != "cpu":
        raise ValueError(f"the emulator runs on tensors of the CPU, got one on {tensor.device}")
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    return Buffer.at(tensor.data_ptr(), (last + 1) * tensor.element_size() if tensor.numel() else 0)


def _text_is_the_binary(*arguments: Any) -> tuple[str, str] | None:
    """Triton's hook into its stages: the last one hands the text on. Called with nothing it gives a key and a hash."""
    if not arguments:
        return "emulated", "emulated"
    stages = arguments[1]
    stages[list(stages)[-1]] = lambda text, metadata: text.encode()
    return None
