"""A kernel launched again with programs of other sizes: the launch is recorded from the op's own call.

A program computes `blocks` blocks of four elements with `warps` warps, so a thread has 4 · blocks / (32 · warps)
elements. The size changes no bit of an elementwise op, which `times` checks.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from triton.runtime.jit import JITFunction

# (warps, blocks)
SIZES = (
    (1, 256),
    (1, 128),
    (1, 64),
    (2, 512),
    (2, 256),
    (2, 128),
    (4, 1024),
    (4, 512),
    (4, 256),
    (4, 128),
    (8, 1024),
    (8, 512),
)


@dataclass(frozen=True)
class Launch:
    """A launch that was made: the kernel, its grid, and all keywords."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]

    def resized(self, warps: int, blocks: int) -> "Launch":
        """The same work in programs of another size.

        Raises
        ------
        ValueError
            If the kernel does not say how large its programs are, or has rows in two axes of the grid.
        """
        if not {"BLOCKS", "WHOLE", "VECTOR", "n"} <= self.arguments.keys() or self.arguments["WIDE"]:
            raise ValueError(f"{self.kernel.fn.__qualname__} has no program size that can be changed")
        n, vector = self.arguments["n"], self.arguments["VECTOR"]
        blocks = min(blocks, 1 << max(-(-n // 4) - 1, 0).bit_length())
        if blocks * 4 % vector:
            raise ValueError(f"{blocks} blocks are no multiple of an access of {vector} elements")
        programs = -(-n // (4 * blocks))
        changed = dict(BLOCKS=blocks, WHOLE=n == 4 * blocks * programs, num_warps=warps)
        return Launch(self.kernel, (self.grid[0], programs, 1), self.arguments | changed)

    def __call__(self) -> None:
        self.kernel[self.grid](**self.arguments)


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Collects the launches that are made meanwhile."""
    launches: list[Launch] = []
    run = JITFunction.run

    def note(kernel: Any, *args: Any, grid: Any, warmup: bool, **keywords: Any) -> Any:
        if not warmup:
            named = dict(zip(kernel.arg_names, args, strict=False)) | keywords
            launches.append(Launch(kernel, grid, named))
        return run(kernel, *args, grid=grid, warmup=warmup, **keywords)

    with mock.patch.object(JITFunction, "run", note):
        yield launches


def times(
    call: Callable[[], Tensor], seconds: Callable[[Callable[[], Any]], float]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Microseconds of each size, and whether its result has the op's bits.

    Parameters
    ----------
    call : function
        An op of one launch, which returns what that launch writes.
    seconds : function
        How a launch is timed.

    Raises
    ------
    RuntimeError
        If the call does not make one launch.
    """
    with recorded() as launches:
        result = call()
    if len(launches) != 1:
        raise RuntimeError(f"{len(launches)} launches were recorded, and one is wanted")
    expected = result.clone()
    for warps, blocks in SIZES:
        launch = launches[0].resized(warps, blocks)
        result.fill_(float("nan"))
        launch()
        same = torch.equal(result, expected)
        name = f"{blocks} blocks, {warps} {'warp' if warps == 1 else 'warps'}"
        yield name, dict(us=round(seconds(launch) * 1e6, 2), same=same)
