"""DPM-Solver++ 2M for the stochastic differential equation: fresh noise at every step, second order in the rest."""

from collections.abc import Iterator

import numpy as np

from .._arguments import FloatArray, require_eta
from ..schedule import Schedule
from .chain import Chain
from .exponential import half_log_snr_steps, noise_kept, x_0_gained


def dpmpp_2m_sde(chain: Chain, *, eta: float = 1.0) -> Iterator[FloatArray]:
    """SDE-DPM-Solver++(2M); Lu et al. 2022 (arXiv:2211.01095), with eta as in k-diffusion.

        h = lambda_{t-1} - lambda_t,    h' = (1 + eta) h,    r = h_before / h

        D       = x_0(x_t, t) + 1/(2 r) (x_0(x_t, t) - x_0(x_{t+1}, t+1))
        x_{t-1} = sqrt(1 - alpha_bar_{t-1}) / sqrt(1 - alpha_bar_t) e^{-eta h} x_t
                  + sqrt(alpha_bar_{t-1}) (1 - e^{-h'}) D + sqrt(1 - alpha_bar_{t-1}) sqrt(1 - e^{-2 eta h}) z

    The paper has eta = 1. With eta = 0 there is no noise, and the update is that of DPM-Solver++(2M). As there, the
    first step and the last take D = x_0(x_t, t); the first alone is DDIM's with its own eta of 1, where eta is 1.

    Parameters
    ----------
    chain : Chain
    eta : float
        In [0, 1].

    Yields
    ------
    ndarray of float64, shape (B, ...)
        x_{T-1}, .., x_0.
    """
    eta = require_eta(eta)
    signal, noise = chain.schedule.sqrt_alpha_bar, chain.schedule.sqrt_one_minus_alpha_bar
    h = half_log_snr_steps(chain.schedule)
    x_t = chain.x_T
    before = x_t  # not used in the first step
    for t in range(chain.schedule.T, 0, -1):
        D = x_0 = chain.x_0(x_t, t)
        if 1 < t < chain.schedule.T:
            D = x_0 + h[t] / (2 * h[t + 1]) * (x_0 - before)
        # 0 times an infinite h is no noise
        eta_h = eta * h[t] if eta > 0 else 0.0
        x_t = (
            noise[t - 1] / noise[t] * np.exp(-eta_h) * x_t
            - signal[t - 1] * np.expm1(-h[t] - eta_h) * D
            + noise[t - 1] * np.sqrt(-np.expm1(-2 * eta_h)) * chain.z(t)
        )
        before = x_0
        yield x_t


def dpmpp_2m_sde_coefficients(schedule: Schedule, *, eta: float = 1.0) -> FloatArray:
    """SDE-DPM-Solver++(2M) as a table (a, b, c, sigma): x_{t-1} = a x_t + b x_0(x_t, t) + c x_0(x_{t+1}, t+1) + sigma z

    Returns
    -------
    ndarray of float64, shape (T + 1, 4)
    """
    eta = require_eta(eta)
    h = half_log_snr_steps(schedule)
    eta_h = eta * h if eta > 0 else np.zeros(schedule.T + 1)
    of_x_0 = x_0_gained(schedule, h + eta_h)
    before = np.zeros(schedule.T + 1)
    before[2:-1] = of_x_0[2:-1] * h[2:-1] / (2 * h[3:])
    sigma = np.zeros(schedule.T + 1)
    sigma[1:] = schedule.sqrt_one_minus_alpha_bar[:-1] * np.sqrt(-np.expm1(-2 * eta_h[1:]))
    return np.stack([noise_kept(schedule) * np.exp(-eta_h), of_x_0 + before, -before, sigma], axis=-1)
