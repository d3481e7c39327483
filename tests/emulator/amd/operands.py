"""AMD operands: scalar and vector registers, constants and masks, as functions that read and write.

The functions have no state, and are made once for each operand and type.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from ..machine import Units, UnknownInstruction
from ..memory import POISON
from .machine import EXEC, NAMED

Read: TypeAlias = "Callable[[Any, Units], np.ndarray]"
Write: TypeAlias = "Callable[..., None]"

DTYPES = {
    name: np.dtype(kind)
    for names, kind in (
        ("u16 b16", "u2"),
        ("i16", "i2"),
        ("f16", "f2"),
        ("u32 b32", "u4"),
        ("i32", "i4"),
        ("f32", "f4"),
        ("u64 b64 f32x2", "u8"),
        ("i64", "i8"),
        ("f64", "f8"),
    )
    for name in names.split()
}


@dataclass(frozen=True)
class Register:
    """A register, or several in a row.

    Parameters
    ----------
    file : {"s", "v"}
    number : int
        Of the first; an accumulation register's is 512 more.
    count : int
        0 for ``null``.
    half : {"", "l", "h"}
        Of 32 bits, which 16.
    """

    file: str
    number: int
    count: int
    half: str = ""


def register(text: str) -> Register | None:
    """The register that an operand names, or None for a constant."""
    if text in NAMED:
        return Register("s", NAMED[text], 1)
    if text in ("vcc", "exec"):
        return Register("s", NAMED[f"{text}_lo"], 2)
    if text == "null":
        return Register("s", 0, 0)
    match = re.fullmatch(r"([sva])(?:(\d+)(?:\.([lh]))?|\[(\d+)(?::(\d+))?\])", text)
    if match is None:
        return None
    file, single, half, first, last = match.groups()
    number = int(single if single is not None else first)
    count = 1 if single is not None else int(last or first) - number + 1
    return Register("s" if file == "s" else "v", number + (512 if file == "a" else 0), count, half or "")


def constant(text: str, kind: str) -> np.ndarray:
    """An inline constant or a literal as one value of a type.

    Integers are bits, also for a floating type; of a float64 a literal gives the upper half.
    """
    dtype = DTYPES[kind]
    size = dtype.itemsize
    if kind == "f32x2":
        # only the lower half of a pair is the constant
        return constant(text, "b32").astype(np.uint64) | np.uint64(POISON << 48 | POISON << 32)
    if re.fullmatch(r"-?\d+\.\d+", text):
        # an integer operation takes the bits of the constant, as wide as it is
        floating = np.dtype(f"f{size}")
        return np.array([float(text)], floating).view(dtype)
    if re.fullmatch(r"-?(0x[0-9a-fA-F]+|\d+)", text):
        value = int(text, 0)
        if size == 8 and text.startswith("0x"):
            if value >= 1 << 32:
                raise UnknownInstruction(f"a literal of more than 32 bits: {text}")
            if kind == "f64":
                value <<= 32
            elif kind == "i64" and value >> 31:
                value -= 1 << 32
        return np.array([value & ((1 << 8 * size) - 1)], f"u{size}").view(dtype)
    raise UnknownInstruction(f"operand not understood: {text}")


def _check(name: Register, kind: str, text: str) -> None:
    wanted = max(1, DTYPES[kind].itemsize // 4)
    if name.count not in (0, wanted):
        raise UnknownInstruction(f"{text} has {name.count} registers, {kind} takes {wanted}")
    if name.half and DTYPES[kind].itemsize != 2:
        raise UnknownInstruction(f"{text} has 16 bits, {kind} takes more")


@cache
def scalar_reader(text: str, kind: str) -> Read:
    """What reads a scalar operand (waves,)."""
    name, dtype = register(text), DTYPES[kind]
    if name is None:
        value = constant(text, kind)
        return lambda machine, units: value
    _check(name, kind, text)
    if name.file != "s" or name.count == 0:
        raise UnknownInstruction(f"no scalar register: {text}")
    return lambda machine, units: _joined([machine.scalar(name.number + i)[units] for i in range(name.count)], dtype)


def _joined(words: list[np.ndarray], dtype: np.dtype) -> np.ndarray:
    """32-bit words, the lowest first, as values of a type."""
    if len(words) == 2:
        return (words[0].astype(np.uint64) | words[1].astype(np.uint64) << np.uint64(32)).view(dtype)
    return words[0].astype(np.uint16).view(dtype) if dtype.itemsize == 2 else words[0].view(dtype)


def _split(value: np.ndarray) -> list[np.ndarray]:
    """Values as 32-bit words, the lowest first."""
    value = np.ascontiguousarray(value)
    bits = value.view(f"u{value.dtype.itemsize}")
    if bits.dtype.itemsize < 8:
        return [bits.astype(np.uint32)]
    return [bits.astype(np.uint32), (bits >> np.uint64(32)).astype(np.uint32)]


@cache
def scalar_writer(text: str, kind: str) -> Write:
    """What writes a scalar operand."""
    name = register(text)
    if name is None or name.file != "s":
        raise UnknownInstruction(f"no scalar register: {text}")
    _check(name, kind, text)

    def write(machine: Any, units: Units, value: np.ndarray) -> None:
        for i, word in enumerate(_split(value)[: name.count]):
            machine.scalar(name.number + i)[units] = word
        if name.count and name.number + name.count > EXEC:
            machine.set_active(units)

    return write


@cache
def vector_reader(text: str, kind: str) -> Read:
    """What reads an operand of a vector instruction: (waves, lanes), or (waves, 1) where all lanes read the same."""
    for pattern, change in ((r"-(?=[vsa|n])(.*)", np.negative), (r"neg\((.*)\)", np.negative), (r"\|(.*)\|", np.abs)):
        match = re.fullmatch(pattern, text)
        if match:
            return _modified(match[1], kind, change)
    name, dtype = register(text), DTYPES[kind]
    if name is None or name.file == "s":
        read = scalar_reader(text, kind)
        return lambda machine, units: read(machine, units)[:, None]
    _check(name, kind, text)
    if name.half == "h":
        return lambda machine, units: (machine.vector(name.number)[units] >> 16).astype(np.uint16).view(dtype)
    return lambda machine, units: _joined([machine.vector(name.number + i)[units] for i in range(name.count)], dtype)


def _modified(text: str, kind: str, change: Callable[[np.ndarray], np.ndarray]) -> Read:
    """An operand with its sign bit changed; one of bits, as v_cndmask has, is taken as a number for that."""
    floating = kind.replace("b", "f")
    if floating[0] != "f":
        raise UnknownInstruction(f"a sign modifier on {kind}: {text}")
    read = vector_reader(text, floating)
    return lambda machine, units: change(read(machine, units)).view(DTYPES[kind])


@cache
def vector_writer(text: str, kind: str) -> Write:
    """What writes a vector register in the active lanes, of which `enabled` may leave some out."""
    name = register(text)
    if name is None or name.file != "v":
        raise UnknownInstruction(f"no vector register: {text}")
    _check(name, kind, text)
    # gfx9 zeroes what is above 16 bits, gfx11 keeps it
    keeps = DTYPES[kind].itemsize == 2

    def write(machine: Any, units: Units, value: np.ndarray, enabled: np.ndarray | None = None) -> None:
        active = machine.active[units] if enabled is None else machine.active[units] & enabled
        for i, word in enumerate(_split(value)):
            target = machine.vector(name.number + i)
            old = target[units]
            if name.half == "h":
                word = old & np.uint32(0xFFFF) | word << np.uint32(16)
            elif name.half == "l" or (keeps and machine.lanes == 32):
                word = old & np.uint32(0xFFFF0000) | word
            target[units] = np.where(active, word, old)

    return write


@cache
def mask_reader(text: str) -> Read:
    """What reads a mask of lanes (waves, lanes)."""

    def read(machine: Any, units: Units) -> np.ndarray:
        kind = "b32" if machine.lanes == 32 else "b64"
        return machine.unpacked(np.broadcast_to(scalar_reader(text, kind)(machine, units), machine.scc[units].shape))

    return read


@cache
def mask_writer(text: str) -> Write:
    """What writes a mask of lanes; inactive lanes' bits are 0."""

    def write(machine: Any, units: Units, value: np.ndarray) -> None:
        kind = "b32" if machine.lanes == 32 else "b64"
        active = machine.active[units]
        scalar_writer(text, kind)(machine, units, machine.packed(active & np.broadcast_to(value, active.shape)))

    return write
