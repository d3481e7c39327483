"""The threads of a grid: their registers, memories and special registers."""

from collections import Counter

import numpy as np

from ..approximate import Approximation
from ..machine import Machine, Program, Schedule, Units
from ..memory import POISON, Global, Private
from .parse import Module

WARP = 32


class Threads(Machine):
    """A launch of a PTX kernel; a unit is a thread.

    Parameters
    ----------
    module : Module
    program : Program
    grid : (int, int, int)
    threads : int
        Of a program.
    memory : Global
    parameters : dict
        Name to bits, one value (1,).
    symbols : dict
        Name to address.
    shared, local : int
        Bytes of a program's shared, and a thread's local memory.
    schedule : Schedule
    counts : Counter, optional
    approximation : Approximation
    """

    def __init__(
        self,
        module: Module,
        program: Program,
        grid: tuple[int, int, int],
        threads: int,
        memory: Global,
        parameters: dict[str, np.ndarray],
        symbols: dict[str, int],
        shared: int,
        local: int,
        schedule: Schedule,
        counts: Counter[tuple[str, str]] | None,
        approximation: Approximation,
    ) -> None:
        programs = int(np.prod(grid))
        group = np.repeat(np.arange(programs), threads)
        thread = np.tile(np.arange(threads, dtype=np.uint32), programs)
        super().__init__(program, group, thread // WARP, schedule, counts)
        self.module = module
        self.lane = (thread % WARP).astype(np.int64)
        self.number = np.arange(self.units)
        self.parameters = parameters
        self.symbols = symbols
        self.approximation = approximation
        self.memories = {
            "global": memory,
            "const": memory,
            "shared": Private("shared", programs, shared),
            "local": Private("local", self.units, local),
        }
        self.carry = np.zeros(self.units, np.uint64)
        self._registers: dict[str, np.ndarray] = {}
        size = dict(zip("xyz", grid, strict=True))
        at = {"x": group % grid[0], "y": group // grid[0] % grid[1], "z": group // (grid[0] * grid[1])}
        nothing = np.zeros(self.units, np.uint32)
        self.special = {"%laneid": self.lane.astype(np.uint32), "%warpid": thread // np.uint32(WARP)}
        for axis in "xyz":
            self.special[f"%tid.{axis}"] = thread if axis == "x" else nothing
            self.special[f"%ntid.{axis}"] = nothing + np.uint32(threads if axis == "x" else 1)
            self.special[f"%ctaid.{axis}"] = at[axis].astype(np.uint32)
            self.special[f"%nctaid.{axis}"] = nothing + np.uint32(size[axis])

    def register(self, name: str) -> np.ndarray:
        """The values of a register in all threads, poison before it is written; bits, or bool for a predicate."""
        found = self._registers.get(name)
        if found is None:
            width = self.module.width(name)
            if width == 1:
                found = np.zeros(self.units, bool)
            else:
                found = np.full(self.units * width // 16, POISON, np.uint16).view(f"u{width // 8}")
            self._registers[name] = found
        return found

    def symbol(self, name: str) -> np.ndarray:
        """The address of a variable, for every thread."""
        return np.full(self.units, self.symbols[name], np.uint64)

    def owners(self, space: str, units: Units) -> np.ndarray:
        """Whose part of a memory the threads see."""
        return self.number[units] if space == "local" else self.group[units]

    def warps_of(self, units: Units) -> int:
        if isinstance(units, slice):
            return -(-self.units // WARP)
        # ascending, so that a warp's threads stand together
        warps = units // WARP
        return int((warps[1:] != warps[:-1]).sum()) + 1 if len(warps) else 0

    def threads_of(self, units: Units) -> int:
        return self.units if isinstance(units, slice) else len(units)
