"""DPM-Solver++ 3M: one call of the network a step, third order by remembering two steps before."""

from collections.abc import Iterator

import numpy as np

from .._arguments import FloatArray
from ..schedule import Schedule
from .chain import Chain
from .exponential import half_log_snr_steps, noise_kept, phi, x_0_gained


def dpmpp_3m(chain: Chain) -> Iterator[FloatArray]:
    """DPM-Solver++ with the last three predictions; Lu et al. 2022 (arXiv:2211.01095), section 4, with k = 3.

        h = lambda_{t-1} - lambda_t,    r_0 = h_{t+1} / h,    r_1 = h_{t+2} / h,    D_i = x_0(x_{t+i}, t+i)

        d_0 = (D_0 - D_1) / r_0,    d_1 = (D_1 - D_2) / r_1,    q = (d_0 - d_1) / (r_0 + r_1),    d = d_0 + r_0 q

        x_{t-1} = sqrt(1 - alpha_bar_{t-1}) / sqrt(1 - alpha_bar_t) x_t
                  + sqrt(alpha_bar_{t-1}) h (phi_1(-h) D_0 + phi_2(-h) d + 2 phi_3(-h) q)

    D_0 + d u + q u^2 is the parabola through the three predictions, u = 0 at t and 1 at t - 1, and each phi_{k+1} comes
    with the k-th derivative, of which that of q u^2 is 2 q. Code that is in use (the authors', k-diffusion's,
    diffusers') has q in the place of 2 q, with which the method is of second order.

    The second step has one prediction to remember, and takes q = 0 and d = d_0. The first has none, and in the last h
    is infinite: both are DDIM's.

    Parameters
    ----------
    chain : Chain

    Yields
    ------
    ndarray of float64, shape (B, ...)
        x_{T-1}, .., x_0.
    """
    schedule = chain.schedule
    signal, noise = schedule.sqrt_alpha_bar, schedule.sqrt_one_minus_alpha_bar
    h = half_log_snr_steps(schedule)
    x_t = chain.x_T
    before: list[FloatArray] = []
    for t in range(schedule.T, 0, -1):
        D = [chain.x_0(x_t, t), *before]
        x_t = noise[t - 1] / noise[t] * x_t - signal[t - 1] * np.expm1(-h[t]) * D[0]
        if 1 < t < schedule.T:
            r = h[t + 1 :] / h[t]
            d, q = (D[0] - D[1]) / r[0], np.zeros_like(x_t)
            if len(D) == 3:
                q = (d - (D[1] - D[2]) / r[1]) / (r[0] + r[1])
                d = d + r[0] * q
            x_t = x_t + signal[t - 1] * h[t] * (phi(2, h[t]) * d + 2 * phi(3, h[t]) * q)
        before = D[:2]
        yield x_t


def dpmpp_3m_coefficients(schedule: Schedule) -> FloatArray:
    """DPM-Solver++ 3M as a table: (a, b, c_1, c_2, sigma), x_{t-1} = a x_t + b D_0 + c_1 D_1 + c_2 D_2 + sigma z.

    Returns
    -------
    ndarray of float64, shape (T + 1, 5)
    """
    h = half_log_snr_steps(schedule)
    table = np.zeros((schedule.T + 1, 5))
    table[:, 0], table[:, 1] = noise_kept(schedule), x_0_gained(schedule, h)
    for t in range(schedule.T - 1, 1, -1):
        scale = schedule.sqrt_alpha_bar[t - 1] * h[t]
        of_d, of_q = scale * phi(2, h[t]), 2 * scale * phi(3, h[t])
        r_0 = h[t + 1] / h[t]
        # the columns of D_0, D_1 and D_2
        d = np.array([1, -1, 0]) / r_0
        if t + 2 <= schedule.T:
            r_1 = h[t + 2] / h[t]
            q = (d - np.array([0, 1, -1]) / r_1) / (r_0 + r_1)
            table[t, 1:4] += of_d * (d + r_0 * q) + of_q * q
        else:
            table[t, 1:4] += of_d * d
    return table
