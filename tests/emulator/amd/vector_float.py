"""Floating-point operations in the lanes of a wave (AMD's ISA documents, "VOP1", "VOP2", "VOP3", "VOP3P")."""

import numpy as np

from .. import floats
from ..floats import fma32, fma64, rounded
from ..machine import UnknownInstruction
from .isa import vector

# what the ISA documents state for float64, 2^29 units in the last place; it is one unit for float32
_RELATIVE = 2.0**-23


def _fma(a, b, c):
    a, b, c = np.broadcast_arrays(a, b, c)
    if a.dtype == np.float32:
        return fma32(a, b, c)
    if a.dtype == np.float64:
        return fma64(*(np.ascontiguousarray(x).reshape(-1) for x in (a, b, c))).reshape(a.shape)
    exact = floats.odd_sum(a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64))
    return rounded(exact, "f16").astype(np.float16)


@vector.define(r"v_(?P<name>add|sub|subrev|mul)_(?P<type>f16|f32|f64)")
def arithmetic(a, b, *, name):
    return {"add": a + b, "sub": a - b, "subrev": b - a, "mul": a * b}[name]


@vector.define(r"v_(?P<name>min|max)(?:_num)?_(?P<type>f16|f32|f64)")
def extreme(a, b, *, name):
    return (floats.minimum if name == "min" else floats.maximum)(a, b)


@vector.define(r"v_(?P<name>min3|max3|med3)_(?P<type>f32)")
def extreme_of_three(a, b, c, *, name):
    low, high = floats.minimum(a, b), floats.maximum(a, b)
    least = floats.minimum(low, c)
    if name == "max3":
        return floats.maximum(high, c)
    if name == "min3":
        return least
    median = floats.maximum(low, floats.minimum(high, c))
    return np.where(np.isnan(a) | np.isnan(b) | np.isnan(c), least, median)


@vector.define(r"v_fma_(?P<type>f16|f32|f64)", r"v_fmaak_(?P<type>f32)", r"v_fmamk_(?P<type>f32)")
def fma(a, b, c):
    # fmaak and fmamk differ in which source is a literal; the text has them in this order
    return _fma(a, b, c)


@vector.define(r"v_fmac_(?P<type>f16|f32|f64)", reads="{type} {type} ={type}")
def fmac(a, b, c):
    return _fma(a, b, c)


def _digits(modifiers, name, default, count):
    text = modifiers.get(name)
    digits = [default] * count if text is None else [int(digit) for digit in text.strip("[]").split(",")]
    if len(digits) != count:
        raise UnknownInstruction(f"{name}:{text} for {count} sources")
    return digits


def _packed(function, sources, modifiers):
    """The two float32 results of a packed instruction: which half of a source each takes, and with which sign."""
    halves = []
    for select, negate, default in (("op_sel", "neg_lo", 0), ("op_sel_hi", "neg_hi", 1)):
        chosen = _digits(modifiers, select, default, len(sources))
        signs = _digits(modifiers, negate, 0, len(sources))
        values = []
        for source, half, sign in zip(sources, chosen, signs, strict=True):
            value = (source >> np.uint64(32 * half)).astype(np.uint32).view(np.float32)
            values.append(-value if sign else value)
        halves.append(np.ascontiguousarray(function(*values)).view(np.uint32).astype(np.uint64))
    return halves[0] | halves[1] << np.uint64(32)


_PACKED = "op_sel op_sel_hi neg_lo neg_hi"


@vector.define(r"v_pk_(?P<name>add|mul)_f32", reads="f32x2 f32x2", writes="b64", modifiers=_PACKED)
def packed_arithmetic(a, b, *, name, modifiers):
    return _packed(np.add if name == "add" else np.multiply, (a, b), modifiers)


@vector.define(r"v_pk_fma_f32", reads="f32x2 f32x2 f32x2", writes="b64", modifiers=_PACKED)
def packed_fma(a, b, c, *, modifiers):
    return _packed(_fma, (a, b, c), modifiers)


