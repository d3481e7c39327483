"""DPM-Solver++ 2M: one call of the network a step, second order by remembering the step before."""

from collections.abc import Iterator

import numpy as np

from .._arguments import FloatArray
from ..reverse import reverse_coefficients
from ..schedule import Schedule
from .chain import Chain


def dpmpp_2m(chain: Chain) -> Iterator[FloatArray]:
    """DPM-Solver++(2M); Lu et al. 2022 (arXiv:2211.01095), algorithm 2.

        lambda_t = log sqrt(alpha_bar_t / (1 - alpha_bar_t)),    h = lambda_{t-1} - lambda_t,    r = h_before / h

        D       = (1 + 1/(2 r)) x_0(x_t, t) - 1/(2 r) x_0(x_{t+1}, t+1)
        x_{t-1} = sqrt(1 - alpha_bar_{t-1}) / sqrt(1 - alpha_bar_t) x_t - sqrt(alpha_bar_{t-1}) (e^{-h} - 1) D

    The first step has nothing to remember, and in the last one h is infinite: both take D = x_0(x_t, t), with which the
    update is DDIM's.

    Parameters
    ----------
    chain : Chain

    Yields
    ------
    ndarray of float64, shape (B, ...)
        x_{T-1}, .., x_0.
    """
    signal, noise = chain.schedule.sqrt_alpha_bar, chain.schedule.sqrt_one_minus_alpha_bar
    h = half_log_snr_steps(chain.schedule)
    x_t = chain.x_T
    before = x_t  # not used in the first step
    for t in range(chain.schedule.T, 0, -1):
        D = x_0 = chain.x_0(x_t, t)
        if 1 < t < chain.schedule.T:
            r = h[t + 1] / h[t]
            D = (1 + 1 / (2 * r)) * x_0 - 1 / (2 * r) * before
        x_t = noise[t - 1] / noise[t] * x_t - signal[t - 1] * np.expm1(-h[t]) * D
        before = x_0
        yield x_t


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


def dpmpp_2m_weights(schedule: Schedule) -> FloatArray:
    """What DPM-Solver++(2M) adds to DDIM's update.

        x_{t-1} = x'_{t-1} + w_t (x_0(x_t, t) - x_0(x_{t+1}, t+1)),    w_t = sqrt(alpha_bar_{t-1}) (1 - e^{-h}) / (2 r)

    Returns
    -------
    ndarray of float64, shape (T + 1,)
        w_t, at least 0; 0 in the first step, T, and in the last, 1.
    """
    weights, h = np.zeros(schedule.T + 1), half_log_snr_steps(schedule)
    # DDIM's coefficient of x_0 is sqrt(alpha_bar_{t-1}) (1 - e^{-h}), made without subtracting near-equals
    of_x_0 = reverse_coefficients(schedule, prediction="x_0", eta=0.0)[:, 2]
    weights[2:-1] = of_x_0[2:-1] * h[2:-1] / (2 * h[3:])
    return weights
