"""What the functions of the reference ask of their arguments, checked in one place."""

import operator
from collections.abc import Iterable
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

# a timestep is the step of an address, which has 28 bits; a sample has elements 0 .. 2^34 - 1
MOST_STEPS = (1 << 28) - 1
MOST_ELEMENTS = 1 << 34
# far above what fits into memory, and far below what a product of sizes in 64 bits can hold
MOST_ROWS = 1 << 31
MOST_LEVELS = 1 << 32


def as_int(name: str, value: Any, expected: str = "an int") -> int:
    """``value``, an integer of any library, as a Python int; bools are refused, also those in arrays of no axis.

    NumPy's integers have a fixed width, and arithmetic with them wraps around: ``np.uint8(8) << 28`` is 0, and
    ``2 * np.uint16(40000)`` is 14464. Every count, size and part of an address passes through here first.
    """
    try:
        # PyTorch's True is the index 1
        if isinstance(value, bool) or "bool" in str(getattr(value, "dtype", "")):
            raise TypeError
        return operator.index(value)
    except (TypeError, RuntimeError):
        raise TypeError(f"{name} must be {expected}, got {value!r}") from None


def integer(name: str, value: Any, low: int, end: int | None = None) -> int:
    """``as_int`` in low .. end - 1."""
    number = as_int(name, value)
    if end is None and number < low:
        raise ValueError(f"{name} must be at least {low}, got {value}")
    if end is not None and not low <= number < end:
        raise ValueError(f"{name} must lie in [{low}, {end}), got {value}")
    return number


def real(name: str, value: Any) -> float:
    """``value``, a real number of any library but no bool, as a Python float; NaN is in no range, and the caller's."""
    try:
        if isinstance(value, bool | str | bytes) or "bool" in str(getattr(value, "dtype", "")) or np.ndim(value):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None
    except OverflowError:
        raise ValueError(f"{name} must be a number of float64, got an integer beyond it") from None
    return number


def switch(name: str, value: Any) -> bool:
    """``value``, True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def factor(name: str, value: Any) -> float:
    """``value``, a finite real number."""
    if not np.isfinite(number := real(name, value)):
        raise ValueError(f"{name} must be finite, got {value}")
    return number


def step_count(T: int) -> int:
    """T, the number of steps of a chain."""
    return integer("T", T, 1, MOST_STEPS + 1)


def level_count(levels: int) -> int:
    """The number of levels that a pixel may have."""
    return integer("levels", levels, 2, MOST_LEVELS + 1)


def sizes(shape: Iterable[int]) -> tuple[int, ...]:
    """The shape of one sample, as Python's integers: in a small type of NumPy their product would wrap around."""
    try:
        parts = tuple(shape)
    except (TypeError, RuntimeError):
        raise TypeError(f"shape must be a sequence of ints, got {shape!r}") from None
    checked = tuple(integer("a size of shape", size, 0, MOST_ELEMENTS + 1) for size in parts)
    if prod(checked) > MOST_ELEMENTS:
        raise ValueError(f"shape must have at most {MOST_ELEMENTS} elements a sample, got {checked}")
    return checked


def array(name: str, values: Any, expected: str = "an array of numbers") -> NDArray[Any]:
    """``values`` as an array of NumPy; lists of unequal length and tensors that NumPy cannot read are refused."""
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError, NotImplementedError):
        raise TypeError(f"{name} must be {expected}, got {type(values).__name__} that NumPy cannot read") from None


def real_array(name: str, values: Any) -> FloatArray:
    """``values``, real numbers of any type, as float64; a range is for the caller to check, and NaN is in none."""
    given = array(name, values)
    if given.dtype.kind not in "iuf":
        raise TypeError(f"{name} must be real numbers, got {given.dtype}")
    return given.astype(np.float64)


def clip_range(clip: tuple[float, float]) -> tuple[float, float]:
    """``clip`` as (low, high) with low < high."""
    try:
        low, high = clip
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"clip must be (low, high), got {clip!r}") from None
    low, high = real("the low end of clip", low), real("the high end of clip", high)
    if not low < high:
        raise ValueError(f"clip must be (low, high) with low < high, got {clip}")
    return low, high


def batch_shape(shape: Iterable[int]) -> tuple[int, ...]:
    """The shape (B, ...) of a whole batch."""
    try:
        parts = tuple(shape)
    except (TypeError, RuntimeError):
        parts = ()
    if not parts:
        raise TypeError(f"shape must be a sequence of ints (B, ...), got {shape!r}")
    return integer("the batch size", parts[0], 0, MOST_ROWS), *sizes(parts[1:])


