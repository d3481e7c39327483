"""The variance schedules beta_1 .. beta_T that people train with: functions of T, and a table of names.

A schedule answers one question: how much of the image is left after t steps? Two wishes pull at it. Each beta_t should
be small, because the reverse of a small Gaussian step is nearly Gaussian as well, which is what the network's step is.
And their sum should be large, because alpha_bar_T is about exp(-sum of beta): little of x_0 may be left in x_T, which
sampling replaces by pure noise. Between the two, a schedule chooses on which noise levels the steps are spent.

Every function returns beta_1 .. beta_T, float64, shape (T,), each in (0, 1) unless it says otherwise. A parameter that
would lead out of that range is a ValueError, as is T below 1.

Conventions
-----------
start, end : float
    The first and the last beta, in (0, 1).
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ._arguments import FloatArray, real, real_array, step_count


def linear_beta(
    T: int, start: float = 1e-4, end: float = 0.02, *, scaling: Literal["none", "1000/T"] = "none"
) -> FloatArray:
    """beta_t rising linearly, the schedule of Ho et al. 2020, section 4.

        beta_t = start + (end - start) (t - 1) / (T - 1)

    The published ends belong to T = 1000, where the betas add up to 10.05 and alpha_bar_T is 4e-5. With fewer steps
    and the same ends they add up to less, and x_T keeps more of the image.

    Parameters
    ----------
    scaling : {"none", "1000/T"}
        "1000/T" multiplies both ends by 1000 / T, so that x_T is about as noisy at any T (improved-diffusion); "none"
        keeps them (diffusers).
    """
    T = step_count(T)
    if not isinstance(scaling, str) or scaling not in ("none", "1000/T"):
        raise ValueError(f'scaling must be "none" or "1000/T", got {scaling!r}')
    factor = 1000 / T if scaling == "1000/T" else 1.0
    start, end = factor * real("start", start), factor * real("end", end)
    start, end = _in_open_unit_interval(start=start, end=end)
    return np.linspace(start, end, T)


def quadratic_beta(T: int, start: float = 1e-4, end: float = 0.02) -> FloatArray:
    """beta_t whose square root rises linearly, "quad" in Ho et al.'s code.

        sqrt(beta_t) = sqrt(start) + (sqrt(end) - sqrt(start)) (t - 1) / (T - 1)

    Between the same ends it stays below the linear schedule: more steps are spent where there is little noise.
    """
    T = step_count(T)
    start, end = _in_open_unit_interval(start=start, end=end)
    return np.linspace(start**0.5, end**0.5, T) ** 2


def scaled_linear_beta(T: int, start: float = 0.00085, end: float = 0.012) -> FloatArray:
    """The quadratic schedule with the ends of Stable Diffusion, called "scaled_linear" in diffusers."""
    return quadratic_beta(T, start, end)


def cosine_beta(T: int, s: float = 0.008, max_beta: float = 0.999) -> FloatArray:
    """beta_t of the cosine schedule, Nichol & Dhariwal 2021, eq. 17.

        alpha_bar_t = f(t) / f(0),   f(t) = cos^2( (t/T + s) / (1 + s) * pi/2 ),
        beta_t = min(1 - alpha_bar_t / alpha_bar_{t-1}, max_beta)

    It is made from alpha_bar, not from beta. The linear schedule destroys small images early, and its last steps are
    spent on what is noise already; here alpha_bar falls almost linearly in the middle and changes little at both ends.

    Parameters
    ----------
    s : float
        Offset that keeps beta_1 from vanishing, at least 0.
    max_beta : float
        Largest beta, in (0, 1): without it beta_T would be 1.
    """
    T = step_count(T)
    (max_beta,) = _in_open_unit_interval(max_beta=max_beta)
    if not 0 <= (s := real("s", s)) < np.inf:
        raise ValueError(f"s must be finite and at least 0, got {s}")
    angle = (np.arange(T + 1) / T + s) / (1 + s) * (np.pi / 2)
    before, after = angle[:-1], angle[1:]
    # cos^2 a - cos^2 b = sin(b - a) sin(b + a): the difference of two nearly equal numbers is never taken
    beta: FloatArray = np.sin(after - before) * np.sin(after + before) / np.cos(before) ** 2
    return np.minimum(beta, max_beta)


def sigmoid_beta(
    T: int, start: float = -3.0, end: float = 3.0, tau: float = 1.0, max_beta: float = 0.999
) -> FloatArray:
    """beta_t of the sigmoid schedule, Jabri et al. 2022 (arXiv 2212.11972).

        u(t) = (start + (end - start) t / T) / tau,   sigma(u) = 1 / (1 + e^-u),
        alpha_bar_t = (sigma(u(T)) - sigma(u(t))) / (sigma(u(T)) - sigma(u(0))),
        beta_t = min(1 - alpha_bar_t / alpha_bar_{t-1}, max_beta)

    Made from alpha_bar like the cosine schedule. The three parameters choose the part of the sigmoid that is used, and
    with it how long the ends are flat.

    Parameters
    ----------
    start, end : float
        The stretch of the sigmoid that is used, start < end.
    tau : float
        Temperature, above 0.
    max_beta : float
        Largest beta, in (0, 1): without it beta_T would be 1.
    """
    T = step_count(T)
    (max_beta,) = _in_open_unit_interval(max_beta=max_beta)
    start, end, tau = real("start", start), real("end", end), real("tau", tau)
    if not (-np.inf < start < end < np.inf and 0 < tau < np.inf and (end - start) / tau < 700):
        raise ValueError(
            f"need start < end and tau > 0, all finite, and (end - start) / tau below 700, got {start=}, {end=}, {tau=}"
        )
    u = (start + (end - start) * np.arange(T + 1) / T) / tau
    before, after = u[:-1], u[1:]
    # sigma(b) - sigma(a) = sigma(b) sigma(-a) (1 - e^(a - b)), once above and once below the line
    beta: FloatArray = (1 + np.exp(-u[-1])) / (1 + np.exp(-after)) * np.expm1(before - after) / np.expm1(before - u[-1])
    return np.minimum(beta, max_beta)


def constant_beta(T: int, value: float = 0.02) -> FloatArray:
    """beta_t the same at every step, "const" in Ho et al.'s code.

    Parameters
    ----------
    value : float
        Every beta, in (0, 1).
    """
    T = step_count(T)
    (value,) = _in_open_unit_interval(value=value)
    return np.full(T, value)


def jsd_beta(T: int) -> FloatArray:
    """beta_t = 1 / (T - t + 1), from 1/T to 1: "jsd" in Ho et al.'s code, after Sohl-Dickstein et al. 2015.

    Every step takes the same share of the image, alpha_bar_t = 1 - t/T, and the last leaves nothing: beta_T is
    exactly 1, a zero terminal signal-to-noise ratio.

    Examples
    --------
    >>> jsd_beta(4).tolist()
    [0.25, 0.3333333333333333, 0.5, 1.0]
    """
    T = step_count(T)
    return 1.0 / np.arange(T, 0, -1)


def flow_beta(T: int) -> FloatArray:
    """The betas whose steps have the signal-to-noise ratios of flow matching at the times 1/T, 2/T, .., 1.

        alpha_bar_t = (1 - s)^2 / ((1 - s)^2 + s^2),   s = t / T

    A flow mixes image and noise with the weights 1 - s and s (:mod:`.flow`; Lipman et al. 2023, Liu et al. 2023). Its
    last point is noise alone: beta_T is exactly 1, a zero terminal signal-to-noise ratio.

    Examples
    --------
    >>> flow_beta(2).round(12).tolist()
    [0.5, 1.0]
    """
    T = step_count(T)
    return _beta_at_flow_times(np.arange(1, T + 1) / T)


def _beta_at_flow_times(s: FloatArray) -> FloatArray:
    """As :func:`flow_beta`, for any increasing times s_1 .. s_T in (0, 1]."""
    before = np.concatenate([[0.0], s[:-1]])
    # 1 - alpha_bar_k / alpha_bar_{k-1}, with no near-equals subtracted but the times
    beta: FloatArray = (s - before) * (s + before - 2 * s * before) / (np.hypot(1 - s, s) * (1 - before)) ** 2
    return np.where(s == 1, 1.0, beta)


def warmup_beta(T: int, start: float = 1e-4, end: float = 0.02, *, fraction: float) -> FloatArray:
    """beta_t rising linearly over a first part of the steps, then constant: Ho et al.'s warm-up schedules.

    The ramp ends with ``end``, and keeps it. Small first steps destroy little of the fine detail at once.

    Parameters
    ----------
    fraction : float
        Share of the steps in the ramp, in [0, 1]; the ramp has floor(fraction T) steps.
    """
    T = step_count(T)
    start, end = _in_open_unit_interval(start=start, end=end)
    if not 0 <= (fraction := real("fraction", fraction)) <= 1:
        raise ValueError(f"fraction must be in [0, 1], got {fraction}")
    ramp = int(T * fraction)
    return np.concatenate([np.linspace(start, end, ramp), np.full(T - ramp, end)])


def warmup10_beta(T: int, start: float = 1e-4, end: float = 0.02) -> FloatArray:
    """beta_t rising over the first tenth of the steps: :func:`warmup_beta` with ``fraction=0.1``."""
    return warmup_beta(T, start, end, fraction=0.1)


def warmup50_beta(T: int, start: float = 1e-4, end: float = 0.02) -> FloatArray:
    """beta_t rising over the first half of the steps: :func:`warmup_beta` with ``fraction=0.5``."""
    return warmup_beta(T, start, end, fraction=0.5)


BETA_SCHEDULES: dict[str, Callable[..., FloatArray]] = {
    "linear": linear_beta,
    "scaled_linear": scaled_linear_beta,
    "cosine": cosine_beta,
    "sigmoid": sigmoid_beta,
    "quadratic": quadratic_beta,
    "constant": constant_beta,
    "jsd": jsd_beta,
    "flow": flow_beta,
    "warmup10": warmup10_beta,
    "warmup50": warmup50_beta,
}


def beta_schedule(name: str, T: int, **parameters: float | str) -> FloatArray:
    """beta_1 .. beta_T of the schedule with a name.

    Parameters
    ----------
    name : str
        A key of ``BETA_SCHEDULES``: linear, scaled_linear, cosine, sigmoid, quadratic, constant, jsd, flow,
        warmup10 or warmup50.
    **parameters
        Passed to the schedule's function, such as ``start``, ``end``, ``s``, ``scaling``; a TypeError if it has no
        such parameter.
    """
    if not isinstance(name, str) or name not in BETA_SCHEDULES:
        raise ValueError(f"no schedule is called {name!r}; there are {', '.join(BETA_SCHEDULES)}")
    return BETA_SCHEDULES[name](T, **parameters)


def zero_terminal_snr_beta(beta: ArrayLike) -> FloatArray:
    """Betas rescaled so that x_T holds nothing of x_0, Lin et al. 2023, algorithm 1.

        sqrt(alpha_bar'_t) = (sqrt(alpha_bar_t) - sqrt(alpha_bar_T)) sqrt(alpha_bar_1)
                             / (sqrt(alpha_bar_1) - sqrt(alpha_bar_T))

    Most schedules leave a trace of x_0 in x_T: in training the network sees it, the mean brightness above all; in
    sampling, which starts from pure noise, it is missing, and images come out of medium brightness. Here
    sqrt(alpha_bar) is shifted to end at 0 and stretched to begin where it began.

    Parameters
    ----------
    beta : array_like, shape (T,)
        beta_1 .. beta_T of an ordinary schedule, T at least 2; the last may be 1.

    Returns
    -------
    ndarray of float64, shape (T,)
        The first beta as given, the last exactly 1. Only a ``Schedule`` with ``zero_terminal_snr=True`` takes them.
    """
    beta = real_array("beta", beta)
    if beta.ndim != 1 or beta.size < 2:
        raise ValueError(f"zero terminal SNR needs one axis of at least 2 betas, got shape {beta.shape}")
    if not (np.all(beta > 0) and np.all(beta[:-1] < 1) and beta[-1] <= 1):
        raise ValueError(f"every beta must be in (0, 1), the last in (0, 1], got {beta}")
    root = np.sqrt(np.cumprod(1 - beta))
    # the stretch cancels in the ratios, and is what leaves the first beta as it was
    root = root - root[-1]
    ratio = root[1:] / root[:-1]
    return np.concatenate([beta[:1], (1 - ratio) * (1 + ratio)])


def _in_open_unit_interval(**values: float) -> tuple[float, ...]:
    for name, value in values.items():
        if not 0 < real(name, value) < 1:
            raise ValueError(f"{name} must be in (0, 1), got {value}")
    return tuple(map(float, values.values()))
