"""The kernels that a call of a public op would launch on a GPU, and their compilation where there is none.

Nothing about a kernel is written down here: the op is called, its launches are recorded, and Triton specialises each
from the recorded arguments as it does in a real launch.
"""

from collections.abc import Callable
from math import prod
from typing import Any
from unittest import mock

import torch
import triton
from noisestep.accelerated.backends import Launch, recording
from torch import Tensor
from triton.backends.compiler import GPUTarget


def capture(call: Callable[[], object]) -> list[Launch]:
    """The launches of a call, in order. Its results are memory that nothing was written to."""
    with recording() as launches:
        call()
    return launches


def name_of(launch: Launch) -> str:
    """The module of the kernel, and its function where that is not simply the op's kernel."""
    module = launch.kernel.fn.__module__.rsplit(".", 1)[-1]
    function = launch.kernel.fn.__name__.strip("_")
    return module if function == "kernel" else f"{module}.{function}"


def _tensors(launch: Launch) -> list[Tensor]:
    return [value for value in launch.arguments.values() if isinstance(value, Tensor)]


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


def threads(launch: Launch, warps: int) -> int:
    """How many threads a launch of blocks of so many warps starts."""
    return prod(launch.grid) * 32 * warps


def is_batch_sized(launch: Launch, x: Tensor) -> bool:
    """Whether a launch walks the whole batch x, and not only a column of its sums."""
    return any(tensor.numel() >= x.numel() for tensor in _tensors(launch))


def batch_bytes(launch: Launch, x: Tensor) -> int:
    """Bytes that a launch moves to and from device memory in tensors of the batch's size, each once.

    Tables, timesteps and sums are left out: they are rows of a few bytes that all threads of a program share.
    """
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(launch) if tensor.numel() >= x.numel())


def layouts(x: Tensor, layout: str) -> Tensor:
    """x in a memory layout, "contiguous" or "channels_last"."""
    channels_last = layout == "channels_last"
    return x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
