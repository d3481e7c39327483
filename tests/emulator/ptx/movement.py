"""Moves, loads, stores and atomic operations (PTX ISA, "Data Movement and Conversion", "atom")."""

from collections.abc import Callable

import numpy as np

from ..machine import ALL, Units, UnknownInstruction
from .isa import Decoded, other
from .operands import DTYPES, address, bits, reader, vector, writer
from .parse import Module, Statement

TYPE = r"(?P<type>[bus](?:8|16|32|64)|f16|f32|f64)"
# what only tells caches and other agents something
_SEMANTICS, _SCOPE = r"\.(?:relaxed|acquire|release|acq_rel)", r"\.(?:cta|cluster|gpu|sys)"
_ORDER = rf"(?:\.volatile|\.weak|{_SEMANTICS}{_SCOPE})?"
_CACHE = r"(?:\.nc)?(?:\.(?:ca|cg|cs|lu|cv|wb|wt))?(?:\.L[12]::\w+)*"
_VECTOR = r"(?:\.v(?P<count>[248]))?"


@other.define(r"mov\.(?P<type>pred|[bus](?:16|32|64)|f32|f64)")
def move(module: Module, statement: Statement, *, type: str) -> Decoded:
    target, source = statement.operands
    if source.startswith("{"):
        return Decoded(_pack(module, target, vector(source), type))
    if target.startswith("{"):
        return Decoded(_unpack(module, vector(target), source, type))
    read, write = reader(module, source, type), writer(module, target, type)
    return Decoded(lambda machine, units: write(machine, units, read(machine, units)))


