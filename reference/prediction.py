"""What a network may predict, eps, x_0, v, a flow or the reverse mean mu, and how each gives the others.

Given x_t they are the same knowledge: x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps is one equation in x_0
and eps, so that each follows from the other. They differ in how an error spreads. eps has variance 1 at every t, a
target of constant size, and is easy to guess where there is much noise; but there the division by sqrt(alpha_bar_t)
makes a small error of eps a large one of x_0. With x_0 it is the other way round. v goes smoothly from eps (t near 0)
to -x_0 (t near T), and nothing is divided. So does flow = eps - x_0, the velocity of :mod:`.flow`, which leads to both
from any t at the cost of a division by at least 1. The chapter, after Ho et al. 2020, predicts eps.
"""

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from ._arguments import FloatArray, clip_range, per_sample, require_name, rows, same_shape, steps
from .flow import flow_velocity
from .posterior import posterior_mean
from .schedule import Schedule

Prediction = Literal["eps", "x_0", "v", "flow"]
Quantity = Literal["eps", "x_0", "v", "flow", "mu"]


def velocity(schedule: Schedule, x_0: ArrayLike, eps: ArrayLike, t: ArrayLike) -> FloatArray:
    """v, the velocity of Salimans & Ho 2022, section 4 and appendix D.

        v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0

    (x_t, v) is (x_0, eps) turned by an angle whose cosine is sqrt(alpha_bar_t): no error grows on the way. t may be 0.
    """
    x_0, eps = same_shape(x_0=x_0, eps=eps)
    return _signal(schedule, t, x_0, first=0) * eps - _noise(schedule, t, x_0, first=0) * x_0


def x_0_from_eps(schedule: Schedule, x_t: ArrayLike, eps: ArrayLike, t: ArrayLike) -> FloatArray:
    """x_0, by solving the chapter's x_t for it; Ho et al. 2020, eq. 15.

        x_0 = (x_t - sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_bar_t)

    Raises
    ------
    ValueError
        If alpha_bar_t is 0 (zero terminal SNR, t = T): x_t is all noise, and says nothing about x_0.
    """
    x_t, eps = same_shape(x_t=x_t, eps=eps)
    _require_signal(schedule, t)
    return (x_t - _noise(schedule, t, x_t) * eps) / _signal(schedule, t, x_t)


def eps_from_x_0(schedule: Schedule, x_t: ArrayLike, x_0: ArrayLike, t: ArrayLike) -> FloatArray:
    """eps, by solving the chapter's x_t for it.

    eps = (x_t - sqrt(alpha_bar_t) x_0) / sqrt(1 - alpha_bar_t)
    """
    x_t, x_0 = same_shape(x_t=x_t, x_0=x_0)
    return (x_t - _signal(schedule, t, x_t) * x_0) / _noise(schedule, t, x_t)


def x_0_from_v(schedule: Schedule, x_t: ArrayLike, v: ArrayLike, t: ArrayLike) -> FloatArray:
    """x_0 from a velocity; Salimans & Ho 2022, section 4.

    x_0 = sqrt(alpha_bar_t) x_t - sqrt(1 - alpha_bar_t) v
    """
    x_t, v = same_shape(x_t=x_t, v=v)
    return _signal(schedule, t, x_t) * x_t - _noise(schedule, t, x_t) * v


def eps_from_v(schedule: Schedule, x_t: ArrayLike, v: ArrayLike, t: ArrayLike) -> FloatArray:
    """eps from a velocity; Salimans & Ho 2022, appendix D.

    eps = sqrt(1 - alpha_bar_t) x_t + sqrt(alpha_bar_t) v
    """
    x_t, v = same_shape(x_t=x_t, v=v)
    return _noise(schedule, t, x_t) * x_t + _signal(schedule, t, x_t) * v


