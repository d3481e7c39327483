"""The forward process's posterior q(x_{t-1} | x_t, x_0): what one reverse step would be if x_0 were known."""

import numpy as np
from numpy.typing import ArrayLike

from ._arguments import FloatArray, per_sample, same_shape
from .schedule import Schedule


def posterior_mean(schedule: Schedule, x_0: ArrayLike, x_t: ArrayLike, t: ArrayLike) -> FloatArray:
    """Mean of q(x_{t-1} | x_t, x_0); Ho et al. 2020, eq. 7.

        mu~_t = sqrt(alpha_bar_{t-1}) beta_t / (1 - alpha_bar_t) x_0
                + sqrt(alpha_t) (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t) x_t

    Parameters
    ----------
    schedule : Schedule
        T steps.
    x_0, x_t : array_like, shape (B, ...), floating
        Clean data, and the same with t steps of noise.
    t : int or array_like of int, shape (B,)
        Step, in 1..T; at 1 the mean is x_0.

    Returns
    -------
    ndarray of float64, shape (B, ...)
        mu~_t.

    Raises
    ------
    TypeError
        If an array is not floating or t not integer.
    ValueError
        If t is outside 1..T, or shapes disagree.
    """
    x_0, x_t = same_shape(x_0=x_0, x_t=x_t)
    of_x_0 = per_sample(schedule.posterior_mean_coef_x_0, t, x_0)
    of_x_t = per_sample(schedule.posterior_mean_coef_x_t, t, x_t)
    return of_x_0 * x_0 + of_x_t * x_t


def posterior_mean_variance(
    schedule: Schedule, x_0: ArrayLike, x_t: ArrayLike, t: ArrayLike
) -> tuple[FloatArray, FloatArray]:
    """Mean and variance of q(x_{t-1} | x_t, x_0); Ho et al. 2020, eqs. 6 and 7.

        q(x_{t-1} | x_t, x_0) = N(x_{t-1}; mu~_t(x_t, x_0), beta~_t I),
        beta~_t = (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t) beta_t

    Parameters
    ----------
    schedule : Schedule
        T steps.
    x_0, x_t : array_like, shape (B, ...), floating
        Clean data, and the same with t steps of noise.
    t : int or array_like of int, shape (B,)
        Step, in 1..T; at 1 the variance is 0.

    Returns
    -------
    mean : ndarray of float64, shape (B, ...)
        mu~_t.
    variance : ndarray of float64, shape () or (B, 1, ...)
        beta~_t, of every element alike.

    Raises
    ------
    TypeError
        If an array is not floating or t not integer.
    ValueError
        If t is outside 1..T, or shapes disagree.
    """
    mean = posterior_mean(schedule, x_0, x_t, t)
    return mean, per_sample(schedule.posterior_variance, t, mean)


def posterior_sample(schedule: Schedule, x_0: ArrayLike, x_t: ArrayLike, t: ArrayLike, z: ArrayLike) -> FloatArray:
    """x_{t-1} drawn from q(x_{t-1} | x_t, x_0).

        x_{t-1} = mu~_t(x_t, x_0) + sqrt(beta~_t) z,   z ~ N(0, I)

    Parameters
    ----------
    schedule : Schedule
        T steps.
    x_0, x_t, z : array_like, shape (B, ...), floating
        Clean data, the same with t steps of noise, and standard normal noise.
    t : int or array_like of int, shape (B,)
        Step, in 1..T; at 1 the result is x_0.

    Returns
    -------
    ndarray of float64, shape (B, ...)
        x_{t-1}.

    Raises
    ------
    TypeError
        If an array is not floating or t not integer.
    ValueError
        If t is outside 1..T, or shapes disagree.
    """
    x_0, x_t, z = same_shape(x_0=x_0, x_t=x_t, z=z)
    mean, variance = posterior_mean_variance(schedule, x_0, x_t, t)
    return mean + np.sqrt(variance) * z
