"""Editing with a trained network: other starts of the chain, and known pixels on the way.

Nothing is trained for it. A chain may start at any x_t that q could have made, so that an image with the noise of t
steps comes back as another image like it: the more noise, the more is new. And where some pixels of the result are
known, q(x_t | x_0) gives their noised values at every t, which take the place of what the sampler made of them.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._arguments import (
    MOST_STEPS,
    FloatArray,
    array,
    factor,
    floats,
    integer,
    numbers_from,
    real,
    same_shape,
    samples,
    step_count,
    switch,
)
from ..forward import q_sample, q_step
from ..noise import INITIAL, INPAINTING, VISIT, normal
from ..prediction import Quantity
from ..schedule import Schedule
from .chain import Chain, Model, Sampler
from .ddpm import ddpm
from .loop import sample

# VISIT u stays inside the 28 bits of a step while u < 2^8, and resampling r times makes at most 2 r - 1 visits
MOST_RESAMPLINGS = 128


def start_step(T: int, strength: float) -> int:
    """The step that image-to-image starts from: ceil(strength T), in 1..T.

    A product that is a whole number but for the rounding of ``strength`` counts as that number: 0.07 of 100 steps are
    7, though 0.07 in float64 is a little more.

    Parameters
    ----------
    strength : float
        In (0, 1].

    Returns
    -------
    int

    Examples
    --------
    >>> start_step(50, 0.5), start_step(100, 0.07), start_step(10, 0.01)
    (25, 7, 1)
    """
    T = step_count(T)
    if not 0 < (strength := real("strength", strength)) <= 1:
        raise ValueError(f"strength must be in (0, 1], got {strength}")
    # strength and the product are each within 2^-53 of the numbers that are meant
    return max(1, math.ceil(strength * T * (1 - 2.0**-51)))


def image_to_image(
    schedule: Schedule,
    model: Model,
    images: ArrayLike,
    strength: float,
    *,
    seed: int = 0,
    numbers: ArrayLike = 0,
    temperature: float = 1.0,
    **options: Any,
) -> FloatArray:
    """Images like the given ones: noise them to step t_0, and sample from there; Meng et al. 2022 (SDEdit).

        t_0 = ceil(strength T),    x_{t_0} ~ q(x_{t_0} | x_0)

    At strength 1 the chain is whole, and starts at q(x_T | x_0), which keeps sqrt(alpha_bar_T) of the image. The noise
    is that of x_T in plain sampling, stream INITIAL, so that on a schedule whose alpha_bar_T is 0 the result is that of
    plain sampling. For fewer steps, respace the schedule; T is then its number of steps.

    Parameters
    ----------
    images : array_like, shape (B, ...), floating
        x_0, in [-1, 1].
    strength : float
        In (0, 1]; see :func:`start_step`.
    temperature : float
        Factor on the noise of the start and on every z.
    **options
        Of :func:`noisestep.reference.sample`: the sampler and its settings, ``prediction``, ``clip``, ``trajectory``.

    Returns
    -------
    ndarray of float64, shape (B, ...)
        x_0; or with ``trajectory`` of shape (t_0 + 1, B, ...), row t being x_t.
    """
    images, temperature = samples("images", images), factor("temperature", temperature)
    numbers = numbers_from(numbers, len(images))
    start = _first_steps(schedule, start_step(schedule.T, strength))
    eps = temperature * normal(seed, INITIAL, 0, numbers, images.shape[1:]).astype(np.float64)
    x_t = q_sample(start, images, start.T, eps)
    return sample(start, model, images.shape, seed=seed, numbers=numbers, x_T=x_t, temperature=temperature, **options)


def repaint_walk(T: int, *, resample: int = 1, jump: int = 10) -> list[tuple[int, int]]:
    """The timesteps that RePaint comes to, from T to 0; Lugmayr et al. 2022, algorithm 1 and section 4.2.

    From each of the steps 1, 1 + jump, 1 + 2 jump, .., if it lies at least ``jump`` steps before T, the walk goes
    ``resample`` - 1 times ``jump`` steps back up and down again. Algorithm 1 is ``jump`` = 1 with ``resample`` for its
    U. With ``resample`` = 1 the walk goes straight down.

    Parameters
    ----------
    resample : int
        How often each stretch of ``jump`` steps is taken, in 1..128.
    jump : int
        Steps to go back, at least 1, and less than T where ``resample`` is above 1.

    Returns
    -------
    list of (t, u)
        u counts from 0 how often the walk has been at t before.

    Examples
    --------
    >>> [t for t, u in repaint_walk(5, resample=2, jump=2)]
    [5, 4, 3, 4, 5, 4, 3, 2, 1, 2, 3, 2, 1, 0]
    """
    T, jump = step_count(T), integer("jump", jump, 1, MOST_STEPS + 1)
    resample = integer("resample", resample, 1, MOST_RESAMPLINGS + 1)
    if resample > 1 and jump >= T:
        raise ValueError(
            f"jump is {jump}, and the chain has {T} steps; to be resampled it must have more steps than that"
        )
    steps = [T]
    for t in range(T - 1, -1, -1):
        steps.append(t)
        if t % jump == 1 % jump and 1 <= t <= T - jump:
            steps += (resample - 1) * [*range(t + 1, t + jump + 1), *range(t + jump - 1, t - 1, -1)]
    visits = [0] * (T + 1)
    walk = []
    for t in steps:
        walk.append((t, visits[t]))
        visits[t] += 1
    return walk


def inpaint(
    schedule: Schedule,
    model: Model,
    images: ArrayLike,
    mask: ArrayLike,
    *,
    resample: int = 1,
    jump: int = 10,
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
    """Make the masked pixels anew, so that they fit those around them; Lugmayr et al. 2022 (RePaint), algorithm 1.

        x_{t-1} = mask x'_{t-1} + (1 - mask) (sqrt(alpha_bar_{t-1}) x_0 + sqrt(1 - alpha_bar_{t-1}) eps)

    where x'_{t-1} is the sampler's update of x_t. Replacement alone (``resample`` = 1) gives the network known pixels
    at every step, but the unknown ones were made without those of this step. So RePaint goes back and forth: it takes
    steps of the forward process, q(x_t | x_{t-1}), and makes them undone again, now with both parts noised together.

    Noise: z is that of plain sampling, on visit u of t at step ``timesteps[t] + VISIT u`` of stream REVERSE. eps of a
    visit of t, and the noise of a step up to t, is at that step of stream INPAINTING. The temperature does not scale
    them.

    Every step begins the sampler anew: one that remembers steps before (DPM-Solver++(2M)) would remember nothing.

    Parameters
    ----------
    images : array_like, shape (B, ...), floating
        x_0; only the pixels that are not masked are used.
    mask : array_like of bool, shape (B, ...)
        True where a pixel is to be made anew.
    resample, jump : int
        As in :func:`repaint_walk`.
    sampler, x_T, temperature
        As in :func:`noisestep.reference.sample`.
    **settings
        Of the sampler.
    trajectory : bool
        Return every state of the walk, not x_0 alone.

    Returns
    -------
    ndarray of float64, shape (B, ...)
        x_0; or with ``trajectory`` of shape (n, B, ...) the n states of :func:`repaint_walk` in their order.
    """
    images, temperature = samples("images", images), factor("temperature", temperature)
    trajectory = switch("trajectory", trajectory)
    mask = _checked_mask(mask, images.shape)
    walk = repaint_walk(schedule.T, resample=resample, jump=jump)
    if resample > 1 and schedule.timesteps[-1] >= VISIT:
        raise ValueError(f"resampling needs timesteps below {VISIT}, got {schedule.timesteps[-1]}")
    numbers = numbers_from(numbers, len(images))
    element = images.shape[1:]
    if x_T is None:
        x_T = temperature * normal(seed, INITIAL, 0, numbers, element).astype(np.float64)
    (x, _) = same_shape(x_T=x_T, images=images)
    chain = Chain(schedule, model, x, prediction, clip, seed, numbers, temperature)
    states = [x]
    for (t, visit), (to, visit_there) in pairwise(walk):
        step = int(schedule.timesteps[to]) + VISIT * visit_there
        eps = normal(seed, INPAINTING, step, numbers, element).astype(np.float64)
        if to < t:
            here = replace(chain, schedule=_first_steps(schedule, t), x_T=x, visit=visit)
            x = np.where(mask, next(sampler(here, **settings)), q_sample(schedule, images, to, eps))
        else:
            x = q_step(schedule, x, to, eps)
        states.append(x)
    return np.stack(states) if trajectory else x


def slerp(a: ArrayLike, b: ArrayLike, fraction: ArrayLike) -> FloatArray:
    """From a to b on the arc of a circle: spherical linear interpolation; Shoemake 1985, used so by Song et al. 2021.

        (sin((1 - f) theta) a + sin(f theta) b) / sin(theta),    cos(theta) = <a, b> / (|a| |b|)

    Two noises of many elements have about the same length and stand at right angles. Halfway on the straight line
    between them the length is only 0.7 of that, which the network has never seen; on the arc it stays.

    Parameters
    ----------
    a, b : array_like, shape (...), floating
        Two tensors of one shape, not on one line.
    fraction : array_like, shape (n,), floating
        f: 0 gives a, 1 gives b, to the bit.

    Returns
    -------
    ndarray of float64, shape (n, ...)
    """
    a, b = same_shape(a=a, b=b)
    (fractions,) = floats(fraction=fraction)
    fractions = np.atleast_1d(fractions)
    if fractions.ndim != 1:
        raise ValueError(f"fraction must be a number or shape (n,), got {fractions.shape}")
    if not np.all((fractions >= 0) & (fractions <= 1)):
        raise ValueError(f"fraction must be in [0, 1], got {fraction!r}")
    unit_a, unit_b = (x / np.linalg.norm(x) for x in (a, b))
    # the angle between two unit vectors, exact where it is small too
    theta = 2 * math.atan2(float(np.linalg.norm(unit_a - unit_b)), float(np.linalg.norm(unit_a + unit_b)))
    if not 1e-6 < theta < math.pi - 1e-6:
        raise ValueError("a and b lie on one line: no arc, or no single one, leads from one to the other")
    of_a, of_b = (
        np.array([math.sin(f * theta) / math.sin(theta) for f in parts]).reshape((-1,) + (1,) * a.ndim)
        for parts in (1 - fractions, fractions)
    )
    result: FloatArray = of_a * a + of_b * b
    return result


def x_T_between(seed: int, k: int, other: int, fraction: ArrayLike, shape: Sequence[int]) -> FloatArray:
    """Starts between those of two samples of a seed, for samplers without noise on the way: :func:`slerp` of x_T.

    Parameters
    ----------
    k, other : int
        Numbers of two samples.
    fraction : array_like, shape (n,), floating
        0 gives the start of sample k, 1 that of sample ``other``.
    shape : sequence of int
        Of one sample.

    Returns
    -------
    ndarray of float64, shape (n, ...)
        ``x_T`` of :func:`noisestep.reference.sample`.
    """
    numbers = [integer(name, number, 0, 1 << 64) for name, number in (("k", k), ("other", other))]
    a, b = normal(seed, INITIAL, 0, numbers, shape).astype(np.float64)
    return slerp(a, b, fraction)


def _first_steps(schedule: Schedule, t: int) -> Schedule:
    """Steps 1..t of a chain, to the bit."""
    return schedule.respace(np.arange(1, t + 1))


def _checked_mask(mask: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    checked = array("mask", mask)
    if checked.dtype != np.bool_:
        raise TypeError(f"mask must be bool, True where a pixel is to be made anew, got {checked.dtype}")
    if checked.shape != shape:
        raise ValueError(f"mask must have the shape of the images, {shape}, got {checked.shape}")
    return checked
