"""The forward process between each step t and a step s(t) before it: what a reverse update crosses.

A sampler may leave steps out, and need not leave out the same ones from everywhere. The formulas of one step hold for
any two steps s < t once alpha_t is replaced by alpha_bar_t / alpha_bar_s, since x_t given x_s is Gaussian for them too.
"""

from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arguments import FloatArray, array, require_eta
from .schedule import Schedule


class Jumps:
    """q(x_t | x_s) and q(x_s | x_t, x_0) for every t and a step s(t) at or before it; Song et al. 2021, appendix C.1.

        alpha = alpha_bar_t / alpha_bar_s,    beta = 1 - alpha

    With s(t) = t - 1 these are alpha_t and beta_t, to the bit. Where t and s(t) are neighbours in a respaced
    schedule, they are what :meth:`Schedule.respace` gives; but here every t has its own s(t), whether
    anything leads to t or not.

    Parameters
    ----------
    previous : array_like of int, shape (T,), optional
        s(1) .. s(T), each in 0..t; t - 1 if left out. A step to itself changes nothing.

    Attributes
    ----------
    previous : ndarray of int64, shape (T,)
    alpha, beta : ndarray of float64, shape (T,)
    kept : ndarray of float64, shape (T,)
        (1 - alpha_bar_s) / (1 - alpha_bar_t).
    """

    def __init__(self, schedule: Schedule, previous: ArrayLike | None = None) -> None:
        self._schedule = schedule
        before = np.arange(schedule.T)
        self.previous: NDArray[np.int64] = before if previous is None else _checked(previous, schedule.T)
        with np.errstate(divide="ignore"):
            log_alpha_bar = np.log(schedule.alpha_bar)
        # a step to itself has alpha 1, also where alpha_bar is 0
        log_alpha = np.zeros(schedule.T)
        np.subtract(log_alpha_bar[1:], log_alpha_bar[self.previous], out=log_alpha, where=self.previous != before + 1)
        neighbours = self.previous == before
        self.alpha: FloatArray = np.where(neighbours, schedule.alpha[1:], np.exp(log_alpha))
        self.beta: FloatArray = np.where(neighbours, schedule.beta[1:], -np.expm1(log_alpha))
        self.kept: FloatArray = schedule.one_minus_alpha_bar[self.previous] / schedule.one_minus_alpha_bar[1:]

    @cached_property
    def posterior_variance(self) -> FloatArray:
        """kept beta, the variance of q(x_s | x_t, x_0); shape (T,)."""
        variance: FloatArray = self.kept * self.beta
        return variance

    @cached_property
    def shrink(self) -> FloatArray:
        """alpha kept, which is 1 - beta / (1 - alpha_bar_t), with no near-equals subtracted; shape (T,)."""
        shrink: FloatArray = self.alpha * self.kept
        return shrink

    def direction(self, eta: float) -> FloatArray:
        """What multiplies eps in a DDIM update to s(t), sqrt(1 - alpha_bar_s - sigma^2); Song et al. 2021, eq. 12.

            1 - alpha_bar_s - sigma^2 = (1 - alpha_bar_s) (1 - eta^2 (1 - shrink))

        Returns
        -------
        ndarray of float64, shape (T,)
        """
        eta = require_eta(eta)
        # 1 - eta^2 + eta^2 shrink, with no near-equals subtracted
        left = (1 - eta) * (1 + eta) + eta**2 * self.shrink
        direction: FloatArray = np.sqrt(self._schedule.one_minus_alpha_bar[self.previous] * left)
        return direction


def _checked(previous: ArrayLike, T: int) -> NDArray[np.int64]:
    steps = array("the previous steps", previous)
    if not np.issubdtype(steps.dtype, np.integer):
        raise TypeError(f"the previous steps must be ints, got {steps.dtype}")
    if steps.shape != (T,):
        raise ValueError(f"the previous steps must have shape ({T},), one for each t, got {steps.shape}")
    outside = (steps < 0) | (steps > np.arange(1, T + 1))
    if outside.any():
        t = int(np.argmax(outside)) + 1
        raise ValueError(f"an update from t = {t} leads to a step in 0..{t}, got {steps[t - 1]}")
    return steps.astype(np.int64)
