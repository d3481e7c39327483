"""The forward process between each step t and a step s(t) before it: what a reverse update crosses."""

from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arguments import FloatArray
from .schedule import Schedule


class Jumps:
    """q(x_t | x_s) and q(x_s | x_t, x_0) for every t and a step s(t) at or before it; Song et al. 2021, appendix C.1.

        alpha = alpha_bar_t / alpha_bar_s,    beta = 1 - alpha

    With s(t) = t - 1 these are alpha_t and beta_t, to the bit. Where t and s(t) are neighbours in a respaced
    schedule, they are what :meth:`Schedule.respace` gives; but here every t has its own s(t), whether
    anything leads to t or not.

    Parameters
    ----------
    schedule : Schedule
        T steps.
    to : array_like of int, shape (T,), optional
        s(1) .. s(T), each in 0..t; t - 1 if left out. A step to itself changes nothing.

    Attributes
    ----------
    to : ndarray of int64, shape (T,)
    alpha, beta : ndarray of float64, shape (T,)
    kept : ndarray of float64, shape (T,)
        (1 - alpha_bar_s) / (1 - alpha_bar_t).
    posterior_variance : ndarray of float64, shape (T,)
        kept beta, the variance of q(x_s | x_t, x_0).
    shrink : ndarray of float64, shape (T,)
        alpha kept, which is 1 - beta / (1 - alpha_bar_t).

    Raises
    ------
    TypeError
        If `to` does not hold integers.
    ValueError
        If `to` has another shape, or a step outside 0..t.
    """

    def __init__(self, schedule: Schedule, to: ArrayLike | None = None) -> None:
        self._schedule = schedule
        before = np.arange(schedule.T)
        self.to: NDArray[np.int64] = before if to is None else _checked(to, schedule.T)
        with np.errstate(divide="ignore"):
            log_alpha_bar = np.log(schedule.alpha_bar)
        # a step to itself has alpha 1, also where alpha_bar is 0
        log_alpha = np.zeros(schedule.T)
        np.subtract(log_alpha_bar[1:], log_alpha_bar[self.to], out=log_alpha, where=self.to != before + 1)
        neighbours = self.to == before
        self.alpha: FloatArray = np.where(neighbours, schedule.alpha[1:], np.exp(log_alpha))
        self.beta: FloatArray = np.where(neighbours, schedule.beta[1:], -np.expm1(log_alpha))
        self.kept: FloatArray = schedule.one_minus_alpha_bar[self.to] / schedule.one_minus_alpha_bar[1:]

    @cached_property
    def posterior_variance(self) -> FloatArray:
        """The variance of q(x_s | x_t, x_0)."""
        variance: FloatArray = self.kept * self.beta
        return variance

    @cached_property
    def shrink(self) -> FloatArray:
        """1 - beta / (1 - alpha_bar_t), with no near-equals subtracted."""
        shrink: FloatArray = self.alpha * self.kept
        return shrink

    def direction(self, eta: float) -> FloatArray:
        """What multiplies eps in a DDIM update to s(t), sqrt(1 - alpha_bar_s - sigma^2); Song et al. 2021, eq. 12.

        Parameters
        ----------
        eta : float
            In [0, 1].

        Returns
        -------
        ndarray of float64, shape (T,)
        """
        # (1 - alpha_bar_s - sigma^2) / (1 - alpha_bar_s) = 1 - eta^2 (1 - shrink)
        share = (1 - eta) * (1 + eta) + eta**2 * self.shrink
        direction: FloatArray = np.sqrt(self._schedule.one_minus_alpha_bar[self.to] * share)
        return direction


def _checked(to: ArrayLike, T: int) -> NDArray[np.int64]:
    steps = np.asarray(to)
    if not np.issubdtype(steps.dtype, np.integer):
        raise TypeError(f"the steps led to must be ints, got {steps.dtype}")
    if steps.shape != (T,):
        raise ValueError(f"the steps led to must have shape ({T},), one for each t, got {steps.shape}")
    outside = (steps < 0) | (steps > np.arange(1, T + 1))
    if outside.any():
        t = int(np.argmax(outside)) + 1
        raise ValueError(f"an update from t = {t} leads to a step in 0..{t}, got {steps[t - 1]}")
    return steps.astype(np.int64)
