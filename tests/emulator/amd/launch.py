"""Launch AMD assembly on arrays."""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ..approximate import Approximation
from ..machine import Program, Schedule
from ..memory import POISON, Buffer, Global, arguments_as_buffers
from . import control, mask_operations, memory, scalar_operations, vector_float, vector_integer  # noqa: F401
from .isa import decode
from .machine import Waves
from .parse import Argument, Kernel, parse

# Triton's last two arguments: scratch memory, for which these kernels have no use
_SCRATCH = 2


@lru_cache(maxsize=64)
def load(text: str) -> tuple[Kernel, Program]:
    """A kernel and its decoded instructions."""
    kernel = parse(text)
    return kernel, decode(kernel)


def launch(
    text: str,
    grid: Sequence[int],
    arguments: Sequence[Any],
    *,
    num_warps: int,
    shared: int = 0,
    sched: str = "lockstep",
    seed: int = 0,
    counts: Counter[tuple[str, str]] | None = None,
    approximate: int | None = None,
) -> None:
    """Run the kernel of an assembly text on a grid; arrays are changed in place.

    Parameters
    ----------
    text : str
        Assembly of one kernel for gfx942 or gfx1100.
    num_warps : int
        Waves a workgroup: the text does not say.
    grid, arguments, shared, sched, seed, counts, approximate
        As `emulator.ptx.launch` takes them; a warp is a wave, a program a workgroup.

    Raises
    ------
    EmulationError
        `UnknownInstruction`, `AccessError`, `BarrierError` or another of its kinds, with the instruction as a note.
    ValueError
        For arguments that do not fit the kernel.
    """
    kernel, program = load(text)
    x, y, z = (*grid, 1, 1, 1)[:3]
    if len(grid) > 3 or min(x, y, z) < 0:
        raise ValueError(f"grid must have one to three sizes, got {tuple(grid)}")
    values = arguments_as_buffers(arguments)
    block = np.zeros(kernel.argument_bytes, np.uint8)
    held = Buffer.of(block)
    device = Global([value for value in values if isinstance(value, Buffer)] + [held])
    block[:] = _argument_block(kernel, values, device, _hidden((x, y, z), num_warps * kernel.lanes))
    device.refresh(held)
    Waves(
        kernel,
        program,
        (x, y, z),
        num_warps,
        device,
        device.address(held),
        kernel.shared + shared,
        Schedule(sched, seed),
        counts,
        Approximation(approximate),
    ).run()
    device.write_back()


def _hidden(grid: tuple[int, int, int], threads: int) -> dict[str, int]:
    """What the runtime tells a kernel beside its arguments (LLVM, "Code Object V5 Metadata")."""
    known = {"hidden_grid_dims": 3 - (grid[2] == 1) - (grid[1:] == (1, 1))}
    for axis, programs, size in zip("xyz", grid, (threads, 1, 1), strict=True):
        known[f"hidden_block_count_{axis}"] = programs
        known[f"hidden_group_size_{axis}"] = size
        known[f"hidden_remainder_{axis}"] = known[f"hidden_global_offset_{axis}"] = 0
    return known


def _argument_block(kernel: Kernel, values: list[Any], device: Global, hidden: dict[str, int]) -> np.ndarray:
    explicit = [argument for argument in kernel.arguments if not argument.kind.startswith("hidden")]
    missing = len(explicit) - len(values)
    if missing not in (0, _SCRATCH):
        raise ValueError(f"{kernel.name} takes {len(explicit)} arguments, got {len(values)}")
    # what is not told here is nothing that a kernel could take for a size
    block = np.full(-(-kernel.argument_bytes // 2), POISON, np.uint16).view(np.uint8)[: kernel.argument_bytes]
    told = [(argument, hidden[argument.kind]) for argument in kernel.arguments if argument.kind in hidden]
    for argument, value in [*zip(explicit, [*values, *[0] * missing], strict=True), *told]:
        content = np.frombuffer(_bytes(argument, value, device), np.uint8)
        block[argument.offset : argument.offset + argument.size] = content
    return block


def _bytes(argument: Argument, value: Any, device: Global) -> bytes:
    if isinstance(value, Buffer):
        if argument.kind != "global_buffer":
            raise ValueError(f"the argument at {argument.offset} is no pointer, got an array")
        value = device.address(value)
    if isinstance(value, float):
        return np.array([value], f"f{argument.size}").tobytes()
    bits = 8 * argument.size
    if not -(1 << bits - 1) <= int(value) < 1 << bits:
        raise ValueError(f"the argument at {argument.offset} has {bits} bits, got {value}")
    return (int(value) & ((1 << bits) - 1)).to_bytes(argument.size, "little")
