"""Where an op runs: PyTorch's own operations (`eager`), C++ on a CPU (`native`), Triton kernels on a GPU (`triton`).

By default a tensor on a GPU takes the Triton kernels. A tensor on a CPU takes native code where that has a form for its
dtype and layout, and PyTorch's operations elsewhere. With TRITON_INTERPRET=1 in the environment when noisestep is
imported, tensors on a CPU take the Triton kernels too, in Triton's interpreter. `backend` chooses for a block of code:

    with backend("eager"):
        x_t = q_sample(schedule, x_0, t, address)

All of them give the same bits. This is the only place that decides; no op reads the environment when it is called.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

import torch

__all__ = ["BACKENDS", "Launch", "backend", "chosen", "recording"]

Backend = Literal["eager", "native", "triton"]
BACKENDS: tuple[Backend, ...] = ("eager", "native", "triton")


@dataclass(frozen=True)
class Launch:
    """A launch of a Triton kernel: the function, its grid, its arguments by name, and how it is compiled."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    options: dict[str, Any]

    def run(self) -> Any:
        """Compile the kernel where it is new, and launch it. Returns the compiled kernel; None in the interpreter."""
        return self.kernel[self.grid](**self.arguments, **self.options)


class Choice(NamedTuple):
    """What `backend` was told."""

    backend: Backend | None = None
    hook: Callable[[Launch], object] | None = None
    blocks: int | None = None
    axis: int | None = None


_DEFAULT = Choice()
_choice: ContextVar[Choice] = ContextVar("noisestep_backend", default=_DEFAULT)
# the device types that Triton has a driver for; ROCm calls itself cuda
_GPUS = ("cuda", "xpu")
# read once: Triton too decides about its interpreter when a kernel is defined
_ON_CPU: Backend = "triton" if os.environ.get("TRITON_INTERPRET") == "1" else "native"


@contextmanager
def backend(
    name: Backend,
    *,
    hook: Callable[[Launch], object] | None = None,
    blocks: int | None = None,
    axis: int | None = None,
) -> Iterator[None]:
    """Run the ops that are called within on one backend, whatever the device of their tensors.

    Parameters
    ----------
    name : {"eager", "native", "triton"}
        ``"native"`` is for tensors on a CPU. What native code has no form of runs on PyTorch's operations.
    hook : function of `Launch`, optional
        Called in place of each launch of a Triton kernel.
    blocks : int, optional
        Blocks of four elements that a program of a kernel computes at the most, a power of two; by default a number for
        the size of the batch. It changes no bit.
    axis : int, optional
        The most programs on one axis of a grid; a smaller number takes the kernels' 64-bit form on smaller samples.

    Raises
    ------
    ValueError
        For another name, with those allowed.
    """
    if name not in BACKENDS:
        raise ValueError(f"the backend must be one of {', '.join(map(repr, BACKENDS))}, got {name!r}")
    token = _choice.set(Choice(name, hook, blocks, axis))
    try:
        yield
    finally:
        _choice.reset(token)


@contextmanager
def recording() -> Iterator[list[Launch]]:
    """Record the launches of the ops that are called within instead of running them; their results hold garbage."""
    launches: list[Launch] = []
    with backend("triton", hook=launches.append):
        yield launches


def chosen(device: torch.device) -> Backend:
    """The backend of an op whose tensors are on a device."""
    name = _choice.get().backend
    if name is not None:
        return name
    return _default(device)


@cache
def _default(device: torch.device) -> Backend:
    if device.type == "cpu":
        return _ON_CPU
    return "triton" if device.type in _GPUS else "eager"


def choice() -> Choice:
    """What the innermost `backend` was told; nothing outside of one."""
    return _choice.get()
