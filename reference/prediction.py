"""What a network may predict, eps, x_0, v or the reverse mean mu, and how each gives the others."""

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from ._arguments import FloatArray, per_sample, require_name, rows, same_shape, steps
from .posterior import posterior_mean
from .schedule import Schedule

Prediction = Literal["eps", "x_0", "v"]
Quantity = Literal["eps", "x_0", "v", "mu"]


def velocity(schedule: Schedule, x_0: ArrayLike, eps: ArrayLike, t: ArrayLike) -> FloatArray:
    """v, the velocity of Salimans & Ho 2022, section 4 and appendix D.

        v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0

    Parameters
    ----------
    schedule : Schedule
        T steps.
    x_0, eps : array_like, shape (B, ...), floating
        Clean data and the noise that is mixed into it.
    t : int or array_like of int, shape (B,)
        Step, in 0..T.

    Returns
    -------
    ndarray of float64, shape (B, ...)
        v.
    """
    x_0, eps = same_shape(x_0=x_0, eps=eps)
    return _signal(schedule, t, x_0, first=0) * eps - _noise(schedule, t, x_0, first=0) * x_0


def x_0_from_eps(schedule: Schedule, x_t: ArrayLike, eps: ArrayLike, t: ArrayLike) -> FloatArray:
    """x_0, by solving the chapter's x_t for it; Ho et al. 2020, eq. 15.

        x_0 = (x_t - sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_bar_t)

    Parameters
    ----------
    schedule : Schedule
        T steps.
    x_t, eps : array_like, shape (B, ...), floating
        Noised data and its noise, true or predicted.
    t : int or array_like of int, shape (B,)
        Step, in 1..T.

    Returns
    -------
    ndarray of float64, shape (B, ...)
        x_0.

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

    Parameters
    ----------
    schedule : Schedule
        T steps.
    x_t, x_0 : array_like, shape (B, ...), floating
        Noised data, and clean data, true or predicted.
    t : int or array_like of int, shape (B,)
        Step, in 1..T.

    Returns
    -------
    ndarray of float64, shape (B, ...)
        eps.
    """
    x_t, x_0 = same_shape(x_t=x_t, x_0=x_0)
    return (x_t - _signal(schedule, t, x_t) * x_0) / _noise(schedule, t, x_t)


def x_0_from_v(schedule: Schedule, x_t: ArrayLike, v: ArrayLike, t: ArrayLike) -> FloatArray:
    """x_0 from a velocity; Salimans & Ho 2022, section 4.

        x_0 = sqrt(alpha_bar_t) x_t - sqrt(1 - alpha_bar_t) v

    Parameters
    ----------
    schedule : Schedule
        T steps.
    x_t, v : array_like, shape (B, ...), floating
        Noised data and velocity.
    t : int or array_like of int, shape (B,)
        Step, in 1..T.

    Returns
    -------
    ndarray of float64, shape (B, ...)
        x_0.
    """
    x_t, v = same_shape(x_t=x_t, v=v)
    return _signal(schedule, t, x_t) * x_t - _noise(schedule, t, x_t) * v


def eps_from_v(schedule: Schedule, x_t: ArrayLike, v: ArrayLike, t: ArrayLike) -> FloatArray:
    """eps from a velocity; Salimans & Ho 2022, appendix D.

        eps = sqrt(1 - alpha_bar_t) x_t + sqrt(alpha_bar_t) v

    Parameters
    ----------
    schedule : Schedule
        T steps.
    x_t, v : array_like, shape (B, ...), floating
        Noised data and velocity.
    t : int or array_like of int, shape (B,)
        Step, in 1..T.

    Returns
    -------
    ndarray of float64, shape (B, ...)
        eps.
    """
    x_t, v = same_shape(x_t=x_t, v=v)
    return _noise(schedule, t, x_t) * x_t + _signal(schedule, t, x_t) * v


