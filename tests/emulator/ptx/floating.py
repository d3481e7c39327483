"""Floating-point arithmetic, comparisons and approximations (PTX ISA, "Floating Point Instructions" and its relatives).

A sum or a product without a rounding mode is refused: ptxas may fuse the two, so that its bits are nobody's promise.
Compile with ``enable_fp_fusion=False``.
"""

import numpy as np

from .. import floats
from ..floats import flush, from_bfloat16_bits, odd_sum, rounded
from .integer import COMPARISONS, combined
from .isa import arithmetic
from .operands import bits

MODE = r"\.(?P<mode>rn|rz|rm|rp)"
FTZ = r"(?P<ftz>\.ftz|)"
SAT = r"(?P<sat>\.sat|)"
HALF = r"(?P<type>f16|bf16)"

# the largest relative errors that the PTX ISA states
_RELATIVE = {"rcp": 2.0**-23, "sqrt": 2.0**-23, "rsqrt": 2.0**-22.9, "ex2": 2.0**-22, "lg2": 2.0**-22}
_RELATIVE |= {"sin": 2.0**-20.5, "cos": 2.0**-20.5, "tanh": 2.0**-11}


def _finished(result, ftz, sat):
    if sat:
        result = np.where(np.isnan(result), np.zeros((), result.dtype), np.clip(result, 0, 1))
    return flush(result) if ftz else result


def _exact(name, mode, *x):
    """A result of float64 operands, exact or rounded to odd, but for a zero, which has the sign of the mode."""
    if name == "mul":
        return x[0] * x[1]
    one, other = (x[0] * x[1], x[2]) if name == "fma" else (x[0], x[1] if name == "add" else -x[1])
    total = odd_sum(one, other)
    if mode == "rm":
        # what cancels is -0 when rounding down
        total = np.where((total == 0) & (np.signbit(one) | np.signbit(other)), -0.0, total)
    return total


def _single(name, mode, *x):
    """A result of float32 operands, rounded once."""
    if mode == "rn" and name != "fma":
        return {"add": np.add, "sub": np.subtract, "mul": np.multiply}[name](*x)
    exact = _exact(name, mode, *(value.astype(np.float64) for value in np.broadcast_arrays(*x)))
    return exact.astype(np.float32) if mode == "rn" else rounded(exact, "f32", mode).astype(np.float32)


@arithmetic.define(rf"(?P<name>add|sub|mul){MODE}{FTZ}{SAT}\.(?P<type>f32)")
def single(a, b, *, name, mode, ftz, sat):
    a, b = (flush(a), flush(b)) if ftz else (a, b)
    return _finished(_single(name, mode, a, b), ftz, sat)


@arithmetic.define(rf"(?P<name>fma){MODE}{FTZ}{SAT}\.(?P<type>f32)")
def single_fma(a, b, c, *, name, mode, ftz, sat):
    a, b, c = (flush(a), flush(b), flush(c)) if ftz else (a, b, c)
    return _finished(_single(name, mode, a, b, c), ftz, sat)


def _halves(x):
    return x.astype(np.uint32).view(np.float32), (x >> np.uint64(32)).astype(np.uint32).view(np.float32)


def _joined(low, high):
    return bits(low).astype(np.uint64) | bits(high).astype(np.uint64) << np.uint64(32)


@arithmetic.define(rf"(?P<name>add|sub|mul){MODE}{FTZ}\.(?P<type>f32x2)")
def pair(a, b, *, name, mode, ftz):
    halves = zip(_halves(a), _halves(b), strict=True)
    return _joined(*(single(x, y, name=name, mode=mode, ftz=ftz, sat="") for x, y in halves))


@arithmetic.define(rf"(?P<name>fma){MODE}{FTZ}\.(?P<type>f32x2)")
def pair_fma(a, b, c, *, name, mode, ftz):
    halves = zip(_halves(a), _halves(b), _halves(c), strict=True)
    return _joined(*(single_fma(x, y, z, name=name, mode=mode, ftz=ftz, sat="") for x, y, z in halves))


