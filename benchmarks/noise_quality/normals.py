"""Many normals beside N(0, 1): their moments, their histogram, their tails and their ends."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from noisestep.accelerated import FORWARD, NoiseAddress, noise
from numpy.typing import NDArray
from scipy import stats

from .feed import library

SEED, ROWS, ELEMENTS = 1, 64, 1 << 14
# the first number of each of 2^15 bins: the magnitudes whose upper 16 bits as a float32 are the same
LOWEST = (np.arange(1 << 15, dtype=np.uint32) << np.uint32(16)).view(np.float32)
# below it, where the angles' spacing and rounding show (see `moments`), the numbers of a sign are one bin
CENTRE = 2.0**-16


def drawn(steps: range) -> tuple[NDArray[np.uint64], NDArray[np.float64], NDArray[np.float32]]:
    """The normals of these steps as `census` in `loops.cpp` counts them: counts, sums, and the least and largest."""
    counts, sums = np.zeros(1 << 16, np.uint64), np.zeros(11)
    ends = np.array([np.inf, -np.inf], np.float32)
    for step in steps:
        z = noise(NoiseAddress(SEED, FORWARD, step), (ROWS, ELEMENTS))
        library().census(z.data_ptr(), z.numel(), counts.ctypes.data, sums.ctypes.data, ends.ctypes.data)
    return counts, sums, ends


def shares() -> NDArray[np.float64]:
    """What share of N(0, 1) rounds to a number of each bin, one sign only."""
    last = np.isfinite(LOWEST)
    before = np.nextafter(LOWEST[last], np.float32(0)).astype(np.float64)
    beyond = np.zeros(len(LOWEST) + 1)
    # rounding to nearest makes a bin begin halfway to the number below it
    beyond[:-1][last] = stats.norm.sf((LOWEST[last] + before) / 2)
    return beyond[:-1] - beyond[1:]


def report(count: int, threads: int) -> None:
    """Draw `count` normals or a few more, and print what they are beside what they should be."""
    steps = range(-(-count // (ROWS * ELEMENTS)))
    torch.set_num_threads(1)
    library()
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(drawn, (steps[thread::threads] for thread in range(threads))))
    counts = np.sum([part[0] for part in found], axis=0, dtype=np.uint64)
    ends = np.array([part[2] for part in found])
    n = len(steps) * ROWS * ELEMENTS
    assert counts.sum() == n
    print(f"{n:,} normals: seed {SEED}, stream {FORWARD}, steps 0 to {steps[-1]}, {ROWS} samples, {ELEMENTS} elements")

    # a name, the mean under N(0, 1) and the variance
    moments = [
        (f"E z^{k}, {parity} elements", (0, 1, 0, 3)[k - 1], (1, 2, 15, 96)[k - 1])
        for parity in ("even", "odd")
        for k in (1, 2, 3, 4)
    ]
    moments += [("E z_2i z_2i+1", 0, 1), ("E z_2i² z_2i+1²", 1, 8), ("E z_2i+1 z_2i+2", 0, 1)]
    for (name, mean, variance), total in zip(moments, np.sum([part[1] for part in found], axis=0), strict=True):
        value = total / (n / 2)
        print(f"{name:22} {value:+.7f}   {(value - mean) / (variance / (n / 2)) ** 0.5:+.2f} standard errors")

    by_sign, expected = counts.reshape(2, -1).astype(np.float64), n * shares()
    small = LOWEST < CENTRE
    seen, wanted = [], []
    for row in by_sign:
        for part, rows in ((seen, row), (wanted, expected)):
            part += [*rows[~small], rows[small].sum()]
    seen, wanted = np.array(seen), np.array(wanted)
    # bins of few, which are those of the farthest tails, as one
    rare = wanted < 20
    seen, wanted = (np.append(x[~rare], x[rare].sum()) for x in (seen, wanted))
    chi_2 = ((seen - wanted) ** 2 / wanted).sum()
    print(f"histogram              {len(seen)} bins   χ² = {chi_2:.1f}   p = {stats.chi2.sf(chi_2, len(seen) - 1):.3f}")

    for reach in (2.0, 3.0, 4.0, 5.0, 6.0, 6.5):
        bins = reach <= LOWEST
        there, should = by_sign[:, bins].sum(), 2 * expected[bins].sum()
        print(
            f"|z| ≥ {reach}                {there:,.0f}   expected {should:,.1f}   "
            f"{(there - should) / should**0.5:+.2f} standard deviations"
        )
    print(f"ends                   {ends[:, 0].min():.5f} and {ends[:, 1].max():.5f}")
