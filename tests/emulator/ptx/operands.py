"""PTX operands: registers, numbers, symbols, addresses and vectors, as functions that read and write."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ..machine import Units, UnknownInstruction
from .parse import Module

if TYPE_CHECKING:
    from .machine import Threads

Read: TypeAlias = "Callable[[Threads, Units], np.ndarray]"
Write: TypeAlias = "Callable[[Threads, Units, np.ndarray], None]"

# how NumPy holds a type; what it has no type for travels as bits
DTYPES: dict[str, np.dtype] = {
    name: np.dtype(kind)
    for names, kind in (
        ("pred", "?"),
        ("b8 u8", "u1"),
        ("s8", "i1"),
        ("b16 u16 bf16", "u2"),
        ("s16", "i2"),
        ("f16", "f2"),
        ("b32 u32 bf16x2 f16x2", "u4"),
        ("s32", "i4"),
        ("f32", "f4"),
        ("b64 u64 f32x2", "u8"),
        ("s64", "i8"),
        ("f64", "f8"),
    )
    for name in names.split()
}


def is_signed(kind: str) -> bool:
    """Whether values of a type are extended with their sign."""
    return kind[0] == "s"


def bits(value: np.ndarray) -> np.ndarray:
    """A value's bits as unsigned integers."""
    value = np.ascontiguousarray(value)
    return value if value.dtype.kind in "ub" else value.view(f"u{value.dtype.itemsize}")


def number(text: str, kind: str) -> np.ndarray | None:
    """A literal as one value (1,) of a type, or None where the text is none."""
    dtype = DTYPES[kind]
    if re.fullmatch(r"0[fF][0-9a-fA-F]{8}", text):
        if kind not in ("f32", "b32"):
            raise UnknownInstruction(f"a float32 literal for {kind}: {text}")
        return np.array([int(text[2:], 16)], np.uint32).view(dtype)
    if re.fullmatch(r"0[dD][0-9a-fA-F]{16}", text):
        if kind not in ("f64", "b64"):
            raise UnknownInstruction(f"a float64 literal for {kind}: {text}")
        return np.array([int(text[2:], 16)], np.uint64).view(dtype)
    if re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)U?", text):
        value = int(text.rstrip("U"), 0)
        if kind == "pred":
            return np.array([value != 0])
        if dtype.kind == "f" and kind != "f16":
            raise UnknownInstruction(f"an integer literal for {kind}: {text}")
        size = dtype.itemsize
        return np.array([value & ((1 << 8 * size) - 1)], f"u{size}").view(dtype)
    if text in ("true", "false") and kind == "pred":
        return np.array([text == "true"])
    return None


def reader(module: Module, text: str, kind: str, *, wide: bool = False) -> Read:
    """What reads an operand as a type; with `wide`, a register may be wider than the type."""
    dtype = DTYPES[kind]
    literal = number(text, kind)
    if literal is not None:
        return lambda machine, units: literal
    if text in module.shared or text in module.local or text in module.constants:
        return lambda machine, units: machine.symbol(text).astype(dtype)[units]
    if re.fullmatch(r"%(tid|ntid|ctaid|nctaid)\.[xyz]|%laneid|%warpid", text):
        return lambda machine, units: machine.special[text][units].astype(dtype)
    if not re.fullmatch(r"[%\w$]+", text):
        raise UnknownInstruction(f"operand not understood: {text}")
    width = module.width(text)
    _check_width(text, width, kind, wide)
    if width in (1, 8 * dtype.itemsize):
        return lambda machine, units: machine.register(text)[units].view(dtype)
    narrow = np.dtype(f"u{dtype.itemsize}")
    return lambda machine, units: machine.register(text)[units].astype(narrow).view(dtype)


def writer(module: Module, text: str, kind: str, *, wide: bool = False) -> Write:
    """What writes an operand; into a wider register with the sign, or zeros, before it."""
    if text == "_":
        return lambda machine, units, value: None
    width = module.width(text)
    _check_width(text, width, kind, wide)
    if width == 1 or width == 8 * DTYPES[kind].itemsize:

        def write(machine: "Threads", units: Units, value: np.ndarray) -> None:
            machine.register(text)[units] = bits(value)

    else:
        extended = np.dtype(f"{'i' if is_signed(kind) else 'u'}{width // 8}")

        def write(machine: "Threads", units: Units, value: np.ndarray) -> None:
            value = value if value.dtype.kind in "iu" else bits(value)
            machine.register(text)[units] = bits(value.astype(extended))

    return write


def _check_width(text: str, width: int, kind: str, wide: bool) -> None:
    wanted = 1 if kind == "pred" else 8 * DTYPES[kind].itemsize
    if width != wanted and not (wide and width > wanted > 1):
        raise UnknownInstruction(f"{text} has {width} bits, {kind} has {wanted}")


def vector(text: str) -> tuple[str, ...]:
    """The elements of ``{a, b}``, or the operand alone."""
    return tuple(text[1:-1].split(",")) if text.startswith("{") else (text,)


def address(module: Module, text: str) -> Read:
    """What computes the address ``[register + offset]``; one of 32 bits wraps around in 32."""
    match = re.fullmatch(r"\[([%\w$]+)(?:\+?(-?\w+))?\]", text)
    if not match:
        raise UnknownInstruction(f"address not understood: {text}")
    base, offset = match[1], int(match[2] or "0", 0)
    if base.startswith("%"):
        kind = f"u{module.width(base)}"
        read = reader(module, base, kind)
        step = np.array([offset & ((1 << module.width(base)) - 1)], DTYPES[kind])
        return lambda machine, units: (read(machine, units) + step).astype(np.uint64)
    read = reader(module, base, "u64")
    return lambda machine, units: read(machine, units) + np.uint64(offset)
