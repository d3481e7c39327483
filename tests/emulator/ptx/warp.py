"""What the threads of a warp do together (PTX ISA, "shfl.sync", "redux.sync", "vote.sync", "ldmatrix")."""

import numpy as np

from .. import floats
from ..machine import Units, UnknownInstruction
from ..memory import EmulationError
from .isa import Decoded, other
from .machine import WARP
from .movement import all_units
from .operands import DTYPES, address, reader, vector, writer
from .parse import Module, Statement


class LaneError(EmulationError):
    """A thread reads from another one of its warp that does not take part."""


def _whole(read_mask, machine, units: Units) -> None:
    """Refuse a mask of members that is not of the whole warp; Triton's always is."""
    if (read_mask(machine, units) != 0xFFFFFFFF).any():
        raise UnknownInstruction("only a mask of the whole warp is emulated")


def _whole_warps(machine, units: Units) -> np.ndarray:
    """The units, of which every warp must be complete."""
    at = all_units(machine, units)
    if len(at) % WARP or (at.reshape(-1, WARP)[:, 0] % WARP != 0).any() or (np.diff(at.reshape(-1, WARP)) != 1).any():
        raise LaneError("a warp takes part with some of its threads only")
    return at


@other.define(r"shfl\.sync\.(?P<mode>up|down|bfly|idx)\.b32")
def shuffle(module: Module, statement: Statement, *, mode: str) -> Decoded:
    target, source, lane, clamp, mask = statement.operands
    read_mask = reader(module, mask, "u32")
    target, _, inside = target.partition("|")
    read, read_lane = reader(module, source, "b32"), reader(module, lane, "u32")
    read_clamp = reader(module, clamp, "u32")
    write = writer(module, target, "b32")
    write_inside = writer(module, inside, "pred") if inside else None

    def run(machine, units: Units) -> None:
        _whole(read_mask, machine, units)
        at = all_units(machine, units)
        own, b = machine.lane[at], read_lane(machine, units).astype(np.int64) & 31
        c = read_clamp(machine, units).astype(np.int64)
        segment, bound = c >> 8 & 31, c & 31
        least, greatest = own & segment, own & segment | bound & ~segment
        wanted = {"up": own - b, "down": own + b, "bfly": own ^ b, "idx": least | b & ~segment}[mode]
        valid = wanted >= greatest if mode == "up" else wanted <= greatest
        other_unit = at - own + np.where(valid, wanted, own)
        taking_part = np.zeros(machine.units, bool)
        taking_part[at] = True
        if not taking_part[other_unit].all():
            raise LaneError("a shuffle reads from a thread that does not take part")
        value = np.empty(machine.units, np.uint32)
        value[at] = read(machine, units)
        write(machine, units, value[other_unit])
        if write_inside:
            write_inside(machine, units, valid)

    return Decoded(run)


_REDUCTIONS = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}


@other.define(
    r"redux\.sync\.(?P<update>add|min|max)\.(?P<type>u32|s32)",
    r"redux\.sync\.(?P<update>and|or|xor)\.(?P<type>b32)",
    r"redux\.sync\.(?P<update>min|max)(?P<nan>\.NaN|)\.(?P<type>f32)",
)
def reduce(module: Module, statement: Statement, *, update: str, type: str, nan: str = "") -> Decoded:
    target, source, mask = statement.operands
    read_mask = reader(module, mask, "u32")
    read, write = reader(module, source, type), writer(module, target, type)

    def run(machine, units: Units) -> None:
        _whole(read_mask, machine, units)
        rows = np.broadcast_to(read(machine, units), _whole_warps(machine, units).shape).reshape(-1, WARP)
        if type == "f32" and not nan:
            one = floats.minimum if update == "min" else floats.maximum
            result = rows[:, 0]
            for column in rows.T[1:]:
                result = one(result, column)
        else:
            result = _REDUCTIONS[update].reduce(rows, axis=1, dtype=DTYPES[type])
        write(machine, units, np.repeat(result, WARP))

    return Decoded(run)


