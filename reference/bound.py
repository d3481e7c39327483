"""The variational bound on the negative log-likelihood, term by term, in bits per dimension.

The likelihood of an image, p_theta(x_0), is an integral over all the chains that lead to it, and has no formula. A
bound on it has: a sum of T + 1 terms, each a divergence of two Gaussians or the probability of a pixel. It compares
models by the bits that a pixel costs to store, and the loss comes from it: ``docs/derivation.md`` goes from here to
L_simple step by step.
"""

import math
from dataclasses import dataclass
from typing import cast, get_args

import numpy as np
from numpy.typing import ArrayLike

from ._arguments import (
    FloatArray,
    broadcast,
    given_variance,
    level_count,
    numbers_from,
    per_sample,
    require_name,
    same_shape,
    samples,
    steps,
)
from .forward import q_sample
from .noise import FORWARD, normal
from .posterior import posterior_mean
from .prediction import Quantity
from .reverse import Variance, reverse_mean
from .samplers.chain import Model
from .schedule import Schedule

# from here on erfc is near its underflow, and eight terms of the tail's asymptotic series leave 1e-16
_FAR_TAIL = 25.0


def normal_kl(mean_1: ArrayLike, log_variance_1: ArrayLike, mean_2: ArrayLike, log_variance_2: ArrayLike) -> FloatArray:
    """KL divergence of two normal distributions, element by element, in nats.

        KL(N(m_1, v_1) || N(m_2, v_2)) = 1/2 ( v_1 / v_2 - 1 - log(v_1 / v_2) + (m_1 - m_2)^2 / v_2 )

    Where the variances are equal only the last term is left: the squared distance of the means.

    Parameters
    ----------
    mean_1, log_variance_1, mean_2, log_variance_2 : array_like, floating
        Of shapes that broadcast.

    Examples
    --------
    >>> mean_1, log_variance = np.array([1.0]), np.log([2.0])
    >>> normal_kl(mean_1, log_variance, np.zeros(1), log_variance).tolist()
    [0.25]
    """
    mean_1, log_variance_1, mean_2, log_variance_2 = broadcast(
        mean_1=mean_1, log_variance_1=log_variance_1, mean_2=mean_2, log_variance_2=log_variance_2
    )
    log_ratio = log_variance_1 - log_variance_2
    kl: FloatArray = (np.expm1(log_ratio) - log_ratio + (mean_1 - mean_2) ** 2 * np.exp(-log_variance_2)) / 2
    return kl


def discretised_normal_log_likelihood(
    x_0: ArrayLike, mean: ArrayLike, log_variance: ArrayLike, *, levels: int = 256
) -> FloatArray:
    """log p(x_0 | x_1) of an image with so many levels a channel, in nats; Ho et al. 2020, eq. 13.

        p = integral of N(x; mean, sigma^2) from x_0 - 1/(levels - 1) to x_0 + 1/(levels - 1)

    and from -infinity at the lowest level, -1, to infinity at the highest, 1. An image has finitely many levels, so its
    probability is that of a bin, not a density, and the bound is one on a code length. The result is exact far into the
    tails, where other implementations clamp the probability at 1e-12.

    Parameters
    ----------
    mean : array_like, shape (B, ...), floating
        What the network takes x_0 to be.
    log_variance : array_like, floating
        log sigma^2, of a shape that broadcasts.
    levels : int
        Number of levels, spread evenly over [-1, 1], at least 2.
    """
    levels = level_count(levels)
    x_0, mean = same_shape(x_0=x_0, mean=mean)
    *_, log_variance = broadcast(x_0=x_0, log_variance=log_variance)
    half_bin = 1 / (levels - 1)
    inverse_sigma = np.exp(-log_variance / 2)
    low = np.where(x_0 < -1 + half_bin, -np.inf, (x_0 - half_bin - mean) * inverse_sigma)
    high = np.where(x_0 > 1 - half_bin, np.inf, (x_0 + half_bin - mean) * inverse_sigma)
    return _log_interval(low, high)


