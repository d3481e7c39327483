"""The forward process's posterior q(x_{t-1} | x_t, x_0): what one reverse step would be if x_0 were known.

The reverse of a forward step, q(x_{t-1} | x_t), depends on the whole data distribution and has no formula. Given x_0
as well, Bayes' rule turns it into a product of two Gaussians in x_{t-1}, the step q(x_t | x_{t-1}) and the marginal
q(x_{t-1} | x_0), which is Gaussian again. The bound compares the network's step with it (``docs/derivation.md``), and
sampling takes this step with the network's guess in place of x_0.
"""

import numpy as np
from numpy.typing import ArrayLike

from ._arguments import FloatArray, per_sample, same_shape
from .schedule import Schedule


def posterior_mean(schedule: Schedule, x_0: ArrayLike, x_t: ArrayLike, t: ArrayLike) -> FloatArray:
    """Mean of q(x_{t-1} | x_t, x_0); Ho et al. 2020, eq. 7.

        mu~_t = sqrt(alpha_bar_{t-1}) beta_t / (1 - alpha_bar_t) x_0
                + sqrt(alpha_t) (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t) x_t

    A weighted sum of what x_0 and what x_t say about x_{t-1}. At t = 1 it is x_0.
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

    Precisions add: 1 / beta~_t = alpha_t / beta_t + 1 / (1 - alpha_bar_{t-1}). So beta~_t is below beta_t, since x_0
    says something that x_t alone does not; at t = 1, where x_{t-1} is x_0 itself, it is 0.

    Returns
    -------
    mean : ndarray of float64, shape (B, ...)
    variance : ndarray of float64, shape () or (B, 1, ...)
        beta~_t, the same for every element.

    Examples
    --------
    >>> schedule = Schedule.from_name("linear", 1000)
    >>> mean, variance = posterior_mean_variance(schedule, np.array([[1.0]]), np.array([[0.0]]), 500)
    >>> mean.round(4).tolist(), float(variance.round(5)), float(schedule.beta[500].round(5))
    ([[0.0031]], 0.01003, 0.01004)
    """
    mean = posterior_mean(schedule, x_0, x_t, t)
    return mean, per_sample(schedule.posterior_variance, t, mean)


def posterior_sample(schedule: Schedule, x_0: ArrayLike, x_t: ArrayLike, t: ArrayLike, z: ArrayLike) -> FloatArray:
    """x_{t-1} drawn from q(x_{t-1} | x_t, x_0); at t = 1 it is x_0.

    x_{t-1} = mu~_t(x_t, x_0) + sqrt(beta~_t) z,   z ~ N(0, I)
    """
    x_0, x_t, z = same_shape(x_0=x_0, x_t=x_t, z=z)
    mean, variance = posterior_mean_variance(schedule, x_0, x_t, t)
    return mean + np.sqrt(variance) * z
