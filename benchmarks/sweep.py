"""`python -m benchmarks.sweep`: a kernel launched again with programs of other sizes, recorded from the op's own call.

A program computes `blocks` blocks of four elements with `warps` warps, so a thread has 4 · blocks / (32 · warps)
elements. The size changes no bit of an elementwise op, which `times` checks.
"""

from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import click
import torch
from noisestep.accelerated.backends import Launch, backend
from torch import Tensor

from . import gpu
from .calls import DTYPES, OURS, cases, make, name_of
from .described import DESCRIPTIONS, Case
from .kernel_cost.budgets import CAPABILITY
from .kernel_cost.cache import Cache
from .kernel_cost.cost import KernelCost
from .kernel_cost.ours import cost_of

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


def launch_of(op: str, case: Case) -> tuple[Launch, Tensor]:
    """The one launch of an op's timed call on a batch, and the tensor that it writes.

    Raises
    ------
    ValueError
        If the call makes several launches, whose sums another program size would change.
    """
    launches: list[Launch] = []
    call = make(op, OURS, case)
    with torch.set_grad_enabled(call.grad), backend("triton", hook=launches.append):
        result = call.run()
    if len(launches) != 1:
        raise ValueError(f"{op} makes {len(launches)} launches, and one is wanted")
    return launches[0], result


def size_name(warps: int, blocks: int) -> str:
    """A size as tables have it."""
    return f"{blocks} blocks, {warps} {'warp' if warps == 1 else 'warps'}"


def times(
    launch: Launch, result: Tensor, rounds: Callable[[Callable[[], Any]], list[float]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Microseconds of each size, and whether its result has the op's bits.

    Parameters
    ----------
    launch, result
        Of `launch_of`.
    rounds : function
        Times a launch: the seconds of each round, of which the median counts.
    """
    launch.run()
    expected = result.clone()
    for warps, blocks in SIZES:
        other = resized(launch, warps, blocks)
        result.fill_(float("nan"))
        other.run()
        same = torch.equal(result, expected)
        yield size_name(warps, blocks), dict(us=round(median(rounds(other.run)) * 1e6, 2), same=same)


def counted(launch: Launch, x: Tensor, cache: Cache) -> Iterator[tuple[str, KernelCost]]:
    """The cost of each size on the budgets' GPU."""
    for warps, blocks in SIZES:
        yield size_name(warps, blocks), cost_of(cache, resized(launch, warps, blocks), x, CAPABILITY)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--op", required=True, type=click.Choice(list(DESCRIPTIONS)), help="One whose call is one launch.")
@click.option("--shape", default="64x4x64x64", help="Of the batch.")
@click.option("--dtype", type=click.Choice(DTYPES), default="bfloat16")
def main(op: str, shape: str, dtype: str) -> None:
    """Program size by warps: what each costs by its machine code and, on a GPU, how long it takes."""
    try:
        (case,) = cases(op, [[int(n) for n in shape.split("x")]], [dtype])
    except ValueError as error:
        raise click.ClickException(f"a shape is numbers like 64x4x64x64, got {shape!r}") from error
    try:
        launch, result = launch_of(op, case)
        costs = dict(counted(launch, result, Cache()))
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    measured: dict[str, dict[str, Any]] = {}
    if gpu.PRESENT:
        measured = dict(times(launch, result, partial(gpu.device_rounds, times=20, rounds=11)))
    else:
        click.echo("no GPU: nothing is timed, and the bound is an upper limit")
    click.echo(f"{op}, {name_of(op, case)}; counted for sm_{CAPABILITY}")
    heads = (
        "elements/thread",
        "instructions/element",
        "registers",
        "occupancy",
        "bound, 10^9/s",
        "by",
        "   µs",
        "bits",
    )
    click.echo("  ".join([f"{'size':20}", *heads]))
    for name, cost in costs.items():
        timed = measured.get(name, {"us": "–", "same": "–"})
        cells = [
            f"{cost.elements_a_thread:g}",
            f"{cost.an_element:.1f}",
            cost.code.registers,
            f"{cost.occupancy:.0%}",
            f"{cost.bound.rate / 1e9:.0f}",
            cost.bound.by,
            timed["us"],
            {True: "same", False: "OTHER"}.get(timed["same"], "–"),
        ]
        aligned = (f"{cell:>{len(head)}}" for cell, head in zip(cells, heads, strict=True))
        click.echo("  ".join([f"{name:20}", *aligned]))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.sweep")