def _widened(x, kind):
    return from_bfloat16_bits(x) if kind == "bf16" else x.astype(np.float32)


@arithmetic.define(rf"(?P<name>add|sub){MODE}{SAT}\.f32\.{HALF}", reads="{type} f32", writes="f32")
def mixed(a, b, *, name, mode, sat, type):
    return _finished(_single(name, mode, _widened(a, type), b), "", sat)


@arithmetic.define(rf"(?P<name>fma){MODE}{SAT}\.f32\.{HALF}", reads="{type} {type} f32", writes="f32")
def mixed_fma(a, b, c, *, name, mode, sat, type):
    return _finished(_single(name, mode, _widened(a, type), _widened(b, type), c), "", sat)


@arithmetic.define(r"(?P<name>add|sub|mul)\.rn\.(?P<type>f64)")
def double(a, b, *, name):
    return {"add": np.add, "sub": np.subtract, "mul": np.multiply}[name](a, b)


@arithmetic.define(r"fma\.rn\.(?P<type>f64)")
def double_fma(a, b, c):
    return floats.fma64(*np.broadcast_arrays(a, b, c))


def _narrow(name, kind, *x):
    """A result of half-precision operands, rounded once, in the type's array."""
    exact = _exact(name, "rn", *(_widened(value, kind).astype(np.float64) for value in np.broadcast_arrays(*x)))
    if kind == "bf16":
        return floats.bfloat16_bits(exact)
    return rounded(exact, "f16").astype(np.float16)


@arithmetic.define(rf"(?P<name>add|sub|mul)\.rn\.{HALF}")
def half(a, b, *, name, type):
    return _narrow(name, type, a, b)


@arithmetic.define(rf"(?P<name>fma)\.rn\.{HALF}")
def half_fma(a, b, c, *, name, type):
    return _narrow(name, type, a, b, c)


@arithmetic.define(r"(?P<name>add|sub|mul)\.rn\.(?P<type>(?P<kind>f16|bf16)x2)")
def half_pair(a, b, *, name, kind):
    return _packed(name, kind, a, b)


@arithmetic.define(r"(?P<name>fma)\.rn\.(?P<type>(?P<kind>f16|bf16)x2)")
def half_pair_fma(a, b, c, *, name, kind):
    return _packed(name, kind, a, b, c)


def _packed(name, kind, *x):
    result = np.uint32(0)
    for shift in (np.uint32(0), np.uint32(16)):
        parts = [(value >> shift).astype(np.uint16) for value in x]
        parts = parts if kind == "bf16" else [part.view(np.float16) for part in parts]
        result = result | bits(_narrow(name, kind, *parts)).astype(np.uint32) << shift
    return result


@arithmetic.define(rf"(?P<name>neg|abs){FTZ}\.(?P<type>f32)", r"(?P<name>neg|abs)\.(?P<type>f64|f16)")
def sign(a, *, name, ftz=""):
    result = -a if name == "neg" else np.abs(a)
    return flush(result) if ftz else result


@arithmetic.define(r"(?P<name>neg|abs)\.(?P<type>bf16)")
def bfloat16_sign(a, *, name):
    return a ^ np.uint16(0x8000) if name == "neg" else a & np.uint16(0x7FFF)


@arithmetic.define(r"copysign\.(?P<type>f32|f64)")
def copy_sign(of, magnitude):
    return np.copysign(magnitude, of)


@arithmetic.define(
    rf"(?P<name>min|max){FTZ}(?P<nan>\.NaN|)(?P<xorsign>\.xorsign\.abs|)\.(?P<type>f32)",
    r"(?P<name>min|max)\.(?P<type>f64)",
    r"(?P<name>min|max)(?P<nan>\.NaN|)\.(?P<type>f16)",
)
def extreme(a, b, *, name, ftz="", nan="", xorsign=""):
    if ftz:
        a, b = flush(a), flush(b)
    x, y = (np.abs(a), np.abs(b)) if xorsign else (a, b)
    result = (floats.minimum if name == "min" else floats.maximum)(x, y)
    if xorsign:
        result = np.where(np.signbit(a) ^ np.signbit(b), -result, result)
    return np.where(np.isnan(a) | np.isnan(b), np.full((), np.nan, a.dtype), result) if nan else result


