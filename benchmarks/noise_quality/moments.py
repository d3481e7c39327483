"""The moments of the transform, over every radius and every direction that it has."""

from collections.abc import Iterator

import numpy as np
from noisestep.reference import noise
from numpy.typing import NDArray
from scipy import stats

_CHUNK = 1 << 17


def words_of_the_radius() -> Iterator[tuple[NDArray[np.uint32], NDArray[np.float64]]]:
    """One word for each float32 that a word rounds to, and how many of the 2^32 words round to it."""
    for start in range(0, 1 << 24, _CHUNK):
        yield np.arange(start, start + _CHUNK, dtype=np.uint32), np.ones(_CHUNK)
    for binade in range(24, 32):
        spacing = 1 << (binade - 23)
        for start in range(1 << 23, 1 << 24, _CHUNK):
            mantissa = np.arange(start, start + _CHUNK, dtype=np.uint32)
            # a tie goes to the even one
            count = np.where(mantissa % 2, spacing - 1.0, spacing + 1.0)
            if start == 1 << 23:
                # below a power of two the spacing is half of that above
                count[0] = spacing // 4 + spacing // 2 + 1
            yield mantissa * np.uint32(spacing), count
    # what rounds to 2^32
    yield np.array([0xFFFFFFFF], np.uint32), np.array([128.0])


def report() -> None:
    """Print the moments; those of normals are before the rounding of the product, which is to nearest."""
    total, square, fourth, least, largest = 0.0, 0.0, 0.0, np.inf, 0.0
    for u, count in words_of_the_radius():
        r = noise.radius(u).astype(np.float64)
        total += count.sum()
        square += (count * r**2).sum()
        fourth += (count * r**4).sum()
        least, largest = min(least, r.min()), max(largest, r.max())
    assert total == 2**32
    square, fourth = square / total, fourth / total
    print(f"radius   from {least:.4e} to {largest:.5f}   E r² = 2 {square - 2:+.2e}   E r⁴ = 8 {fourth - 8:+.2e}")
    cos, sin = (x.astype(np.float64) for x in noise.direction(np.arange(0, 1 << 23, 2, dtype=np.uint32)))
    for name, x in (("cos", cos), ("sin", sin)):
        powers = f"E {name}² = ½ {(x**2).mean() - 1 / 2:+.2e}   E {name}⁴ = ⅜ {(x**4).mean() - 3 / 8:+.2e}"
        print(f"{name}      from {x.min():.4e} to {x.max():.5f}   {powers}")
    crossed = ((cos * sin) ** 2).mean()
    print(f"         E cos² sin² = ⅛ {crossed - 1 / 8:+.2e}")
    for name, x in (("z_2i", cos), ("z_2i+1", sin)):
        variance, kurtosis = square * (x**2).mean() - 1, fourth * (x**4).mean() - 3
        print(f"{name:9}E z = E z³ = 0, by the signs   E z² = 1 {variance:+.2e}   E z⁴ = 3 {kurtosis:+.2e}")
    print(f"         E z_2i z_2i+1 = 0, by the signs   E z_2i² z_2i+1² = 1 {fourth * crossed - 1:+.2e}")
    for power in range(14, 26, 2):
        # the angle is what is coarse there: the radius is taken as exact
        share = -np.expm1(-0.5 * (2.0**-power / cos) ** 2).mean() / (2 * stats.norm.cdf(2.0**-power) - 1)
        print(f"centre   P(|z| < 2^-{power}) is {share:.4f} of N(0, 1)'s")