@other.define(r"vote\.sync\.(?P<mode>all|any|uni|ballot)\.(?P<type>pred|b32)")
def vote(module: Module, statement: Statement, *, mode: str, type: str) -> Decoded:
    if (mode == "ballot") != (type == "b32"):
        raise UnknownInstruction(f"unknown opcode: {statement.opcode}")
    target, source, mask = statement.operands
    read_mask = reader(module, mask, "u32")
    negated, source = source.startswith("!"), source.lstrip("!")
    read, write = reader(module, source, "pred"), writer(module, target, type)

    def run(machine, units: Units) -> None:
        _whole(read_mask, machine, units)
        rows = np.broadcast_to(read(machine, units) ^ negated, _whole_warps(machine, units).shape).reshape(-1, WARP)
        if mode == "ballot":
            result = (rows.astype(np.uint64) << np.arange(WARP, dtype=np.uint64)).sum(axis=1).astype(np.uint32)
        else:
            every, some = rows.all(axis=1), rows.any(axis=1)
            result = {"all": every, "any": some, "uni": every | ~some}[mode]
        write(machine, units, np.repeat(result, WARP))

    return Decoded(run)


_MATRIX = r"\.sync\.aligned\.m8n8\.x(?P<count>[124])(?P<transposed>\.trans|)\.shared\.b16"


@other.define(rf"ldmatrix{_MATRIX}")
def load_matrices(module: Module, statement: Statement, *, count: str, transposed: str) -> Decoded:
    targets = vector(statement.operands[0])
    at = address(module, statement.operands[1])
    writes = [writer(module, target, "b32") for target in targets]
    if len(targets) != int(count):
        raise UnknownInstruction(f"{len(targets)} registers for {count}")

    def run(machine, units: Units) -> None:
        # thread 8 m + i has the address of row i of matrix m: 8 elements of 16 bits
        rows, owners, warps = _rows(machine, units, at, len(writes))
        words = machine.memories["shared"].load(rows.reshape(-1), 2, 8, owners.reshape(-1), 16)
        matrices = words.reshape(warps, len(writes), 8, 8)
        matrices = matrices.swapaxes(2, 3) if transposed else matrices
        # thread 4 i + j gets elements 2 j and 2 j + 1 of row i
        pairs = np.ascontiguousarray(matrices).view(np.uint32).reshape(warps, len(writes), WARP)
        for m, write in enumerate(writes):
            write(machine, units, pairs[:, m].reshape(-1))

    return Decoded(run)


@other.define(rf"stmatrix{_MATRIX}")
def store_matrices(module: Module, statement: Statement, *, count: str, transposed: str) -> Decoded:
    at = address(module, statement.operands[0])
    reads = [reader(module, source, "b32") for source in vector(statement.operands[1])]
    if len(reads) != int(count):
        raise UnknownInstruction(f"{len(reads)} registers for {count}")

    def run(machine, units: Units) -> None:
        rows, owners, warps = _rows(machine, units, at, len(reads))
        pairs = np.stack([read(machine, units).reshape(warps, WARP) for read in reads], axis=1)
        matrices = np.ascontiguousarray(pairs).view(np.uint16).reshape(warps, len(reads), 8, 8)
        matrices = matrices.swapaxes(2, 3) if transposed else matrices
        words = np.ascontiguousarray(matrices).reshape(-1, 8)
        machine.memories["shared"].store(rows.reshape(-1), words, owners.reshape(-1), 16)

    return Decoded(run)


def _rows(machine, units: Units, at, count: int) -> tuple[np.ndarray, np.ndarray, int]:
    """The addresses of the matrices' rows (warps, 8 count), whose memory they are in, and how many warps there are."""
    unit = _whole_warps(machine, units)
    addresses = np.broadcast_to(at(machine, units), unit.shape).reshape(-1, WARP)
    owners = machine.group[unit].reshape(-1, WARP)
    return addresses[:, : 8 * count], owners[:, : 8 * count], len(addresses)