def x_0_from_flow(schedule: Schedule, x_t: ArrayLike, flow: ArrayLike, t: ArrayLike) -> FloatArray:
    """x_0 from the velocity of a flow, by solving x_t and flow = eps - x_0 for it; at any t.

        x_0 = (x_t - sqrt(1 - alpha_bar_t) flow) / (sqrt(alpha_bar_t) + sqrt(1 - alpha_bar_t))

    Where s is the share of the noise in the sum below the line, the point of the flow is x_s = x_t / sum, and this is
    :func:`noisestep.reference.x_0_from_velocity`.
    """
    x_t, flow = same_shape(x_t=x_t, flow=flow)
    signal, noise = _signal(schedule, t, x_t), _noise(schedule, t, x_t)
    return (x_t - noise * flow) / (signal + noise)


def eps_from_flow(schedule: Schedule, x_t: ArrayLike, flow: ArrayLike, t: ArrayLike) -> FloatArray:
    """eps from the velocity of a flow, by solving x_t and flow = eps - x_0 for it.

    eps = (x_t + sqrt(alpha_bar_t) flow) / (sqrt(alpha_bar_t) + sqrt(1 - alpha_bar_t))
    """
    x_t, flow = same_shape(x_t=x_t, flow=flow)
    signal, noise = _signal(schedule, t, x_t), _noise(schedule, t, x_t)
    return (x_t + signal * flow) / (signal + noise)


def mu_from_eps(schedule: Schedule, x_t: ArrayLike, eps: ArrayLike, t: ArrayLike) -> FloatArray:
    """The mean of the chapter's reverse update; Ho et al. 2020, eq. 11.

        mu = 1 / sqrt(alpha_t) (x_t - (1 - alpha_t) / sqrt(1 - alpha_bar_t) eps)

    It is :func:`posterior_mean` with x_0 replaced by :func:`x_0_from_eps`, and the two coefficients of x_t added up.

    Raises
    ------
    ValueError
        If alpha_bar_t is 0 (zero terminal SNR, t = T).
    """
    x_t, eps = same_shape(x_t=x_t, eps=eps)
    _require_signal(schedule, t)
    alpha_t, beta_t = per_sample(schedule.alpha, t, x_t), per_sample(schedule.beta, t, x_t)
    # beta_t is 1 - alpha_t before it was rounded
    return 1 / np.sqrt(alpha_t) * (x_t - beta_t / _noise(schedule, t, x_t) * eps)


def eps_from_mu(schedule: Schedule, x_t: ArrayLike, mu: ArrayLike, t: ArrayLike) -> FloatArray:
    """eps, by solving the chapter's reverse mean for it.

        eps = sqrt(1 - alpha_bar_t) / (1 - alpha_t) (x_t - sqrt(alpha_t) mu)

    Parameters
    ----------
    mu : array_like, shape (B, ...), floating
        Mean of x_{t-1}.
    """
    x_t, mu = same_shape(x_t=x_t, mu=mu)
    alpha_t, beta_t = per_sample(schedule.alpha, t, x_t), per_sample(schedule.beta, t, x_t)
    return _noise(schedule, t, x_t) / beta_t * (x_t - np.sqrt(alpha_t) * mu)


def x_0_from_mu(schedule: Schedule, x_t: ArrayLike, mu: ArrayLike, t: ArrayLike) -> FloatArray:
    """x_0, by solving the posterior's mean for it (Ho et al. 2020, eq. 7).

        x_0 = (mu - c_t x_t) / c_0,   mu~_t = c_0 x_0 + c_t x_t

    Parameters
    ----------
    mu : array_like, shape (B, ...), floating
        Mean of x_{t-1}.
    """
    x_t, mu = same_shape(x_t=x_t, mu=mu)
    of_x_0 = per_sample(schedule.posterior_mean_coef_x_0, t, x_t)
    of_x_t = per_sample(schedule.posterior_mean_coef_x_t, t, x_t)
    return (mu - of_x_t * x_t) / of_x_0


