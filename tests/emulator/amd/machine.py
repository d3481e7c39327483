"""The waves of a grid: their registers, masks and memories."""

from collections import Counter

import numpy as np

from ..approximate import Approximation
from ..machine import ALL, Machine, Program, Schedule, Units
from ..memory import POISON, Global, Private
from .parse import Kernel

# numbers of scalar registers that have names
NAMED = {"vcc_lo": 106, "vcc_hi": 107, "m0": 125, "exec_lo": 126, "exec_hi": 127}
EXEC = 126


class Waves(Machine):
    """A launch of an AMD kernel; a unit is a wave, whose lanes a mask turns on and off.

    Parameters
    ----------
    kernel : Kernel
    program : Program
    grid : (int, int, int)
    waves : int
        Of a workgroup.
    memory : Global
    arguments : int
        Where the kernel's arguments are.
    shared : int
        Bytes of a workgroup's LDS.
    schedule : Schedule
    counts : Counter, optional
    approximation : Approximation
    """

    def __init__(
        self,
        kernel: Kernel,
        program: Program,
        grid: tuple[int, int, int],
        waves: int,
        memory: Global,
        arguments: int,
        shared: int,
        schedule: Schedule,
        counts: Counter[tuple[str, str]] | None,
        approximation: Approximation,
    ) -> None:
        groups = int(np.prod(grid))
        group = np.repeat(np.arange(groups), waves)
        super().__init__(program, group, np.tile(np.arange(waves), groups), schedule, counts)
        self.lanes = kernel.lanes
        self.wave_bits = np.dtype("u4" if self.lanes == 32 else "u8")
        self.memory = memory
        self.shared = Private("LDS", groups, shared)
        self.approximation = approximation
        # the scalar condition code
        self.scc = np.zeros(self.units, bool)
        self.active = np.ones((self.units, self.lanes), bool)
        self._scalars: dict[int, np.ndarray] = {}
        self._vectors: dict[int, np.ndarray] = {}
        self._start(kernel, grid, arguments)

    def _start(self, kernel: Kernel, grid: tuple[int, int, int], arguments: int) -> None:
        """What registers hold when a kernel begins (LLVM, "User Guide for AMDGPU Backend", "Initial Kernel State")."""
        self.scalar(0)[:] = arguments & 0xFFFFFFFF
        self.scalar(1)[:] = arguments >> 32
        number = {
            "x": self.group % grid[0],
            "y": self.group // grid[0] % grid[1],
            "z": self.group // (grid[0] * grid[1]),
        }
        for i, axis in enumerate(kernel.workgroup):
            self.scalar(kernel.user_registers + i)[:] = number[axis]
        self.vector(0)[:] = self.warp[:, None] * self.lanes + np.arange(self.lanes)
        for half in range(self.lanes // 32):
            self.scalar(EXEC + half)[:] = 0xFFFFFFFF

    def scalar(self, number: int) -> np.ndarray:
        """A scalar register (waves,), poison before it is written."""
        if number not in self._scalars:
            self._scalars[number] = np.full(2 * self.units, POISON, np.uint16).view(np.uint32)
        return self._scalars[number]

    def vector(self, number: int) -> np.ndarray:
        """A vector register (waves, lanes), poison before it is written."""
        if number not in self._vectors:
            poison = np.full(2 * self.units * self.lanes, POISON, np.uint16)
            self._vectors[number] = poison.view(np.uint32).reshape(self.units, self.lanes)
        return self._vectors[number]

    def set_active(self, units: Units) -> None:
        """Follow a change of the registers that hold the mask of active lanes."""
        mask = self.scalar(EXEC)[units].astype(np.uint64)
        if self.lanes == 64:
            mask = mask | self.scalar(EXEC + 1)[units].astype(np.uint64) << np.uint64(32)
        self.active[units] = self.unpacked(mask)

    def unpacked(self, mask: np.ndarray) -> np.ndarray:
        """Masks (n,) as bools (n, lanes)."""
        bits = mask.astype(np.uint64)[:, None] >> np.arange(self.lanes, dtype=np.uint64)
        return (bits & np.uint64(1)).astype(bool)

    def packed(self, lanes: np.ndarray) -> np.ndarray:
        """Bools (n, lanes) as masks (n,)."""
        bits = lanes.astype(np.uint64) << np.arange(self.lanes, dtype=np.uint64)
        return bits.sum(axis=1, dtype=np.uint64).astype(self.wave_bits)

    def warps_of(self, units: Units) -> int:
        return self.units if units is ALL or isinstance(units, slice) else len(units)

    def threads_of(self, units: Units) -> int:
        return int(self.active[units].sum())
