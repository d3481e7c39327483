"""Floating-point arithmetic as IEEE 754 defines it, rounded once, where NumPy has none or rounds twice."""

from fractions import Fraction

import numpy as np

# format: bits of precision, exponent of the smallest normal number, largest finite number
FORMATS = {
    "f16": (11, -14, 65504.0),
    "bf16": (8, -126, float.fromhex("0x1.fep127")),
    "f32": (24, -126, float.fromhex("0x1.fffffep127")),
}
_ROUND = {"rn": np.rint, "rz": np.trunc, "rm": np.floor, "rp": np.ceil}
_SMALLEST_NORMAL = np.float32(2.0**-126)


def flush(x: np.ndarray) -> np.ndarray:
    """float32 with subnormal numbers replaced by zeros of the same sign (PTX: ``.ftz``)."""
    return np.where(np.abs(x) < _SMALLEST_NORMAL, np.copysign(np.float32(0), x), x)


def rounded(x: np.ndarray, kind: str, mode: str = "rn") -> np.ndarray:
    """float64 rounded to the numbers of a narrower format; the result is float64 still.

    Parameters
    ----------
    x : ndarray of float64
        Exact, or rounded to odd: then the result is that of the exact number.
    kind : {"f16", "bf16", "f32"}
    mode : {"rn", "rz", "rm", "rp"}
        To nearest even, towards zero, down, up.

    Returns
    -------
    ndarray of float64
    """
    precision, smallest, largest = FORMATS[kind]
    exponent = np.maximum(np.frexp(x)[1] - 1, smallest)
    # the scaling by powers of two is exact
    result = np.ldexp(_ROUND[mode](np.ldexp(x, precision - 1 - exponent)), exponent - (precision - 1))
    beyond = np.abs(result) > largest
    # towards a finite bound stops there, to nearest and away goes to infinity
    stops = {"rn": False, "rz": True, "rm": result > 0, "rp": result < 0}[mode]
    result = np.where(beyond, np.where(stops, np.copysign(largest, x), np.copysign(np.inf, x)), result)
    return np.where(np.isfinite(x), np.copysign(result, x), x)


def bfloat16_bits(x: np.ndarray, mode: str = "rn") -> np.ndarray:
    """float32 or float64 as bfloat16, its bits in uint16; every NaN is 0x7FFF, as PTX has it."""
    narrow = rounded(x.astype(np.float64), "bf16", mode).astype(np.float32)
    bits = (np.ascontiguousarray(narrow).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FFF), bits)


def from_bfloat16_bits(bits: np.ndarray) -> np.ndarray:
    """bfloat16 bits in uint16 as float32, exact."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def odd_sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a + b of float64, rounded to odd: rounding the result to a narrower format rounds the sum once.

    Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", IEEE Transactions on Computers, 2008.
    """
    total, lost = two_sum(a, b)
    bits = np.ascontiguousarray(total).view(np.int64)
    to_odd = np.isfinite(total) & np.isfinite(lost) & (lost != 0) & (bits & 1 == 0)
    away = np.where((lost > 0) == (total > 0), 1, -1)
    return np.where(to_odd, bits + away, bits).view(np.float64)


def two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rounded sum and what it has lost, both exact (Knuth)."""
    total = a + b
    back = total - a
    return total, (a - (total - back)) + (b - back)


def fma32(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a b + c of float32, rounded once to nearest even."""
    # a product of float32 is exact in float64
    return odd_sum(a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)).astype(np.float32)


def fma64(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a b + c of float64, rounded once to nearest even (Boldo and Melquiond 2008, figure 2)."""
    product, low = _two_product(a, b)
    carried, rest = two_sum(c, low)
    high, left = two_sum(product, carried)
    result = high + odd_sum(left, rest)
    # nothing is lost where a factor is 0 or anything infinite, but the sign of a zero would be
    finite = np.isfinite(a) & np.isfinite(b)
    plain = (a == 0) | (b == 0) | ~finite | ~np.isfinite(c)
    result = np.where(plain, np.where(finite & np.isinf(c), c, product + c), result)
    # where no part of this over- or underflows; the others are few
    size = np.abs(product)
    factors = np.maximum(np.abs(a), np.abs(b))
    easy = (size > 2.0**-900) & (np.maximum(size, np.abs(c)) < 2.0**1000) & (factors < 2.0**990)
    for i in np.flatnonzero(~(plain | easy)):
        result[i] = _fma64(float(a[i]), float(b[i]), float(c[i]))
    return result


def _fma64(a: float, b: float, c: float) -> float:
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    try:
        return exact.numerator / exact.denominator
    except OverflowError:
        return np.inf if exact > 0 else -np.inf


def _two_product(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rounded product and what it has lost, both exact (Dekker, Veltkamp)."""
    product = a * b
    (a_high, a_low), (b_high, b_low) = _split(a), _split(b)
    return product, a_low * b_low - (((product - a_high * b_high) - a_low * b_high) - a_high * b_low)


def _split(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scaled = x * 134217729.0
    high = scaled - (scaled - x)
    return high, x - high


def minimum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The lesser of two numbers, -0 below +0; a NaN only where both are (IEEE 754-2008 minNum)."""
    result = np.fmin(a, b)
    return np.where((a == b) & np.signbit(a), a, np.where(a == b, b, result))


def maximum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The greater of two numbers, +0 above -0; a NaN only where both are (IEEE 754-2008 maxNum)."""
    return -minimum(-a, -b)


def to_integer(x: np.ndarray, mode: str, dtype: type[np.integer]) -> np.ndarray:
    """float64 rounded to an integer, at the ends of the range where it lies beyond, 0 where it is a NaN.

    Parameters
    ----------
    x : ndarray of float64
    mode : {"rni", "rzi", "rmi", "rpi"}
    dtype : type
        Of the result.

    Returns
    -------
    ndarray
    """
    info = np.iinfo(dtype)
    whole = _ROUND[mode[:2]](x)
    # float(max) may be one more than max: what reaches it is at the end as well
    high, low = whole >= float(info.max), whole <= float(info.min)
    inside = np.where(high | low | np.isnan(x), 0.0, whole).astype(dtype)
    return np.where(high, dtype(info.max), np.where(low, dtype(info.min), inside))
