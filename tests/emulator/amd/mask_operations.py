"""Vector instructions that read or write masks of lanes: comparisons, selections, carries and parts of a division."""

import re
from typing import Any

import numpy as np

from ..floats import fma32, fma64
from ..machine import Units, UnknownInstruction
from ..memory import EmulationError
from .isa import Decoded, Writes, other
from .lanes import sub_word
from .operands import (
    mask_reader,
    mask_writer,
    register,
    scalar_reader,
    scalar_writer,
    vector_reader,
    vector_writer,
)
from .parse import Kernel, Statement

_COMPARISONS = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lg": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}


def compared(a: np.ndarray, b: np.ndarray, relation: str) -> np.ndarray:
    """A relation of AMD's, in which n stands for not: true where a NaN is in it."""
    if relation in ("o", "u"):
        unordered = np.isnan(a) | np.isnan(b)
        return unordered if relation == "u" else ~unordered
    if a.dtype.kind == "f":
        unordered = np.isnan(a) | np.isnan(b)
        negated = relation.startswith("n")
        result = _COMPARISONS[relation.removeprefix("n")](a, b) & ~unordered
        return ~result if negated else result
    return _COMPARISONS[relation](a, b)


def _classes(x: np.ndarray) -> list[np.ndarray]:
    """Bit by bit what v_cmp_class asks for; a signalling NaN does not come from any operation here."""
    negative, zero = np.signbit(x), x == 0
    subnormal = ~zero & (np.abs(x) < np.finfo(x.dtype).smallest_normal)
    normal = np.isfinite(x) & ~zero & ~subnormal
    quiet = np.isnan(x)
    signed = [np.isinf(x), normal, subnormal, zero]
    below, above = [kind & negative for kind in signed], [kind & ~negative for kind in signed]
    return [np.zeros_like(quiet), quiet, *below, *above[::-1]]


def _target(kernel: Kernel, statement: Statement, exec_only: bool) -> tuple[str, list[str]]:
    """Where a comparison's mask goes, and its two sources."""
    if exec_only:
        if len(statement.operands) != 2:
            raise UnknownInstruction("v_cmpx with a target of its own")
        return "exec" if kernel.lanes == 64 else "exec_lo", list(statement.operands)
    target, *sources = statement.operands
    if len(sources) != 2:
        raise UnknownInstruction(f"{statement.opcode} takes 2 sources, not {len(sources)}")
    return target, sources


@other.define(
    r"v_cmp(?P<exec_only>x?)_(?P<relation>eq|ne|lt|le|gt|ge)_(?P<type>[ui](?:16|32|64))",
    r"v_cmp(?P<exec_only>x?)_(?P<relation>eq|lg|lt|le|gt|ge|o|u|neq|nlg|nlt|nle|ngt|nge)_(?P<type>f16|f32|f64)",
)
def compare(kernel: Kernel, statement: Statement, *, exec_only: str, relation: str, type: str) -> Decoded:
    target, sources = _target(kernel, statement, bool(exec_only))
    first, second = (vector_reader(source, type) for source in sources)
    write = mask_writer(target)

    def run(machine: Any, units: Units) -> Writes:
        value = compared(first(machine, units), second(machine, units), relation)
        return [lambda: write(machine, units, value)]

    return Decoded(run)


@other.define(r"v_cmp(?P<exec_only>x?)_class_(?P<type>f32|f64)")
def compare_class(kernel: Kernel, statement: Statement, *, exec_only: str, type: str) -> Decoded:
    target, (number, wanted) = _target(kernel, statement, bool(exec_only))
    read, read_wanted, write = vector_reader(number, type), vector_reader(wanted, "u32"), mask_writer(target)

    def run(machine: Any, units: Units) -> Writes:
        bits = read_wanted(machine, units)
        asked = [(bits >> np.uint32(i) & np.uint32(1)).astype(bool) for i in range(10)]
        value = np.logical_or.reduce(
            [asks & kind for asks, kind in zip(asked, _classes(read(machine, units)), strict=True)]
        )
        return [lambda: write(machine, units, value)]

    return Decoded(run)


@other.define(r"v_cndmask_(?P<type>b16|b32)", modifiers="dst_sel dst_unused src0_sel src1_sel")
def select(kernel: Kernel, statement: Statement, *, type: str) -> Decoded:
    target, *sources = statement.operands
    vcc = "vcc" if kernel.lanes == 64 else "vcc_lo"
    mask = mask_reader(sources.pop(2) if len(sources) == 3 else vcc)
    reads = [vector_reader(source, type) for source in sources]
    if statement.encoding == "sdwa":
        reads = sub_word(reads, sources, statement)
    elif statement.modifiers:
        raise UnknownInstruction(f"unknown modifiers of {statement.opcode}")
    write = vector_writer(target, type)

    def run(machine: Any, units: Units) -> Writes:
        value = np.where(mask(machine, units), reads[1](machine, units), reads[0](machine, units))
        return [lambda: write(machine, units, value)]

    return Decoded(run)


