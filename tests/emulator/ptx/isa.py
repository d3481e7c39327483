"""From statements to instructions that run. The opcodes themselves are in the modules beside this one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..machine import Flow, Instruction, Program, Units, UnknownInstruction
from ..operations import Operations, unknown
from .operands import reader, writer
from .parse import Module, Statement

# results computed from values alone
arithmetic = Operations()
# everything else: decoded by its function into what runs
other = Operations()


@dataclass(frozen=True)
class Decoded:
    """What `other` functions make of a statement."""

    run: Callable[[Any, Units], Any]
    flow: Flow = Flow.NEXT
    target: int = -1


def decode(module: Module) -> Program:
    """A module's statements as instructions.

    Raises
    ------
    UnknownInstruction
        With the line, for an opcode, a modifier or an operand that is not emulated.
    """
    instructions = []
    for statement in module.statements:
        try:
            instructions.append(_instruction(module, statement))
        except UnknownInstruction as error:
            error.add_note(f"instruction {len(instructions)}: {statement.text}")
            raise
    leaders = {instruction.target for instruction in instructions if instruction.flow is Flow.BRANCH}
    return Program(instructions, frozenset(leaders))


def _instruction(module: Module, statement: Statement) -> Instruction:
    guard = None
    if statement.guard:
        read = reader(module, statement.guard, "pred")
        guard = (lambda machine, units: ~read(machine, units)) if statement.negated else read
    found = other.find(statement.opcode)
    if found is None:
        decoded = Decoded(_arithmetic(module, statement))
    else:
        operation, matched = found
        decoded = operation.function(module, statement, **operation.options(matched))
    run = decoded.run
    if decoded.flow in (Flow.BRANCH, Flow.EXIT):
        run = guard or _always
    return Instruction(statement.opcode, statement.text, decoded.flow, run, decoded.target, guard)


def _always(machine: Any, units: Units) -> np.ndarray:
    return np.array([True])


def _arithmetic(module: Module, statement: Statement) -> Callable[[Any, Units], None]:
    found = arithmetic.find(statement.opcode)
    if found is None:
        raise unknown(statement.opcode)
    operation, matched = found
    function, options = operation.function, operation.options(matched)
    target, *sources = statement.operands
    kinds = [kind.format(**matched) for kind in operation.reads]
    if len(sources) != len(kinds):
        raise UnknownInstruction(f"{statement.opcode} takes {len(kinds)} sources, not {len(sources)}")
    # a conversion's operands may be in registers wider than their types
    wide = statement.opcode.startswith("cvt")
    reads = [reader(module, source, kind, wide=wide) for source, kind in zip(sources, kinds, strict=True)]
    write = writer(module, target, operation.writes.format(**matched), wide=wide)
    with_machine = "machine" in operation.keywords

    def run(machine: Any, units: Units) -> None:
        values = [read(machine, units) for read in reads]
        more = {"machine": machine} if with_machine else {}
        write(machine, units, function(*values, **more, **options))

    return run
