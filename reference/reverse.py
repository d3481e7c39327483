"""The reverse process p(x_{t-1} | x_t): the chapter's update and its relatives, in full and as a table."""

from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import ArrayLike

from ._arguments import FloatArray, given_variance, per_sample, require_name, rows, same_shape, steps
from .jumps import Jumps
from .posterior import posterior_mean
from .prediction import Prediction, Quantity, convert, eps_from_x_0, mu_from_eps, predict_x_0
from .schedule import Schedule

Variance = Literal["beta", "posterior", "zero"]


def reverse_variance(schedule: Schedule, variance: Variance = "posterior") -> FloatArray:
    """sigma_t^2 of the reverse update at every step; Ho et al. 2020, section 3.2.

    ``"beta"`` is beta_t, the chapter's choice and best for x_0 ~ N(0, I); ``"posterior"`` is beta~_t, best
    for x_0 at one point; ``"zero"`` leaves the mean alone. At t = 1 no noise is added, whatever sigma_1 is.

    Parameters
    ----------
    schedule : Schedule
        T steps.
    variance : {"beta", "posterior", "zero"}
        Which of the fixed variances.

    Returns
    -------
    ndarray of float64, shape (T + 1,)
        sigma_t^2, row 0 being 0.

    Raises
    ------
    ValueError
        If the variance has another name.
    """
    require_name("variance", variance, get_args(Variance))
    if variance == "zero":
        return np.zeros(schedule.T + 1)
    return schedule.beta if variance == "beta" else schedule.posterior_variance


def learned_range_variance(schedule: Schedule, v: ArrayLike, t: ArrayLike) -> FloatArray:
    """Sigma_theta between beta~_t and beta_t, in the log domain; Nichol & Dhariwal 2021, eq. 15.

        Sigma = exp( v log beta_t + (1 - v) log beta~_t )

    Parameters
    ----------
    schedule : Schedule
        T steps; its ``first_log_variance`` stands in for log beta~_1.
    v : array_like, shape (B, ...), floating
        Place between the two, 0 giving beta~_t and 1 giving beta_t; improved-diffusion's network puts out
        2 v - 1.
    t : int or array_like of int, shape (B,)
        Step, in 1..T.

    Returns
    -------
    ndarray of float64, shape (B, ...)
        Sigma, to be handed to :func:`reverse_step` as its variance.
    """
    (v,) = same_shape(v=v)
    log_beta = np.log(per_sample(schedule.beta, t, v))
    log_posterior = per_sample(schedule.posterior_log_variance, t, v)
    return np.exp(v * log_beta + (1 - v) * log_posterior)


def guided(conditional: ArrayLike, unconditional: ArrayLike, scale: float) -> FloatArray:
    """Classifier-free guidance, one output made of two; Ho & Salimans 2022, eq. 6.

        output = unconditional + scale (conditional - unconditional)

    Scale 1 is the conditional output, 0 the unconditional one. The paper's weight w is scale - 1.

    Parameters
    ----------
    conditional, unconditional : array_like, shape (B, ...), floating
        Outputs of the network with and without its label.
    scale : float
        How far to go from the second through the first.

    Returns
    -------
    ndarray of float64, shape (B, ...)
        The guided output, a prediction of the same kind.
    """
    conditional, unconditional = same_shape(conditional=conditional, unconditional=unconditional)
    return unconditional + scale * (conditional - unconditional)


def reverse_mean(
    schedule: Schedule,
    x_t: ArrayLike,
    output: ArrayLike,
    t: ArrayLike,
    *,
    prediction: Quantity = "eps",
    clip: tuple[float, float] | None = None,
) -> FloatArray:
    """mu_theta(x_t, t), the mean of the chapter's reverse update; Ho et al. 2020, eq. 11.

        mu_theta = 1 / sqrt(alpha_t) (x_t - (1 - alpha_t) / sqrt(1 - alpha_bar_t) eps_theta)

    For any other prediction, and where x_0 is clipped, it is the posterior's mean at the predicted x_0, which
    for eps without clipping is the same thing.

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
        Range that the predicted x_0 is clipped to.

    Returns
    -------
    ndarray of float64, shape (B, ...)
        mu_theta.
    """
    if prediction == "eps" and clip is None:
        return mu_from_eps(schedule, x_t, output, t)
    x_0 = predict_x_0(schedule, x_t, output, t, prediction=prediction, clip=clip)
    return posterior_mean(schedule, x_0, x_t, t)