@other.define(r"v_(?P<name>add|addc|sub|subb|subrev|subbrev)_co(?P<ci>_ci|)_u32")
def with_carry(kernel: Kernel, statement: Statement, *, name: str, ci: str) -> Decoded:
    # gfx9 calls add with a carry addc, gfx11 add_co_ci
    takes = bool(ci) or name in ("addc", "subb", "subbrev")
    target, out, first, second, *rest = statement.operands
    if len(rest) != takes:
        raise UnknownInstruction(f"{statement.opcode} with {len(statement.operands)} operands")
    if "rev" in name:
        first, second = second, first
    reads = [vector_reader(source, "u32") for source in (first, second)]
    carry = mask_reader(rest[0]) if takes else None
    write, write_out = vector_writer(target, "u32"), mask_writer(out)

    def run(machine: Any, units: Units) -> Writes:
        a, b = (read(machine, units).astype(np.int64) for read in reads)
        c = carry(machine, units).astype(np.int64) if carry else np.int64(0)
        exact = a + b + c if name.startswith("add") else a - b - c
        over = (exact < 0) | (exact >= 1 << 32)
        value = exact.astype(np.uint32)
        return [lambda: write(machine, units, value), lambda: write_out(machine, units, over)]

    return Decoded(run)


@other.define(r"v_mad_(?P<type>u64_u32|i64_i32)")
def multiply_add_wide(kernel: Kernel, statement: Statement, *, type: str) -> Decoded:
    wide, narrow = type.split("_")
    target, out, *sources = statement.operands
    a, b, c = (vector_reader(source, kind) for source, kind in zip(sources, (narrow, narrow, wide), strict=True))
    write, write_out = vector_writer(target, wide), mask_writer(out)

    def run(machine: Any, units: Units) -> Writes:
        addend = c(machine, units)
        product = a(machine, units).astype(addend.dtype) * b(machine, units).astype(addend.dtype)
        value = product + addend
        # a signed sum has left its range where its sign is neither that of one part nor that of the other
        over = value < addend if wide == "u64" else (product ^ value) & (addend ^ value) < 0
        return [lambda: write(machine, units, value), lambda: write_out(machine, units, over)]

    return Decoded(run)


@other.define(r"v_div_scale_(?P<type>f32|f64)")
def scale_for_division(kernel: Kernel, statement: Statement, *, type: str) -> Decoded:
    target, out, *sources = statement.operands
    reads = [vector_reader(source, type) for source in sources]
    write, write_out = vector_writer(target, type), mask_writer(out)

    def run(machine: Any, units: Units) -> Writes:
        value, scaled = _scaled(*np.broadcast_arrays(*(read(machine, units) for read in reads)))
        return [lambda: write(machine, units, value), lambda: write_out(machine, units, scaled)]

    return Decoded(run)


def _exponent(x: np.ndarray) -> np.ndarray:
    """The biased exponent, 0 for zeros and subnormal numbers."""
    mantissa_bits = np.finfo(x.dtype).nmant
    bits = np.ascontiguousarray(x).view(f"i{x.dtype.itemsize}")
    return bits >> mantissa_bits & (1 << np.finfo(x.dtype).nexp) - 1


