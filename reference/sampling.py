"""The sampling loop, x_T to x_0, every number of its noise taken from an address."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arguments import FloatArray, numbers_from, same_shape
from .noise import INITIAL, REVERSE, normal
from .prediction import Quantity
from .reverse import Variance, ddim_step, reverse_step
from .schedule import Schedule

Model = Callable[[FloatArray, NDArray[np.int64]], NDArray[Any]]


def sample(
    schedule: Schedule,
    model: Model,
    shape: Sequence[int],
    *,
    seed: int = 0,
    numbers: ArrayLike = 0,
    x_T: ArrayLike | None = None,
    prediction: Quantity = "eps",
    clip: tuple[float, float] | None = None,
    variance: Variance = "posterior",
    eta: float | None = None,
    rederive_eps: bool = True,
    temperature: float = 1.0,
    trajectory: bool = False,
) -> FloatArray:
    """Images from noise, the chapter's ``sample``; Ho et al. 2020, algorithm 2, or Song et al. 2021 with eta.

        x_T ~ N(0, I);    x_{t-1} = reverse update of x_t, for t = T, .., 1

    Image k of a seed is the same image in any batch: its noise is at stream INITIAL, step 0, and at stream REVERSE,
    step ``schedule.timesteps[t]``. All T steps are taken; the chapter's loop, ``range(1, T)``, leaves one out. For
    fewer steps, respace the schedule.

    Parameters
    ----------
    schedule : Schedule
        T steps.
    model : callable
        ``model(x_t, t)`` with x_t of shape (B, ...), float64, and t of shape (B,), int64, the numbers of the steps that
        it was trained on. Returns an array of the shape of x_t.
    shape : sequence of int
        (B, ...), of the whole batch.
    seed : int
        Of the noise.
    numbers : int or array_like of int, shape (B,)
        Numbers of the images; one number is that of the first.
    x_T : array_like, shape (B, ...), floating, optional
        Where to start, in place of noise.
    prediction : {"eps", "x_0", "v", "mu"}
        What the model predicts.
    clip : (low, high), optional
        Range that the predicted x_0 is clipped to.
    variance : {"beta", "posterior", "zero"}
        sigma_t^2 of :func:`reverse_step`; not looked at where eta is given.
    eta : float, optional
        In [0, 1]: take the steps of :func:`ddim_step`.
    rederive_eps : bool
        As in :func:`ddim_step`.
    temperature : float
        What x_T and every z are multiplied by; 1 for the process as it is written.
    trajectory : bool
        Return every x_t, not x_0 alone.

    Returns
    -------
    ndarray of float64, shape (B, ...)
        x_0; or with ``trajectory`` of shape (T + 1, B, ...), row t being x_t.

    Raises
    ------
    ValueError
        If the numbers, x_T or what the model returns do not fit the shape, or an option is unknown.
    """
    batch, *element = shape
    numbers = numbers_from(numbers, batch)
    if x_T is None:
        x_T = temperature * normal(seed, INITIAL, 0, numbers, element).astype(np.float64)
    (x_t, _) = same_shape(x_T=x_T, shape=np.empty(tuple(shape)))
    states = [x_t]
    for t in range(schedule.T, 0, -1):
        told = schedule.timesteps[t]
        output = model(x_t, np.full(batch, told))
        z = temperature * normal(seed, REVERSE, int(told), numbers, element).astype(np.float64)
        if eta is None:
            x_t = reverse_step(schedule, x_t, output, t, z, prediction=prediction, clip=clip, variance=variance)
        else:
            x_t = ddim_step(
                schedule,
                x_t,
                output,
                t,
                z,
                eta=eta,
                prediction=prediction,
                clip=clip,
                rederive_eps=rederive_eps,
            )
        states.append(x_t)
    return np.stack(states[::-1]) if trajectory else x_t