def reverse_step(
    schedule: Schedule,
    x_t: ArrayLike,
    output: ArrayLike,
    t: ArrayLike,
    z: ArrayLike,
    *,
    prediction: Quantity = "eps",
    clip: tuple[float, float] | None = None,
    variance: Variance | ArrayLike = "posterior",
) -> FloatArray:
    """x_{t-1}, the chapter's update; Ho et al. 2020, algorithm 2.

        x_{t-1} = mu_theta(x_t, t) + sigma_t z,   z ~ N(0, I), and no noise at t = 1

    Parameters
    ----------
    schedule : Schedule
        T steps.
    x_t, output, z : array_like, shape (B, ...), floating
        Noised data, what the network made of it, and standard normal noise.
    t : int or array_like of int, shape (B,)
        Step, in 1..T.
    prediction : {"eps", "x_0", "v", "mu"}
        What the output is.
    clip : (low, high), optional
        Range that the predicted x_0 is clipped to.
    variance : {"beta", "posterior", "zero"} or array_like
        sigma_t^2: by name, or given, at least 0, as a scalar, of shape (B,), or of the shape of x_t.

    Returns
    -------
    ndarray of float64, shape (B, ...)
        x_{t-1}.

    Raises
    ------
    TypeError
        If an array is not floating or t not integer.
    ValueError
        If t is outside 1..T, shapes disagree, a name is unknown, or a given variance is negative or NaN.
    """
    x_t, output, z = same_shape(x_t=x_t, output=output, z=z)
    mean = reverse_mean(schedule, x_t, output, t, prediction=prediction, clip=clip)
    if isinstance(variance, str):
        sigma_2 = per_sample(reverse_variance(schedule, cast(Variance, variance)), t, x_t)
    else:
        sigma_2 = given_variance(variance, x_t)
    return mean + _after_step_1(schedule, t, x_t) * np.sqrt(sigma_2) * z


def ddim_sigma(schedule: Schedule, eta: float) -> FloatArray:
    """sigma_t(eta) of DDIM at every step; Song et al. 2021, eq. 16.

        sigma_t = eta sqrt((1 - alpha_bar_{t-1}) / (1 - alpha_bar_t)) sqrt(1 - alpha_bar_t / alpha_bar_{t-1})

    It is eta sqrt(beta~_t): 0 makes the update deterministic, 1 gives the posterior's variance.

    Parameters
    ----------
    schedule : Schedule
        T steps.
    eta : float
        In [0, 1].

    Returns
    -------
    ndarray of float64, shape (T + 1,)
        sigma_t, row 0 being 0.

    Raises
    ------
    ValueError
        If eta is outside [0, 1].
    """
    _require_eta(eta)
    # 1 - alpha_bar_t / alpha_bar_{t-1} is beta_t
    return eta * np.sqrt(schedule.posterior_variance)


def ddim_direction(schedule: Schedule, eta: float) -> FloatArray:
    """What multiplies eps in a DDIM update, at every step; Song et al. 2021, eq. 12.

        sqrt(1 - alpha_bar_{t-1} - sigma_t^2)

    Parameters
    ----------
    schedule : Schedule
        T steps.
    eta : float
        In [0, 1].

    Returns
    -------
    ndarray of float64, shape (T + 1,)
        The coefficient, row 0 being 0.

    Raises
    ------
    ValueError
        If eta is outside [0, 1].
    """
    _require_eta(eta)
    return np.concatenate([[0.0], Jumps(schedule).direction(eta)])


def ddim_step(
    schedule: Schedule,
    x_t: ArrayLike,
    output: ArrayLike,
    t: ArrayLike,
    z: ArrayLike,
    *,
    eta: float = 0.0,
    prediction: Quantity = "eps",
    clip: tuple[float, float] | None = None,
    rederive_eps: bool = True,
) -> FloatArray:
    """x_{t-1} by DDIM; Song et al. 2021, eq. 12. On fewer steps, respace the schedule.

        x_{t-1} = sqrt(alpha_bar_{t-1}) x_0 + sqrt(1 - alpha_bar_{t-1} - sigma_t^2) eps + sigma_t z

    Parameters
    ----------
    schedule : Schedule
        T steps.
    x_t, output, z : array_like, shape (B, ...), floating
        Noised data, what the network made of it, and standard normal noise.
    t : int or array_like of int, shape (B,)
        Step, in 1..T.
    eta : float
        In [0, 1]: 0 for no noise at all, 1 for the posterior's.
    prediction : {"eps", "x_0", "v", "mu"}
        What the output is.
    clip : (low, high), optional
        Range that the predicted x_0 is clipped to.
    rederive_eps : bool
        Take eps from the clipped x_0 (improved-diffusion), or as the network's output says (diffusers, unless
        ``use_clipped_model_output``). Without clipping they are the same.

    Returns
    -------
    ndarray of float64, shape (B, ...)
        x_{t-1}.

    Raises
    ------
    TypeError
        If an array is not floating or t not integer.
    ValueError
        If t is outside 1..T, shapes disagree, the prediction has another name, or eta is outside [0, 1].
    """
    x_t, output, z = same_shape(x_t=x_t, output=output, z=z)
    x_0 = predict_x_0(schedule, x_t, output, t, prediction=prediction, clip=clip)
    if rederive_eps:
        eps = eps_from_x_0(schedule, x_t, x_0, t)
    else:
        eps = convert(schedule, x_t, output, t, source=prediction, target="eps")
    sqrt_alpha_bar_before = per_sample(schedule.sqrt_alpha_bar[:-1], steps(t, schedule.T) - 1, x_t, first=0)
    direction = per_sample(ddim_direction(schedule, eta), t, x_t)
    sigma = per_sample(ddim_sigma(schedule, eta), t, x_t)
    return sqrt_alpha_bar_before * x_0 + direction * eps + sigma * z


