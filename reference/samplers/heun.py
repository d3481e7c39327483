"""Heun's method: two calls of the network a step, second order, with or without noise that is added before a step."""

from collections.abc import Iterator
from dataclasses import replace
from math import inf, sqrt

import numpy as np
from numpy.typing import NDArray

from .._arguments import FloatArray, factor, real
from ..schedule import Schedule
from .chain import Chain
from .exponential import half_log_snr_steps, noise_kept, x_0_gained


def heun(
    chain: Chain,
    *,
    trained: Schedule | None = None,
    churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = inf,
    s_noise: float = 1.0,
) -> Iterator[FloatArray]:
    """Heun's method for the probability-flow ODE; Karras et al. 2022, algorithm 1, with s(k) = k and sigma(k) = 1/k.

        y = x_t / sqrt(1 - alpha_bar_t),    k = sqrt(alpha_bar_t / (1 - alpha_bar_t)),    dy/dk = x_0(x_t, t)

        y'      = y + (k_{t-1} - k_t) x_0(x_t, t)
        y_{t-1} = y + (k_{t-1} - k_t) (x_0(x_t, t) + x_0(x', t-1)) / 2

    The algorithm leaves s and sigma open. With these two, k is 0 where no signal is left, so that the chain may start
    there, and y' is DDIM's update. Lu et al. 2022 (DPM-Solver++) derive the same step as their algorithm 1 with r = 1.
    k_0 is infinite: as in the paper, the last step is Euler's, which leads to the predicted x_0. T steps are 2 T - 1
    calls of the network.

    With ``churn`` it is the paper's algorithm 2, EDM's stochastic sampler. Each step first adds noise, by the forward
    process, to get from t to t^ (:func:`raised_steps`), and starts there:

        x_t^ = sqrt(alpha_bar_t^ / alpha_bar_t) x_t + s_noise sqrt(1 - alpha_bar_t^ / alpha_bar_t) z

    Parameters
    ----------
    chain : Chain
    trained : Schedule, optional
        The chain whose steps the network knows, of which ``chain.schedule`` keeps some; that one if left out.
    churn : float
        The paper's S_churn, at least 0: how much noise is added, over all T steps.
    s_min, s_max : float
        Noise is added where sigma_t = 1 / k_t is between these; 0 <= s_min <= s_max.
    s_noise : float
        Factor on the noise that is added, at least 0.

    Yields
    ------
    ndarray of float64, shape (B, ...)
        x_{T-1}, .., x_0.

    Raises
    ------
    ValueError
        A setting out of range, or a step that ``trained`` has not.
    """
    schedule, trained = chain.schedule, chain.schedule if trained is None else trained
    raised = raised_steps(schedule, trained=trained, churn=churn, s_min=s_min, s_max=s_max, s_noise=s_noise)
    way_up = _way_up(schedule, trained, raised)
    # the network at the steps that the noise is raised to
    above = replace(chain, schedule=trained)
    noise, k = _noise_and_k(schedule)
    noise_above, k_above = (column[raised] for column in _noise_and_k(trained))
    x_t = chain.x_T
    for t in range(schedule.T, 0, -1):
        of_x_t, of_z = way_up[t]
        if of_z > 0:
            x_t = of_x_t * x_t + s_noise * of_z * chain.z(t)
        x_0 = above.x_0(x_t, raised[t])
        if t == 1:
            yield x_0
            return
        y, step = x_t / noise_above[t], k[t - 1] - k_above[t]
        euler = noise[t - 1] * (y + step * x_0)
        x_t = noise[t - 1] * (y + step * (x_0 + chain.x_0(euler, t - 1)) / 2)
        yield x_t


