"""Functions that hardware approximates: rounded correctly here, or off by what its manual allows.

What an instruction such as ``rsqrt.approx.f32`` gives is not defined to the last bit. A kernel whose results are to be
the same everywhere must not depend on it; `Approximation(seed)` shows whether one does.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

# computed in extended precision, and so correctly rounded in float32 but for a case in thousands of millions
FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rcp": lambda x: 1 / x,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "ex2": np.exp2,
    "lg2": np.log2,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
}


@dataclass
class Approximation:
    """How approximate instructions err, where the exact result is not itself a number of the type.

    Parameters
    ----------
    seed : int or None
        None for correctly rounded results, a number for errors drawn from it, as large as the manual allows.
    """

    seed: int | None = None
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def __call__(self, name: str, x: np.ndarray, relative: float) -> np.ndarray:
        """A function of float32 or float64, in the type of x.

        Parameters
        ----------
        name : str
            Of `FUNCTIONS`.
        x : ndarray
        relative : float
            The largest relative error that the manual allows before the result is rounded.

        Returns
        -------
        ndarray
        """
        return self.off(FUNCTIONS[name](x.astype(np.longdouble)), relative, x.dtype)

    def faithful(self, name: str, x: np.ndarray) -> np.ndarray:
        """A function of float32 within one unit in the last place: one of the two numbers around the exact result."""
        exact = FUNCTIONS[name](x.astype(np.longdouble))
        nearest = exact.astype(x.dtype)
        if self.seed is None:
            return nearest
        inf = x.dtype.type(np.inf)
        other = np.nextafter(nearest, np.where(exact > nearest, inf, -inf))
        return np.where((exact != nearest) & (self.rng.random(x.shape) < 0.5), other, nearest)

    def off(self, exact: np.ndarray, relative: float, dtype: np.dtype) -> np.ndarray:
        """An exact result as the instruction gives it."""
        nearest = exact.astype(dtype)
        if self.seed is None:
            return nearest
        wrong = exact * (1 + self.rng.uniform(-relative, relative, exact.shape))
        # what needs no rounding stays: NVIDIA's own exp of float64 takes ex2.approx of an integer for exact
        return np.where(nearest == exact, nearest, wrong.astype(dtype))