def mu_from_eps(schedule: Schedule, x_t: ArrayLike, eps: ArrayLike, t: ArrayLike) -> FloatArray:
    """The mean of the chapter's reverse update; Ho et al. 2020, eq. 11.

        mu = 1 / sqrt(alpha_t) (x_t - (1 - alpha_t) / sqrt(1 - alpha_bar_t) eps)

    Parameters
    ----------
    schedule : Schedule
        T steps.
    x_t, eps : array_like, shape (B, ...), floating
        Noised data and its noise, true or predicted.
    t : int or array_like of int, shape (B,)
        Step, in 1..T.

    Returns
    -------
    ndarray of float64, shape (B, ...)
        mu.

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
    schedule : Schedule
        T steps.
    x_t, mu : array_like, shape (B, ...), floating
        Noised data and the mean of x_{t-1}.
    t : int or array_like of int, shape (B,)
        Step, in 1..T.

    Returns
    -------
    ndarray of float64, shape (B, ...)
        eps.
    """
    x_t, mu = same_shape(x_t=x_t, mu=mu)
    alpha_t, beta_t = per_sample(schedule.alpha, t, x_t), per_sample(schedule.beta, t, x_t)
    return _noise(schedule, t, x_t) / beta_t * (x_t - np.sqrt(alpha_t) * mu)


def x_0_from_mu(schedule: Schedule, x_t: ArrayLike, mu: ArrayLike, t: ArrayLike) -> FloatArray:
    """x_0, by solving the posterior's mean for it (Ho et al. 2020, eq. 7).

        x_0 = (mu - c_t x_t) / c_0,   mu~_t = c_0 x_0 + c_t x_t

    Parameters
    ----------
    schedule : Schedule
        T steps.
    x_t, mu : array_like, shape (B, ...), floating
        Noised data and the mean of x_{t-1}.
    t : int or array_like of int, shape (B,)
        Step, in 1..T.

    Returns
    -------
    ndarray of float64, shape (B, ...)
        x_0.
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

    Parameters
    ----------
    schedule : Schedule
        T steps.
    x_t, output : array_like, shape (B, ...), floating
        Noised data, and what the network made of it.
    t : int or array_like of int, shape (B,)
        Step, in 1..T.
    prediction : {"eps", "x_0", "v", "mu"}
        What the output is.
    clip : (low, high), optional
        Range that x_0 is clipped to, such as (-1, 1) for images.

    Returns
    -------
    ndarray of float64, shape (B, ...)
        x_0.

    Raises
    ------
    ValueError
        If the prediction has another name, or low is not below high.
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
    else:
        x_0 = x_0_from_mu(schedule, x_t, output, t)
    return x_0 if clip is None else np.clip(x_0, *_checked_clip(clip))


def convert(
    schedule: Schedule, x_t: ArrayLike, value: ArrayLike, t: ArrayLike, *, source: Quantity, target: Quantity
) -> FloatArray:
    """One of eps, x_0, v and mu from another, through x_0.

    Parameters
    ----------
    schedule : Schedule
        T steps.
    x_t, value : array_like, shape (B, ...), floating
        Noised data, and the quantity to convert.
    t : int or array_like of int, shape (B,)
        Step, in 1..T.
    source, target : {"eps", "x_0", "v", "mu"}
        What the value is, and what it should become.

    Returns
    -------
    ndarray of float64, shape (B, ...)
        The same prediction, told as the target.

    Raises
    ------
    ValueError
        If a name is another one, or alpha_bar_t is 0 and the source is eps.
    """
    require_name("target", target, get_args(Quantity))
    x_0 = predict_x_0(schedule, x_t, value, t, prediction=source)
    if target == "x_0":
        return x_0
    if target == "mu":
        return posterior_mean(schedule, x_0, x_t, t)
    eps = eps_from_x_0(schedule, x_t, x_0, t)
    return eps if target == "eps" else velocity(schedule, x_0, eps, t)


def _signal(schedule: Schedule, t: ArrayLike, x: FloatArray, first: int = 1) -> FloatArray:
    return per_sample(schedule.sqrt_alpha_bar, t, x, first=first)


def _noise(schedule: Schedule, t: ArrayLike, x: FloatArray, first: int = 1) -> FloatArray:
    return per_sample(schedule.sqrt_one_minus_alpha_bar, t, x, first=first)


def _require_signal(schedule: Schedule, t: ArrayLike) -> None:
    if np.any(schedule.alpha_bar[steps(t, schedule.T)] == 0):
        raise ValueError(
            f"alpha_bar is 0 at t = {schedule.T} (zero terminal SNR): noise says nothing about x_0 there; "
            "predict x_0 or v"
        )


def _checked_clip(clip: tuple[float, float]) -> tuple[float, float]:
    low, high = clip
    if not low < high:
        raise ValueError(f"clip must be (low, high) with low < high, got {clip}")
    return low, high
