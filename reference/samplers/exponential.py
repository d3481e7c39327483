"""What the samplers in exponential form share: steps in half the log-SNR, and the phi functions.

With lambda_t = log sqrt(alpha_bar_t / (1 - alpha_bar_t)) as the time, the probability-flow ODE is linear but for the
network. The linear part is solved exactly, and what is left is an integral of the predicted x_0 alone; Lu et al. 2022
(arXiv:2211.01095), section 4:

    x_{t-1} = sqrt(1 - alpha_bar_{t-1}) / sqrt(1 - alpha_bar_t) x_t
              + sqrt(1 - alpha_bar_{t-1}) integral of e^lambda x_0(x_lambda, lambda) over lambda_t .. lambda_{t-1}

A polynomial in lambda in the place of x_0, of degree k - 1 through the last k predictions, makes a method of order k.
Its integrals are the phi functions.
"""

from math import factorial

import numpy as np
from numpy.typing import ArrayLike

from .._arguments import FloatArray
from ..schedule import Schedule


def half_log_snr_steps(schedule: Schedule) -> FloatArray:
    """h_t = lambda_{t-1} - lambda_t at every step, where lambda is half the logarithm of the SNR.

    Returns
    -------
    ndarray of float64, shape (T + 1,)
        Positive; infinite at t = 1, and at t = T where alpha_bar_T is 0. Row 0 is 0.
    """
    # the ratios alpha_bar_{t-1} / alpha_bar_t and (1 - alpha_bar_t) / (1 - alpha_bar_{t-1}), as 1 plus what is above it
    beta, before = schedule.beta[1:], slice(None, -1)
    with np.errstate(divide="ignore"):
        noise_gained = beta * schedule.alpha_bar[before] / schedule.one_minus_alpha_bar[before]
        h = (np.log1p(noise_gained) - np.log1p(-beta)) / 2
    return np.concatenate([[0.0], h])


def phi(k: int, h: ArrayLike) -> FloatArray:
    """phi_k(-h), the weight of the k-th term of a polynomial in an exponential integrator; Hochbruck & Ostermann 2010.

        phi_k(-h) = integral of e^{-(1 - u) h} u^{k-1} / (k - 1)! over 0 .. 1
        phi_1(-h) = (1 - e^{-h}) / h,    phi_{k+1}(-h) = (1/k! - phi_k(-h)) / h

    Parameters
    ----------
    k : int
        At least 1.
    h : array_like
        At least 0.

    Returns
    -------
    ndarray of float64
        In (0, 1/k!] where h is finite.

    Examples
    --------
    >>> phi(1, [0.0, 1.0]).round(6).tolist()
    [1.0, 0.632121]
    """
    h = np.asarray(h, np.float64)
    # the recursion subtracts near-equals where h is small; below 1, the twentieth term is less than 2^-53 of the first
    series = sum((-np.minimum(h, 1)) ** j / factorial(j + k) for j in range(20))
    large = np.maximum(h, 1)
    recursion = -np.expm1(-large) / large
    for i in range(1, k):
        recursion = (1 / factorial(i) - recursion) / large
    values: FloatArray = np.where(h < 1, series, recursion)
    return values


def noise_kept(schedule: Schedule) -> FloatArray:
    """sqrt(1 - alpha_bar_{t-1}) / sqrt(1 - alpha_bar_t), the coefficient of x_t at every step; row 0 is 1."""
    noise = schedule.sqrt_one_minus_alpha_bar
    return np.concatenate([[1.0], noise[:-1] / noise[1:]])


def x_0_gained(schedule: Schedule, h: ArrayLike) -> FloatArray:
    """sqrt(alpha_bar_{t-1}) (1 - e^{-h}), the coefficient of x_0 at every step; row 0 is 0.

    With h of :func:`half_log_snr_steps` it is DDIM's.
    """
    gained = schedule.sqrt_alpha_bar[:-1] * -np.expm1(-np.asarray(h)[1:])
    return np.concatenate([[0.0], gained])