def raised_steps(
    schedule: Schedule,
    *,
    trained: Schedule | None = None,
    churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = inf,
    s_noise: float = 1.0,
) -> NDArray[np.int64]:
    """t^, the step of ``trained`` that :func:`heun` raises the noise to, at every step of ``schedule``.

        gamma = min(churn / T, sqrt(2) - 1) where s_min <= sigma_t <= s_max, else 0
        t^    = the step from t on whose sigma is nearest to (1 + gamma) sigma_t, by its logarithm

    Karras et al. 2022, algorithm 2, takes (1 + gamma) sigma_t itself. A network that was trained at the steps of a
    chain knows their sigmas alone. Above the last step there is none, and no noise is added to x_T.

    Returns
    -------
    ndarray of int64, shape (T + 1,)
        Row 0 is 0.
    """
    for name, value in (("churn", churn), ("s_min", s_min), ("s_noise", s_noise)):
        if factor(name, value) < 0:
            raise ValueError(f"{name} must be at least 0, got {value}")
    if not s_min <= real("s_max", s_max):
        raise ValueError(f"s_max must be at least s_min = {s_min}, got {s_max}")
    trained = schedule if trained is None else trained
    own = np.searchsorted(trained.timesteps, schedule.timesteps)
    if not np.array_equal(trained.timesteps[np.minimum(own, trained.T)], schedule.timesteps):
        raise ValueError(f"{schedule} has steps that {trained} has not")
    gamma = min(churn / schedule.T, sqrt(2) - 1)
    with np.errstate(divide="ignore"):
        sigma = 1 / np.sqrt(trained.snr)
    raised = own.astype(np.int64)
    # from the last step there is no way up, and row 0 has no sigma
    inside = (s_min <= sigma[own]) & (sigma[own] <= s_max) & (own > 0) & (own < trained.T)
    for t in np.flatnonzero(inside & (gamma > 0)):
        raised[t] += np.argmin(np.abs(np.log(sigma[own[t] :] / ((1 + gamma) * sigma[own[t]]))))
    return raised


def heun_coefficients(
    schedule: Schedule,
    *,
    trained: Schedule | None = None,
    churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = inf,
    s_noise: float = 1.0,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Heun's method as tables: Euler's step from t^, what the second call at s = t - 1 makes of it, and the way up.

        x'_s = a x_t^ + b x_0(x_t^, t^) + sigma z,    x_s = a x'_s + b x_0(x'_s, s) + c x_0(x_t^, t^) + sigma z
        x_t^ = a x_t + b x_0 + sigma z

    Returns
    -------
    ndarray of float64, shape (T + 1, 3)
        Row t: the step from t.
    ndarray of float64, shape (T + 1, 4)
        Row s. b = -c = sqrt(1 - alpha_bar_s) (k_s - k_t^) / 2, in [0, 1/2]; a is 1. Rows 0 and T change nothing.
    ndarray of float64, shape (T + 1, 3)
        Row t; b is 0. It changes nothing where t^ is t.
    """
    trained = schedule if trained is None else trained
    raised = raised_steps(schedule, trained=trained, churn=churn, s_min=s_min, s_max=s_max, s_noise=s_noise)
    nothing = np.zeros(schedule.T + 1)
    noise, k = _noise_and_k(schedule)
    noise_above, k_above = (column[raised] for column in _noise_and_k(trained))
    up = trained.timesteps[raised] != schedule.timesteps
    # lambda is log k
    risen = np.log(np.divide(k, k_above, out=np.ones_like(k), where=up))
    of_x_0 = x_0_gained(schedule, half_log_snr_steps(schedule) + risen)
    kept = noise_kept(schedule) * np.divide(noise, noise_above, out=np.ones_like(noise), where=up)
    # DDIM's coefficient of x_0 is sqrt(1 - alpha_bar_s) (k_s - k_t)
    half = nothing.copy()
    half[1:-1] = of_x_0[2:] / 2
    of_x_t, of_z = _way_up(schedule, trained, raised).T
    return (
        np.stack([kept, of_x_0, nothing], axis=-1),
        np.stack([nothing + 1, half, -half, nothing], axis=-1),
        np.stack([of_x_t, nothing, s_noise * of_z], axis=-1),
    )


def _noise_and_k(schedule: Schedule) -> tuple[FloatArray, FloatArray]:
    return schedule.sqrt_one_minus_alpha_bar, np.sqrt(schedule.snr)


def _way_up(schedule: Schedule, trained: Schedule, raised: NDArray[np.int64]) -> FloatArray:
    """sqrt(alpha_bar_t^ / alpha_bar_t) and sqrt(1 - alpha_bar_t^ / alpha_bar_t) at every t; 1 and 0 where t^ is t."""
    table = np.tile([1.0, 0.0], (schedule.T + 1, 1))
    own = np.searchsorted(trained.timesteps, schedule.timesteps)
    for t in np.flatnonzero(raised > own):
        log_kept = np.log1p(-trained.beta[own[t] + 1 : raised[t] + 1]).sum()
        table[t] = np.exp(log_kept / 2), sqrt(-np.expm1(log_kept))
    return table
