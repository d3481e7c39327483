"""Every table that the chapter's equations name, made from beta_1 .. beta_T in float64."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .betas import BETA_SCHEDULES, FloatArray, beta_schedule, zero_terminal_snr_beta

__all__ = ["BETA_SCHEDULES", "Schedule", "beta_schedule"]

Scalar = TypeVar("Scalar", bound=np.generic)

# Ho et al.'s floor under the posterior variance before its logarithm is taken
LOG_VARIANCE_FLOOR = 1e-20


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Schedule:
    """The forward process q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t I) as tables over t.

    t counts as the chapter counts, 1..T. Every table has T + 1 rows, float64 and read-only; row 0 is clean
    data (beta_0 = 0, alpha_bar_0 = 1), so that ``alpha_bar[t]`` and ``alpha_bar[t - 1]`` are written as
    printed. 1 - alpha_bar is never formed by subtraction: it comes from sums of log(1 - beta).

    Parameters
    ----------
    beta : array_like, shape (T,)
        beta_1 .. beta_T, each in (0, 1).
    timesteps : array_like of int, shape (T,), optional
        Number of each step in the chain that the network was trained on; 1..T if left out.
    zero_terminal_snr : bool
        Says that beta_T is exactly 1, so that x_T holds nothing of x_0 (alpha_bar_T = 0). Every table stays
        finite, but noise prediction says nothing about x_0 at t = T: what would divide by alpha_bar_T
        refuses.
    first_log_variance : {"reuse", "clip"}
        What stands in for log 0 in ``posterior_log_variance`` at t = 1: the value at t = 2
        (improved-diffusion), or log 1e-20 (Ho et al., who clip the whole table there). With T = 1 there is no
        t = 2, and both mean log 1e-20.

    Attributes
    ----------
    beta, alpha, alpha_bar, sqrt_alpha_bar, one_minus_alpha_bar, sqrt_one_minus_alpha_bar : ndarray, (T + 1,)
        The forward process.
    snr : ndarray, shape (T + 1,)
        alpha_bar / (1 - alpha_bar); ``snr[0]``, of data without noise, is infinite, and nothing else is.
    posterior_variance, posterior_log_variance : ndarray, shape (T + 1,)
        q(x_{t-1} | x_t, x_0).
    posterior_mean_coef_x_0, posterior_mean_coef_x_t : ndarray, shape (T + 1,)
        Its mean, as a combination of x_0 and x_t.
    timesteps : ndarray of int64, shape (T + 1,)
        What the network is told at each step; row 0 is 0.
    T : int
        Number of steps.

    Raises
    ------
    ValueError
        If beta is empty, has more than one axis, or holds NaN or a number outside (0, 1), except a last 1
        that ``zero_terminal_snr`` announces; if that is announced and absent; if alpha_bar underflows; if
        timesteps are not T increasing numbers from 1 up.

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
        betas = _checked_beta(beta, zero_terminal_snr)
        if first_log_variance not in ("reuse", "clip"):
            raise ValueError(f'first_log_variance must be "reuse" or "clip", got {first_log_variance!r}')
        set_field = object.__setattr__
        set_field(self, "beta", _read_only(np.concatenate([[0.0], betas])))
        set_field(self, "timesteps", _read_only(_checked_timesteps(timesteps, len(betas))))
        set_field(self, "zero_terminal_snr", zero_terminal_snr)
        set_field(self, "first_log_variance", first_log_variance)
        if gone := np.flatnonzero(self.alpha_bar[: self.T + 1 - zero_terminal_snr] == 0).tolist():
            raise ValueError(f"alpha_bar underflows to 0 at t = {gone[0]}: take fewer or smaller betas")

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
        """The schedule of a name in ``BETA_SCHEDULES``, its tables computed.

        Parameters
        ----------
        name : str
            linear, scaled_linear, cosine, sigmoid, quadratic, constant, jsd, warmup10 or warmup50.
        T : int
            Number of steps, at least 1.
        zero_terminal_snr : bool
            Rescale the betas so that alpha_bar_T is 0 (Lin et al. 2023). "jsd" ends there by itself.
        first_log_variance : {"reuse", "clip"}
            See :class:`Schedule`.
        **parameters
            Handed to the schedule's function.

        Returns
        -------
        Schedule
            T steps.

        Raises
        ------
        ValueError
            If there is no such schedule, or it refuses T or a parameter.
        """
        beta = beta_schedule(name, T, **parameters)
        if zero_terminal_snr:
            beta = zero_terminal_snr_beta(beta)
        ends_at_zero = bool(beta[-1] == 1)
        return cls(beta, zero_terminal_snr=ends_at_zero, first_log_variance=first_log_variance)

    def respace(self, kept: int | Sequence[int] | NDArray[np.int64]) -> Self:
        """The same process looked at in fewer steps, Nichol & Dhariwal 2021, section 4.

        alpha_bar keeps its values at the kept steps S_1 < .. < S_n, and beta follows from them:
        beta'_k = 1 - alpha_bar[S_k] / alpha_bar[S_{k-1}], with S_0 = 0.

        Parameters
        ----------
        kept : int or sequence of int
            How many steps to keep, evenly spaced and ending with T: S_k = floor(k T / n + 1/2); or the steps
            themselves, increasing, in 1..T.

        Returns
        -------
        Schedule
            n steps; ``timesteps[k]`` is the number of S_k in the original chain, also after respacing twice.

        Raises
        ------
        ValueError
            If the count is not in 1..T, or the steps are not increasing numbers in 1..T.
        """
        steps = self._kept_steps(kept)
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
        """1 - alpha_bar_t, the variance of q(x_t | x_0)."""
        return _read_only(-np.expm1(self._log_alpha_bar))

    @cached_property
    def sqrt_one_minus_alpha_bar(self) -> FloatArray:
        """sqrt(1 - alpha_bar_t), what multiplies the noise in x_t."""
        return _read_only(np.sqrt(self.one_minus_alpha_bar))

    @cached_property
    def snr(self) -> FloatArray:
        """Signal-to-noise ratio alpha_bar_t / (1 - alpha_bar_t); infinite at t = 0."""
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

    def _kept_steps(self, kept: int | Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        steps = np.asarray(kept)
        if not np.issubdtype(steps.dtype, np.integer):
            raise TypeError(f"steps must be a count or a sequence of ints, got {kept!r}")
        if steps.ndim == 0:
            n = int(steps)
            if not 1 <= n <= self.T:
                raise ValueError(f"the number of steps to keep must be in 1..{self.T}, got {n}")
            return (2 * np.arange(1, n + 1) * self.T + n) // (2 * n)
        if not _increasing(steps) or steps[0] < 1 or steps[-1] > self.T:
            raise ValueError(f"kept steps must be increasing numbers in 1..{self.T}, got {kept!r}")
        return steps.astype(np.int64)

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
    betas = np.asarray(beta)
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
    numbers = np.asarray(timesteps)
    if not np.issubdtype(numbers.dtype, np.integer):
        raise TypeError(f"timesteps must be ints, got {numbers.dtype}")
    if numbers.shape != (T,) or numbers[0] < 1 or not _increasing(numbers):
        raise ValueError(f"timesteps must be {T} increasing numbers from 1 up, one for each beta, got {timesteps}")
    return np.concatenate([[0], numbers]).astype(np.int64)


def _increasing(numbers: NDArray[Any]) -> bool:
    return numbers.ndim == 1 and numbers.size > 0 and bool(np.all(np.diff(numbers) > 0))


def _read_only(array: NDArray[Scalar]) -> NDArray[Scalar]:
    array.flags.writeable = False
    return array
