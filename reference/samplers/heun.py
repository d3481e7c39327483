"""Heun's method: two calls of the network a step, second order."""

from collections.abc import Iterator

import numpy as np

from .._arguments import FloatArray
from ..schedule import Schedule
from .chain import Chain
from .exponential import half_log_snr_steps, noise_kept, x_0_gained


def heun(chain: Chain) -> Iterator[FloatArray]:
    """Heun's method for the probability-flow ODE; Karras et al. 2022, algorithm 1, with s(k) = k and sigma(k) = 1/k.

        y = x_t / sqrt(1 - alpha_bar_t),    k = sqrt(alpha_bar_t / (1 - alpha_bar_t)),    dy/dk = x_0(x_t, t)

        y'      = y + (k_{t-1} - k_t) x_0(x_t, t)
        y_{t-1} = y + (k_{t-1} - k_t) (x_0(x_t, t) + x_0(x', t-1)) / 2

    The algorithm leaves s and sigma open. With these two, k is 0 where no signal is left, so that the chain may start
    there, and y' is DDIM's update. Lu et al. 2022 (DPM-Solver++) derive the same step as their algorithm 1 with r = 1.
    k_0 is infinite: as in the paper, the last step is Euler's, which leads to the predicted x_0. T steps are 2 T - 1
    calls of the network.

    Parameters
    ----------
    chain : Chain

    Yields
    ------
    ndarray of float64, shape (B, ...)
        x_{T-1}, .., x_0.
    """
    noise = chain.schedule.sqrt_one_minus_alpha_bar
    k = np.sqrt(chain.schedule.snr)
    x_t = chain.x_T
    for t in range(chain.schedule.T, 1, -1):
        y, x_0 = x_t / noise[t], chain.x_0(x_t, t)
        euler = noise[t - 1] * (y + (k[t - 1] - k[t]) * x_0)
        x_t = noise[t - 1] * (y + (k[t - 1] - k[t]) * (x_0 + chain.x_0(euler, t - 1)) / 2)
        yield x_t
    yield chain.x_0(x_t, 1)


def heun_coefficients(schedule: Schedule) -> tuple[FloatArray, FloatArray]:
    """Heun's method as two tables: Euler's step from t, and what the second call at s = t - 1 makes of it.

        x'_s = a x_t + b x_0(x_t, t) + sigma z,    x_s = a x'_s + b x_0(x'_s, s) + c x_0(x_t, t) + sigma z

    Returns
    -------
    ndarray of float64, shape (T + 1, 3)
        Row t: the step from t.
    ndarray of float64, shape (T + 1, 4)
        Row s. b = -c = sqrt(1 - alpha_bar_s) (k_s - k_t) / 2, in [0, 1/2]; a is 1. Rows 0 and T change nothing.
    """
    nothing = np.zeros(schedule.T + 1)
    of_x_0 = x_0_gained(schedule, half_log_snr_steps(schedule))
    # DDIM's coefficient of x_0 is sqrt(1 - alpha_bar_s) (k_s - k_t)
    half = nothing.copy()
    half[1:-1] = of_x_0[2:] / 2
    euler = np.stack([noise_kept(schedule), of_x_0, nothing], axis=-1)
    return euler, np.stack([nothing + 1, half, -half, nothing], axis=-1)
