"""Flow matching: straight lines between image and noise, and what they have to do with the chain of this package.

The forward process keeps the variance: x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps. Flow matching (Lipman
et al. 2023; Liu et al. 2023, "rectified flow") mixes the same two with weights that add up to 1, and trains a network
on the velocity of that line. Only the scale of x differs: x_s / sqrt((1 - s)^2 + s^2) is an x_t of the chain that has
the same signal-to-noise ratio. So any sampler of this package can follow a flow on :func:`flow_schedule`, and Euler's
method along the flow is DDIM.

Training needs no more than that: the schedule "flow", whose steps are the times 1/T .. 1, and the prediction "flow",
whose target is the velocity. The network is given x_t, which is x_s at variance 1, in place of x_s.

Conventions
-----------
s, to : float
    Time of the flow, in [0, 1]: 0 is the image, 1 is noise.
x_s : array_like, shape (B, ...), floating
    The image with the noise of time s.
velocity : array_like, shape (B, ...), floating
    eps - x_0, or a network's guess of it.
"""

import numpy as np
from numpy.typing import ArrayLike

from ._arguments import FloatArray, real, real_array, same_shape
from .betas import _beta_at_flow_times
from .schedule import Schedule


def flow_path(x_0: ArrayLike, eps: ArrayLike, s: float) -> FloatArray:
    """x_s, a point on the line from image to noise; Lipman et al. 2023, eq. 22, with time turned round.

    x_s = (1 - s) x_0 + s eps
    """
    x_0, eps = same_shape(x_0=x_0, eps=eps)
    s = _time("s", s)
    return (1 - s) * x_0 + s * eps


def flow_velocity(x_0: ArrayLike, eps: ArrayLike) -> FloatArray:
    """dx_s / ds, which the network is trained to guess from x_s and s: the target of L_simple.

    velocity = eps - x_0
    """
    x_0, eps = same_shape(x_0=x_0, eps=eps)
    return eps - x_0


def x_0_from_velocity(x_s: ArrayLike, velocity: ArrayLike, s: float) -> FloatArray:
    """x_0, where the line through x_s begins.

    x_0 = x_s - s velocity
    """
    x_s, velocity = same_shape(x_s=x_s, velocity=velocity)
    s = _time("s", s)
    return x_s - s * velocity


def flow_step(x_s: ArrayLike, velocity: ArrayLike, s: float, to: float) -> FloatArray:
    """Euler's step along the flow, from time s to another.

    x_to = x_s + (to - s) velocity
    """
    x_s, velocity = same_shape(x_s=x_s, velocity=velocity)
    s = _time("s", s)
    to = _time("to", to)
    return x_s + (to - s) * velocity


def flow_schedule(times: ArrayLike) -> Schedule:
    """The chain whose step k has the signal-to-noise ratio of the flow at time s_k.

        alpha_bar_k = (1 - s_k)^2 / ((1 - s_k)^2 + s_k^2)

    Parameters
    ----------
    times : array_like, shape (T,)
        s_1 .. s_T, increasing, in (0, 1]. A last one of 1 is zero terminal SNR.

    Returns
    -------
    Schedule

    Examples
    --------
    >>> flow_schedule([0.5, 1.0]).alpha_bar.round(12).tolist()
    [1.0, 0.5, 0.0]
    """
    s = real_array("times", times)
    if s.ndim != 1 or not s.size or not (np.all(np.diff(s, prepend=0) > 0) and s[-1] <= 1):
        raise ValueError(f"times must be a row of increasing numbers in (0, 1], got {times!r}")
    return Schedule(_beta_at_flow_times(s), zero_terminal_snr=bool(s[-1] == 1))


def x_t_from_flow(x_s: ArrayLike, s: float) -> FloatArray:
    """x_t of the chain of :func:`flow_schedule`, by the scale that keeps the variance.

    x_t = x_s / sqrt((1 - s)^2 + s^2)
    """
    (x_s,) = same_shape(x_s=x_s)
    s = _time("s", s)
    result: FloatArray = x_s / np.hypot(1 - s, s)
    return result


def _time(name: str, s: float) -> float:
    if not 0 <= (time := real(name, s)) <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {s}")
    return time
