"""The kernels that a call of a public op would launch on a GPU, and their compilation where there is none.

Nothing about a kernel is written down here: the op is called, its launches are recorded, and Triton specialises each
from the recorded arguments as it does in a real launch.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any
from unittest import mock

import torch
import triton
from noisestep.accelerated.backends.triton import launch as launching
from noisestep.accelerated.ops import checks
from torch import Tensor
from triton.backends.compiler import GPUTarget


@dataclass(frozen=True)
class Launch:
    """One recorded launch.

    Parameters
    ----------
    kernel : triton.JITFunction
    grid : tuple of int
        Programs along each axis.
    arguments : dict of str to object
        The kernel's own arguments by name; tensors stay what the op passed.
    options : dict of str to object
        What else the launch says: num_warps, enable_fp_fusion.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """The module of the kernel, and its function where that is not simply the op's kernel."""
        module = self.kernel.fn.__module__.rsplit(".", 1)[-1]
        function = self.kernel.fn.__name__.strip("_")
        return module if function == "kernel" else f"{module}.{function}"

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors among the arguments, one for each pointer that is not None."""
        return [value for value in self.arguments.values() if isinstance(value, Tensor)]


class _Recorder:
    """Stands where a kernel stands in `kernel[grid](...)`, and writes the launch down."""

    def __init__(self, kernel: Any, launches: list[Launch]) -> None:
        self._kernel, self._launches = kernel, launches

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernel, name)

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def record(**arguments: Any) -> None:
            own = {name: arguments.pop(name) for name in self._kernel.arg_names if name in arguments}
            self._launches.append(Launch(self._kernel, grid, own, arguments))

        return record


@contextmanager
def recording() -> Iterator[list[Launch]]:
    """While it lasts, ops on CPU tensors do what they do on a GPU, and each launch is recorded instead of run."""
    launches: list[Launch] = []
    real = launching.launch

    def record(kernel: Any, *grid: Any, **arguments: Any) -> None:
        real(_Recorder(kernel, launches), *grid, **arguments)

    stand_ins: dict[str, tuple[Any, Any]] = {
        "launch": (real, record),
        "use_kernels": (launching.use_kernels, lambda x: True),
        # a GPU's timesteps are not read back
        "check_range": (checks.check_range, lambda t, end: None),
    }
    changed = []
    for module in [m for name, m in list(sys.modules.items()) if name.startswith("noisestep.accelerated")]:
        for name, (was, stand_in) in stand_ins.items():
            if getattr(module, name, None) is was:
                setattr(module, name, stand_in)
                changed.append((module, name, was))
    try:
        yield launches
    finally:
        for module, name, was in changed:
            setattr(module, name, was)


def capture(call: Callable[[], object]) -> list[Launch]:
    """The launches of a call, in order. Its results are memory that nothing was written to."""
    with recording() as launches:
        call()
    return launches


class Target:
    """A Triton driver that names a target and runs nothing. Each target is a device of its own to the JIT's caches."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int | None = None) -> int:
        return 0


def compile_launch(launch: Launch, capability: int) -> Any:
    """The kernel of a launch as compiled for sm_<capability>, specialised by the JIT from the launch's arguments."""
    with mock.patch.object(triton.runtime.driver, "_active", Target(capability)):
        return launch.kernel.warmup(grid=launch.grid, **launch.arguments, **launch.options)


def threads(launch: Launch, compiled: Any) -> int:
    """How many threads a launch starts."""
    return prod(launch.grid) * 32 * compiled.metadata.num_warps


def is_batch_sized(launch: Launch, x: Tensor) -> bool:
    """Whether a launch walks the whole batch x, and not only a column of its sums."""
    return any(tensor.numel() >= x.numel() for tensor in launch.tensors)


def batch_bytes(launch: Launch, x: Tensor) -> int:
    """Bytes that a launch moves to and from device memory in tensors of the batch's size, each once.

    Tables, timesteps and sums are left out: they are rows of a few bytes that all threads of a program share.
    """
    return sum(tensor.numel() * tensor.element_size() for tensor in launch.tensors if tensor.numel() >= x.numel())


def layouts(x: Tensor, layout: str) -> Tensor:
    """x in a memory layout, "contiguous" or "channels_last"."""
    channels_last = layout == "channels_last"
    return x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
