"""Heun's method: two calls of the network a step, second order."""

from collections.abc import Iterator

import numpy as np

from .._arguments import FloatArray
from ..reverse import reverse_coefficients
from ..schedule import Schedule
from .chain import Chain


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


def heun_weights(schedule: Schedule) -> FloatArray:
    """What Heun's method adds to DDIM's update, as a table over the step that it leads to.

        x_s = x'_s + w_s (x_0(x'_s, s) - x_0(x_t, t)),    w_s = sqrt(1 - alpha_bar_s) (k_s - k_t) / 2,    s = t - 1

    Returns
    -------
    ndarray of float64, shape (T + 1,)
        w_s, in [0, 1/2]; 0 in rows 0 and T, where no second call is made.
    """
    weights = np.zeros(schedule.T + 1)
    # DDIM's coefficient of x_0 is sqrt(1 - alpha_bar_s) (k_s - k_t), made without subtracting near-equals
    weights[1:-1] = reverse_coefficients(schedule, prediction="x_0", eta=0.0)[2:, 2] / 2
    return weights
