"""The reverse process p(x_{t-1} | x_t): the chapter's update and its relatives, in full and as a table.

A small Gaussian step has a reverse that is nearly Gaussian, so a step of sampling is a mean, which the network gives,
and a variance sigma_t^2, which is chosen. Two choices are natural, and the truth lies between them. If x_0 were known,
the reverse would be the posterior, of variance beta~_t: right for data that are one point. If x_0 ~ N(0, I), the
chain looks the same in both directions, and its reverse has variance beta_t. With many steps the two hardly differ
except at small t (Ho et al. 2020, section 3.2; Nichol & Dhariwal 2021, section 3.1).

At t = 1 no noise is added. x_0 is the result, and noise on it would only be seen: the best single guess is the mean.
"""

from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import ArrayLike

from ._arguments import (
    FloatArray,
    given_scale,
    given_variance,
    per_sample,
    require_eta,
    require_name,
    rows,
    same_shape,
    steps,
    switch,
)
from .jumps import Jumps
from .posterior import posterior_mean
from .prediction import Prediction, Quantity, convert, eps_from_x_0, mu_from_eps, predict_x_0
from .schedule import Schedule

Variance = Literal["beta", "posterior", "zero"]


def reverse_variance(schedule: Schedule, variance: Variance = "posterior") -> FloatArray:
    """sigma_t^2 of the reverse update at every step; Ho et al. 2020, section 3.2.

    The result is a table, shape (T + 1,), whose row 0 is 0. Row 1 belongs to the bound, whose last term is the density
    of the pixels; :func:`reverse_step` adds no noise there.

    Parameters
    ----------
    variance : {"beta", "posterior", "zero"}
        beta_t, the chapter's choice; beta~_t; or 0, which leaves the mean alone.
    """
    require_name("variance", variance, get_args(Variance))
    if variance == "zero":
        return np.zeros(schedule.T + 1)
    return schedule.beta if variance == "beta" else schedule.posterior_variance


def learned_range_variance(schedule: Schedule, fraction: ArrayLike, t: ArrayLike) -> FloatArray:
    """Sigma_theta between beta~_t and beta_t, in the log domain; Nichol & Dhariwal 2021, eq. 15.

        Sigma = exp( v log beta_t + (1 - v) log beta~_t )

    The paper's v is the ``fraction`` here, as v is the velocity elsewhere. beta_t and
    beta~_t span orders of magnitude over t; a fraction between them asks the network for numbers of one size.

    Parameters
    ----------
    fraction : array_like, shape (B, ...), floating
        0 gives beta~_t, or at t = 1 what ``first_log_variance`` puts in its place; 1 gives beta_t.
        improved-diffusion's network outputs 2 fraction - 1.
    """
    (fraction,) = same_shape(fraction=fraction)
    log_beta = np.log(per_sample(schedule.beta, t, fraction))
    log_posterior = per_sample(schedule.posterior_log_variance, t, fraction)
    return np.exp(fraction * log_beta + (1 - fraction) * log_posterior)


def guided(conditional: ArrayLike, unconditional: ArrayLike, scale: ArrayLike) -> FloatArray:
    """Classifier-free guidance, one output made of two; Ho & Salimans 2022, eq. 6.

        output = unconditional + scale (conditional - unconditional)

    The difference points to what the label changes. A scale above 1 exaggerates it: samples fit their label better and
    vary less. Scale 1 is the conditional output, 0 the unconditional one; the paper's weight w is scale - 1.

    Parameters
    ----------
    conditional, unconditional : array_like, shape (B, ...), floating
        Outputs of the network with and without its label.
    scale : float, or array_like of shape (B,)
        How far to go from the second through the first; one for all samples, or one for each.

    Examples
    --------
    >>> guided(np.array([2.0]), np.array([1.0]), 3.0).tolist()
    [4.0]
    """
    conditional, unconditional = same_shape(conditional=conditional, unconditional=unconditional)
    return unconditional + given_scale(scale, conditional) * (conditional - unconditional)


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
    """
    require_name("prediction", prediction, get_args(Quantity))
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

    Without the noise the samples would lose variance at every step: the mean of x_{t-1} is one point where the process
    has a distribution.

    Examples
    --------
    With the true noise as the output, the last step gives the image back:

    >>> schedule = Schedule.from_name("linear", 10)
    >>> x_0, eps, z = np.array([[-1.0], [0.5]]), np.array([[0.3], [-2.0]]), np.ones((2, 1))
    >>> x_1 = np.sqrt(schedule.alpha_bar[1]) * x_0 + np.sqrt(1 - schedule.alpha_bar[1]) * eps
    >>> reverse_step(schedule, x_1, eps, 1, z).round(12).tolist()
    [[-1.0], [0.5]]
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
    The result is a table, shape (T + 1,), whose row 0 is 0.

    Examples
    --------
    >>> schedule = Schedule.from_name("linear", 10)
    >>> bool(np.all(ddim_sigma(schedule, 1.0) ** 2 - schedule.posterior_variance < 1e-16))
    True
    """
    eta = require_eta(eta)
    # 1 - alpha_bar_t / alpha_bar_{t-1} is beta_t
    return eta * np.sqrt(schedule.posterior_variance)


