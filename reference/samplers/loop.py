"""The sampling loop, from x_T to x_0, the same for every sampler.

Training ends with a network that makes one step; this repeats it T times. At large t the guess of x_0 is a blur, the
mean of all images that could have led to x_t; each step moves only a little way towards it, and the next guess is
sharper. That is why one step is not enough. The noise comes from addresses, so that an
image depends on its seed and its number, and not on the images that are made beside it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .._arguments import FloatArray, batch_shape, factor, numbers_from, same_shape, switch
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
    shape : sequence of int
        (B, ...), of the whole batch.
    sampler : callable
        ``sampler(chain, **settings)``, which yields x_{T-1} .. x_0: a function of the modules beside this one, each
        named after its file, such as ``noisestep.reference.samplers.ddim.ddim``.
    x_T : array_like, shape (B, ...), floating, optional
        Where to start, in place of noise.
    temperature : float
        Factor on x_T and every z; 1 for the process as it is written. Below 1, images vary less.
    trajectory : bool
        Return every x_t, not x_0 alone.
    **settings
        Of the sampler: ``variance`` of ddpm, ``eta`` of ddim; a TypeError if it has no such setting.

    Returns
    -------
    ndarray of float64, shape (B, ...)
        x_0; or with ``trajectory`` of shape (T + 1, B, ...), row t being x_t.
    """
    if not callable(sampler):
        raise TypeError(f"sampler must be a function such as noisestep.reference.samplers.ddim.ddim, got {sampler!r}")
    batch, *element = batch_shape(shape)
    temperature, trajectory = factor("temperature", temperature), switch("trajectory", trajectory)
    numbers = numbers_from(numbers, batch)
    if x_T is None:
        x_T = temperature * normal(seed, INITIAL, 0, numbers, element).astype(np.float64)
    (x_T, _) = same_shape(x_T=x_T, shape=np.broadcast_to(0.0, (batch, *element)))
    chain = Chain(schedule, model, x_T, prediction, clip, seed, numbers, temperature)
    states = [x_T, *sampler(chain, **settings)]
    return np.stack(states[::-1]) if trajectory else states[-1]