def predict_x_0(
    schedule: Schedule,
    x_t: ArrayLike,
    output: ArrayLike,
    t: ArrayLike,
    *,
    prediction: Quantity = "eps",
    clip: tuple[float, float] | None = None,
) -> FloatArray:
    """The x_0 that a network's output stands for, clipped to the range of the data if asked.

    Pixels lie in [-1, 1], so a guess outside is known to be wrong. Clipping it keeps an early error from growing over
    the steps that follow.

    Examples
    --------
    >>> schedule = Schedule.from_name("linear", 1000)
    >>> x_t, output = np.array([[0.2]]), np.array([[-1.0]])
    >>> predict_x_0(schedule, x_t, output, 500).round(2).tolist()
    [[4.14]]
    >>> predict_x_0(schedule, x_t, output, 500, clip=(-1, 1)).tolist()
    [[1.0]]
    """
    x_t, output = same_shape(x_t=x_t, output=output)
    require_name("prediction", prediction, get_args(Quantity))
    if prediction == "x_0":
        # nothing is looked up for an output that is x_0 already, but a wrong t is still wrong
        rows(steps(t, schedule.T), x_t)
        x_0 = output
    elif prediction == "eps":
        x_0 = x_0_from_eps(schedule, x_t, output, t)
    elif prediction == "v":
        x_0 = x_0_from_v(schedule, x_t, output, t)
    elif prediction == "flow":
        x_0 = x_0_from_flow(schedule, x_t, output, t)
    else:
        x_0 = x_0_from_mu(schedule, x_t, output, t)
    return x_0 if clip is None else np.clip(x_0, *clip_range(clip))


def convert(
    schedule: Schedule, x_t: ArrayLike, value: ArrayLike, t: ArrayLike, *, source: Quantity, target: Quantity
) -> FloatArray:
    """One of eps, x_0, v, flow and mu from another, as a rule through x_0.

    Parameters
    ----------
    value : array_like, shape (B, ...), floating
        The quantity to convert.
    source, target : {"eps", "x_0", "v", "flow", "mu"}
        What the value is, and what it should become.

    Raises
    ------
    ValueError
        If alpha_bar_t is 0 and the source is eps.

    Examples
    --------
    >>> schedule = Schedule.from_name("cosine", 1000)
    >>> x_t, eps = np.array([[0.2]]), np.array([[-1.0]])
    >>> v = convert(schedule, x_t, eps, 500, source="eps", target="v")
    >>> convert(schedule, x_t, v, 500, source="v", target="eps").round(12).tolist()
    [[-1.0]]
    """
    require_name("target", target, get_args(Quantity))
    x_0 = predict_x_0(schedule, x_t, value, t, prediction=source)
    if target == "x_0":
        return x_0
    # by way of x_0 these would come back with more rounding
    if source == target:
        return same_shape(x_t=x_t, value=value)[1]
    if source == "v" and target == "eps":
        return eps_from_v(schedule, x_t, value, t)
    if source == "flow" and target == "eps":
        return eps_from_flow(schedule, x_t, value, t)
    if target == "mu":
        return posterior_mean(schedule, x_0, x_t, t)
    eps = eps_from_x_0(schedule, x_t, x_0, t)
    if target == "flow":
        return flow_velocity(x_0, eps)
    return eps if target == "eps" else velocity(schedule, x_0, eps, t)


def _signal(schedule: Schedule, t: ArrayLike, x: FloatArray, first: int = 1) -> FloatArray:
    return per_sample(schedule.sqrt_alpha_bar, t, x, first=first)


def _noise(schedule: Schedule, t: ArrayLike, x: FloatArray, first: int = 1) -> FloatArray:
    return per_sample(schedule.sqrt_one_minus_alpha_bar, t, x, first=first)


def _require_signal(schedule: Schedule, t: ArrayLike) -> None:
    if np.any(schedule.alpha_bar[steps(t, schedule.T)] == 0):
        raise ValueError(
            f"alpha_bar is 0 at t = {schedule.T} (zero terminal SNR): noise says nothing about x_0 there; "
            "predict x_0, v or flow"
        )
