"""The noise is normal and independent, as far as 10^8 numbers can tell.

Every threshold is a quantile of the statistic's own distribution under a standard normal, at a two-sided
p-value of 1e-6; the seeds are fixed, so that a test which passes once passes always.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from noisestep.accelerated import ops
from noisestep.accelerated.address import FORWARD, INITIAL, TIMESTEP, NoiseAddress
from noisestep.accelerated.backends import backend
from noisestep.reference import noise
from scipy import stats


def eager_noise(place, shape):
    with backend("eager"):
        return ops.noise(place, shape)


P = 1e-6
# 4.89 standard deviations
SIGMAS = stats.norm.isf(P / 2)


@dataclass
class Census:
    """Sums over many normals."""

    n: int
    powers: np.ndarray
    beyond: dict[float, int]
    bins: np.ndarray


@pytest.fixture(scope="module")
def census() -> Census:
    bins, samples, elements = 1 << 16, 16, 1 << 14
    count = torch.zeros(bins, dtype=torch.int64)
    powers = torch.zeros(4, dtype=torch.float64)
    beyond = {4.0: 0, 5.0: 0}
    steps = -(-(10**8) // (samples * elements))
    for step in range(steps):
        z = eager_noise(NoiseAddress(20, FORWARD, step), (samples, elements)).double().flatten()
        square = z * z
        powers += torch.stack([z.sum(), square.sum(), square @ z, square @ square])
        for reach in beyond:
            beyond[reach] += int((square > reach * reach).sum())
        count += torch.bincount((torch.special.ndtr(z) * bins).long(), minlength=bins)
    return Census(steps * samples * elements, powers.numpy(), beyond, count.numpy())


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_raw_moments(census, k):
    # E z^k, and the variance of z^k, which is E z^2k - (E z^k)^2
    mean = (0, 1, 0, 3)[k - 1]
    variance = (1, 3, 15, 105)[k - 1] - mean**2
    assert abs(census.powers[k - 1] / census.n - mean) < SIGMAS * np.sqrt(variance / census.n)


def test_variance_skewness_and_kurtosis(census):
    m_1, m_2, m_3, m_4 = census.powers / census.n
    variance = m_2 - m_1**2
    skewness = (m_3 - 3 * m_1 * m_2 + 2 * m_1**3) / variance**1.5
    kurtosis = (m_4 - 4 * m_1 * m_3 + 6 * m_1**2 * m_2 - 3 * m_1**4) / variance**2 - 3
    # the sample statistics of a normal have variances 2 / n, 6 / n and 24 / n
    for statistic, expected in ((variance - 1, 2), (skewness, 6), (kurtosis, 24)):
        assert abs(statistic) < SIGMAS * np.sqrt(expected / census.n)


def test_kolmogorov_smirnov(census):
    # at the edges of 2^16 equally likely bins; their largest distance is at most that over all z
    distance = np.abs(np.cumsum(census.bins) / census.n - np.arange(1, len(census.bins) + 1) / len(census.bins)).max()
    assert distance < stats.kstwobign.isf(P) / np.sqrt(census.n)


def test_chi_square_over_equally_likely_bins(census):
    expected = census.n / len(census.bins)
    statistic = ((census.bins - expected) ** 2 / expected).sum()
    low, high = stats.chi2.interval(1 - P, len(census.bins) - 1)
    assert low < statistic < high


@pytest.mark.parametrize("reach", [4.0, 5.0])
def test_tails(census, reach):
    low, high = stats.binom.interval(1 - P, census.n, 2 * stats.norm.sf(reach))
    assert low <= census.beyond[reach] <= high


def test_the_tails_go_on_to_six_sigma_and_more():
    # 6.3e-9 of the radii lie beyond 6.15, where a 24-bit uniform would have ended at 5.9
    u = np.arange(64, dtype=np.uint32)
    w = (u + 0.5) / 2.0**32
    np.testing.assert_allclose(noise.radius(u), np.sqrt(-2 * np.log(w)), rtol=0, atol=3.96e-7)


ROWS = 1 << 10


def block(seed: int = 0, stream: int = FORWARD, step: int = 0, sample: int = 0) -> np.ndarray:
    """2^20 normals: ROWS samples of ROWS elements."""
    return noise.normal(seed, stream, step, np.arange(ROWS) + sample, (ROWS,)).astype(np.float64)


NEIGHBOURS: dict[str, Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "the pair's other half": lambda z: (z[:, 0::2], z[:, 1::2]),
    **{f"element + {lag}": lambda z, lag=lag: (z[:, :-lag], z[:, lag:]) for lag in (1, 2, 3, 4, 8, 64)},
    **{f"sample + {lag}": lambda z, lag=lag: (z[:-lag], z[lag:]) for lag in (1, 2, 64)},
    "element and sample": lambda z: (z[:-1, 1:], z[1:, :-1]),
    "sample + 2^32": lambda z: (z, block(sample=2**32)),
    "step + 1": lambda z: (z, block(step=1)),
    "step + 2^27": lambda z: (z, block(step=2**27)),
    "stream + 1": lambda z: (z, block(stream=1)),
    "stream + 8": lambda z: (z, block(stream=8)),
    "seed + 1": lambda z: (z, block(seed=1)),
    "seed + 2^32": lambda z: (z, block(seed=2**32)),
    "seed + 2^63": lambda z: (z, block(seed=2**63)),
    "seed and sample exchanged": lambda z: (block(seed=5, sample=9), block(seed=9, sample=5)),
}


@pytest.fixture(scope="module")
def origin() -> np.ndarray:
    return block()


@pytest.mark.parametrize("neighbours", NEIGHBOURS.values(), ids=NEIGHBOURS)
def test_neighbours_are_independent(origin, neighbours):
    x, y = neighbours(origin)
    # mean and variance of the products of independent normals, centred: 1 x 1, 1 x 2, 2 x 1 and 2 x 2
    for f, g, variance in ((x, y, 1), (x, y**2 - 1, 2), (x**2 - 1, y, 2), (x**2 - 1, y**2 - 1, 4)):
        assert abs(np.mean(f * g)) < SIGMAS * np.sqrt(variance / x.size)


def birthdays(part: str) -> np.ndarray:
    """2^22 numbers of 64 bits, from the blocks whose addresses differ in one part."""
    n = 1 << 22
    counter = np.zeros((n, 4), np.uint32)
    key = np.zeros((n, 2), np.uint32)
    column = {"element": counter[:, 0], "step": counter[:, 1], "sample": counter[:, 2], "seed": key[:, 0]}[part]
    column[:] = np.arange(n)
    words = noise.philox4x32(counter, key).astype(np.uint64)
    return words[:, 0] << np.uint64(32) | words[:, 1]


@pytest.mark.parametrize("part", ["element", "step", "sample", "seed"])
def test_birthday_spacings(part):
    # Marsaglia (1985): of n birthdays in a year of k days, the spacings that occur again are Poisson, n^3 / 4 k
    days = np.sort(birthdays(part))
    spacings = np.sort(np.diff(days))
    again = np.count_nonzero(np.diff(spacings) == 0)
    mean = len(days) ** 3 / 2.0**66
    assert again <= stats.poisson.isf(P, mean)


@pytest.mark.parametrize("bit", [0, 17, 33, 61, 64, 90, 92, 93, 127, 128, 150, 191])
def test_one_bit_of_the_address_turns_half_of_the_words_bits(bit):
    rng = np.random.default_rng(bit)
    address = rng.integers(0, 2**32, (1 << 14, 6), dtype=np.uint32)
    other = address.copy()
    other[:, bit // 32] ^= np.uint32(1 << bit % 32)
    changed = noise.philox4x32(address[:, :4], address[:, 4:]) ^ noise.philox4x32(other[:, :4], other[:, 4:])
    flips = np.unpackbits(changed.view(np.uint8).reshape(len(address), -1), axis=1).sum(axis=0)
    # each of the 128 bits, of which P is shared
    low, high = stats.binom.interval(1 - P / 128, len(address), 0.5)
    assert low <= flips.min()
    assert flips.max() <= high


def test_uniforms_fill_the_unit_interval():
    n = 1 << 20
    u = noise.uniform(7, FORWARD, 0, np.arange(n)).astype(np.float64)
    assert u.min() >= 0
    assert u.max() < 1
    assert noise.uniform(0, FORWARD, 0, 0).dtype == np.float32
    assert stats.kstest(u, "uniform").pvalue > P
    # whole multiples of 2^-24, of which both the odd and the even occur
    units = u * 2**24
    assert (units == np.floor(units)).all()
    assert abs(np.mean(units % 2) - 0.5) < SIGMAS * 0.5 / np.sqrt(n)


@pytest.mark.parametrize("n", [2, 10, 1000, 1023])
def test_integers_are_equally_likely(n):
    draws = 1 << 20
    x = ops.integers(NoiseAddress(11, TIMESTEP, 3), draws, 1, n).numpy()
    observed = np.bincount(x, minlength=n + 1)
    assert observed[0] == 0
    assert len(observed) == n + 1
    # no value's chance is off by more than n / 2^32, far below what this many draws can see
    expected = draws / n
    low, high = stats.chi2.interval(1 - P, n - 1)
    assert low < ((observed[1:] - expected) ** 2 / expected).sum() < high


def test_a_permutation_puts_everything_everywhere():
    n, epochs = 12, 6000
    where = np.array([noise.permutation(3, epoch, n) for epoch in range(epochs)])
    table = np.array([np.bincount(column, minlength=n) for column in where.T])
    # a table with fixed sums in rows and columns has (n - 1)^2 degrees of freedom, and n / (n - 1) of their scale
    expected = epochs / n
    low, high = stats.chi2.interval(1 - P, (n - 1) ** 2)
    assert low < ((table - expected) ** 2 / expected).sum() * (n - 1) / n < high


def test_streams_do_not_share_their_numbers():
    # the initial x_T and the forward noise of step 0 would otherwise be the same picture
    assert not np.array_equal(noise.normal(0, FORWARD, 0, 0, (64,)), noise.normal(0, INITIAL, 0, 0, (64,)))
