"""Loads and stores of scalars and lanes (AMD's ISA documents, "SMEM", "FLAT", "MUBUF", "DS")."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..machine import Units, UnknownInstruction
from ..memory import AccessError, Memory
from .isa import Decoded, Writes, other
from .operands import Read, Register, Write, register, scalar_reader, vector_reader, vector_writer
from .parse import Kernel, Statement

# gfx11 counts bits, gfx9 has names
_SIZES = {"dword": 4, "dwordx2": 8, "dwordx3": 12, "dwordx4": 16, "dwordx8": 32, "dwordx16": 64}
_SIZES |= {f"b{8 * size}": size for size in (1, 2, 4, 8, 12, 16, 32, 64)}
_NARROW = {"ubyte": (1, "u"), "sbyte": (1, "i"), "ushort": (2, "u"), "sshort": (2, "i"), "byte": (1, "u")}
_NARROW |= {"short": (2, "u"), "u8": (1, "u"), "i8": (1, "i"), "u16": (2, "u"), "i16": (2, "i")}
_WIDTH = "|".join([*_SIZES, *_NARROW])
# what only tells caches something
_CACHE = "glc slc dlc sc0 sc1 nt"


def _size(width: str) -> tuple[int, str]:
    """Bytes of an access, and how fewer than four are extended."""
    return _NARROW[width] if width in _NARROW else (_SIZES[width], "u")


def _offset(statement: Statement, name: str = "offset") -> int:
    return int(statement.modifiers.get(name, "0"), 0)


def _part(name: Register, i: int) -> str:
    return f"{'v' if name.number < 512 else 'a'}{name.number % 512 + i}"


def _vector_register(text: str, size: int) -> Register:
    name = register(text)
    if name is None or name.file != "v" or name.count != max(1, size // 4) or name.half:
        raise UnknownInstruction(f"{text} for {size} bytes")
    return name


def _readers(text: str, size: int) -> list[Read]:
    name = _vector_register(text, size)
    return [vector_reader(_part(name, i), "b32") for i in range(name.count)]


def _writers(text: str, size: int) -> list[Write]:
    name = _vector_register(text, size)
    return [vector_writer(_part(name, i), "b32") for i in range(name.count)]


@other.define(r"s_load_(?P<width>dword(?:x(?:2|4|8|16))?|b(?:32|64|128|256|512))")
def load_scalars(kernel: Kernel, statement: Statement, *, width: str) -> Decoded:
    target, base, offset = statement.operands
    size, name = _SIZES[width], register(target)
    if name is None or name.file != "s" or name.count != size // 4 or not offset.startswith("0x"):
        raise UnknownInstruction(f"operands of {statement.opcode}")
    address, step = scalar_reader(base, "u64"), np.uint64(int(offset, 0))

    def run(machine: Any, units: Units) -> Writes:
        at = address(machine, units) + step
        words = machine.memory.load(at, 4, name.count, at, 4)

        def write(i: int) -> None:
            machine.scalar(name.number + i)[units] = words[:, i]

        return [lambda i=i: write(i) for i in range(name.count)]  # type: ignore[misc]

    return Decoded(run)


def _fetch(
    memory: Memory, address: np.ndarray, which: np.ndarray, size: int, extend: str, owners: np.ndarray, align: int
) -> list[np.ndarray]:
    """What the lanes of `which` load, in 32-bit words (waves, lanes); 0 in the others."""
    width = min(size, 4)
    loaded = memory.load(address[which], width, size // width, owners, align)
    words = []
    for column in loaded.T:
        column = column.view(f"{extend}{width}").astype(np.int64).astype(np.uint32)
        word = np.zeros(which.shape, np.uint32)
        word[which] = column
        words.append(word)
    return words


def _put(
    memory: Memory,
    address: np.ndarray,
    which: np.ndarray,
    size: int,
    words: list[np.ndarray],
    owners: np.ndarray,
    align: int,
) -> None:
    """Store 32-bit words, or a lower part of one, of the lanes of `which`."""
    rows = np.stack([np.broadcast_to(word, which.shape)[which] for word in words], axis=1)
    memory.store(address[which], rows.astype(f"u{min(size, 4)}"), owners, align)


def _loading(writes: list[Write], fetch: Callable[[Any, Units], list[np.ndarray]]) -> Decoded:
    def run(machine: Any, units: Units) -> Writes:
        words = fetch(machine, units)
        return [
            lambda write=write, word=word: write(machine, units, word)  # type: ignore[misc]
            for write, word in zip(writes, words, strict=True)
        ]

    return Decoded(run)


def _address(statement: Statement, lanes: str, base: str) -> Read:
    """Of a global access: 64 bits in each lane, or a base of the wave and 32 bits in each lane."""
    step = np.uint64(_offset(statement) & 0xFFFFFFFFFFFFFFFF)
    if base == "off":
        wide = vector_reader(lanes, "u64")
        return lambda machine, units: wide(machine, units) + step
    first, narrow = scalar_reader(base, "u64"), vector_reader(lanes, "u32")
    return lambda machine, units: first(machine, units)[:, None] + narrow(machine, units).astype(np.uint64) + step


@other.define(rf"global_load_(?P<width>{_WIDTH})", modifiers=f"offset {_CACHE}")
def load(kernel: Kernel, statement: Statement, *, width: str) -> Decoded:
    target, lanes, base = statement.operands
    size, extend = _size(width)
    address = _address(statement, lanes, base)

    def fetch(machine: Any, units: Units) -> list[np.ndarray]:
        active = machine.active[units]
        at = np.broadcast_to(address(machine, units), active.shape)
        return _fetch(machine.memory, at, active, size, extend, at[active], min(size, 4))

    return _loading(_writers(target, size), fetch)


@other.define(rf"global_store_(?P<width>{_WIDTH})", modifiers=f"offset {_CACHE}")
def store(kernel: Kernel, statement: Statement, *, width: str) -> Decoded:
    lanes, source, base = statement.operands
    size, _ = _size(width)
    address, reads = _address(statement, lanes, base), _readers(source, size)

    def run(machine: Any, units: Units) -> Writes:
        active = machine.active[units]
        at = np.broadcast_to(address(machine, units), active.shape)
        words = [read(machine, units) for read in reads]
        return [lambda: _put(machine.memory, at, active, size, words, at[active], min(size, 4))]

    return Decoded(run)


def _in_buffer(statement: Statement, size: int) -> Callable[[Any, Units], tuple[np.ndarray, np.ndarray]]:
    """Addresses of a buffer access, and the active lanes in the buffer: the others read 0 and write nothing."""
    _, lanes, resource, base = statement.operands
    name = register(resource)
    if name is None or name.file != "s" or name.count != 4:
        raise UnknownInstruction(f"no buffer resource: {resource}")
    in_lanes = vector_reader(lanes, "u32") if "offen" in statement.modifiers else None
    first, step = scalar_reader(base, "u32"), np.uint64(_offset(statement))

    def locate(machine: Any, units: Units) -> tuple[np.ndarray, np.ndarray]:
        low, high, count = (machine.scalar(name.number + i)[units] for i in range(3))
        if (high >> np.uint32(16)).any():
            raise UnknownInstruction("a buffer resource with a stride or a swizzle")
        active = machine.active[units]
        offset = np.broadcast_to(in_lanes(machine, units) if in_lanes else np.zeros((1, 1), np.uint32), active.shape)
        offset = offset.astype(np.uint64) + step
        count = count.astype(np.uint64)[:, None]
        if (active & (offset < count) & (offset + np.uint64(size) > count)).any():
            raise AccessError("a buffer access that begins within the buffer and ends beyond")
        start = low.astype(np.uint64) | high.astype(np.uint64) << np.uint64(32)
        inside = active & (offset < count)
        return start[:, None] + first(machine, units).astype(np.uint64)[:, None] + offset, inside

    return locate


@other.define(rf"buffer_load_(?P<width>{_WIDTH})", modifiers=f"offset offen {_CACHE}")
def load_from_buffer(kernel: Kernel, statement: Statement, *, width: str) -> Decoded:
    size, extend = _size(width)
    locate = _in_buffer(statement, size)

    def fetch(machine: Any, units: Units) -> list[np.ndarray]:
        at, inside = locate(machine, units)
        return _fetch(machine.memory, at, inside, size, extend, at[inside], min(size, 4))

    return _loading(_writers(statement.operands[0], size), fetch)


@other.define(rf"buffer_store_(?P<width>{_WIDTH})", modifiers=f"offset offen {_CACHE}")
def store_to_buffer(kernel: Kernel, statement: Statement, *, width: str) -> Decoded:
    size, _ = _size(width)
    locate, reads = _in_buffer(statement, size), _readers(statement.operands[0], size)

    def run(machine: Any, units: Units) -> Writes:
        at, inside = locate(machine, units)
        words = [read(machine, units) for read in reads]
        return [lambda: _put(machine.memory, at, inside, size, words, at[inside], min(size, 4))]

    return Decoded(run)


def _shared(machine: Any, units: Units, address: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Addresses in LDS, the active lanes, and the workgroups of these."""
    active = machine.active[units]
    at = np.broadcast_to(address, active.shape).astype(np.uint64) + np.uint64(step)
    owners = np.broadcast_to(machine.group[units][:, None], active.shape)
    return at, active, owners[active]