def bits_per_dimension(nats: ArrayLike) -> FloatArray:
    """Nats of each element as bits per dimension of each sample.

        sum over the n elements / (n log 2)

    Parameters
    ----------
    nats : array_like, shape (B, ...), floating
        A divergence or a negative log-likelihood of each element.

    Returns
    -------
    ndarray of float64, shape (B,)
    """
    nats = samples("nats", nats)
    if not (n := math.prod(nats.shape[1:])):
        raise ValueError(f"nats must have at least one element a sample, got shape {nats.shape}")
    means: FloatArray = nats.reshape(len(nats), n).mean(axis=1)
    return means / math.log(2)


def prior_kl(schedule: Schedule, x_0: ArrayLike) -> FloatArray:
    """L_T, how far x_T still is from pure noise, in bits per dimension; Ho et al. 2020, eq. 5.

        L_T = KL( q(x_T | x_0) || N(0, I) )

    Sampling starts from N(0, I), not from q(x_T | x_0), and this is what that costs. No network enters: the schedule
    alone decides it.

    Returns
    -------
    ndarray of float64, shape (B,)

    Examples
    --------
    >>> float(prior_kl(Schedule.from_name("linear", 1000), np.ones((1, 3)))[0].round(7))
    2.91e-05
    """
    x_0 = samples("x_0", x_0)
    alpha_bar, rest = schedule.alpha_bar[-1], schedule.one_minus_alpha_bar[-1]
    # the logarithm of whichever of the two is known better
    log_variance = np.log1p(-alpha_bar) if alpha_bar < 0.5 else np.log(rest)
    return bits_per_dimension((alpha_bar * x_0**2 - alpha_bar - log_variance) / 2)


def vlb_terms(
    schedule: Schedule,
    x_0: ArrayLike,
    x_t: ArrayLike,
    output: ArrayLike,
    t: ArrayLike,
    *,
    prediction: Quantity = "eps",
    clip: tuple[float, float] | None = None,
    variance: Variance | ArrayLike = "posterior",
    levels: int = 256,
) -> FloatArray:
    """L_{t-1} of each sample, or L_0 where t is 1, in bits per dimension; Ho et al. 2020, eq. 5.

        L_{t-1} = KL( q(x_{t-1} | x_t, x_0) || p_theta(x_{t-1} | x_t) ),      L_0 = -log p_theta(x_0 | x_1)

    Parameters
    ----------
    variance : {"beta", "posterior"} or array_like
        Variance of p_theta, above 0. The posterior's is 0 at t = 1, where the decoder takes the schedule's
        ``first_log_variance``.
    levels : int
        Levels of the image that L_0 tells apart.

    Returns
    -------
    ndarray of float64, shape (B,)
    """
    x_0, x_t, output = same_shape(x_0=x_0, x_t=x_t, output=output)
    mean = reverse_mean(schedule, x_t, output, t, prediction=prediction, clip=clip)
    log_variance = _log_variance(schedule, variance, t, x_t)
    nats = normal_kl(
        posterior_mean(schedule, x_0, x_t, t),
        per_sample(schedule.posterior_log_variance, t, x_t),
        mean,
        log_variance,
    )
    decoded = np.broadcast_to(steps(t, schedule.T) == 1, len(x_0))
    log_variance = np.broadcast_to(log_variance, x_0.shape)
    nats[decoded] = -discretised_normal_log_likelihood(
        x_0[decoded], mean[decoded], log_variance[decoded], levels=levels
    )
    return bits_per_dimension(nats)


@dataclass(frozen=True)
class Bound:
    """The variational bound of each sample, in bits per dimension.

    Attributes
    ----------
    prior : ndarray of float64, shape (B,)
        L_T.
    terms : ndarray of float64, shape (T + 1, B)
        Row t is L_{t-1}, row 1 being the decoder's L_0; row 0 is 0.
    """

    prior: FloatArray
    terms: FloatArray

    @property
    def total(self) -> FloatArray:
        """L_T + .. + L_0, at least the negative log-likelihood on average over the noise; shape (B,)."""
        # one term after the other: sum() adds a batch of one in another order
        total: FloatArray = self.prior + self.terms.cumsum(axis=0)[-1]
        return total


