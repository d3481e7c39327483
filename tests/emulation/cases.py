"""Which calls of the ops are emulated: those of tests/descriptions, in which every two values of two options meet.

Plain values only, since the process that lists the cases is not the one that runs them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from descriptions import DESCRIPTIONS

# of each op, the cases that are tried in many orders of the warps and with errors of approximate instructions
FIRST = 3
AMD, NVIDIA = ("gfx1100", "gfx942"), ("sm_100", "sm_90", "sm_80")
TARGETS = AMD + NVIDIA


@dataclass(frozen=True)
class Call:
    """A call of an op with a value for each of its options."""

    op: str
    number: int
    options: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What the test of this call is called."""
        return f"{self.op}-{self.number}"


def calls() -> list[Call]:
    """All cases, the same for each target."""
    return [Call(name, i, row) for name, op in DESCRIPTIONS.items() for i, row in enumerate(op.rows)]


def quick(target: str) -> list[Call]:
    """The cases that every run of the tests has: some of those that are tried in one order of the warps."""
    count = 2 if target in ("sm_90", "gfx942") else 1
    return [call for call in calls() if FIRST <= call.number < FIRST + count]


def in_turn(target: str) -> list[Call]:
    """The cases of a target where each runs on one GPU of NVIDIA and one of AMD."""
    make = AMD if target in AMD else NVIDIA
    return calls()[make.index(target) :: len(make)]