def _steps(statement: Statement, two: str, far: str, size: int) -> list[int]:
    """The offsets of the accesses of one instruction, in bytes."""
    if not two:
        return [_offset(statement)]
    unit = size * (64 if far else 1)
    return [_offset(statement, name) * unit for name in ("offset0", "offset1")]


_DS_WIDTH = r"(?P<width>b8|b16|b32|b64|b96|b128|u8|i8|u16|i16)"


@other.define(
    rf"ds_(?:load|read)_{_DS_WIDTH}",
    r"ds_load_(?P<two>2addr)(?P<far>_stride64|)_(?P<width>b32|b64)",
    r"ds_(?P<two>read2)(?P<far>st64|)_(?P<width>b32|b64)",
    modifiers="offset offset0 offset1",
)
def load_shared(kernel: Kernel, statement: Statement, *, width: str, two: str = "", far: str = "") -> Decoded:
    target, lanes = statement.operands
    size, extend = _size(width)
    address, steps = vector_reader(lanes, "u32"), _steps(statement, two, far, size)

    def fetch(machine: Any, units: Units) -> list[np.ndarray]:
        words = []
        for step in steps:
            at, active, owners = _shared(machine, units, address(machine, units), step)
            words += _fetch(machine.shared, at, active, size, extend, owners, size)
        return words

    return _loading(_writers(target, size * len(steps)), fetch)


