"""Arithmetic in fractions, rounded once: what the emulator's is compared with."""

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np

_WHOLE: dict[str, Callable[[Fraction], int]] = {"rn": round, "rz": math.trunc, "rm": math.floor, "rp": math.ceil}
# bits of precision, exponents of the smallest normal and of the largest number
FORMATS = {"f16": (11, -14, 15), "bf16": (8, -126, 127), "f32": (24, -126, 127), "f64": (53, -1022, 1023)}
MODES = ("rn", "rz", "rm", "rp")


def rounded(x: Fraction, kind: str, mode: str = "rn") -> float:
    """A fraction other than 0 as a number of a format.

    Parameters
    ----------
    x : Fraction
    kind : {"f16", "bf16", "f32", "f64"}
    mode : {"rn", "rz", "rm", "rp"}

    Returns
    -------
    float
    """
    precision, smallest, largest = FORMATS[kind]
    magnitude, sign = abs(x), 1.0 if x > 0 else -1.0
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    exponent -= magnitude < Fraction(2) ** exponent
    unit = Fraction(2) ** (max(exponent, smallest) - precision + 1)
    steps = x / unit
    whole = _WHOLE[mode](steps)
    result = whole * unit
    if abs(result) >= Fraction(2) ** (largest + 1):
        to_infinity = {"rn": True, "rz": False, "rm": x < 0, "rp": x > 0}[mode]
        most = (2 - Fraction(2) ** (1 - precision)) * Fraction(2) ** largest
        return sign * (math.inf if to_infinity else float(most))
    return sign * float(abs(result))


def fma(a: float, b: float, c: float, kind: str, mode: str = "rn") -> float:
    """a b + c with one rounding, as IEEE 754 defines it with infinities, NaNs and signed zeros."""
    if any(map(math.isnan, (a, b, c))):
        return math.nan
    if math.isinf(a) or math.isinf(b):
        product = math.copysign(1, a) * math.copysign(math.inf, b) if a != 0 and b != 0 else math.nan
        return product + c
    if math.isinf(c):
        return c
    total = Fraction(a) * Fraction(b) + Fraction(c)
    if total:
        return rounded(total, kind, mode)
    product_sign = math.copysign(1, a) * math.copysign(1, b)
    # two zeros of one sign keep it; what cancels is +0, or -0 when rounding down
    if (a == 0 or b == 0) and c == 0 and product_sign == math.copysign(1, c):
        return math.copysign(0.0, c)
    return -0.0 if mode == "rm" else 0.0


def add(a: float, b: float, kind: str, mode: str = "rn") -> float:
    """a + b, rounded once."""
    return fma(a, 1.0, b, kind, mode)


def multiply(a: float, b: float, kind: str, mode: str = "rn") -> float:
    """a b, rounded once; a zero has the sign of the product."""
    result = fma(a, b, 0.0, kind, mode)
    return result if result or math.isnan(result) else math.copysign(0.0, math.copysign(1, a) * math.copysign(1, b))


def divide(a: float, b: float, kind: str) -> float:
    """a / b, rounded once to nearest."""
    sign = math.copysign(1, a) * math.copysign(1, b)
    if math.isnan(a) or math.isnan(b) or (a == 0 and b == 0) or (math.isinf(a) and math.isinf(b)):
        return math.nan
    if b == 0 or math.isinf(a):
        return sign * math.inf
    if a == 0 or math.isinf(b):
        return sign * 0.0
    return rounded(Fraction(a) / Fraction(b), kind)


def convert(x: float, kind: str, mode: str = "rn") -> float:
    """A number in another format."""
    return x if x == 0 or math.isinf(x) or math.isnan(x) else rounded(Fraction(x), kind, mode)


def flush(x: float) -> float:
    """x as a float32 with subnormal numbers flushed to zero."""
    return math.copysign(0.0, x) if abs(x) < 2.0**-126 else x


def elementwise(function: Callable[..., float | int | bool], *arrays: np.ndarray) -> list[float | int | bool]:
    """The function of each element, as Python's numbers."""
    return [function(*values) for values in zip(*(array.tolist() for array in arrays), strict=True)]