def ddim_direction(schedule: Schedule, eta: float) -> FloatArray:
    """What multiplies eps in a DDIM update, at every step; Song et al. 2021, eq. 12.

        sqrt(1 - alpha_bar_{t-1} - sigma_t^2)

    Squared and added to sigma_t^2 it is 1 - alpha_bar_{t-1}: the predicted noise and the fresh noise together have the
    variance that the marginal of x_{t-1} has.
    The result is a table, shape (T + 1,), whose row 0 is 0.
    """
    eta = require_eta(eta)
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

    It takes x_t apart into the predicted x_0 and eps, and mixes them again as q(x_{t-1} | x_0) would. The loss only
    ever used the marginals q(x_t | x_0), so the same network serves every process that shares them, Markov or not;
    with eta = 0 that is one without fresh noise, which needs far fewer steps. With eta = 1 the update is
    :func:`reverse_step` with the posterior's variance.

    Parameters
    ----------
    rederive_eps : bool
        Take eps from the clipped x_0 (improved-diffusion), or as the network's output says (diffusers, unless
        ``use_clipped_model_output``). Without clipping they are the same.

    Examples
    --------
    Where the output is right, one step with eta = 0 is as good as ten:

    >>> schedule = Schedule.from_name("linear", 10)
    >>> x_0, eps = np.array([[-1.0], [0.5]]), np.array([[0.3], [-2.0]])
    >>> x_T = np.sqrt(schedule.alpha_bar[10]) * x_0 + np.sqrt(1 - schedule.alpha_bar[10]) * eps
    >>> ddim_step(schedule.respace(1), x_T, eps, 1, np.zeros((2, 1))).round(12).tolist()
    [[-1.0], [0.5]]
    """
    x_t, output, z = same_shape(x_t=x_t, output=output, z=z)
    x_0 = predict_x_0(schedule, x_t, output, t, prediction=prediction, clip=clip)
    if switch("rederive_eps", rederive_eps):
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
    previous: ArrayLike | None = None,
) -> FloatArray:
    """Every reverse update as two linear combinations, with a clip between them: what a fused kernel reads.

        x_0     = c_0 x_t + c_1 output,   then clipped
        x_{t-1} = c_2 x_0 + c_3 x_t + c_4 output + c_5 z

    Only without ``rederive_eps`` is c_4 not 0.

    Parameters
    ----------
    prediction : {"eps", "x_0", "v", "flow"}
        What the output is.
    eta : float, optional
        In [0, 1], for :func:`ddim_step`; left out, the rows are those of :func:`reverse_step`.
    rederive_eps : bool
        As in :func:`ddim_step`.
    previous : array_like of int, shape (T,), optional
        The step that the update from each of 1..T leads to, as in :class:`Jumps`: x_s in place of x_{t-1}.

    Returns
    -------
    ndarray of float64, shape (T + 1, 6)
        Row t holds c_0 .. c_5 at t. Row 0 leaves x_t as it is; c_5 is 0 where the update leads to step 0.

    Raises
    ------
    ValueError
        If the prediction is eps on a schedule with zero terminal SNR.
    """
    require_name("prediction", prediction, get_args(Prediction))
    require_name("variance", variance, get_args(Variance))
    rederive_eps = switch("rederive_eps", rederive_eps)
    jumps = Jumps(schedule, previous)
    table = np.zeros((schedule.T + 1, 6))
    table[0] = [1, 0, 0, 1, 0, 0]
    c = table[1:]
    c[:, 0], c[:, 1] = _x_0_coefficients(schedule, prediction)
    clean, renewed = jumps.previous == 0, jumps.beta / schedule.one_minus_alpha_bar[1:]
    if eta is None:
        c[:, 2] = schedule.sqrt_alpha_bar[jumps.previous] * renewed
        c[:, 3] = np.sqrt(jumps.alpha) * jumps.kept
        if variance != "zero":
            c[:, 5] = np.where(clean, 0, np.sqrt(jumps.beta if variance == "beta" else jumps.posterior_variance))
        return table
    eta = require_eta(eta)
    c[:, 5] = eta * np.sqrt(jumps.posterior_variance)
    signal, noise = schedule.sqrt_alpha_bar[1:], schedule.sqrt_one_minus_alpha_bar[1:]
    direction = jumps.direction(eta)
    if rederive_eps:
        # a - b is (a^2 - b^2) / (a + b), and a^2 - b^2 = alpha_bar_s beta / (1 - alpha_bar_t) (1 + eta^2 shrink)
        a, b = schedule.sqrt_alpha_bar[jumps.previous], direction * (signal / noise)
        difference = schedule.alpha_bar[jumps.previous] * (renewed * (1 + eta**2 * jumps.shrink))
        # both are 0 in a step from alpha_bar 0 to itself
        np.divide(difference, a + b, out=c[:, 2], where=a + b > 0)
        c[:, 3] = direction / noise
    else:
        c[:, 2] = schedule.sqrt_alpha_bar[jumps.previous]
        # eps of the output before clipping, times the direction
        if prediction == "eps":
            c[:, 4] = direction
        elif prediction == "x_0":
            c[:, 3], c[:, 4] = direction / noise, -direction * signal / noise
        elif prediction == "flow":
            c[:, 3], c[:, 4] = direction / (signal + noise), direction * signal / (signal + noise)
        else:
            c[:, 3], c[:, 4] = direction * noise, direction * signal
    return table


def _x_0_coefficients(schedule: Schedule, prediction: Prediction) -> tuple[FloatArray, FloatArray]:
    signal, noise = schedule.sqrt_alpha_bar[1:], schedule.sqrt_one_minus_alpha_bar[1:]
    if prediction == "x_0":
        return np.zeros(schedule.T), np.ones(schedule.T)
    if prediction == "v":
        return signal, -noise
    if prediction == "flow":
        return 1 / (signal + noise), -noise / (signal + noise)
    if schedule.zero_terminal_snr:
        raise ValueError("alpha_bar_T is 0 (zero terminal SNR): eps tells nothing of x_0 there; predict x_0, v or flow")
    return 1 / signal, -noise / signal


def _after_step_1(schedule: Schedule, t: ArrayLike, x_t: FloatArray) -> FloatArray:
    checked = steps(t, schedule.T)
    return (checked > 1).astype(np.float64).reshape(rows(checked, x_t))