def variational_bound(
    schedule: Schedule,
    model: Model,
    x_0: ArrayLike,
    *,
    seed: int = 0,
    numbers: ArrayLike = 0,
    prediction: Quantity = "eps",
    clip: tuple[float, float] | None = None,
    variance: Variance = "posterior",
    levels: int = 256,
) -> Bound:
    """Every term of the bound, each with one draw of x_t; Ho et al. 2020, eq. 5.

        E[-log p_theta(x_0)] <= E[ L_T + L_{T-1} + .. + L_1 + L_0 ]

    Each term is an expectation over x_t alone, so it can be estimated by itself; a chain is not needed. x_t has the
    noise at stream FORWARD, step ``schedule.timesteps[t]``.

    Parameters
    ----------
    variance : {"beta", "posterior"}
        As in :func:`vlb_terms`.
    levels : int
        As in :func:`vlb_terms`.

    Returns
    -------
    Bound
        ``prior``, ``terms`` and their ``total``, in bits per dimension.
    """
    x_0 = samples("x_0", x_0)
    numbers = numbers_from(numbers, len(x_0))
    terms = np.zeros((schedule.T + 1, len(x_0)))
    for t in range(schedule.T, 0, -1):
        model_t = np.full(len(x_0), schedule.timesteps[t])
        eps = normal(seed, FORWARD, int(schedule.timesteps[t]), numbers, x_0.shape[1:]).astype(np.float64)
        x_t = q_sample(schedule, x_0, t, eps)
        terms[t] = vlb_terms(
            schedule,
            x_0,
            x_t,
            model(x_t, model_t),
            t,
            prediction=prediction,
            clip=clip,
            variance=variance,
            levels=levels,
        )
    return Bound(prior_kl(schedule, x_0), terms)


def _log_variance(schedule: Schedule, variance: Variance | ArrayLike, t: ArrayLike, x_t: FloatArray) -> FloatArray:
    if isinstance(variance, str):
        require_name("variance", variance, get_args(Variance))
        if variance == "zero":
            raise ValueError('variance "zero" has an infinite bound; take "beta", "posterior" or give one above 0')
        if variance == "posterior":
            return per_sample(schedule.posterior_log_variance, t, x_t)
        return np.log(per_sample(schedule.beta, t, x_t))
    given = given_variance(cast(ArrayLike, variance), x_t)
    if not np.all(given > 0):
        raise ValueError(f"a variance of {given.min()} has an infinite bound; it must be above 0")
    return np.log(given)


def _log_interval(low: FloatArray, high: FloatArray) -> FloatArray:
    # log(Phi(high) - Phi(low)); an interval on the left is mirrored, so that only the right tail is needed
    mirrored = low + high < 0
    low, high = np.where(mirrored, -high, low), np.where(mirrored, -low, high)
    # around 0 Phi is exact itself; to the right of it the farther tail is taken off the nearer
    central = low < 0.5
    around = np.log((_erf(high / math.sqrt(2)) - _erf(np.minimum(low, 0.5) / math.sqrt(2))) / 2)
    nearer = _log_upper_tail(np.maximum(low, 0.5))
    beyond = nearer + np.log(-np.expm1(_log_upper_tail(np.where(central, np.inf, high)) - nearer))
    return np.where(central, around, beyond)


def _log_upper_tail(z: FloatArray) -> FloatArray:
    # log(1 - Phi(z)) for z >= 0; far out, phi(z) / z (1 - 1/z^2 + 3/z^4 - 15/z^6 + ..)
    near = np.log(_erfc(np.minimum(z, _FAR_TAIL) / math.sqrt(2)) / 2)
    far_z = np.maximum(z, _FAR_TAIL)
    term, series = np.ones_like(far_z), np.zeros_like(far_z)
    for odd in range(1, 17, 2):
        term = -odd / far_z**2 * term
        series = series + term
    far = -(far_z**2) / 2 - np.log(far_z) - math.log(2 * math.pi) / 2 + np.log1p(series)
    return np.where(z < _FAR_TAIL, near, far)


_erf = np.vectorize(math.erf, otypes=[np.float64])
_erfc = np.vectorize(math.erfc, otypes=[np.float64])
