"""What the functions of the reference ask of their arguments, checked in one place."""

import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def as_int(name: str, value: Any, expected: str = "an int") -> int:
    """``value``, an integer of any library, as a Python int; bools are refused.

    NumPy's integers have a fixed width, and arithmetic with them wraps around: ``np.uint8(8) << 28`` is 0, and
    ``2 * np.uint16(40000)`` is 14464. Every count, size and part of an address passes through here first.
    """
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be {expected}, got {value!r}") from None


def integer(name: str, value: Any, low: int, end: int | None = None) -> int:
    """``as_int`` in low .. end - 1."""
    number = as_int(name, value)
    if end is None and number < low:
        raise ValueError(f"{name} must be at least {low}, got {value}")
    if end is not None and not low <= number < end:
        raise ValueError(f"{name} must lie in [{low}, {end}), got {value}")
    return number


def integer_row(name: str, values: ArrayLike, end: int) -> NDArray[np.uint64]:
    """One integer, or a row of them, in 0 .. end - 1, as a row; ``end`` is at most 2^64."""
    numbers = np.asarray(values)
    if numbers.dtype.kind not in "iu":
        # beyond 64 bits, or of both kinds of 64, Python's integers make an array of objects or floats
        numbers = np.asarray(values, object)
        if not all(type(number) is int for number in numbers.flat):
            raise TypeError(f"{name} must be an integer or a row of integers in [0, {end}), got {values!r}")
    if numbers.ndim > 1:
        raise ValueError(f"{name} must be an integer or a row of integers in [0, {end}), got {values!r}")
    if numbers.size and not (numbers.min() >= 0 and numbers.max() < end):
        raise ValueError(f"{name} must lie in [0, {end}), got {values!r}")
    return np.atleast_1d(numbers.astype(np.uint64))


def numbers_from(given: ArrayLike, count: int) -> NDArray[np.uint64]:
    """The numbers of ``count`` samples, given all of them or the first."""
    count = integer("the batch size", count, 0)
    if np.ndim(given) == 0:
        first = integer("numbers", given, 0, (1 << 64) - count + 1)
        return np.uint64(first) + np.arange(count, dtype=np.uint64)
    numbers = integer_row("numbers", given, 1 << 64)
    if numbers.shape != (count,):
        raise ValueError(f"numbers must be one number or {count} of them, got shape {numbers.shape}")
    return numbers


def floats(**arrays: Any) -> tuple[FloatArray, ...]:
    """Floating arrays as float64; integers are refused, since an 8-bit image is not in [-1, 1]."""
    return tuple(_floating(name, array) for name, array in arrays.items())


def same_shape(**arrays: Any) -> tuple[FloatArray, ...]:
    """Arrays of one shape as float64; noise that would broadcast, and so repeat itself, is refused."""
    checked = floats(**arrays)
    if len({array.shape for array in checked}) > 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in zip(arrays, checked, strict=True))
        raise ValueError(f"shapes must be equal, got {shapes}")
    return checked


def steps(t: ArrayLike, T: int, *, first: int = 1) -> NDArray[np.int64]:
    """``t`` as int64, checked to lie in first..T."""
    checked = np.asarray(t)
    if not np.issubdtype(checked.dtype, np.integer):
        raise TypeError(f"t must be an int or an array of ints, got {checked.dtype}")
    if checked.ndim > 1:
        raise ValueError(f"t must be one number or shape (B,), got shape {checked.shape}")
    if checked.size and not (first <= checked.min() and checked.max() <= T):
        raise ValueError(f"t must be in {first}..{T}, got {t!r}")
    return checked.astype(np.int64)


def rows(t: NDArray[np.int64], x: NDArray[Any]) -> tuple[int, ...]:
    """The shape that lets a table's rows at ``t``, one number or (B,), multiply ``x`` of shape (B, ...)."""
    if t.ndim == 0:
        return ()
    if x.ndim == 0 or len(x) != len(t):
        raise ValueError(f"t has shape {t.shape}: it needs x of shape ({len(t)}, ...), got {x.shape}")
    return (len(t),) + (1,) * (x.ndim - 1)


def per_sample(table: FloatArray, t: ArrayLike, x: FloatArray, *, first: int = 1) -> FloatArray:
    """``table[t]`` shaped to multiply ``x``: a scalar for one t, (B, 1, ...) for a t of each sample."""
    checked = steps(t, len(table) - 1, first=first)
    return table[checked].reshape(rows(checked, x))


def require_name(what: str, name: object, allowed: tuple[str, ...]) -> None:
    """Refuses an option that does not exist, and lists those that do."""
    if name not in allowed:
        raise ValueError(f"{what} must be one of {', '.join(allowed)}, got {name!r}")


def require_eta(eta: float) -> None:
    """Refuses an eta that is not in [0, 1]."""
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be in [0, 1], got {eta}")


def given_variance(variance: ArrayLike, x_t: FloatArray) -> FloatArray:
    """A variance given as numbers, shaped to multiply ``x_t``; negative ones and NaN are refused."""
    given = np.asarray(variance, np.float64)
    if not np.all(given >= 0):
        raise ValueError(f"variance must be at least 0, got {given.min()}")
    if given.shape == x_t.shape[:1] and x_t.ndim > 1:
        return given.reshape((-1,) + (1,) * (x_t.ndim - 1))
    if given.shape not in ((), x_t.shape):
        raise ValueError(f"variance must be a scalar, (B,) or of x_t's shape {x_t.shape}, got {given.shape}")
    return given


def given_scale(scale: ArrayLike, x: FloatArray) -> FloatArray:
    """A scale of guidance, one number or (B,), shaped to multiply ``x``."""
    given = np.asarray(scale, np.float64)
    if given.ndim and given.shape != x.shape[:1]:
        raise ValueError(f"scale must be one number or {x.shape[:1]} of them, got shape {given.shape}")
    return given.reshape(given.shape + (1,) * (x.ndim - 1)) if given.ndim else given


def _floating(name: str, array: Any) -> FloatArray:
    checked = np.asarray(array)
    if not np.issubdtype(checked.dtype, np.floating):
        raise TypeError(f"{name} must be floating, got {checked.dtype}; scale images to [-1, 1] first")
    return checked.astype(np.float64)
