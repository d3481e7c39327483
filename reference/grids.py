"""Which steps of a chain a sampler of n steps takes, by name.

A network is trained at the steps 1..T and at no noise level between them. So a grid does not make up noise levels: it
says where they should be, and the nearest steps of the chain are kept, n different ones. The first step of a sampler is
always T, since that is where x_T is standard normal.

With sigma_t = sqrt((1 - alpha_bar_t) / alpha_bar_t) the level of the noise once x_t is scaled so that the image keeps
its size, "uniform" spaces the steps evenly in t, "quadratic" puts more of them where there is little noise, and the
other two choose the levels, whatever the schedule is: from sigma_T or 80, whichever is less, down to sigma_1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._arguments import FloatArray, as_int, integer, require_name, step_count

if TYPE_CHECKING:
    from .schedule import Schedule

Steps = NDArray[np.int64]

# the sigma_max of Karras et al. 2022: above it there is too little of an image of size 1 left to be worth a step
HIGHEST = 80.0


def uniform(schedule: Schedule, n: int) -> Steps:
    """S_k = floor(k T / n + 1/2), evenly spaced in t; diffusers calls it "trailing" (Lin et al. 2024, table 2)."""
    return (2 * np.arange(1, n + 1) * schedule.T + n) // (2 * n)


def quadratic(schedule: Schedule, n: int) -> Steps:
    """S_k near T (k / n)^2; Song et al. 2021 (DDIM), appendix D.2."""
    return _distinct(np.rint(schedule.T * (np.arange(1, n + 1) / n) ** 2), schedule.T)


def karras(schedule: Schedule, n: int) -> Steps:
    """Levels evenly spaced in sigma^(1/7), down to sigma_1; Karras et al. 2022, eq. 5, with rho = 7."""
    return _nearest_levels(schedule, n, lambda sigma: sigma ** (1 / 7), lambda root: root**7)


def exponential(schedule: Schedule, n: int) -> Steps:
    """Levels evenly spaced in log sigma, down to sigma_1, hence in log-SNR: "logSNR" of DPM-Solver (Lu et al. 2022)."""
    return _nearest_levels(schedule, n, np.log, np.exp)


GRIDS: dict[str, Callable[[Schedule, int], Steps]] = {
    "uniform": uniform,
    "quadratic": quadratic,
    "karras": karras,
    "exponential": exponential,
}


# a name in other libraries -> what it is called here: diffusers' timestep_spacing, Stability's sgm in user interfaces,
# DPM-Solver's skip_type, and DDIM's
GRIDS_ELSEWHERE = {
    "trailing": "uniform",
    "sgm_uniform": "uniform",
    "time_uniform": "uniform",
    "quad": "quadratic",
    "time_quadratic": "quadratic",
    "logSNR": "exponential",
    "logsnr": "exponential",
}


def grid_steps(schedule: Schedule, n: int, grid: str) -> Steps:
    """The n steps of a grid, increasing, the last of them T.

    Parameters
    ----------
    n : int
        In 1..T.
    grid : {"uniform", "quadratic", "karras", "exponential"}

    Returns
    -------
    ndarray of int64, shape (n,)

    Examples
    --------
    >>> from noisestep.reference import Schedule
    >>> chain = Schedule.from_name("linear", 1000)
    >>> {grid: grid_steps(chain, 4, grid).tolist() for grid in ("uniform", "quadratic", "karras")}
    {'uniform': [250, 500, 750, 1000], 'quadratic': [63, 250, 563, 1000], 'karras': [1, 109, 540, 1000]}
    """
    n = as_int("the number of steps to keep", n)
    if not 1 <= n <= schedule.T:
        raise ValueError(f"the number of steps to keep must be in 1..{schedule.T}, got {n}")
    if isinstance(grid, str) and grid in GRIDS_ELSEWHERE:
        raise ValueError(
            f"grid must be one of {', '.join(GRIDS)}, got {grid!r}; {grid} is called {GRIDS_ELSEWHERE[grid]} here"
        )
    require_name("grid", grid, tuple(GRIDS))
    return GRIDS[grid](schedule, n)


def sections(T: int, counts: str | Sequence[int]) -> Steps:
    """Steps as improved-diffusion's ``timestep_respacing`` names them; Nichol & Dhariwal 2021, section 4.

    Parameters
    ----------
    counts : str or sequence of int
        "ddimN": N steps with one whole stride, from step 1 on. "10,15,20" or [10, 15, 20]: how many steps, ends
        included, each of as many equal sections of 1..T has.

    Returns
    -------
    ndarray of int64, shape (n,)
        Increasing. The last of "ddimN" is not T, as a rule.

    Raises
    ------
    ValueError
        If the string is no such name, no whole stride gives N steps, or a section is shorter than its count.

    Examples
    --------
    >>> sections(20, "ddim4").tolist(), sections(20, "2,3").tolist()
    ([1, 6, 11, 16], [1, 10, 11, 16, 20])
    """
    T = step_count(T)
    if isinstance(counts, str):
        if strided := re.fullmatch(r"ddim(\d+)", counts):
            return _strided(T, int(strided[1]))
        if not re.fullmatch(r"\d+(,\d+)*", counts):
            raise ValueError(f'steps must be a number, their numbers, "ddimN" or "N,N,..", got {counts!r}')
        counts = [int(count) for count in counts.split(",")]
    if not isinstance(counts, Iterable) or not np.ndim(counts):
        raise TypeError(f"counts must be a string or a sequence of ints, got {counts!r}")
    counts = [integer("the count of a section", count, 0, T + 1) for count in counts]
    steps: list[int] = []
    start = 1
    for i, count in enumerate(counts):
        # the first sections are a step longer where they cannot be equal
        size = T // len(counts) + (i < T % len(counts))
        if count > size:
            raise ValueError(f"the count of a section of {size} steps must be at most that, got {count}")
        # added up, and not multiplied: where a half is rounded, the last bit of the sum decides
        apart, position = (size - 1) / (count - 1) if count > 1 else 1.0, 0.0
        for _ in range(count):
            steps.append(start + round(position))
            position += apart
        start += size
    return np.array(steps, np.int64)


def _strided(T: int, n: int) -> Steps:
    for stride in range(1, T + 1):
        steps = np.arange(1, T + 1, stride)
        if len(steps) == n:
            return steps
    raise ValueError(f"no whole stride takes {n} of {T} steps")


def _nearest_levels(
    schedule: Schedule, n: int, scale: Callable[[FloatArray], FloatArray], inverse: Callable[[FloatArray], FloatArray]
) -> Steps:
    """The steps whose sigma is nearest, as a ratio, to n levels that are evenly spaced on a scale."""
    with np.errstate(divide="ignore"):
        log_sigma = -np.log(schedule.snr[1:]) / 2
    # T alone stands for all that is above the highest level: the levels then begin there
    above = int(log_sigma[-1] > np.log(HIGHEST))
    first, last = scale(np.exp([min(log_sigma[-1], np.log(HIGHEST)), log_sigma[0]]))
    levels = np.log(inverse(np.linspace(first, last, n - above)))
    nearest = 1 + np.searchsorted((log_sigma[1:] + log_sigma[:-1]) / 2, levels)
    return _distinct(np.concatenate([nearest[::-1], [schedule.T] * above]), schedule.T)


def _distinct(wanted: NDArray[Any], T: int) -> Steps:
    """Different steps in 1..T near the wanted ones, which do not decrease and end with T."""
    n = len(wanted)
    k = np.arange(n)
    # as far down as the steps after it ask for, and as far up as those before it do
    steps = np.minimum(wanted.astype(np.int64), T - (n - 1) + k)
    return k + np.maximum.accumulate(np.maximum(steps - k, 1))
