"""The forward process: one Markov step q(x_t | x_{t-1}), and the marginal q(x_t | x_0)."""

import numpy as np
from numpy.typing import ArrayLike

from ._arguments import FloatArray, floats, per_sample, same_shape
from .schedule import Schedule


def q_step_mean_variance(schedule: Schedule, x_previous: ArrayLike, t: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Mean and variance of one Markov step, the chapter's forward process; Ho et al. 2020, eq. 2.

        q(x_t | x_{t-1}) = N(x_t; sqrt(1 - beta_t) x_{t-1}, beta_t I)

    Parameters
    ----------
    schedule : Schedule
        T steps.
    x_previous : array_like, shape (B, ...), floating
        x_{t-1}.
    t : int or array_like of int, shape (B,)
        Step, in 1..T, one for all or one for each sample.

    Returns
    -------
    mean : ndarray of float64, shape (B, ...)
        sqrt(1 - beta_t) x_{t-1}.
    variance : ndarray of float64, shape () or (B, 1, ...)
        beta_t, of every element alike.

    Raises
    ------
    TypeError
        If x_previous is not floating or t not integer.
    ValueError
        If t is outside 1..T, or has neither one value nor one for each sample.
    """
    (x_previous,) = floats(x_previous=x_previous)
    beta_t = per_sample(schedule.beta, t, x_previous)
    return np.sqrt(1 - beta_t) * x_previous, beta_t


def q_step(schedule: Schedule, x_previous: ArrayLike, t: ArrayLike, eps: ArrayLike) -> FloatArray:
    """x_t drawn from q(x_t | x_{t-1}) with the noise of one step.

        x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) eps,   eps ~ N(0, I)

    Parameters
    ----------
    schedule : Schedule
        T steps.
    x_previous : array_like, shape (B, ...), floating
        x_{t-1}.
    t : int or array_like of int, shape (B,)
        Step, in 1..T.
    eps : array_like, shape (B, ...), floating
        Standard normal noise, of the shape of x_previous.

    Returns
    -------
    ndarray of float64, shape (B, ...)
        x_t.

    Raises
    ------
    TypeError
        If an array is not floating or t not integer.
    ValueError
        If t is outside 1..T, or shapes disagree.
    """
    x_previous, eps = same_shape(x_previous=x_previous, eps=eps)
    mean, variance = q_step_mean_variance(schedule, x_previous, t)
    return mean + np.sqrt(variance) * eps


def q_mean_variance(schedule: Schedule, x_0: ArrayLike, t: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Mean and variance of x_t given x_0, the chapter's marginal; Ho et al. 2020, eq. 4.

        q(x_t | x_0) = N(x_t; sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I)

    Parameters
    ----------
    schedule : Schedule
        T steps.
    x_0 : array_like, shape (B, ...), floating
        Clean data.
    t : int or array_like of int, shape (B,)
        Step, in 0..T; 0 gives x_0 back.

    Returns
    -------
    mean : ndarray of float64, shape (B, ...)
        sqrt(alpha_bar_t) x_0.
    variance : ndarray of float64, shape () or (B, 1, ...)
        1 - alpha_bar_t, of every element alike.

    Raises
    ------
    TypeError
        If x_0 is not floating or t not integer.
    ValueError
        If t is outside 0..T, or has neither one value nor one for each sample.
    """
    (x_0,) = floats(x_0=x_0)
    mean = per_sample(schedule.sqrt_alpha_bar, t, x_0, first=0) * x_0
    return mean, per_sample(schedule.one_minus_alpha_bar, t, x_0, first=0)


def q_sample(schedule: Schedule, x_0: ArrayLike, t: ArrayLike, eps: ArrayLike) -> FloatArray:
    """x_t drawn from q(x_t | x_0) in one jump, the chapter's ``sample_xt`` with its noise handed in.

        x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps,   eps ~ N(0, I)

    Parameters
    ----------
    schedule : Schedule
        T steps.
    x_0 : array_like, shape (B, ...), floating
        Clean data, images in [-1, 1].
    t : int or array_like of int, shape (B,)
        Step, in 0..T; 0 gives x_0 back.
    eps : array_like, shape (B, ...), floating
        Standard normal noise, of the shape of x_0.

    Returns
    -------
    ndarray of float64, shape (B, ...)
        x_t.

    Raises
    ------
    TypeError
        If an array is not floating or t not integer.
    ValueError
        If t is outside 0..T, or shapes disagree.
    """
    x_0, eps = same_shape(x_0=x_0, eps=eps)
    sqrt_alpha_bar_t = per_sample(schedule.sqrt_alpha_bar, t, x_0, first=0)
    sqrt_one_minus_alpha_bar_t = per_sample(schedule.sqrt_one_minus_alpha_bar, t, x_0, first=0)
    return sqrt_alpha_bar_t * x_0 + sqrt_one_minus_alpha_bar_t * eps