@arithmetic.define(r"div\.rn(?P<ftz>\.ftz|)\.(?P<type>f32)", r"div\.rn\.(?P<type>f64)")
def divide(a, b, *, ftz=""):
    return flush(flush(a) / flush(b)) if ftz else a / b


@arithmetic.define(rf"div\.(?:full|approx){FTZ}\.(?P<type>f32)")
def divide_approximately(a, b, *, ftz, machine):
    a, b = (flush(a), flush(b)) if ftz else (a, b)
    # two units in the last place
    result = machine.approximation.off(a.astype(np.longdouble) / b.astype(np.longdouble), 2.0**-22, a.dtype)
    return flush(result) if ftz else result


@arithmetic.define(rf"(?P<name>sqrt|rcp)\.rn{FTZ}\.(?P<type>f32)", r"(?P<name>sqrt|rcp)\.rn\.(?P<type>f64)")
def root_or_reciprocal(a, *, name, ftz=""):
    a = flush(a) if ftz else a
    result = np.sqrt(a) if name == "sqrt" else np.ones((), a.dtype) / a
    return flush(result) if ftz else result


@arithmetic.define(rf"(?P<name>sqrt|rcp|rsqrt|ex2|lg2|sin|cos|tanh)\.approx{FTZ}\.(?P<type>f32)")
def approximately(a, *, name, ftz, machine):
    result = machine.approximation(name, flush(a) if ftz else a, _RELATIVE[name])
    return flush(result) if ftz else result


@arithmetic.define(r"(?P<name>rcp|rsqrt)\.approx\.ftz\.(?P<type>f64)")
def gross_approximation(a, *, name, machine):
    # works on the upper halves alone: 20 bits of the fraction, subnormal numbers being 0
    upper = (a.view(np.uint64) & np.uint64(0xFFFFFFFF00000000)).view(np.float64)
    upper = np.where(np.abs(upper) < 2.0**-1022, np.copysign(0.0, upper), upper)
    result = machine.approximation(name, upper, 2.0**-21)
    return (result.view(np.uint64) & np.uint64(0xFFFFFFFF00000000)).view(np.float64)


_COMPARE = r"(?P<compare>eq|ne|lt|le|gt|ge|equ|neu|ltu|leu|gtu|geu|num|nan)"
_FLOAT = r"(?P<type>f16|f32|f64|bf16)"


@arithmetic.define(
    rf"setp\.{_COMPARE}{FTZ}\.(?P<type>f32)", rf"setp\.{_COMPARE}\.(?P<type>f16|f64|bf16)", writes="pred"
)
def compare(a, b, *, compare, type, ftz=""):
    return _compared(a, b, compare, type, ftz)


@arithmetic.define(
    rf"setp\.{_COMPARE}\.(?P<combine>and|or|xor){FTZ}\.{_FLOAT}", reads="{type} {type} pred", writes="pred"
)
def compare_and_combine(a, b, predicate, *, compare, combine, type, ftz):
    return combined(_compared(a, b, compare, type, ftz), predicate, combine)


def _compared(a, b, compare, kind, ftz):
    if kind == "bf16":
        a, b = from_bfloat16_bits(a), from_bfloat16_bits(b)
    if ftz:
        a, b = flush(a), flush(b)
    unordered = np.isnan(a) | np.isnan(b)
    if compare in ("num", "nan"):
        return unordered if compare == "nan" else ~unordered
    result = COMPARISONS[compare[:2]](a, b)
    return result | unordered if compare.endswith("u") else result & ~unordered