def _pack(module: Module, target: str, parts: tuple[str, ...], kind: str) -> Callable[..., None]:
    size = 8 * DTYPES[kind].itemsize
    reads = [reader(module, part, f"b{size // len(parts)}") for part in parts]
    write, dtype = writer(module, target, kind), np.dtype(f"u{size // 8}")

    def run(machine, units: Units) -> None:
        value = dtype.type(0)
        for i, read in enumerate(reads):
            value = value | read(machine, units).astype(dtype) << dtype.type(size // len(reads) * i)
        write(machine, units, value)

    return run


def _unpack(module: Module, parts: tuple[str, ...], source: str, kind: str) -> Callable[..., None]:
    size = 8 * DTYPES[kind].itemsize
    part = f"b{size // len(parts)}"
    read = reader(module, source, f"b{size}")
    writes = [writer(module, name, part) for name in parts]

    def run(machine, units: Units) -> None:
        value = read(machine, units)
        for i, write in enumerate(writes):
            shifted = value >> value.dtype.type(size // len(writes) * i)
            write(machine, units, shifted.astype(DTYPES[part]))

    return run


@other.define(r"cvta(?:\.to)?\.(?:global|shared)\.(?P<type>u64|u32)")
def convert_address(module: Module, statement: Statement, *, type: str) -> Decoded:
    # only global addresses are generic ones here; a shared one that is used as such is out of bounds
    target, source = statement.operands
    read, write = reader(module, source, type), writer(module, target, type)
    return Decoded(lambda machine, units: write(machine, units, read(machine, units)))


@other.define(rf"ld\.param\.{TYPE}")
def load_parameter(module: Module, statement: Statement, *, type: str) -> Decoded:
    target, source = statement.operands
    name = source[1:-1]
    if name not in module.parameters or DTYPES[module.parameters[name]].itemsize != DTYPES[type].itemsize:
        raise UnknownInstruction(f"{source} is no parameter of type {type}")
    write = writer(module, vector(target)[0], type, wide=True)
    return Decoded(lambda machine, units: write(machine, units, machine.parameters[name].view(DTYPES[type])))


@other.define(rf"ld{_ORDER}\.(?P<space>global|shared|local|const){_CACHE}{_VECTOR}\.{TYPE}")
def load(module: Module, statement: Statement, *, space: str, count: str | None, type: str) -> Decoded:
    # a further operand is a cache policy
    targets, source = vector(statement.operands[0]), statement.operands[1]
    _check_count(targets, count)
    at, size = address(module, source), DTYPES[type].itemsize
    writes = [writer(module, target, type, wide=True) for target in targets]

    def run(machine, units: Units) -> None:
        owners = machine.owners(space, units)
        words = machine.memories[space].load(at(machine, units), size, len(writes), owners, size * len(writes))
        for i, write in enumerate(writes):
            write(machine, units, np.ascontiguousarray(words[:, i]).view(DTYPES[type]))

    return Decoded(run)


@other.define(rf"st{_ORDER}\.(?P<space>global|shared|local){_CACHE}{_VECTOR}\.{TYPE}")
def store(module: Module, statement: Statement, *, space: str, count: str | None, type: str) -> Decoded:
    target, sources = statement.operands[0], vector(statement.operands[1])
    _check_count(sources, count)
    at, size = address(module, target), DTYPES[type].itemsize
    reads = [reader(module, source, type, wide=True) for source in sources]

    def run(machine, units: Units) -> None:
        addresses = at(machine, units)
        words = np.empty((len(addresses), len(reads)), f"u{size}")
        for i, read in enumerate(reads):
            words[:, i] = bits(read(machine, units))
        machine.memories[space].store(addresses, words, machine.owners(space, units), size * len(reads))

    return Decoded(run)


def _check_count(operands: tuple[str, ...], count: str | None) -> None:
    if len(operands) != int(count or 1):
        raise UnknownInstruction(f"{len(operands)} registers for {count or 1}")


@other.define(r"createpolicy\.fractional(?:\.L2::\w+)+\.b64")
def create_policy(module: Module, statement: Statement) -> Decoded:
    write = writer(module, statement.operands[0], "b64")
    return Decoded(lambda machine, units: write(machine, units, np.zeros(1, np.uint64)))


_UPDATES = {
    "add": lambda old, value, swap: old + value,
    "min": lambda old, value, swap: np.minimum(old, value),
    "max": lambda old, value, swap: np.maximum(old, value),
    "and": lambda old, value, swap: old & value,
    "or": lambda old, value, swap: old | value,
    "xor": lambda old, value, swap: old ^ value,
    "exch": lambda old, value, swap: value,
    "cas": lambda old, value, swap: swap if old == value else old,
}


_UPDATE = rf"\.(?P<update>{'|'.join(_UPDATES)})\.{TYPE}"


@other.define(
    rf"(?P<name>atom|red){_ORDER}\.(?P<space>global|shared){_UPDATE}",
    # what Triton emits, and ptxas takes as well
    rf"(?P<name>atom|red)\.(?P<space>global|shared){_SCOPE}{_SEMANTICS}{_UPDATE}",
)
def atomic(module: Module, statement: Statement, *, name: str, space: str, update: str, type: str) -> Decoded:
    operands = list(statement.operands)
    write = writer(module, operands.pop(0), type) if name == "atom" else None
    at = address(module, operands.pop(0))
    reads = [reader(module, vector(operand)[0], type) for operand in operands]
    size, change = DTYPES[type].itemsize, _UPDATES[update]

    def run(machine, units: Units) -> None:
        addresses, owners = at(machine, units), machine.owners(space, units)
        memory = machine.memories[space]
        values = [np.broadcast_to(read(machine, units), addresses.shape) for read in reads]
        old = np.empty(addresses.shape, DTYPES[type])
        order = np.arange(len(addresses))
        if machine.schedule.order == "random":
            machine.schedule.rng.shuffle(order)
        for i in order:
            one = slice(i, i + 1)
            old[one] = memory.load(addresses[one], size, 1, owners[one], size)[:, 0].view(DTYPES[type])
            new = change(old[i], values[0][i], values[-1][i])
            memory.store(addresses[one], bits(np.array([[new]], DTYPES[type])), owners[one], size)
        if write:
            write(machine, units, old)

    return Decoded(run)


def all_units(machine, units: Units) -> np.ndarray:
    """The numbers of units."""
    return machine.number if units is ALL or isinstance(units, slice) else units
