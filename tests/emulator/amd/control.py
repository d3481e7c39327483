"""Branches, barriers, masks of active lanes, and what only waits (AMD's ISA documents, "SOPP")."""

from typing import Any

import numpy as np

from ..machine import Flow, Units, UnknownInstruction
from .isa import Decoded, Writes, other
from .operands import mask_reader, scalar_reader, scalar_writer
from .parse import Kernel, Statement


def _true(machine: Any, units: Units) -> np.ndarray:
    return np.array([True])


@other.define(
    r"s_waitcnt(?:_\w+)?",
    r"s_delay_alu",
    r"s_nop",
    r"s_clause",
    r"s_sendmsg",
    r"buffer_gl[01]_inv",
    r"buffer_inv",
    r"buffer_wbl2",
    r"s_setprio",
    modifiers="sc0 sc1",
)
def wait(kernel: Kernel, statement: Statement) -> Decoded:
    # every write here is seen at once
    return Decoded(lambda machine, units: [])


@other.define(r"s_barrier")
def barrier(kernel: Kernel, statement: Statement) -> Decoded:
    return Decoded(_true, Flow.BARRIER)


@other.define(r"s_endpgm")
def leave(kernel: Kernel, statement: Statement) -> Decoded:
    return Decoded(_true, Flow.EXIT)


@other.define(r"s_branch", r"s_cbranch_(?P<on>execz|execnz|vccz|vccnz|scc0|scc1)")
def branch(kernel: Kernel, statement: Statement, *, on: str | None = None) -> Decoded:
    (label,) = statement.operands
    if label not in kernel.labels:
        raise UnknownInstruction(f"no label {label}")
    vcc = mask_reader("vcc" if kernel.lanes == 64 else "vcc_lo")
    taken = {
        None: _true,
        "execz": lambda machine, units: ~machine.active[units].any(axis=1),
        "execnz": lambda machine, units: machine.active[units].any(axis=1),
        "vccz": lambda machine, units: ~vcc(machine, units).any(axis=1),
        "vccnz": lambda machine, units: vcc(machine, units).any(axis=1),
        "scc0": lambda machine, units: ~machine.scc[units],
        "scc1": lambda machine, units: machine.scc[units],
    }[on]
    return Decoded(taken, Flow.BRANCH, kernel.labels[label])


@other.define(r"s_(?P<name>and|or|xor|and_not1|andn2|and_not0|andn1)_saveexec_(?P<type>b32|b64)")
def save_and_change_active(kernel: Kernel, statement: Statement, *, name: str, type: str) -> Decoded:
    target, source = statement.operands
    active = "exec_lo" if type == "b32" else "exec"
    read, read_active = scalar_reader(source, type), scalar_reader(active, type)
    write, write_active = scalar_writer(target, type), scalar_writer(active, type)

    def run(machine: Any, units: Units) -> Writes:
        a, old = read(machine, units), read_active(machine, units)
        new = {
            "and": a & old,
            "or": a | old,
            "xor": a ^ old,
            "and_not1": a & ~old,
            "andn2": a & ~old,
            "and_not0": ~a & old,
            "andn1": ~a & old,
        }[name]

        def set_code() -> None:
            machine.scc[units] = new != 0

        return [lambda: write(machine, units, old), lambda: write_active(machine, units, new), set_code]

    return Decoded(run)
