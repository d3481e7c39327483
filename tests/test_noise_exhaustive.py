"""The normal transform over every input that it has: exactness, PyTorch's path, and the error bounds."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import pytest
import torch
from noise_oracle import fma as exact_fma
from noisestep.accelerated.backends import eager
from noisestep.reference import noise

CHUNK = 1 << 17
# a word of the angle whose cosine rounds to 1, so that z_0 is the radius
AHEAD = 4


def words_of_the_radius() -> Iterator[np.ndarray]:
    """One word for each float32 that a word rounds to, ascending: 2^24, then 2^23 in each binade, then 2^32."""
    for start in range(0, 1 << 24, CHUNK):
        yield np.arange(start, start + CHUNK, dtype=np.uint32)
    for binade in range(24, 32):
        for start in range(1 << 23, 1 << 24, CHUNK):
            yield np.arange(start, start + CHUNK, dtype=np.uint32) << np.uint32(binade - 23)
    yield np.array([0xFFFFFFFF], np.uint32)


def words_of_the_angle() -> Iterator[np.ndarray]:
    """One word for each x."""
    for start in range(0, 1 << 23, 2 * CHUNK):
        yield np.arange(start, start + 2 * CHUNK, 2, dtype=np.uint32)


@dataclass
class Survey:
    """What a pass over every input has seen."""

    inputs: int = 0
    distinct: int = 0
    fmas: int = 0
    suspects: list[tuple[float, float, float]] = field(default_factory=list)
    torch_differs: int = 0
    smallest: float = np.inf
    largest: float = -np.inf
    worst: float = 0.0
    worst_normal: float = 0.0

    def watch(self, fma):
        """noise.fma, which keeps every (a b, c, result) whose float64 sum is inexact and halfway between two float32.

        Rounding to 53 bits and then to 24 can differ from rounding once only there: the halfway points
        are themselves float64, so that the first rounding never crosses one, it can only land on it.
        """

        def watched(a, b, c):
            result = fma(a, b, c)
            product = np.multiply(a, b, dtype=np.float64)
            total = np.atleast_1d(product + c)
            # 29 bits of a float64 lie below a float32's last
            halfway = (total.view(np.int64) & 0x1FFFFFFF) == 0x10000000
            self.fmas += total.size
            if halfway.any():
                product, c = (np.broadcast_to(x, total.shape)[halfway].astype(np.float64) for x in (product, c))
                # Knuth's TwoSum: the exact error of the sum
                back = total[halfway] - product
                error = (product - (total[halfway] - back)) + (c - back)
                rows = zip(product, c, np.atleast_1d(result)[halfway], strict=True)
                self.suspects += [row for row, inexact in zip(rows, error, strict=True) if inexact]
            return result

        return watched


@pytest.fixture(scope="module")
def radii() -> Survey:
    survey, previous = Survey(), -1.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noise, "fma", survey.watch(noise.fma))
        for u in words_of_the_radius():
            w = (u.astype(np.float32).astype(np.float64) + 0.5) * 2.0**-32
            w = w.astype(np.float32).astype(np.float64)
            r = noise.radius(u)
            exact = np.sqrt(-2 * np.log(w))
            error = np.abs(r - exact)
            survey.inputs += len(u)
            survey.distinct += np.count_nonzero(np.diff(w, prepend=previous))
            previous = w[-1]
            survey.smallest, survey.largest = min(survey.smallest, r.min()), max(survey.largest, r.max())
            survey.worst = max(survey.worst, error[w < 1].max(initial=0))
            # the radius, the direction at its bound, and half a unit in the last place for their product
            survey.worst_normal = max(survey.worst_normal, (error + exact * 1.15e-7 + np.spacing(r) / 2).max())
            z_0, _ = eager.normal_pair(torch.from_numpy(u.astype(np.int64)), torch.full((len(u),), AHEAD))
            survey.torch_differs += np.count_nonzero(z_0.numpy().view(np.uint32) != r.view(np.uint32))
    return survey


@pytest.fixture(scope="module")
def directions() -> Survey:
    survey = Survey()
    last = torch.full((CHUNK,), 0xFFFFFFFF)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noise, "fma", survey.watch(noise.fma))
        for v in words_of_the_angle():
            theta = (v | np.uint32(1)) * (np.pi / 2 * 2.0**-23)
            both = np.array(noise.direction(v))
            survey.inputs += len(v)
            survey.smallest, survey.largest = min(survey.smallest, both.min()), max(survey.largest, both.max())
            survey.worst = max(survey.worst, np.abs(both - [np.cos(theta), np.sin(theta)]).max())
            # the radius of the last word is 2^-20, a power of two, so that the product is exact
            z = torch.stack(eager.normal_pair(last, torch.from_numpy(v.astype(np.int64)))).numpy()
            survey.torch_differs += np.count_nonzero((z * np.float32(2.0**20)).view(np.uint32) != both.view(np.uint32))
    return survey


@pytest.mark.slow
def test_radius_has_been_seen_at_every_input(radii):
    # 2^24 integers as they are, 2^23 in each of 8 binades, and 2^32
    assert radii.inputs == 2**24 + 8 * 2**23 + 1
    # adding 1/2 to the integers of [2^23, 2^24) is a tie, of which every second is kept
    assert radii.distinct == radii.inputs - 2**22


def test_direction_has_been_seen_at_every_input(directions):
    assert directions.inputs == 2**22


def rounded_once(survey: Survey) -> bool:
    return all(
        exact_fma(Fraction(float(product)), Fraction(1), Fraction(float(c))) == Fraction(float(result))
        for product, c, result in survey.suspects
    )


def test_a_sum_that_is_rounded_twice_is_noticed():
    # 1 + 2^-23 + 2^-24 (1 - 2^-30): just below halfway, which float64 cannot tell from halfway
    a, b, c = (np.array([x], np.float32) for x in ((1 + 2**-15) / 2**12, (1 - 2**-15) / 2**12, 1 + 2**-23))
    survey = Survey()
    assert survey.watch(noise.fma)(a, b, c) == np.float32(1 + 2**-22)
    assert len(survey.suspects) == 1
    assert not rounded_once(survey)


@pytest.mark.parametrize("name", ["radii", "directions"])
def test_every_fma_is_rounded_once(name, request):
    survey = request.getfixturevalue(name)
    # by element: 1 for w, 7 + 1 for the logarithm, 1 for the exponent; 2 polynomials of 3, 1 for each of cos and sin
    assert survey.fmas == survey.inputs * (10 if name == "radii" else 8)
    assert rounded_once(survey)


@pytest.mark.parametrize("name", ["radii", "directions"])
def test_torch_gives_the_same_bits_everywhere(name, request):
    assert noise.direction(AHEAD)[0] == 1
    assert noise.radius(0xFFFFFFFF) == 2.0**-20
    assert request.getfixturevalue(name).torch_differs == 0


def test_radius_is_within_its_bound(radii):
    assert radii.worst < 3.96e-7
    # w = 1, where the exact radius is 0
    assert noise.radius(0xFFFFFFFF) <= 9.54e-7
    assert radii.smallest >= 2.0**-20
    assert radii.largest == noise.radius(0) < 6.7638


def test_direction_is_within_its_bound(directions):
    assert directions.worst < 1.15e-7
    # positive, so that the two bits are the whole of the sign, and no normal is 0
    assert directions.smallest > 2.0**-23
    assert directions.largest == 1


def test_cosine_and_sine_take_the_same_values():
    for v in words_of_the_angle():
        # bit 0 of a word is not used
        mirrored = np.uint32(0x7FFFFE) - v
        for bit in (0, 1):
            cos, sin = noise.direction(v | np.uint32(bit))
            other_cos, other_sin = noise.direction(mirrored)
            np.testing.assert_array_equal(cos, other_sin)
            np.testing.assert_array_equal(sin, other_cos)


def test_normals_are_within_their_bound(radii):
    assert radii.worst_normal < 1.3e-6


def test_no_normal_is_subnormal(radii, directions):
    # far from the 2^-126 below which some devices flush to zero
    assert radii.smallest * directions.smallest > 2.0**-44
