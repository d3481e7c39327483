"""How many bits a pixel of given images costs: the bound from a sample of its terms, and the exact likelihood.

The variational bound (:mod:`.bound`) has T terms, and each asks the network once. Few of them, chosen at random, give
the sum without bias: one t from each of some strata of 2..T, and t = 1, the decoder, always.

Without noise on the way, sampling is an ordinary differential equation, the probability-flow ODE (Song et al. 2021,
"Score-Based Generative Modeling through Stochastic Differential Equations", section 4.3). It maps x_T to x_1 one to
one, so that the density of x_1 follows from that of x_T ~ N(0, I) and from how the map stretches volumes: the model has
an exact likelihood. In

    y = x_t / sqrt(1 - alpha_bar_t),    k = sqrt(alpha_bar_t / (1 - alpha_bar_t)),    u = asinh(k)

the ODE is dy/dk = x_0(x_t, t), where x_0 is the network's guess, and the volume of y changes by

    d log|det| / du = tr( d x_0 / d x_t )

The right-hand sides stay finite where there is no noise and where there is no signal, and close to both ends they
hardly change; the trace is about the number of dimensions in which the data still vary at the scale of the noise. The
network knows the steps 1..T alone, and at these alone it is asked: the grid is one of steps, about evenly spaced in u.

A density has no bits; an image has. Its pixels have finitely many levels, and the probability of an image is the
integral of the density of x_1 over the box around sqrt(alpha_bar_1) x_0 in which no other image is. A random point of
the box, x_1 ~ q, gives a bound on it (dequantisation):

    log P(x_0) = log of the integral of p(x_1) >= E_q[log p(x_1)] + H(q)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arguments import (
    FloatArray,
    floats,
    integer,
    level_count,
    numbers_from,
    require_name,
    samples,
    sizes,
    steps,
)
from .bound import bits_per_dimension, prior_kl, vlb_terms
from .forward import q_sample
from .noise import DEQUANTISATION, FORWARD, PROBE, STEPS, TIMESTEP, integers, normal, words
from .prediction import Quantity, predict_x_0
from .reverse import Variance
from .samplers.chain import Model
from .schedule import Schedule

Dequantisation = Literal["truncated_normal", "uniform"]
Jvp = Callable[[FloatArray, NDArray[np.int64], FloatArray], NDArray[Any]]


def likelihood_grid(schedule: Schedule, intervals: int) -> NDArray[np.int64]:
    """Some steps of the chain, evenly spaced in u = asinh(k) as far as there are steps.

    Where the steps of the chain are farther apart than that, each of them is taken.

    Parameters
    ----------
    intervals : int
        In 1..T - 1; with T - 1 all steps are taken.

    Returns
    -------
    ndarray of int64, shape (intervals + 1,)
        Increasing from 1 to T.

    Examples
    --------
    >>> likelihood_grid(Schedule.from_name("cosine", 1000), 8).tolist()
    [1, 4, 11, 28, 65, 141, 292, 575, 1000]
    """
    intervals = integer("intervals", intervals, 1, schedule.T)
    u = np.arcsinh(np.sqrt(schedule.snr[1:]))
    wanted = np.linspace(u[0], u[-1], intervals + 1)
    # u falls; the first step whose u is nearer to the wanted one than that of the step after
    nearest = 1 + np.searchsorted(-(u[:-1] + u[1:]) / 2, -wanted)
    grid = np.ones(intervals + 1, np.int64)
    for i in range(1, intervals + 1):
        grid[i] = min(max(grid[i - 1] + 1, nearest[i]), schedule.T - (intervals - i))
    return grid


@dataclass(frozen=True)
class SampledBound:
    """The variational bound of each sample from one term of each stratum, in bits per dimension.

    Attributes
    ----------
    prior : ndarray of float64, shape (B,)
        L_T.
    grid : ndarray of int64, shape (S,)
        The highest t of each stratum; the first is 1, and each begins after the one before.
    terms : ndarray of float64, shape (S, B)
        The term at the drawn t times the number of terms in the stratum; row 0 is the decoder's L_0.
    """

    prior: FloatArray
    grid: NDArray[np.int64]
    terms: FloatArray

    @property
    def total(self) -> FloatArray:
        """An unbiased estimate of the bound; shape (B,)."""
        # one term after the other: sum() adds a batch of one in another order
        total: FloatArray = self.prior + self.terms.cumsum(axis=0)[-1]
        return total


def sampled_bound(
    schedule: Schedule,
    model: Model,
    x_0: ArrayLike,
    grid: ArrayLike,
    *,
    seed: int = 0,
    numbers: ArrayLike = 0,
    prediction: Quantity = "eps",
    clip: tuple[float, float] | None = None,
    variance: Variance = "posterior",
    levels: int = 256,
) -> SampledBound:
    """The bound from one term of each stratum: with a grid of all steps, :func:`.variational_bound`.

    In stratum s, counted from 0, a sample has the t at stream TIMESTEP, step s; x_t has the noise at stream FORWARD,
    step ``schedule.timesteps[t]``.

    Parameters
    ----------
    grid : array_like of int, shape (S,)
        The highest t of each stratum, increasing from 1 to T; each stratum begins after the one before.
    variance : {"beta", "posterior"}
        As in :func:`.vlb_terms`.
    levels : int
        As in :func:`.vlb_terms`.

    Returns
    -------
    SampledBound
    """
    x_0 = samples("x_0", x_0)
    numbers = numbers_from(numbers, len(x_0))
    grid = _checked_grid(schedule, grid)
    terms = np.empty((len(grid), len(x_0)))
    for stratum, (before, high) in enumerate(pairwise([0, *grid.tolist()])):
        t = integers(seed, TIMESTEP, stratum, numbers, before + 1, high)
        eps = normal(seed, FORWARD, schedule.timesteps[t], numbers, x_0.shape[1:]).astype(np.float64)
        x_t = q_sample(schedule, x_0, t, eps)
        terms[stratum] = (high - before) * vlb_terms(
            schedule,
            x_0,
            x_t,
            model(x_t, schedule.timesteps[t]),
            t,
            prediction=prediction,
            clip=clip,
            variance=variance,
            levels=levels,
        )
    return SampledBound(prior_kl(schedule, x_0), grid, terms)


def ode_log_density(
    schedule: Schedule,
    model: Model,
    jvp: Jvp,
    x_1: ArrayLike,
    grid: ArrayLike,
    *,
    probes: ArrayLike | None = None,
    prediction: Quantity = "eps",
    clip: tuple[float, float] | None = None,
) -> FloatArray:
    """log p(x_1) by the probability-flow ODE, in nats; Song et al. 2021, eq. 39.

        log p(x_1) = log N(x_T; 0, I) + n / 2 log((1 - alpha_bar_T) / (1 - alpha_bar_1)) + log|det(d y_T / d y_1)|

    Heun's method in k for y, and the trapezium rule in u for the trace, which is taken at the points that Heun's method
    returns: both have order 2.

    Parameters
    ----------
    jvp : callable
        ``jvp(x_t, t, z)``, the derivative of the model's output in the direction z: J z, of x_t's shape.
    x_1 : array_like, shape (B, ...), floating
    grid : array_like of int, shape (N + 1,)
        The steps at which the model is asked, increasing from 1 to T.
    probes : array_like, shape (K, B, ...), floating, optional
        Directions z with E[z z^T] = I, from which Hutchinson's estimate of the trace is made, the mean of z^T J z. Left
        out, the trace is exact, from n directions.

    Returns
    -------
    ndarray of float64, shape (B,)
    """
    x_1 = samples("x_1", x_1)
    B, shape = len(x_1), x_1.shape[1:]
    n = math.prod(shape)
    if probes is None:
        directions = [np.broadcast_to(e.reshape(shape), x_1.shape) for e in np.eye(n)]
    else:
        (given,) = floats(probes=probes)
        if given.ndim == 0 or not len(given) or given.shape[1:] != x_1.shape:
            raise ValueError(f"probes must have shape (K, {', '.join(map(str, x_1.shape))}), got {given.shape}")
        directions = list(given)
    share = 1.0 if probes is None else 1 / len(directions)
    noise, k = schedule.sqrt_one_minus_alpha_bar, np.sqrt(schedule.snr)

    def x_0_and_trace(x_t: FloatArray, t: int) -> tuple[FloatArray, FloatArray]:
        model_t = np.full(B, schedule.timesteps[t])
        output = model(x_t, model_t)
        # x_0 is linear in x_t and the output; where it is clipped it does not move
        unclipped = predict_x_0(schedule, x_t, output, t, prediction=prediction)
        x_0 = predict_x_0(schedule, x_t, output, t, prediction=prediction, clip=clip)
        trace = np.zeros(B)
        for z in directions:
            slope = predict_x_0(schedule, z, jvp(x_t, model_t, z), t, prediction=prediction)
            trace += share * np.where(x_0 == unclipped, z * slope, 0.0).reshape(B, n).sum(axis=1)
        return x_0, trace

    def x_0_alone(x_t: FloatArray, t: int) -> FloatArray:
        output = model(x_t, np.full(B, schedule.timesteps[t]))
        return predict_x_0(schedule, x_t, output, t, prediction=prediction, clip=clip)

    grid = _checked_grid(schedule, grid)
    u = np.arcsinh(k[grid])
    x_0, trace = x_0_and_trace(x_1, 1)
    x_t, log_det = x_1, (u[1] - u[0]) / 2 * trace
    for i, (t, s) in enumerate(pairwise(grid.tolist()), start=1):
        y, step = x_t / noise[t], k[s] - k[t]
        euler = noise[s] * (y + step * x_0)
        x_t = noise[s] * (y + step * (x_0 + x_0_alone(euler, s)) / 2)
        x_0, trace = x_0_and_trace(x_t, s)
        log_det += (u[min(i + 1, len(u) - 1)] - u[i - 1]) / 2 * trace
    log_prior = -((x_t**2).reshape(B, n).sum(axis=1) + n * math.log(2 * math.pi)) / 2
    log_density: FloatArray = log_prior + n * math.log(noise[-1] / noise[1]) + log_det
    return log_density


def dequantise(
    schedule: Schedule,
    x_0: ArrayLike,
    share: ArrayLike,
    *,
    dequantisation: Dequantisation = "truncated_normal",
    levels: int = 256,
) -> FloatArray:
    """A point x_1 of the box around sqrt(alpha_bar_1) x_0 that no other image reaches.

        x_1 = sqrt(alpha_bar_1) (x_0 + d),    |d| <= 1 / (levels - 1)

    With "uniform", d is anywhere with equal probability (Theis et al. 2016, section 3.1). With "truncated_normal", x_1
    is what the forward process makes of x_0 in one step, where noise that leaves the box is drawn again (Zheng et al.
    2023, "Improved Techniques for Maximum Likelihood Estimation for Diffusion ODEs"):

        x_1 = sqrt(alpha_bar_1) x_0 + sqrt(1 - alpha_bar_1) e,    e ~ N(0, 1) if |e| <= tau,
        tau = sqrt(alpha_bar_1 / (1 - alpha_bar_1)) / (levels - 1)

    Parameters
    ----------
    share : array_like, shape (B, ...), floating
        The quantile of d, in (0, 1): uniform numbers.
    dequantisation : {"truncated_normal", "uniform"}
    levels : int
        Levels of a pixel, at least 2, spread evenly over [-1, 1].
    """
    require_name("dequantisation", dequantisation, get_args(Dequantisation))
    half_bin = 1 / (level_count(levels) - 1)
    x_0, share = floats(x_0=x_0, share=share)
    if share.shape != x_0.shape or not np.all((share > 0) & (share < 1)):
        raise ValueError(f"share must be of x_0's shape {x_0.shape} and in (0, 1), got {share.shape}")
    signal, noise = schedule.sqrt_alpha_bar[1], schedule.sqrt_one_minus_alpha_bar[1]
    if dequantisation == "uniform":
        x_1: FloatArray = signal * (x_0 + (2 * share - 1) * half_bin)
        return x_1
    tau = signal * half_bin / noise
    # the quantile of the left half, whose tail is known to full precision
    below = 0.5 - np.abs(share - 0.5) * math.erf(tau / math.sqrt(2))
    e = np.sign(share - 0.5) * np.minimum(-_normal_quantile(below), tau)
    x_1 = signal * x_0 + noise * e
    return x_1


def dequantisation_entropy(
    schedule: Schedule, *, dequantisation: Dequantisation = "truncated_normal", levels: int = 256
) -> float:
    """H(q) of one element of :func:`dequantise`, in nats.

        uniform:           log(2 sqrt(alpha_bar_1) / (levels - 1))
        truncated_normal:  log(2 pi e (1 - alpha_bar_1)) / 2 + log Z - tau exp(-tau^2 / 2) / (sqrt(2 pi) Z),
                           Z = erf(tau / sqrt(2))

    Parameters
    ----------
    dequantisation : {"truncated_normal", "uniform"}
    levels : int

    Returns
    -------
    float
    """
    require_name("dequantisation", dequantisation, get_args(Dequantisation))
    half_bin = 1 / (level_count(levels) - 1)
    signal, noise = float(schedule.sqrt_alpha_bar[1]), float(schedule.sqrt_one_minus_alpha_bar[1])
    if dequantisation == "uniform":
        return math.log(2 * signal * half_bin)
    tau = signal * half_bin / noise
    inside = math.erf(tau / math.sqrt(2))
    missing = tau * math.exp(-(tau**2) / 2) / (math.sqrt(2 * math.pi) * inside)
    return math.log(2 * math.pi * math.e) / 2 + math.log(noise * inside) - missing


def rademacher(seed: int, step: ArrayLike, sample: ArrayLike, shape: tuple[int, ...]) -> FloatArray:
    """Signs, 1 or -1 with equal probability, at stream PROBE: E[z z^T] = I, and z^T z = n always.

    Element e, counted in C order, is -1 where bit e mod 32 of word e div 32 is set, bit 0 being the lowest.

    Parameters
    ----------
    shape : tuple of int
        The shape of one sample.

    Returns
    -------
    ndarray of float64, shape (B, *shape)
    """
    shape = sizes(shape)
    n = math.prod(shape)
    packed = words(seed, PROBE, step, sample, -(-n // 32))
    bits = packed[:, :, None] >> np.arange(32, dtype=np.uint32) & np.uint32(1)
    signs = 1 - 2 * bits.reshape(len(packed), 32 * packed.shape[1])[:, :n].astype(np.float64)
    return signs.reshape(len(packed), *shape)


def ode_bits(
    schedule: Schedule,
    model: Model,
    jvp: Jvp,
    x_0: ArrayLike,
    grid: ArrayLike,
    *,
    dequantisation: Dequantisation = "truncated_normal",
    probes: int = 1,
    seed: int = 0,
    numbers: ArrayLike = 0,
    prediction: Quantity = "eps",
    clip: tuple[float, float] | None = None,
    levels: int = 256,
) -> FloatArray:
    """The negative log-likelihood of images by the probability-flow ODE, in bits per dimension.

        -(log p(x_1) + n H(q)) / (n log 2),    x_1 ~ q

    The uniform number of element e of a sample is (word e + 1/2) / 2^32 at stream DEQUANTISATION, step 0. Probe j is at
    stream PROBE, step j; it stays the same all the way (Grathwohl et al. 2019, "FFJORD").

    Parameters
    ----------
    jvp : callable
        As for :func:`ode_log_density`.
    grid : array_like of int, shape (N + 1,)
        As for :func:`ode_log_density`.
    dequantisation : {"truncated_normal", "uniform"}
        As for :func:`dequantise`.
    probes : int
        Directions of Hutchinson's estimate, at least 1; or 0, and the trace is exact.
    levels : int
        As for :func:`dequantise`.
    """
    x_0 = samples("x_0", x_0)
    numbers, shape = numbers_from(numbers, len(x_0)), x_0.shape[1:]
    n, probes = math.prod(shape), integer("probes", probes, 0, STEPS)
    share = (words(seed, DEQUANTISATION, 0, numbers, n).reshape(x_0.shape) + 0.5) / 2.0**32
    log_density = ode_log_density(
        schedule,
        model,
        jvp,
        dequantise(schedule, x_0, share, dequantisation=dequantisation, levels=levels),
        grid,
        probes=np.stack([rademacher(seed, j, numbers, shape) for j in range(probes)]) if probes else None,
        prediction=prediction,
        clip=clip,
    )
    entropy = dequantisation_entropy(schedule, dequantisation=dequantisation, levels=levels)
    return bits_per_dimension(-(log_density[:, None] / n + entropy))


def _checked_grid(schedule: Schedule, grid: ArrayLike) -> NDArray[np.int64]:
    checked = steps(grid, schedule.T)
    if (
        checked.ndim == 0
        or len(checked) < 2
        or checked[0] != 1
        or checked[-1] != schedule.T
        or np.diff(checked).min() < 1
    ):
        raise ValueError(f"grid must be at least 2 steps that increase from 1 to {schedule.T}, got {grid!r}")
    return checked


_normal_quantile = np.vectorize(NormalDist().inv_cdf, otypes=[np.float64])
