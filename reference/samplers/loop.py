"""The sampling loop, x_T to x_0: the same for every sampler, every number of its noise from an address."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .._arguments import FloatArray, numbers_from, same_shape
from ..noise import INITIAL, normal
from ..prediction import Quantity
from ..schedule import Schedule
from .chain import Chain, Model, Sampler
from .ddpm import ddpm


def sample(
    schedule: Schedule,
    model: Model,
    shape: Sequence[int],
    *,
    sampler: Sampler = ddpm,
    seed: int = 0,
    numbers: ArrayLike = 0,
    x_T: ArrayLike | None = None,
    prediction: Quantity = "eps",
    clip: tuple[float, float] | None = None,
    temperature: float = 1.0,
    trajectory: bool = False,
    **settings: Any,
) -> FloatArray:
    """Images from noise, the chapter's ``sample``: Ho et al. 2020, algorithm 2, or by another sampler.

        x_T ~ N(0, I);    x_{t-1} = the sampler's update of x_t, for t = T, .., 1

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
    sampler : callable
        ``sampler(chain, **settings)``, which yields x_{T-1} .. x_0: a function of the modules beside this one, each
        named after its file, such as ``noisestep.reference.samplers.ddim.ddim``.
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
    temperature : float
        What x_T and every z are multiplied by; 1 for the process as it is written.
    trajectory : bool
        Return every x_t, not x_0 alone.
    **settings
        Of the sampler: ``variance`` of ddpm, ``eta`` of ddim.

    Returns
    -------
    ndarray of float64, shape (B, ...)
        x_0; or with ``trajectory`` of shape (T + 1, B, ...), row t being x_t.

    Raises
    ------
    TypeError
        If the sampler is not callable, or does not take a setting.
    ValueError
        If the numbers, x_T or what the model returns do not fit the shape, or an option is unknown.
    """
    if not callable(sampler):
        raise TypeError(f"sampler must be a function such as noisestep.reference.samplers.ddim.ddim, got {sampler!r}")
    batch, *element = shape
    numbers = numbers_from(numbers, batch)
    if x_T is None:
        x_T = temperature * normal(seed, INITIAL, 0, numbers, element).astype(np.float64)
    (x_T, _) = same_shape(x_T=x_T, shape=np.empty(tuple(shape)))
    chain = Chain(schedule, model, x_T, prediction, clip, seed, numbers, temperature)
    states = [x_T, *sampler(chain, **settings)]
    return np.stack(states[::-1]) if trajectory else states[-1]
