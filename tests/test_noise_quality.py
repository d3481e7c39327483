"""The measurements of benchmarks/noise_quality: the words that they feed to tests, and what they count."""

import shutil

import numpy as np
import pytest
from noisestep.reference import noise
from scipy import stats

from benchmarks.noise_quality import feed, moments, normals

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler (c++, g++, clang++) on this machine"
)


def place(order: str, i: int) -> tuple[int, int, int, int, int]:
    """Seed, stream, step, sample and element of word i in an order of the address."""
    return {
        "elements": (0, 0, 0, i >> 34, i & (1 << 34) - 1),
        "samples": (0, 0, 0, i, 0),
        "steps": (0, 0, i & (1 << 28) - 1, i >> 28, 0),
        "streams": (0, i & 15, 0, i >> 4, 0),
        "seeds": (i, 0, 0, 0, 0),
        "interleaved": (0, 0, i >> 13, i >> 6 & 127, i & 63),
    }[order]


@pytest.mark.parametrize("order", feed.ORDERS)
@pytest.mark.parametrize("first", [0, (1 << 34) - 64])
def test_words_are_those_of_the_order(order, first):
    expected = []
    for i in range(first, first + 128):
        seed, stream, step, sample, element = place(order, i)
        counter = [element // 4, stream << 28 | step, sample & 0xFFFFFFFF, sample >> 32]
        expected.append(noise.philox4x32(counter, [seed & 0xFFFFFFFF, seed >> 32])[element % 4])
    np.testing.assert_array_equal(feed.words(order, first, 128), np.array(expected))


def test_the_census_counts_every_normal_once():
    z = noise.normal(3, 0, 0, 0, (4096,))[0]
    counts, sums, ends = np.zeros(1 << 16, np.uint64), np.zeros(11), np.array([np.inf, -np.inf], np.float32)
    feed.library().census(z.ctypes.data, len(z), counts.ctypes.data, sums.ctypes.data, ends.ctypes.data)
    np.testing.assert_array_equal(counts, np.bincount(z.view(np.uint32) >> 16, minlength=1 << 16))
    even, odd = z.astype(np.float64).reshape(-1, 2).T
    # between pairs: the last of eight elements meets the first of the same eight
    after = np.roll(even.reshape(-1, 4), -1, axis=1).ravel()
    expected = [(x**k).sum() for x in (even, odd) for k in (1, 2, 3, 4)]
    expected += [even @ odd, (even * odd) @ (even * odd), odd @ after]
    # 2^11 terms, each of a few roundings
    np.testing.assert_allclose(sums, expected, rtol=0, atol=2**11 * 2.0**-52 * (z.astype(np.float64) ** 4).max())
    assert (ends == [z.min(), z.max()]).all()


def test_the_bins_are_the_whole_of_a_normal_distribution():
    shares = normals.shares()
    # both signs of 0 share the numbers that round to it
    assert shares.sum() == pytest.approx(0.5, abs=1e-15)
    assert shares[normals.LOWEST == 2][0] == pytest.approx(stats.norm.sf(2) - stats.norm.sf(2 + 2**-6), rel=1e-4)


def test_every_word_of_a_radius_is_counted():
    # 2^32 in all, and those of two binades and of a tie as rounding gives them
    found = list(moments.words_of_the_radius())
    assert sum(count.sum() for _, count in found) == 2**32
    count = dict(pair for u, n in found[127:195] for pair in zip(u.tolist(), n.tolist(), strict=True))
    near = np.concatenate([np.arange(2**24 - 8, 2**24 + 4096), np.arange(2**25 - 4096, 2**25)]).astype(np.uint32)
    rounded, seen = np.unique(near.astype(np.float32), return_counts=True)
    # without the ends of the two stretches, whose neighbours are left out
    inner = [(int(f), int(n)) for f, n in zip(rounded, seen, strict=True)]
    for f, n in inner[1:2000] + inner[2200:-2]:
        assert count[f] == n
