"""From statements to instructions that run. The opcodes themselves are in the modules beside this one.

A line's parts all read before any of them writes: each part, when it runs, returns what it will write.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ..machine import Flow, Instruction, Program, Units, UnknownInstruction
from ..operations import Operation, Operations, unknown
from .lanes import sub_word, swizzled
from .operands import scalar_reader, scalar_writer, vector_reader, vector_writer
from .parse import Kernel, Line, Statement

# results in the lanes of a wave
vector = Operations()
# results of a wave; a function may also return the condition code
scalar = Operations()
# everything else: decoded by its function into what runs
other = Operations()

Writes: TypeAlias = "Sequence[Callable[[], None]]"
Part: TypeAlias = "Callable[[Any, Units], Writes]"


@dataclass(frozen=True)
class Decoded:
    """What `other` functions make of a statement: for a branch, `run` tells which waves take it."""

    run: Callable[[Any, Units], Any]
    flow: Flow = Flow.NEXT
    target: int = -1


def decode(kernel: Kernel) -> Program:
    """A kernel's lines as instructions.

    Raises
    ------
    UnknownInstruction
        With the line, for an opcode, a modifier or an operand that is not emulated.
    """
    instructions = []
    for line in kernel.lines:
        try:
            instructions.append(_instruction(kernel, line))
        except UnknownInstruction as error:
            error.add_note(f"instruction {len(instructions)}: {line.text}")
            raise
    leaders = {instruction.target for instruction in instructions if instruction.flow is Flow.BRANCH}
    return Program(instructions, frozenset(leaders))


def _instruction(kernel: Kernel, line: Line) -> Instruction:
    decoded = [_part(kernel, statement) for statement in line.parts]
    opcode = " :: ".join(statement.opcode for statement in line.parts)
    first = decoded[0]
    if first.flow is not Flow.NEXT:
        return Instruction(opcode, line.text, first.flow, first.run, first.target)

    def run(machine: Any, units: Units) -> None:
        for write in [write for part in decoded for write in part.run(machine, units)]:
            write()

    return Instruction(opcode, line.text, Flow.NEXT, run)


def _part(kernel: Kernel, statement: Statement) -> Decoded:
    for operations, make in ((vector, _vector), (scalar, _scalar)):
        found = operations.find(statement.opcode)
        if found is not None:
            return Decoded(make(statement, *found))
    found = other.find(statement.opcode)
    if found is None:
        raise unknown(statement.opcode)
    operation, matched = found
    check_modifiers(statement, operation.modifiers)
    if statement.encoding == "dpp" or (statement.encoding == "sdwa" and "dst_sel" not in operation.modifiers):
        raise UnknownInstruction(f"{statement.opcode} is not emulated with {statement.encoding}")
    return operation.function(kernel, statement, **operation.options(matched))


def check_modifiers(statement: Statement, known: frozenset[str]) -> None:
    """Refuse a modifier that nothing here knows."""
    unknown = set(statement.modifiers) - known
    if unknown:
        raise UnknownInstruction(f"unknown modifiers of {statement.opcode}: {', '.join(sorted(unknown))}")


def _vector(statement: Statement, operation: Operation, matched: dict[str, Any]) -> Part:
    function, options = operation.function, operation.options(matched)
    target, *sources = statement.operands
    kinds = [kind.format(**matched) for kind in operation.reads]
    # a type after "=" is that of the target, which is read as well
    sources += [target for kind in kinds if kind.startswith("=")]
    if len(sources) != len(kinds):
        raise UnknownInstruction(f"{statement.opcode} takes {len(kinds)} sources, not {len(sources)}")
    reads = [vector_reader(source, kind.lstrip("=")) for source, kind in zip(sources, kinds, strict=True)]
    write = vector_writer(target, operation.writes.format(**matched))
    enabled = None
    if statement.encoding == "dpp":
        reads[0], enabled = swizzled(reads[0], statement)
    elif statement.encoding == "sdwa":
        reads = sub_word(reads, sources, statement)
    else:
        check_modifiers(statement, operation.modifiers)
    more = {"modifiers": statement.modifiers} if operation.modifiers else {}
    with_machine = "machine" in operation.keywords

    def run(machine: Any, units: Units) -> Writes:
        known = {**more, "machine": machine} if with_machine else more
        value = function(*(read(machine, units) for read in reads), **known, **options)
        which = enabled(machine, units) if enabled else None
        return [lambda: write(machine, units, value, which)]

    return run


def _scalar(statement: Statement, operation: Operation, matched: dict[str, Any]) -> Part:
    check_modifiers(statement, operation.modifiers)
    function, options = operation.function, operation.options(matched)
    kinds = [kind.format(**matched) for kind in operation.reads]
    # a comparison has no target
    target = None if operation.writes == "scc" else statement.operands[0]
    sources = list(statement.operands[0 if target is None else 1 :])
    sources += [target for kind in kinds if kind.startswith("=") and target is not None]
    if len(sources) != len(kinds):
        raise UnknownInstruction(f"{statement.opcode} takes {len(kinds)} sources, not {len(sources)}")
    reads = [scalar_reader(source, kind.lstrip("=")) for source, kind in zip(sources, kinds, strict=True)]
    write = scalar_writer(target, operation.writes.format(**matched)) if target is not None else None
    with_machine = "scc" in operation.keywords

    def run(machine: Any, units: Units) -> Writes:
        known = {"scc": machine.scc[units]} if with_machine else {}
        result = function(*(read(machine, units) for read in reads), **known, **options)
        value, code = result if isinstance(result, tuple) else (result, None)
        if write is None:
            value, code = None, value
        writes = [] if write is None else [lambda: write(machine, units, value)]
        return writes if code is None else [*writes, lambda: _set_code(machine, units, code)]

    return run


def _set_code(machine: Any, units: Units, code: np.ndarray) -> None:
    machine.scc[units] = code