@vector.define(r"v_(?P<name>rndne|floor|ceil|trunc|fract)_(?P<type>f32|f64)")
def to_whole(a, *, name):
    if name == "fract":
        # below 1, however the difference rounds
        return np.minimum(a - np.floor(a), np.nextafter(a.dtype.type(1), a.dtype.type(0)))
    return {"rndne": np.rint, "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc}[name](a)


@vector.define(r"v_(?P<name>rcp|rsq|sqrt|exp|log)_(?P<type>f32)", r"v_(?P<name>rcp|rsq|sqrt)_(?P<type>f64)")
def approximately(a, *, name, machine):
    function = {"rsq": "rsqrt", "exp": "ex2", "log": "lg2"}.get(name, name)
    if a.dtype == np.float64:
        return machine.approximation(function, a, _RELATIVE)
    return machine.approximation.faithful(function, a)


@vector.define(r"v_rcp_iflag_(?P<type>f32)")
def reciprocal_with_flags(a, *, machine):
    return machine.approximation.faithful("rcp", a)


@vector.define(r"v_ldexp_(?P<type>f32|f64)", reads="{type} i32")
def scale(a, exponent):
    return np.ldexp(a, exponent)


@vector.define(r"v_frexp_mant_(?P<type>f32|f64)")
def mantissa(a):
    return np.frexp(a)[0]


@vector.define(r"v_frexp_exp_i32_(?P<type>f32|f64)", writes="i32")
def exponent(a):
    return np.where(np.isfinite(a), np.frexp(a)[1], 0).astype(np.int32)


@vector.define(r"v_cvt_(?P<to>f32|f64)_(?P<type>u32|i32)", writes="{to}")
def from_integer(a, *, to):
    return a.astype({"f32": np.float32, "f64": np.float64}[to])


@vector.define(r"v_cvt_f32_ubyte(?P<byte>[0-3])", reads="u32", writes="f32")
def from_byte(a, *, byte):
    return (a >> np.uint32(8 * int(byte)) & np.uint32(255)).astype(np.float32)


@vector.define(r"v_cvt_(?P<to>u32|i32)_(?P<type>f32|f64)", writes="{to}")
def to_integer(a, *, to):
    return floats.to_integer(a.astype(np.float64), "rzi", {"u32": np.uint32, "i32": np.int32}[to])


@vector.define(r"v_cvt_(?P<to>f64|f16)_(?P<type>f32)", r"v_cvt_(?P<to>f32)_(?P<type>f64|f16)", writes="{to}")
def between_floats(a, *, to):
    return a.astype({"f16": np.float16, "f32": np.float32, "f64": np.float64}[to])


@vector.define(r"v_div_fixup_(?P<type>f32|f64)")
def division_fixed(quotient, denominator, numerator):
    """A quotient with the results that the steps before cannot give: NaN, infinity, zero, and the sign."""
    negative = np.signbit(denominator) ^ np.signbit(numerator)
    dtype = quotient.dtype
    smallest = {4: -150, 8: -1075}[dtype.itemsize]
    undefined = (
        np.isnan(numerator)
        | np.isnan(denominator)
        | (denominator == 0) & (numerator == 0)
        | np.isinf(denominator) & np.isinf(numerator)
    )
    infinite = (denominator == 0) | np.isinf(numerator)
    zero = np.isinf(denominator) | (numerator == 0)
    zero |= np.frexp(numerator)[1] - np.frexp(denominator)[1] < smallest
    # the steps before make a NaN of what has overflown on the way
    infinite |= np.isnan(quotient) & ~zero
    size = np.where(infinite, dtype.type(np.inf), np.where(zero, dtype.type(0), np.abs(quotient)))
    return np.where(undefined, dtype.type(np.nan), np.where(negative, -size, size))
