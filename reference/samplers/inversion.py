"""DDIM backwards: from an image to the x_T that DDIM makes it from."""

import numpy as np
from numpy.typing import ArrayLike

from .._arguments import (
    FloatArray,
    samples,
    switch,
)
from ..multistep import step_prediction
from ..prediction import Quantity
from ..schedule import Schedule
from .chain import Model


def invert(
    schedule: Schedule,
    model: Model,
    images: ArrayLike,
    *,
    prediction: Quantity = "eps",
    trajectory: bool = False,
) -> FloatArray:
    """x_T of images, by the steps of DDIM without noise in the other direction; Song et al. 2021, section 4.3.

        x_t = sqrt(alpha_t) x_{t-1} + (sqrt(1 - alpha_bar_t) - sqrt(alpha_t) sqrt(1 - alpha_bar_{t-1}))
        eps_theta(x_{t-1}, t)

    DDIM is Euler's method for an ordinary differential equation, which can be followed either way. The step back to
    x_{t-1} would ask for eps at x_t, which is not known yet: it is taken at x_{t-1}, as step t. So sampling from the
    result gives the image again up to an error of first order in the length of the steps.

    Parameters
    ----------
    images : array_like, shape (B, ...), floating
        x_0, in [-1, 1].
    trajectory : bool
        Return every x_t, not x_T alone.

    Returns
    -------
    ndarray of float64, shape (B, ...)
        x_T; or with ``trajectory`` of shape (T + 1, B, ...), row t being x_t.
    """
    x_t, trajectory = samples("images", images), switch("trajectory", trajectory)
    states = [x_t]
    for t in range(1, schedule.T + 1):
        output = model(x_t, np.full(len(x_t), schedule.timesteps[t]))
        eps = step_prediction(schedule, x_t, output, t, prediction=prediction, memory="eps")
        kept = np.sqrt(schedule.alpha[t])
        before, now = schedule.sqrt_one_minus_alpha_bar[t - 1 : t + 1]
        x_t = kept * x_t + (now - kept * before) * eps
        states.append(x_t)
    return np.stack(states) if trajectory else x_t


def inversion_coefficients(schedule: Schedule) -> FloatArray:
    """The inversion as a table: (a, b, sigma) of x_t = a x_{t-1} + b eps + sigma z, row t being the step to t.

    Returns
    -------
    ndarray of float64, shape (T + 1, 3)
    """
    kept, noise = np.sqrt(schedule.alpha), schedule.sqrt_one_minus_alpha_bar
    table = np.zeros((schedule.T + 1, 3))
    table[:, 0] = kept
    # p - q is (p^2 - q^2) / (p + q), and p^2 - q^2 is beta_t
    table[1:, 1] = schedule.beta[1:] / (noise[1:] + kept[1:] * noise[:-1])
    return table
