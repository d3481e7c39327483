"""Conversions (PTX ISA, "cvt")."""

import numpy as np

from .. import floats
from ..floats import FORMATS, flush, from_bfloat16_bits, rounded
from .isa import arithmetic
from .operands import DTYPES

INTEGER = "[us](?:8|16|32|64)"
_MODE = r"(?P<mode>rn|rz|rm|rp)"
_WHOLE = r"(?P<mode>rni|rzi|rmi|rpi)"


def _as_double(x, kind):
    return (from_bfloat16_bits(x) if kind == "bf16" else x).astype(np.float64)


def _narrowed(x, kind, mode):
    """float64 in a type, rounded once."""
    if kind == "bf16":
        return floats.bfloat16_bits(x, mode)
    if kind in FORMATS:
        return rounded(x, kind, mode).astype(DTYPES[kind])
    return x


@arithmetic.define(rf"cvt\.(?P<to>{INTEGER})\.(?P<type>{INTEGER})", writes="{to}")
def between_integers(a, *, to):
    return a.astype(DTYPES[to])


@arithmetic.define(rf"cvt\.{_WHOLE}(?P<ftz>\.ftz|)\.(?P<to>{INTEGER})\.(?P<type>f16|f32|f64|bf16)", writes="{to}")
def to_integer(a, *, mode, ftz, to, type):
    a = flush(a) if ftz else a
    return floats.to_integer(_as_double(a, type), mode, DTYPES[to].type)


@arithmetic.define(rf"cvt\.{_MODE}\.(?P<to>f16|f32|bf16)\.(?P<type>{INTEGER})", writes="{to}")
def from_integer(a, *, mode, to):
    # float64 has room for 53 bits: for more, what is cut off is kept as one odd bit
    if a.dtype.itemsize == 8:
        magnitude = np.where(a < 0, -a, a).view(np.uint64) if a.dtype.kind == "i" else a
        low = magnitude & np.uint64(0xFFF)
        sticky = (magnitude & ~np.uint64(0xFFF)) | np.where(low != 0, np.uint64(0x800), np.uint64(0))
        large = magnitude >= np.uint64(1 << 53)
        exact = np.where(large, sticky, magnitude).astype(np.float64)
        a = np.where(a < 0, -exact, exact)
    return _narrowed(a.astype(np.float64), to, mode)


@arithmetic.define(rf"cvt\.rn\.(?P<to>f64)\.(?P<type>{INTEGER})", writes="f64")
def integer_to_double(a):
    return a.astype(np.float64)


@arithmetic.define(
    rf"cvt\.{_MODE}(?P<ftz>\.ftz|)\.(?P<to>f16|bf16)\.(?P<type>f32|f64)",
    rf"cvt\.{_MODE}(?P<ftz>\.ftz|)\.(?P<to>f32)\.(?P<type>f64)",
    writes="{to}",
)
def to_narrower(a, *, mode, ftz, to):
    if ftz and a.dtype == np.float32:
        a = flush(a)
    result = _narrowed(a.astype(np.float64), to, mode)
    return flush(result) if ftz and to == "f32" else result


@arithmetic.define(
    r"cvt(?P<ftz>\.ftz|)\.(?P<to>f32)\.(?P<type>f16|bf16)",
    r"cvt\.(?P<to>f64)\.(?P<type>f16|bf16)",
    r"cvt(?P<ftz>\.ftz|)\.(?P<to>f64)\.(?P<type>f32)",
    writes="{to}",
)
def to_wider(a, *, to, type, ftz=""):
    a = flush(a) if ftz and type == "f32" else a
    return _as_double(a, type).astype(DTYPES[to])


@arithmetic.define(
    rf"cvt\.{_WHOLE}(?P<ftz>\.ftz|)\.f32\.(?P<type>f32)", rf"cvt\.{_WHOLE}\.f64\.(?P<type>f64)", writes="{type}"
)
def to_whole(a, *, mode, ftz=""):
    a = flush(a) if ftz else a
    return {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[mode](a)


@arithmetic.define(r"cvt\.(?P<mode>rn|rz)(?P<relu>\.relu|)\.(?P<to>(?P<kind>f16|bf16)x2)\.(?P<type>f32)", writes="{to}")
def to_pair(high, low, *, mode, relu, kind):
    # NaNs pass, as fmax would not let them
    values = [np.where(x < 0, np.float32(0), x) if relu else x for x in (high, low)]
    upper, lower = (_narrowed(x.astype(np.float64), kind, mode).view(np.uint16).astype(np.uint32) for x in values)
    return upper << np.uint32(16) | lower
