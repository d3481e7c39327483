"""Sources that come from another lane (DPP) or from a part of a register (SDWA)."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..machine import Units, UnknownInstruction
from .operands import Read, register
from .parse import Statement


def _lanes_of(name: str, value: str, lanes: int) -> tuple[np.ndarray, np.ndarray]:
    """The lane that each lane reads, and whether there is one; a row has 16 lanes."""
    lane = np.arange(lanes)
    row, place = lane & ~15, lane & 15
    every = np.ones(lanes, bool)
    if name == "quad_perm":
        order = np.array([int(number) for number in value.strip("[]").split(",")])
        return (lane & ~3) + order[lane & 3], every
    if name == "row_mirror":
        return row + 15 - place, every
    if name == "row_half_mirror":
        return row + (place & 8) + 7 - (place & 7), every
    n = int(value)
    if name == "row_shl":
        return row + place + n, place + n < 16
    if name == "row_shr":
        return row + place - n, place >= n
    if name == "row_ror":
        return row + (place - n & 15), every
    if name == "row_xmask":
        return lane ^ n, every
    if name in ("row_share", "row_newbcast"):
        return row + n, every
    if name == "row_bcast" and n == 15:
        return row - 1, lane >= 16
    if name == "row_bcast" and n == 31:
        return np.full(lanes, 31), lane >= 32
    raise UnknownInstruction(f"unknown pattern of lanes: {name}:{value}")


_PATTERNS = {
    *("quad_perm", "row_mirror", "row_half_mirror", "row_shl", "row_shr", "row_ror", "row_xmask"),
    *("row_share", "row_newbcast", "row_bcast"),
}
_DPP = {*_PATTERNS, "row_mask", "bank_mask", "bound_ctrl", "fi"}


def swizzled(read: Read, statement: Statement) -> tuple[Read, Callable[[Any, Units], np.ndarray]]:
    """The first source of a DPP instruction, and the lanes that the instruction writes."""
    modifiers = statement.modifiers
    patterns = [name for name in modifiers if name in _PATTERNS]
    if len(patterns) != 1 or set(modifiers) - _DPP:
        raise UnknownInstruction(f"unknown modifiers of {statement.opcode}: {', '.join(modifiers)}")
    row_mask, bank_mask = (int(modifiers.get(name, "0xf"), 0) for name in ("row_mask", "bank_mask"))
    # a lane without a source reads 0 with bound_ctrl, and is left alone without
    zeros, inactive = "bound_ctrl" in modifiers, "fi" in modifiers

    def sources(machine: Any, units: Units) -> tuple[np.ndarray, np.ndarray]:
        source, valid = _lanes_of(patterns[0], modifiers[patterns[0]], machine.lanes)
        source = np.where(valid, source, 0)
        return source, valid & (machine.active[units][:, source] | inactive)

    def swizzle(machine: Any, units: Units) -> np.ndarray:
        source, valid = sources(machine, units)
        value = read(machine, units)
        value = np.broadcast_to(value, (len(value), machine.lanes))[:, source]
        return np.where(valid, value, value.dtype.type(0))

    def enabled(machine: Any, units: Units) -> np.ndarray:
        lane = np.arange(machine.lanes)
        masked = (row_mask >> lane // 16 & 1 & bank_mask >> lane % 16 // 4).astype(bool)
        return masked & (sources(machine, units)[1] | zeros)

    return swizzle, enabled


# the first bit, and how many
_PARTS = {f"BYTE_{i}": (8 * i, 8) for i in range(4)} | {f"WORD_{i}": (16 * i, 16) for i in range(2)}


def sub_word(reads: list[Read], sources: list[str], statement: Statement) -> list[Read]:
    """The sources of an SDWA instruction that writes a whole register: parts of registers, with zeros above."""
    modifiers = dict(statement.modifiers)
    if modifiers.pop("dst_sel", "DWORD") != "DWORD":
        raise UnknownInstruction(f"only dst_sel:DWORD is emulated, not {statement.modifiers['dst_sel']}")
    modifiers.pop("dst_unused", None)
    result = list(reads)
    for i in (0, 1):
        part = modifiers.pop(f"src{i}_sel", "DWORD")
        if part != "DWORD":
            result[i] = _part_of(sources[i], part, reads[i])
    if modifiers:
        raise UnknownInstruction(f"unknown modifiers of {statement.opcode}: {', '.join(modifiers)}")
    return result


def _part_of(source: str, part: str, read: Read) -> Read:
    name = register(source)
    if name is None or name.file != "v" or part not in _PARTS:
        raise UnknownInstruction(f"{part} of {source}")
    shift, bits = (np.uint32(number) for number in _PARTS[part])

    def reading(machine: Any, units: Units) -> np.ndarray:
        # in the type that the whole would have been read as
        word = machine.vector(name.number)[units] >> shift & (np.uint32(1) << bits) - np.uint32(1)
        dtype = read(machine, units).dtype
        return word.astype(np.uint16).view(dtype) if dtype.itemsize == 2 else word.view(dtype)

    return reading
