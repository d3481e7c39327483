"""What runs a decoded program: program counters, the order in which warps take turns, barriers, and counts.

A unit is what has a program counter of its own: a thread on NVIDIA, a wave on AMD, where masks stand for branches
within it. All units that are at one instruction execute it together, as one NumPy operation.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

import numpy as np

from .memory import EmulationError

# which units execute an instruction: a slice where all do
Units: TypeAlias = "slice | np.ndarray"

ALL = slice(None)
_READY, _WAITING, _DONE = 0, 1, 2
# of instructions in one launch, after which the program counts as one that does not end
LIMIT = 50_000_000


class UnknownInstruction(EmulationError, NotImplementedError):
    """An opcode, a modifier or an operand that the emulator does not know."""


class BarrierError(EmulationError):
    """Units of a program wait at different barriers, or one has left while others wait."""


class Flow(Enum):
    """What an instruction does to the program counter."""

    NEXT = "next"
    BRANCH = "branch"
    BARRIER = "barrier"
    EXIT = "exit"


@dataclass(frozen=True)
class Instruction:
    """A decoded line of a program.

    Parameters
    ----------
    opcode : str
    text : str
        The line, for messages.
    flow : Flow
    run : callable
        (machine, units) -> None; for a branch or an exit, which of the units take it.
    target : int
        Of a branch.
    guard : callable, optional
        (machine, units) -> bool array, the predicate that the instruction stands under.
    """

    opcode: str
    text: str
    flow: Flow
    run: Callable[[Any, Units], Any]
    target: int = -1
    guard: Callable[[Any, Units], np.ndarray] | None = None


@dataclass(frozen=True)
class Program:
    """Decoded instructions; `leaders` are where branches lead."""

    instructions: Sequence[Instruction]
    leaders: frozenset[int]


@dataclass
class Schedule:
    """In which order the warps of a program take turns.

    Parameters
    ----------
    order : {"lockstep", "random"}
        All together, those furthest behind first; or one warp at a time, drawn at random, for a random number
        of instructions. Only the second can show a missing barrier.
    seed : int
    """

    order: str = "lockstep"
    seed: int = 0
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        if self.order not in ("lockstep", "random"):
            raise ValueError(f'sched must be "lockstep" or "random", got {self.order!r}')
        self.rng = np.random.default_rng(self.seed)

    def pick(self, ready: np.ndarray, warp: np.ndarray) -> np.ndarray:
        """Of the units that are ready, those whose turn it is."""
        if self.order == "lockstep":
            return ready
        return ready & (warp == self.rng.choice(np.unique(warp[ready])))

    def turn(self) -> int:
        """How many instructions a turn has."""
        return LIMIT if self.order == "lockstep" else int(self.rng.geometric(1 / 64))


class Machine(ABC):
    """The state that all programs of a grid share, and its execution.

    Parameters
    ----------
    program : Program
    group : ndarray of int, shape (units,)
        The program of the grid (CTA, workgroup) that a unit belongs to; ascending.
    warp : ndarray of int, shape (units,)
        Its warp within the program.
    schedule : Schedule
    counts : Counter, optional
        Gains ("warp", opcode) and ("thread", opcode): how many warps issued an opcode, and how many threads
        executed it, those under a false predicate or mask left out.
    """

    def __init__(
        self,
        program: Program,
        group: np.ndarray,
        warp: np.ndarray,
        schedule: Schedule,
        counts: Counter[tuple[str, str]] | None,
    ) -> None:
        self.program = program
        self.units = len(group)
        self.group = group
        self.warp = warp
        self.schedule = schedule
        self.counts = counts
        self.pc = np.zeros(self.units, np.int64)
        self.state = np.zeros(self.units, np.int8)
        self.executed = 0

    def run(self) -> None:
        """Execute until every unit has left.

        Raises
        ------
        EmulationError
            With the instruction's text, for whatever a GPU would not allow.
        """
        with np.errstate(all="ignore"):
            while True:
                ready = self.state == _READY
                if ready.any():
                    self._turn(self.schedule.pick(ready, self.warp))
                elif (self.state == _WAITING).any():
                    self._release()
                else:
                    return

    @abstractmethod
    def warps_of(self, units: Units) -> int:
        """How many warps the units are in."""

    @abstractmethod
    def threads_of(self, units: Units) -> int:
        """How many active threads the units have."""

    def _release(self) -> None:
        waiting = self.state == _WAITING
        groups = self.group[waiting]
        at = self.pc[waiting]
        first = np.searchsorted(groups, groups)
        if (at != at[first]).any():
            raise BarrierError(f"divergent barrier: units of a program wait at instructions {sorted(set(at.tolist()))}")
        if np.isin(self.group[~waiting], groups).any():
            raise BarrierError("divergent barrier: some units of a program have left while others wait")
        self.state[waiting] = _READY

    def _turn(self, chosen: np.ndarray) -> None:
        pc = int(self.pc[chosen].min())
        active = chosen & (self.pc == pc)
        units: Units = ALL if active.all() else np.nonzero(active)[0]
        for _ in range(self.schedule.turn()):
            if pc >= len(self.program.instructions):
                raise EmulationError("the program runs past its end")
            instruction = self.program.instructions[pc]
            self.executed += 1
            if self.executed > LIMIT:
                raise EmulationError(f"more than {LIMIT} instructions: the program does not end")
            try:
                following = self._execute(instruction, units, pc)
            except EmulationError as error:
                error.add_note(f"instruction {pc}: {instruction.text}")
                raise
            if following is None:
                return
            pc = following
            if pc in self.program.leaders:
                break
        self.pc[units] = pc

    def _execute(self, instruction: Instruction, units: Units, pc: int) -> int | None:
        """Where all of the units go on, or None where they part, wait or leave."""
        executing = units
        if instruction.guard is not None and instruction.flow is Flow.NEXT:
            passed = instruction.guard(self, units)
            if not passed.all():
                executing = (np.arange(self.units) if isinstance(units, slice) else units)[passed]
        if self.counts is not None:
            self.counts["warp", instruction.opcode] += self.warps_of(units)
            self.counts["thread", instruction.opcode] += self.threads_of(executing)
        if instruction.flow is Flow.NEXT:
            if isinstance(executing, slice) or len(executing):
                instruction.run(self, executing)
            return pc + 1
        if instruction.flow is Flow.BARRIER:
            if instruction.guard is not None and not instruction.guard(self, units).all():
                raise BarrierError("divergent barrier: its predicate is not true for all")
            self.state[units] = _WAITING
            self.pc[units] = pc + 1
            return None
        taken = instruction.run(self, units)
        if instruction.flow is Flow.EXIT:
            self.state[units] = np.where(taken, _DONE, _READY)
            self.pc[units] = pc + 1
        else:
            self.pc[units] = np.where(taken, instruction.target, pc + 1)
        return None
