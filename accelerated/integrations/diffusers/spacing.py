"""Which timesteps, 0..T - 1 as diffusers counts, a chain of fewer steps visits."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from noisestep.reference._arguments import as_int, integer

SPACINGS = ("linspace", "leading", "trailing")


def spaced_timesteps(spacing: str, T: int, steps: int, offset: int = 0) -> list[int]:
    """Timesteps of a chain, from the noisiest down; Lin et al. 2023, table 2.

    They are those of diffusers wherever it gives as many different steps in 0..T - 1 as it was asked for.
    "trailing" ends where it is full, without the step -1 that rounding appends in diffusers for some numbers of
    steps. An offset of "leading" is at most what leaves the first step below T.

    Parameters
    ----------
    spacing : {"linspace", "leading", "trailing"}
    T : int
        Steps that the network was trained on.
    steps : int
        In 1..T.
    offset : int
        What is added to every step of "leading".

    Returns
    -------
    list of int, length `steps`
        Descending, in 0..T - 1.

    Raises
    ------
    TypeError, ValueError
        For a number of steps outside 1..T, another spacing, or a negative offset.
    """
    steps = checked_steps(steps, T)
    if spacing == "linspace":
        numbers = np.linspace(0, T - 1, steps).round()[::-1].astype(np.int64)
    elif spacing == "leading":
        numbers = np.arange(steps, dtype=np.int64)[::-1] * (T // steps)
        numbers = numbers + min(integer("steps_offset", offset, 0), T - 1 - int(numbers[0]))
    elif spacing == "trailing":
        numbers = np.round(np.arange(T, 0, -T / steps))[:steps].astype(np.int64) - 1
    else:
        raise ValueError(f"timestep_spacing must be one of {', '.join(map(repr, SPACINGS))}, got {spacing!r}")
    return numbers.tolist()


def checked_steps(steps: object, T: int) -> int:
    """The number of steps, which is an integer in 1..T."""
    number = as_int("num_inference_steps", steps)
    if not 1 <= number <= T:
        raise ValueError(f"num_inference_steps must lie in 1..{T}, the steps of the trained chain, got {number}")
    return number


def custom_timesteps(timesteps: Sequence[int], T: int) -> list[int]:
    """Timesteps that the caller chose, checked.

    Parameters
    ----------
    timesteps : sequence of int
        Descending, in 0..T - 1.
    T : int
        Steps that the network was trained on.

    Returns
    -------
    list of int

    Raises
    ------
    TypeError, ValueError
        For none, for numbers that do not descend, or one outside 0..T - 1.
    """
    numbers = [as_int("each of timesteps", t) for t in timesteps]
    if not numbers:
        raise ValueError("timesteps must hold at least one step, got none")
    if any(later >= earlier for earlier, later in pairwise(numbers)):
        raise ValueError(f"timesteps must be in descending order, got {numbers}")
    if numbers[0] >= T or numbers[-1] < 0:
        raise ValueError(f"timesteps must lie in 0..{T - 1}, got {numbers[0]} to {numbers[-1]}")
    return numbers
