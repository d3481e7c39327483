"""The forward process: one Markov step q(x_t | x_{t-1}), and the marginal q(x_t | x_0).

Each step shrinks the image by sqrt(1 - beta_t) and adds noise of variance beta_t. The shrinking keeps the variance in
bounds: data of variance 1 have variance 1 at every t. A sum of Gaussians is Gaussian, so t steps in a row are one
jump, and training can take any x_t without the steps before it.
"""

import numpy as np
from numpy.typing import ArrayLike

from ._arguments import FloatArray, floats, per_sample, same_shape
from .schedule import Schedule


def q_step_mean_variance(schedule: Schedule, x_previous: ArrayLike, t: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Mean and variance of one Markov step, the chapter's forward process; Ho et al. 2020, eq. 2.

        q(x_t | x_{t-1}) = N(x_t; sqrt(1 - beta_t) x_{t-1}, beta_t I)

    Parameters
    ----------
    x_previous : array_like, shape (B, ...), floating
        x_{t-1}.

    Returns
    -------
    mean : ndarray of float64, shape (B, ...)
    variance : ndarray of float64, shape () or (B, 1, ...)
        beta_t, the same for every element.
    """
    (x_previous,) = floats(x_previous=x_previous)
    beta_t = per_sample(schedule.beta, t, x_previous)
    return np.sqrt(1 - beta_t) * x_previous, beta_t


def q_step(schedule: Schedule, x_previous: ArrayLike, t: ArrayLike, eps: ArrayLike) -> FloatArray:
    """x_t drawn from q(x_t | x_{t-1}) with the noise of one step.

        x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) eps,   eps ~ N(0, I)

    Training does not need it: :func:`q_sample` jumps. It is here to check that t steps are one jump.

    Parameters
    ----------
    x_previous : array_like, shape (B, ...), floating
        x_{t-1}.
    """
    x_previous, eps = same_shape(x_previous=x_previous, eps=eps)
    mean, variance = q_step_mean_variance(schedule, x_previous, t)
    return mean + np.sqrt(variance) * eps


def q_mean_variance(schedule: Schedule, x_0: ArrayLike, t: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Mean and variance of x_t given x_0, the chapter's marginal; Ho et al. 2020, eq. 4.

        q(x_t | x_0) = N(x_t; sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I)

    t steps multiply x_0 by the product of sqrt(alpha_s), s = 1..t, and their noises add up to variance
    1 - alpha_bar_t: from 1 - alpha_bar_{t-1}, a step makes alpha_t (1 - alpha_bar_{t-1}) + beta_t. Here t may be 0,
    where the mean is x_0 and the variance 0.

    Returns
    -------
    mean : ndarray of float64, shape (B, ...)
    variance : ndarray of float64, shape () or (B, 1, ...)
        1 - alpha_bar_t, the same for every element.

    Examples
    --------
    >>> schedule = Schedule.from_name("linear", 1000)
    >>> mean, variance = q_mean_variance(schedule, np.ones((1, 2)), 500)
    >>> mean.round(3).tolist(), float(variance.round(3))
    ([[0.28, 0.28]], 0.921)
    """
    (x_0,) = floats(x_0=x_0)
    mean = per_sample(schedule.sqrt_alpha_bar, t, x_0, first=0) * x_0
    return mean, per_sample(schedule.one_minus_alpha_bar, t, x_0, first=0)


def q_sample(schedule: Schedule, x_0: ArrayLike, t: ArrayLike, eps: ArrayLike) -> FloatArray:
    """x_t drawn from q(x_t | x_0) in one jump, the chapter's ``sample_xt`` with its noise passed in.

        x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps,   eps ~ N(0, I)

    This is the first line of every training step. eps is an argument because it is also what the network has to
    predict. t may be 0, which gives x_0 back.

    Examples
    --------
    >>> schedule = Schedule.from_name("linear", 1000)
    >>> x_0, eps = np.array([[0.5, -1.0]]), np.array([[0.3, 0.4]])
    >>> q_sample(schedule, x_0, 1, eps).round(3).tolist()
    [[0.503, -0.996]]
    >>> q_sample(schedule, x_0, 1000, eps).round(3).tolist()
    [[0.303, 0.394]]
    """
    x_0, eps = same_shape(x_0=x_0, eps=eps)
    sqrt_alpha_bar_t = per_sample(schedule.sqrt_alpha_bar, t, x_0, first=0)
    sqrt_one_minus_alpha_bar_t = per_sample(schedule.sqrt_one_minus_alpha_bar, t, x_0, first=0)
    return sqrt_alpha_bar_t * x_0 + sqrt_one_minus_alpha_bar_t * eps