def reverse_coefficients(
    schedule: Schedule,
    *,
    prediction: Prediction = "eps",
    variance: Variance = "posterior",
    eta: float | None = None,
    rederive_eps: bool = True,
    to: ArrayLike | None = None,
) -> FloatArray:
    """Every reverse update as two linear combinations, with a clip between them: what a fused kernel reads.

        x_0     = c_0 x_t + c_1 output,   then clipped
        x_{t-1} = c_2 x_0 + c_3 x_t + c_4 output + c_5 z

    Parameters
    ----------
    schedule : Schedule
        T steps.
    prediction : {"eps", "x_0", "v"}
        What the output is.
    variance : {"beta", "posterior", "zero"}
        sigma_t^2 of :func:`reverse_step`; not looked at where eta is given.
    eta : float, optional
        In [0, 1], for :func:`ddim_step`; left out, the rows are those of :func:`reverse_step`.
    rederive_eps : bool
        As in :func:`ddim_step`. Only without it is c_4 not 0.
    to : array_like of int, shape (T,), optional
        The step that the update from each of 1..T leads to, as in :class:`Jumps`: x_s in place of x_{t-1}.

    Returns
    -------
    ndarray of float64, shape (T + 1, 6)
        Row t holds c_0 .. c_5 at t. Row 0 leaves x_t as it is; c_5 is 0 where the update leads to step 0.

    Raises
    ------
    TypeError, ValueError
        If a name is unknown, eta is outside [0, 1], the prediction is eps on a schedule with zero terminal SNR,
        or `to` is refused.
    """
    require_name("prediction", prediction, get_args(Prediction))
    require_name("variance", variance, get_args(Variance))
    jumps = Jumps(schedule, to)
    table = np.zeros((schedule.T + 1, 6))
    table[0] = [1, 0, 0, 1, 0, 0]
    c = table[1:]
    c[:, 0], c[:, 1] = _x_0_coefficients(schedule, prediction)
    clean, renewed = jumps.to == 0, jumps.beta / schedule.one_minus_alpha_bar[1:]
    if eta is None:
        c[:, 2] = schedule.sqrt_alpha_bar[jumps.to] * renewed
        c[:, 3] = np.sqrt(jumps.alpha) * jumps.kept
        if variance != "zero":
            c[:, 5] = np.where(clean, 0, np.sqrt(jumps.beta if variance == "beta" else jumps.posterior_variance))
        return table
    _require_eta(eta)
    c[:, 5] = eta * np.sqrt(jumps.posterior_variance)
    signal, noise = schedule.sqrt_alpha_bar[1:], schedule.sqrt_one_minus_alpha_bar[1:]
    direction = jumps.direction(eta)
    if rederive_eps:
        # a - b is (a^2 - b^2) / (a + b), and a^2 - b^2 = alpha_bar_s beta / (1 - alpha_bar_t) (1 + eta^2 shrink)
        a, b = schedule.sqrt_alpha_bar[jumps.to], direction * (signal / noise)
        difference = schedule.alpha_bar[jumps.to] * (renewed * (1 + eta**2 * jumps.shrink))
        # both are 0 in a step from alpha_bar 0 to itself
        np.divide(difference, a + b, out=c[:, 2], where=a + b > 0)
        c[:, 3] = direction / noise
    else:
        c[:, 2] = schedule.sqrt_alpha_bar[jumps.to]
        # eps of the output before clipping, times the direction
        if prediction == "eps":
            c[:, 4] = direction
        elif prediction == "x_0":
            c[:, 3], c[:, 4] = direction / noise, -direction * signal / noise
        else:
            c[:, 3], c[:, 4] = direction * noise, direction * signal
    return table


def _require_eta(eta: float) -> None:
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be in [0, 1], got {eta}")


def _x_0_coefficients(schedule: Schedule, prediction: Prediction) -> tuple[FloatArray, FloatArray]:
    signal, noise = schedule.sqrt_alpha_bar[1:], schedule.sqrt_one_minus_alpha_bar[1:]
    if prediction == "x_0":
        return np.zeros(schedule.T), np.ones(schedule.T)
    if prediction == "v":
        return signal, -noise
    if schedule.zero_terminal_snr:
        raise ValueError("alpha_bar_T is 0 (zero terminal SNR): eps tells nothing of x_0 there; predict x_0 or v")
    return 1 / signal, -noise / signal


def _after_step_1(schedule: Schedule, t: ArrayLike, x_t: FloatArray) -> FloatArray:
    checked = steps(t, schedule.T)
    return (checked > 1).astype(np.float64).reshape(rows(checked, x_t))
