"""Branches, barriers and what orders memory (PTX ISA, "Control Flow", "Parallel Synchronization and Communication")."""

from ..machine import Flow, Units, UnknownInstruction
from ..memory import EmulationError
from .isa import Decoded, other
from .parse import Module, Statement


def _nothing(machine, units: Units) -> None:
    """For instructions that change no value here, where every write is seen at once."""


@other.define(r"bra(?:\.uni)?")
def branch(module: Module, statement: Statement) -> Decoded:
    (label,) = statement.operands
    if label not in module.labels:
        raise UnknownInstruction(f"no label {label}")
    return Decoded(_nothing, Flow.BRANCH, module.labels[label])


@other.define(r"ret", r"exit")
def leave(module: Module, statement: Statement) -> Decoded:
    return Decoded(_nothing, Flow.EXIT)


@other.define(r"(?:bar|barrier)(?:\.cta)?\.sync(?:\.aligned)?")
def barrier(module: Module, statement: Statement) -> Decoded:
    if statement.operands != ("0",):
        raise UnknownInstruction("only barrier 0 of all threads is emulated")
    return Decoded(_nothing, Flow.BARRIER)


@other.define(r"bar\.warp\.sync", r"membar\.(?:cta|gl|sys)", r"fence(?:\.\w+)*", r"griddepcontrol\.\w+")
def order(module: Module, statement: Statement) -> Decoded:
    return Decoded(_nothing)


@other.define(r"trap")
def trap(module: Module, statement: Statement) -> Decoded:
    def run(machine, units: Units) -> None:
        raise EmulationError("trap: the kernel has stopped itself")

    return Decoded(run)