def integer_row(name: str, values: ArrayLike, end: int) -> NDArray[np.uint64]:
    """One integer, or a row of them, in 0 .. end - 1, as a row; ``end`` is at most 2^64."""
    numbers = array(name, values)
    if numbers.dtype.kind not in "iu":
        # beyond 64 bits, or of both kinds of 64, integers make an array of objects or floats
        numbers = np.asarray(values, object)
        expected = f"an integer or a row of integers in [0, {end})"
        numbers = np.array([as_int(name, number, expected) for number in numbers.flat], object).reshape(numbers.shape)
    if numbers.ndim > 1:
        raise ValueError(f"{name} must be an integer or a row of integers in [0, {end}), got {values!r}")
    if numbers.size and not (numbers.min() >= 0 and numbers.max() < end):
        raise ValueError(f"{name} must lie in [0, {end}), got {values!r}")
    return np.atleast_1d(numbers.astype(np.uint64))


def numbers_from(given: ArrayLike, count: int) -> NDArray[np.uint64]:
    """The numbers of ``count`` samples, given all of them or the first."""
    count = integer("the batch size", count, 0, MOST_ROWS)
    if np.ndim(given) == 0:
        first = integer("numbers", given, 0, (1 << 64) - count + 1)
        return np.uint64(first) + np.arange(count, dtype=np.uint64)
    numbers = integer_row("numbers", given, 1 << 64)
    if numbers.shape != (count,):
        raise ValueError(f"numbers must be one number or {count} of them, got shape {numbers.shape}")
    return numbers


def floats(**arrays: Any) -> tuple[FloatArray, ...]:
    """Finite floating arrays as float64; integers are refused, since an 8-bit image is not in [-1, 1]."""
    return tuple(_floating(name, values) for name, values in arrays.items())


def samples(name: str, values: Any) -> FloatArray:
    """A batch, floating, of shape (B, ...)."""
    (batch,) = floats(**{name: values})
    if batch.ndim == 0:
        raise ValueError(f"{name} must have shape (B, ...), got shape ()")
    return batch


def broadcast(**arrays: Any) -> tuple[FloatArray, ...]:
    """Floating arrays, of shapes that broadcast, as float64."""
    checked = floats(**arrays)
    try:
        np.broadcast_shapes(*(array.shape for array in checked))
    except ValueError:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in zip(arrays, checked, strict=True))
        raise ValueError(f"shapes must broadcast, got {shapes}") from None
    return checked


def same_shape(**arrays: Any) -> tuple[FloatArray, ...]:
    """Arrays of one shape as float64; noise that would broadcast, and so repeat itself, is refused."""
    checked = floats(**arrays)
    if len({array.shape for array in checked}) > 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in zip(arrays, checked, strict=True))
        raise ValueError(f"shapes must be equal, got {shapes}")
    return checked


def steps(t: ArrayLike, T: int, *, first: int = 1) -> NDArray[np.int64]:
    """``t`` as int64, checked to lie in first..T."""
    checked = array("t", t, "an int or an array of ints")
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
    if not isinstance(name, str) or name not in allowed:
        raise ValueError(f"{what} must be one of {', '.join(allowed)}, got {name!r}")


def require_eta(eta: float) -> float:
    """Refuses an eta that is not in [0, 1]."""
    if not 0 <= real("eta", eta) <= 1:
        raise ValueError(f"eta must be in [0, 1], got {eta}")
    return float(eta)


def given_variance(variance: ArrayLike, x_t: FloatArray) -> FloatArray:
    """A variance given as numbers, shaped to multiply ``x_t``; negative ones and NaN are refused."""
    given = real_array("variance", variance)
    if not np.all(given >= 0):
        raise ValueError(f"variance must be at least 0, got {given.min()}")
    if given.shape == x_t.shape[:1] and x_t.ndim > 1:
        return given.reshape((-1,) + (1,) * (x_t.ndim - 1))
    if given.shape not in ((), x_t.shape):
        raise ValueError(f"variance must be a scalar, (B,) or of x_t's shape {x_t.shape}, got {given.shape}")
    return given


def given_scale(scale: ArrayLike, x: FloatArray) -> FloatArray:
    """A scale of guidance, one number or (B,), shaped to multiply ``x``."""
    given = real_array("scale", scale)
    if given.ndim and given.shape != x.shape[:1]:
        raise ValueError(f"scale must be one number or {x.shape[:1]} of them, got shape {given.shape}")
    return given.reshape(given.shape + (1,) * (x.ndim - 1)) if given.ndim else given


def _floating(name: str, values: Any) -> FloatArray:
    checked = array(name, values, "floating")
    if not np.issubdtype(checked.dtype, np.floating):
        raise TypeError(f"{name} must be floating, got {checked.dtype}; scale images to [-1, 1] first")
    if not (finite := np.isfinite(checked)).all():
        raise ValueError(f"{name} must be finite, got {checked[~finite][0]}")
    return checked.astype(np.float64)
