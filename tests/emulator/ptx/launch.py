"""Launch PTX on arrays."""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ..approximate import Approximation
from ..machine import Program, Schedule
from ..memory import Buffer, Global, arguments_as_buffers
from . import control, convert, floating, integer, movement, warp  # noqa: F401
from .isa import decode
from .machine import WARP, Threads
from .operands import DTYPES
from .parse import Module, parse

# Triton's last two parameters: scratch memory, for which these kernels have no use
_SCRATCH = 2


@lru_cache(maxsize=64)
def load(text: str) -> tuple[Module, Program]:
    """A module and its decoded instructions."""
    module = parse(text)
    return module, decode(module)


def launch(
    text: str,
    grid: Sequence[int],
    arguments: Sequence[Any],
    *,
    num_warps: int | None = None,
    shared: int = 0,
    sched: str = "lockstep",
    seed: int = 0,
    counts: Counter[tuple[str, str]] | None = None,
    approximate: int | None = None,
) -> None:
    """Run the kernel of a PTX module on a grid; arrays are changed in place.

    Parameters
    ----------
    text : str
        PTX with one kernel.
    grid : sequence of int
        Programs along x, y, z; what is left out is 1.
    arguments : sequence of ndarray, Buffer, int or float
        The kernel's parameters in order. bfloat16 travels as uint16. Triton's two scratch pointers may be left out.
    num_warps : int, optional
        Warps a program; by default what the text says (``.reqntid``), which it must equal.
    shared : int
        Bytes of shared memory that the launch gives a program.
    sched : {"lockstep", "random"}
        The order of warps; "random" draws one from `seed`, and is what shows a missing barrier.
    seed : int
    counts : Counter, optional
        Gains ("warp", opcode) and ("thread", opcode), how often each was issued and executed.
    approximate : int, optional
        Let approximate instructions be off by what the ISA allows, drawn from this seed; by default they are
        rounded correctly.

    Raises
    ------
    EmulationError
        `UnknownInstruction`, `AccessError`, `BarrierError` or another of its kinds, with the instruction as a note.
    ValueError
        For arguments that do not fit the kernel.
    """
    module, program = load(text)
    threads = WARP * num_warps if num_warps else module.threads
    if threads is None or module.threads not in (None, threads):
        raise ValueError(f"the kernel has {module.threads} threads a program, num_warps={num_warps}")
    x, y, z = (*grid, 1, 1, 1)[:3]
    if len(grid) > 3 or min(x, y, z) < 0:
        raise ValueError(f"grid must have one to three sizes, got {tuple(grid)}")
    values = arguments_as_buffers(arguments)
    constants = {name: np.frombuffer(content, np.uint8).copy() for name, content in module.constants.items()}
    held = {name: Buffer.of(content) for name, content in constants.items()}
    memory = Global([value for value in values if isinstance(value, Buffer)] + list(held.values()))
    symbols = {name: memory.address(buffer) for name, buffer in held.items()}
    fixed, dynamic = _layout(module.shared)
    local, private = _layout(module.local)
    threads_of_grid = Threads(
        module,
        program,
        (x, y, z),
        threads,
        memory,
        _parameters(module, values, memory),
        symbols | fixed | local,
        dynamic + shared,
        private,
        Schedule(sched, seed),
        counts,
        Approximation(approximate),
    )
    threads_of_grid.run()
    memory.write_back()


def _layout(sizes: dict[str, int]) -> tuple[dict[str, int], int]:
    """Where variables of a memory are, those that the launch sizes last, and where they end."""
    places, end = {}, 0
    for name, size in sorted(sizes.items(), key=lambda item: item[1] == 0):
        places[name] = end
        end += -(-size // 16) * 16
    return places, end


def _parameters(module: Module, values: list[Any], memory: Global) -> dict[str, np.ndarray]:
    missing = len(module.parameters) - len(values)
    if missing not in (0, _SCRATCH):
        raise ValueError(f"{module.name} takes {len(module.parameters)} arguments, got {len(values)}")
    parameters = {}
    for (name, kind), value in zip(module.parameters.items(), [*values, *[0] * missing], strict=True):
        dtype = DTYPES[kind]
        if isinstance(value, Buffer):
            if kind not in ("u64", "b64"):
                raise ValueError(f"{name} has type {kind}, got an array")
            value = memory.address(value)
        elif isinstance(value, float) and dtype.kind != "f":
            raise ValueError(f"{name} has type {kind}, got {value!r}")
        if dtype.kind == "f":
            parameters[name] = np.array([value], dtype)
        else:
            bits = 8 * dtype.itemsize
            if not -(1 << bits - 1) <= int(value) < 1 << bits:
                raise ValueError(f"{name} has type {kind}, got {value}")
            parameters[name] = np.array([int(value) & ((1 << bits) - 1)], f"u{dtype.itemsize}").view(dtype)
    return parameters
