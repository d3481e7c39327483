"""What the functions over images ask of their arguments, in one place."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def floats(**arrays: Any) -> tuple[FloatArray, ...]:
    """Floating arrays as float64; integers are refused, since an 8-bit image is not in [-1, 1]."""
    return tuple(_floating(name, array) for name, array in arrays.items())


def same_shape(**arrays: Any) -> tuple[FloatArray, ...]:
    """Arrays of one shape as float64: noise that would broadcast, and so repeat, is refused."""
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
    """Refuses an option that has no meaning, a misspelt one above all."""
    if name not in allowed:
        raise ValueError(f"{what} must be one of {', '.join(allowed)}, got {name!r}")


def given_variance(variance: ArrayLike, x_t: FloatArray) -> FloatArray:
    """A variance handed in, shaped to multiply ``x_t``; negative ones and NaN are refused."""
    given = np.asarray(variance, np.float64)
    if not np.all(given >= 0):
        raise ValueError(f"variance must be at least 0, got {given.min()}")
    if given.shape == x_t.shape[:1] and x_t.ndim > 1:
        return given.reshape((-1,) + (1,) * (x_t.ndim - 1))
    if given.shape not in ((), x_t.shape):
        raise ValueError(f"variance must be a scalar, (B,) or of x_t's shape {x_t.shape}, got {given.shape}")
    return given


def numbers_from(given: ArrayLike, count: int) -> NDArray[np.int64]:
    """The numbers of ``count`` samples, given all of them or the first."""
    numbers = np.asarray(given)
    if not np.issubdtype(numbers.dtype, np.integer):
        raise TypeError(f"numbers must be an int or an array of ints, got {numbers.dtype}")
    if numbers.ndim == 0:
        return numbers + np.arange(count)
    if numbers.shape != (count,):
        raise ValueError(f"numbers must be one number or {count} of them, got shape {numbers.shape}")
    return numbers.astype(np.int64)


def _floating(name: str, array: Any) -> FloatArray:
    checked = np.asarray(array)
    if not np.issubdtype(checked.dtype, np.floating):
        raise TypeError(f"{name} must be floating, got {checked.dtype}; scale images to [-1, 1] first")
    return checked.astype(np.float64)
