"""The forward process as tables over t, made from beta_1 .. beta_T in float64.

Everything else in this package is a linear combination whose coefficients are rows of these tables. Three of them say
what happens to an image:

- sqrt(alpha_bar_t) is how much of x_0 is left in x_t, and falls from 1 to about 0;
- sqrt(1 - alpha_bar_t) is how much noise is in it. The squares of the two add up to 1, so that data of
  variance 1 keep it;
- their squared ratio, the signal-to-noise ratio, orders noise levels independently of how steps are counted: two
  schedules, or a schedule and its respaced version, are equally noisy where their SNR is equal.

The posterior's tables say how to go back. They all follow from beta, and are computed when first used.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arguments import FloatArray, array, real_array, switch
from .betas import BETA_SCHEDULES, beta_schedule, zero_terminal_snr_beta
from .grids import grid_steps, sections

__all__ = ["BETA_SCHEDULES", "Schedule", "beta_schedule"]

Scalar = TypeVar("Scalar", bound=np.generic)

# Ho et al.'s floor under the posterior variance before its logarithm is taken
LOG_VARIANCE_FLOOR = 1e-20


class Schedule:
    """The forward process q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t I) as tables over t.

    t counts as the chapter counts, 1..T. Every table has T + 1 rows, float64 and read-only; row 0 is clean data
    (beta_0 = 0, alpha_bar_0 = 1), so that ``alpha_bar[t]`` and ``alpha_bar[t - 1]`` are written as printed.

    1 - alpha_bar is never formed by subtraction, which would lose most digits at small t: log alpha_bar is a sum of
    log(1 - beta), and 1 - alpha_bar is -expm1 of it.

    A Schedule is a value: none of its attributes can be set, and two with the same betas, timesteps and options are
    equal and have the same hash.

    Parameters
    ----------
    beta : array_like, shape (T,)
        beta_1 .. beta_T, each in (0, 1). They are refused if alpha_bar underflows to 0.
    timesteps : array_like of int, shape (T,), optional
        The number of each step in the chain that the network was trained on, increasing, from 1 up; 1..T if left out.
    zero_terminal_snr : bool
        Says that beta_T is exactly 1, so that x_T holds nothing of x_0 (alpha_bar_T = 0). Every table stays finite,
        but noise prediction says nothing about x_0 at t = T: functions that would divide by alpha_bar_T refuse.
    first_log_variance : {"reuse", "clip"}
        What stands in for log 0 in ``posterior_log_variance`` at t = 1: the value at t = 2 (improved-diffusion), or
        log 1e-20 (Ho et al., who clip the whole table there). With T = 1 there is no t = 2, and both are log 1e-20.

    Examples
    --------
    >>> schedule = Schedule.from_name("linear", 1000)
    >>> float(schedule.alpha_bar[1])
    0.9999
    >>> schedule.respace(4).timesteps.tolist()
    [0, 250, 500, 750, 1000]
    """

    beta: FloatArray
    timesteps: NDArray[np.int64]
    zero_terminal_snr: bool
    first_log_variance: Literal["reuse", "clip"]

    def __init__(
        self,
        beta: ArrayLike,
        timesteps: ArrayLike | None = None,
        *,
        zero_terminal_snr: bool = False,
        first_log_variance: Literal["reuse", "clip"] = "reuse",
    ) -> None:
        zero_terminal_snr = switch("zero_terminal_snr", zero_terminal_snr)
        betas = _checked_beta(beta, zero_terminal_snr)
        if not isinstance(first_log_variance, str) or first_log_variance not in ("reuse", "clip"):
            raise ValueError(f'first_log_variance must be "reuse" or "clip", got {first_log_variance!r}')
        # __setattr__ refuses, so the attributes are written where it keeps them
        vars(self).update(
            beta=_read_only(np.concatenate([[0.0], betas])),
            timesteps=_read_only(_checked_timesteps(timesteps, len(betas))),
            zero_terminal_snr=zero_terminal_snr,
            first_log_variance=first_log_variance,
        )
        if underflows := np.flatnonzero(self.alpha_bar[: self.T + 1 - zero_terminal_snr] == 0).tolist():
            raise ValueError(f"alpha_bar underflows to 0 at t = {underflows[0]}: take fewer or smaller betas")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Schedule cannot be changed (got a new {name}); make another one")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a Schedule cannot be changed ({name} was to be deleted); make another one")

    @classmethod
    def from_alpha_bar(cls, alpha_bar: ArrayLike) -> Self:
        """The schedule with these products of alphas: beta_t = 1 - alpha_bar_t / alpha_bar_{t-1}, alpha_bar_0 = 1.

        Libraries that count from 0 keep them as ``alphas_cumprod``. A last one of 0 is zero terminal SNR.

        Parameters
        ----------
        alpha_bar : array_like, shape (T,)
            alpha_bar_1 .. alpha_bar_T: below 1, falling, above 0 but for the last.
        """
        values = real_array("alpha_bar", alpha_bar)
        if values.ndim != 1 or values.size == 0:
            raise ValueError(f"alpha_bar must have shape (T,), got {values.shape}")
        before = np.concatenate([[1.0], values[:-1]])
        if not (np.all(values < before) and values[-1] >= 0 and np.all(values[:-1] > 0)):
            raise ValueError(f"alpha_bar must fall from below 1 to 0 or more, got {values}")
        return cls(1 - values / before, zero_terminal_snr=bool(values[-1] == 0))

    @classmethod
    def from_name(
        cls,
        name: str,
        T: int,
        *,
        zero_terminal_snr: bool = False,
        first_log_variance: Literal["reuse", "clip"] = "reuse",
        **parameters: Any,
    ) -> Self:
        """The schedule of a name in ``BETA_SCHEDULES``.

        Parameters
        ----------
        name : str
            linear, scaled_linear, cosine, sigmoid, quadratic, constant, jsd, flow, warmup10 or warmup50.
        T : int
            Number of steps, at least 1.
        zero_terminal_snr : bool
            Rescale the betas so that alpha_bar_T is 0 (:func:`zero_terminal_snr_beta`). "jsd" and "flow" end there by
            themselves.
        first_log_variance : {"reuse", "clip"}
            As for :class:`Schedule`.
        **parameters
            Passed to the schedule's function in :mod:`.betas`.

        Returns
        -------
        Schedule
        """
        zero_terminal_snr = switch("zero_terminal_snr", zero_terminal_snr)
        beta = beta_schedule(name, T, **parameters)
        if zero_terminal_snr:
            beta = zero_terminal_snr_beta(beta)
        ends_at_zero = bool(beta[-1] == 1)
        return cls(beta, zero_terminal_snr=ends_at_zero, first_log_variance=first_log_variance)

    def respace(self, kept: int | str | Sequence[int] | NDArray[np.int64], grid: str = "uniform") -> Self:
        """The same process seen at fewer steps; Nichol & Dhariwal 2021, section 4.

            beta'_k = 1 - alpha_bar[S_k] / alpha_bar[S_{k-1}],   S_0 = 0

        q(x_t | x_0) says how noisy x_t is, and it holds at every t by itself. So a chain that keeps only the steps
        S_1 < .. < S_n, with their alpha_bar, is a forward process again, and a network trained on all T steps already
        knows every x_t that occurs in it. Sampling then takes n evaluations of the network in place of T.

        Parameters
        ----------
        kept : int, str or sequence of int
            How many steps to keep, ending with T; or the steps themselves, increasing, in 1..T; or a string of
            improved-diffusion, "ddimN" or "10,15,20" (:func:`noisestep.reference.grids.sections`).
        grid : {"uniform", "quadratic", "karras", "exponential"}
            Which steps a number keeps (:mod:`.grids`); "uniform" is S_k = floor(k T / n + 1/2).

        Returns
        -------
        Schedule
            n steps; ``timesteps[k]`` is the number of S_k in the original chain, also after respacing twice.
        """
        steps = self._kept_steps(kept, grid)
        # between two kept steps log alpha is summed afresh, so that nearly equal alpha_bar are not subtracted
        log_alpha = np.add.reduceat(self._log_alpha[: steps[-1] + 1], np.concatenate([[1], steps[:-1] + 1]))
        # a step that keeps its neighbour keeps its beta, to the bit
        beta = np.where(np.diff(steps, prepend=0) == 1, self.beta[steps], -np.expm1(log_alpha))
        return type(self)(
            beta,
            self.timesteps[steps],
            zero_terminal_snr=bool(self.zero_terminal_snr and steps[-1] == self.T),
            first_log_variance=self.first_log_variance,
        )

    @property
    def T(self) -> int:
        """Number of steps."""
        return len(self.beta) - 1

    @cached_property
    def alpha(self) -> FloatArray:
        """alpha_t = 1 - beta_t."""
        return _read_only(1 - self.beta)

    @cached_property
    def alpha_bar(self) -> FloatArray:
        """alpha_bar_t, the product of alpha_1 .. alpha_t."""
        return _read_only(np.exp(self._log_alpha_bar))

    @cached_property
    def sqrt_alpha_bar(self) -> FloatArray:
        """sqrt(alpha_bar_t), what multiplies x_0 in x_t."""
        return _read_only(np.exp(self._log_alpha_bar / 2))

    @cached_property
    def one_minus_alpha_bar(self) -> FloatArray:
        """1 - alpha_bar_t, the variance of q(x_t | x_0), to full relative precision."""
        return _read_only(-np.expm1(self._log_alpha_bar))

    @cached_property
    def sqrt_one_minus_alpha_bar(self) -> FloatArray:
        """sqrt(1 - alpha_bar_t), what multiplies the noise in x_t."""
        return _read_only(np.sqrt(self.one_minus_alpha_bar))

    @cached_property
    def snr(self) -> FloatArray:
        """Signal-to-noise ratio alpha_bar_t / (1 - alpha_bar_t); infinite at t = 0, and nowhere else."""
        with np.errstate(divide="ignore"):
            return _read_only(self.alpha_bar / self.one_minus_alpha_bar)

    @cached_property
    def posterior_variance(self) -> FloatArray:
        """beta~_t = (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t) beta_t, Ho et al. 2020, eq. 7; 0 at t = 1."""
        kept = self.one_minus_alpha_bar[:-1] / self.one_minus_alpha_bar[1:]
        return self._with_row_0(0.0, kept * self.beta[1:])

    @cached_property
    def posterior_log_variance(self) -> FloatArray:
        """log beta~_t, with ``first_log_variance`` at t = 1 where beta~_t is 0, and in row 0."""
        variance = self.posterior_variance.copy()
        if self.first_log_variance == "reuse" and self.T > 1:
            variance[:2] = variance[2]
            return _read_only(np.log(variance))
        return _read_only(np.log(np.maximum(variance, LOG_VARIANCE_FLOOR)))

    @cached_property
    def posterior_mean_coef_x_0(self) -> FloatArray:
        """sqrt(alpha_bar_{t-1}) beta_t / (1 - alpha_bar_t), Ho et al. 2020, eq. 7; 1 in rows 0, 1."""
        renewed = self.beta[1:] / self.one_minus_alpha_bar[1:]
        return self._with_row_0(1.0, self.sqrt_alpha_bar[:-1] * renewed)

    @cached_property
    def posterior_mean_coef_x_t(self) -> FloatArray:
        """sqrt(alpha_t) (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t), Ho et al. 2020, eq. 7; 0 in rows 0, 1."""
        kept = self.one_minus_alpha_bar[:-1] / self.one_minus_alpha_bar[1:]
        return self._with_row_0(0.0, np.sqrt(self.alpha[1:]) * kept)

    @cached_property
    def _log_alpha(self) -> FloatArray:
        with np.errstate(divide="ignore"):
            return np.log1p(-self.beta)

    @cached_property
    def _log_alpha_bar(self) -> FloatArray:
        return np.cumsum(self._log_alpha)

    @staticmethod
    def _with_row_0(row_0: float, rows: FloatArray) -> FloatArray:
        return _read_only(np.concatenate([[row_0], rows]))

    def _kept_steps(self, kept: int | str | Sequence[int] | NDArray[np.int64], grid: str) -> NDArray[np.int64]:
        if isinstance(kept, str):
            kept = sections(self.T, kept)
        steps = array("steps", kept, "a count or a sequence of ints")
        if not np.issubdtype(steps.dtype, np.integer):
            raise TypeError(f"steps must be a count or a sequence of ints, got {kept!r}")
        if steps.ndim == 0:
            return grid_steps(self, int(steps), grid)
        # differences of a small or unsigned type wrap around
        steps = steps.astype(np.int64)
        if not _increasing(steps) or steps[0] < 1 or steps[-1] > self.T:
            raise ValueError(f"kept steps must be increasing numbers in 1..{self.T}, got {kept!r}")
        return steps

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        first, last = self.beta[1], self.beta[-1]
        return f"Schedule(T={self.T}, beta={first:.6g}..{last:.6g}, timesteps=..{self.timesteps[-1]})"

    def _key(self) -> tuple[object, ...]:
        return self.beta.tobytes(), self.timesteps.tobytes(), self.zero_terminal_snr, self.first_log_variance


def _checked_beta(beta: ArrayLike, zero_terminal_snr: bool) -> FloatArray:
    betas = array("beta", beta)
    if not np.issubdtype(betas.dtype, np.number) or np.iscomplexobj(betas):
        raise TypeError(f"beta must hold real numbers, got {betas.dtype}")
    if betas.ndim != 1 or not betas.size:
        raise ValueError(f"beta must have shape (T,) with T at least 1, got shape {betas.shape}")
    betas = betas.astype(np.float64)
    inside = (betas > 0) & (betas < 1)
    if zero_terminal_snr:
        if betas[-1] != 1:
            raise ValueError(f"zero_terminal_snr says that beta_T is 1, got beta_T = {betas[-1]}")
        inside[-1] = True
    if not inside.all():
        t = int(np.argmin(inside)) + 1
        hint = "; a beta_T of 1 needs zero_terminal_snr=True" if t == betas.size and betas[-1] == 1 else ""
        raise ValueError(f"every beta must be in (0, 1), got beta_{t} = {betas[t - 1]}{hint}")
    return betas


def _checked_timesteps(timesteps: ArrayLike | None, T: int) -> NDArray[np.int64]:
    if timesteps is None:
        return np.arange(T + 1)
    numbers = array("timesteps", timesteps, "ints")
    if not np.issubdtype(numbers.dtype, np.integer):
        raise TypeError(f"timesteps must be ints, got {numbers.dtype}")
    # differences of a small or unsigned type wrap around
    numbers = numbers.astype(np.int64)
    if numbers.shape != (T,) or numbers[0] < 1 or not _increasing(numbers):
        raise ValueError(f"timesteps must be {T} increasing numbers from 1 up, one for each beta, got {timesteps}")
    return np.concatenate([[0], numbers])


def _increasing(numbers: NDArray[Any]) -> bool:
    return numbers.ndim == 1 and numbers.size > 0 and bool(np.all(np.diff(numbers) > 0))


def _read_only(array: NDArray[Scalar]) -> NDArray[Scalar]:
    array.flags.writeable = False
    return array
