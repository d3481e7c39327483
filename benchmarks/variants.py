"""A kernel launched again with programs of other sizes: the launch is recorded from the op's own call.

A program computes `blocks` blocks of four elements with `warps` warps, so a thread has 4 · blocks / (32 · warps)
elements. The size changes no bit of an elementwise op, which `times` checks.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from noisestep.accelerated.backends import Launch, backend
from torch import Tensor

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


def resized(launch: Launch, warps: int, blocks: int) -> Launch:
    """The same work in programs of another size.

    Raises
    ------
    ValueError
        If the kernel does not go through a batch, or only with 64-bit numbers.
    """
    tiling, n = launch.arguments.get("TILING"), launch.arguments.get("n")
    if tiling is None or tiling.wide:
        raise ValueError(f"{launch.kernel.fn.__qualname__} has no program size that can be changed")
    # no more than a sample has, and a whole number of accesses
    blocks = max(min(blocks, 1 << max(-(-n // 4) - 1, 0).bit_length()), tiling.vector // 4)
    programs = -(-n // (4 * blocks))
    tiling = tiling._replace(blocks=blocks, whole=n == 4 * blocks * programs)
    return Launch(
        launch.kernel,
        (launch.grid[0], programs, 1),
        launch.arguments | {"TILING": tiling},
        launch.options | {"num_warps": warps},
    )


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
    launches: list[Launch] = []
    with backend("triton", hook=launches.append):
        result = call()
    if len(launches) != 1:
        raise RuntimeError(f"{len(launches)} launches were recorded, and one is wanted")
    launches[0].run()
    expected = result.clone()
    for warps, blocks in SIZES:
        launch = resized(launches[0], warps, blocks)
        result.fill_(float("nan"))
        launch.run()
        same = torch.equal(result, expected)
        name = f"{blocks} blocks, {warps} {'warp' if warps == 1 else 'warps'}"
        yield name, dict(us=round(seconds(launch.run) * 1e6, 2), same=same)