def _scaled(x: np.ndarray, denominator: np.ndarray, numerator: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One of a division's numbers, scaled where its steps would leave the range, and whether that is to be undone."""
    kind = x.dtype.itemsize
    far, by, tiny = {4: (96, 64, 23), 8: (768, 128, 53)}[kind]
    smallest = np.finfo(x.dtype).smallest_normal

    def subnormal(value: np.ndarray) -> np.ndarray:
        return (value != 0) & (np.abs(value) < smallest)

    with np.errstate(all="ignore"):
        small_reciprocal = subnormal(x.dtype.type(1) / denominator)
        small_quotient = subnormal(numerator / denominator)
    is_denominator, is_numerator = x == denominator, x == numerator
    up, down = np.ldexp(x, by), np.ldexp(x, -by)
    cases = [
        ((numerator == 0) | (denominator == 0), np.full_like(x, np.nan), False),
        (_exponent(numerator) - _exponent(denominator) >= far, np.where(is_denominator, up, x), True),
        (subnormal(denominator), up, False),
        (small_reciprocal & small_quotient, np.where(is_denominator, up, x), True),
        (small_reciprocal, down, False),
        (small_quotient, np.where(is_numerator, up, x), True),
        (_exponent(numerator) <= tiny, up, False),
    ]
    conditions = [condition for condition, _, _ in cases]
    value = np.select(conditions, [value for _, value, _ in cases], x)
    return value, np.select(conditions, [np.full(x.shape, undo) for _, _, undo in cases], False)


@other.define(r"v_div_fmas_(?P<type>f32|f64)")
def fma_with_scale(kernel: Kernel, statement: Statement, *, type: str) -> Decoded:
    target, *sources = statement.operands
    reads = [vector_reader(source, type) for source in sources]
    mask, write = mask_reader("vcc" if kernel.lanes == 64 else "vcc_lo"), vector_writer(target, type)
    by, middle = {"f32": (64, 127), "f64": (128, 1023)}[type]

    def run(machine: Any, units: Units) -> Writes:
        undo = mask(machine, units)
        values = np.broadcast_arrays(*(read(machine, units) for read in reads), undo)[:3]
        a, b, c = map(np.ascontiguousarray, values)
        exact = fma64(*(x.reshape(-1) for x in (a, b, c))).reshape(a.shape) if type == "f64" else fma32(a, b, c)
        value = np.where(undo, np.ldexp(exact, np.where(_exponent(c) > middle, by, -by)), exact)
        return [lambda: write(machine, units, value)]

    return Decoded(run)


@other.define(r"v_fma_mix(?P<half>|lo|hi)_(?P<type>f32|f16)", modifiers="op_sel op_sel_hi")
def mixed_fma(kernel: Kernel, statement: Statement, *, half: str, type: str) -> Decoded:
    if (type == "f32") != (half == ""):
        raise UnknownInstruction(f"unknown opcode: {statement.opcode}")
    target, *sources = statement.operands
    upper, narrow = (
        [int(digit) for digit in statement.modifiers.get(name, "[0,0,0]").strip("[]").split(",")]
        for name in ("op_sel", "op_sel_hi")
    )
    reads = [_mixed(*parts) for parts in zip(sources, upper, narrow, strict=True)]
    write = vector_writer(target + {"": "", "lo": ".l", "hi": ".h"}[half], type)

    def run(machine: Any, units: Units) -> Writes:
        a, b, c = np.broadcast_arrays(*(read(machine, units) for read in reads))
        value = fma32(a, b, c)
        # a half is the float32 result, rounded once more
        return [lambda: write(machine, units, value if type == "f32" else value.astype(np.float16))]

    return Decoded(run)


def _mixed(source: str, upper: int, narrow: int) -> Any:
    """A source that is float32, or a half of a register as float16."""
    if not narrow:
        return vector_reader(source, "f32")
    bare = re.sub(r"neg\((.*)\)|-(?=[vs])|\|", r"\1", source)
    name = register(bare)
    if name is not None and (name.file != "v" or name.count != 1):
        raise UnknownInstruction(f"float16 from {source}")
    if name is None and upper:
        raise UnknownInstruction(f"the upper half of {source}")
    text = source if name is None else source.replace(bare, f"{bare}.{'h' if upper else 'l'}")
    read = vector_reader(text, "f16")
    return lambda machine, units: read(machine, units).astype(np.float32)


@other.define(r"v_(?P<name>readfirstlane|readlane)_b32")
def read_lane(kernel: Kernel, statement: Statement, *, name: str) -> Decoded:
    target, source, *number = statement.operands
    read, write = vector_reader(source, "b32"), scalar_writer(target, "b32")
    which = scalar_reader(number[0], "u32") if number else None
    if bool(number) != (name == "readlane"):
        raise UnknownInstruction(f"{statement.opcode} with {len(statement.operands)} operands")

    def run(machine: Any, units: Units) -> Writes:
        active = machine.active[units]
        lane = active.argmax(axis=1) if which is None else which(machine, units).astype(np.int64) % machine.lanes
        value = np.broadcast_to(read(machine, units), active.shape)[np.arange(len(active)), lane]
        return [lambda: write(machine, units, value)]

    return Decoded(run)


@other.define(r"v_permlane(?P<across>x?)16_b32", modifiers="op_sel")
def permute_lanes(kernel: Kernel, statement: Statement, *, across: str) -> Decoded:
    # op_sel: whether inactive lanes are read, whether lanes without a source get 0
    inactive, zeros = (digit == "1" for digit in statement.modifiers.get("op_sel", "[0,0]").strip("[]").split(","))
    target, source, low, high = statement.operands
    read, write = vector_reader(source, "b32"), vector_writer(target, "b32")
    read_low, read_high = scalar_reader(low, "u32"), scalar_reader(high, "u32")

    def run(machine: Any, units: Units) -> Writes:
        lane = np.arange(machine.lanes)
        selector = read_high(machine, units).astype(np.uint64) << np.uint64(32) | read_low(machine, units)
        place = (selector[:, None] >> (np.uint64(4) * (lane & 15).astype(np.uint64)) & np.uint64(15)).astype(np.int64)
        active = machine.active[units]
        from_lane = np.broadcast_to((lane & ~15 ^ (16 if across else 0)) + place, active.shape)
        valid = np.take_along_axis(active, from_lane, axis=1) | inactive
        if not (valid | ~active).all() and not zeros:
            raise EmulationError("a lane reads from an inactive one")
        value = np.take_along_axis(np.broadcast_to(read(machine, units), active.shape), from_lane, axis=1)
        result = np.where(valid, value, np.uint32(0))
        return [lambda: write(machine, units, result)]

    return Decoded(run)
