"""DPM-Solver++ 2M: one call of the network a step, second order by remembering the step before."""

from collections.abc import Iterator

import numpy as np

from .._arguments import FloatArray
from ..schedule import Schedule
from .chain import Chain
from .exponential import half_log_snr_steps, noise_kept, x_0_gained


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


def dpmpp_2m_coefficients(schedule: Schedule) -> FloatArray:
    """DPM-Solver++(2M) as a table: (a, b, c, sigma) of x_{t-1} = a x_t + b x_0(x_t, t) + c x_0(x_{t+1}, t+1) + sigma z.

    Returns
    -------
    ndarray of float64, shape (T + 1, 4)
    """
    h = half_log_snr_steps(schedule)
    of_x_0 = x_0_gained(schedule, h)
    before = np.zeros(schedule.T + 1)
    before[2:-1] = of_x_0[2:-1] * h[2:-1] / (2 * h[3:])
    return np.stack([noise_kept(schedule), of_x_0 + before, -before, np.zeros(schedule.T + 1)], axis=-1)