@other.define(
    rf"ds_(?:store|write)_{_DS_WIDTH}",
    r"ds_store_(?P<two>2addr)(?P<far>_stride64|)_(?P<width>b32|b64)",
    r"ds_(?P<two>write2)(?P<far>st64|)_(?P<width>b32|b64)",
    modifiers="offset offset0 offset1",
)
def store_shared(kernel: Kernel, statement: Statement, *, width: str, two: str = "", far: str = "") -> Decoded:
    lanes, *sources = statement.operands
    size, _ = _size(width)
    address, steps = vector_reader(lanes, "u32"), _steps(statement, two, far, size)
    reads = [_readers(source, size) for source in sources]
    if len(reads) != len(steps):
        raise UnknownInstruction(f"{statement.opcode} with {len(reads)} sources")

    def run(machine: Any, units: Units) -> Writes:
        places = [_shared(machine, units, address(machine, units), step) for step in steps]
        words = [[read(machine, units) for read in part] for part in reads]

        def put() -> None:
            for (at, active, owners), part in zip(places, words, strict=True):
                _put(machine.shared, at, active, size, part, owners, size)

        return [put]

    return Decoded(run)


@other.define(r"ds_bpermute_b32", modifiers="offset")
def permute_backward(kernel: Kernel, statement: Statement) -> Decoded:
    target, lanes, source = statement.operands
    address, read, write = vector_reader(lanes, "u32"), vector_reader(source, "b32"), vector_writer(target, "b32")
    step = np.uint32(_offset(statement))

    def run(machine: Any, units: Units) -> Writes:
        active = machine.active[units]
        at = np.broadcast_to(address(machine, units) + step, active.shape)
        lane = (at >> np.uint32(2) & np.uint32(machine.lanes - 1)).astype(np.int64)
        # an inactive lane gives 0
        value = np.where(active, read(machine, units), np.uint32(0))
        return [lambda: write(machine, units, np.take_along_axis(value, lane, axis=1))]

    return Decoded(run)
