"""Noise with an address: every random number is a function of (seed, stream, step, sample, element).

There is no generator whose state has to be saved, and no order in which numbers have to be drawn: image 7 gets the
same noise alone, in any batch and after a restart. The Philox block cipher turns an address into random words, and a
Box-Muller transform made of correctly rounded operations turns two words into two normals. Hence there is exactly one
right result, the same bits on every machine. ``docs/noise.md`` is the normative description of those bits; this module
is its executable form.

All functions share the address. ``seed`` is in [0, 2^64) and ``stream`` in [0, 16): what the numbers are for, one of
the constants below. ``step`` is in [0, 2^28): the optimizer step, the timestep or the epoch. ``sample`` is in
[0, 2^64): the position in the global batch, or the number of the image. ``step`` and ``sample`` are an int or B ints;
results have B rows, one row where both are an int.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arguments import MOST_ELEMENTS, MOST_STEPS, array, integer, integer_row, sizes

# the version of docs/noise.md: other bits of any number would be another version
NOISE_VERSION = 1

# what a random number is for; 12 to 15 are free
FORWARD = 0
TIMESTEP = 1
INITIAL = 2
REVERSE = 3
LABEL_DROPOUT = 4
AUGMENTATION = 5
PERMUTATION = 6
DROPOUT = 7
INITIAL_WEIGHTS = 8
PROBE = 9
DEQUANTISATION = 10
INPAINTING = 11

STREAMS = 1 << 4
STEPS = MOST_STEPS + 1
ELEMENTS = MOST_ELEMENTS
# RePaint comes back to timesteps: on visit u of timestep t, counted from 0, the step is t + VISIT u
VISIT = 1 << 20

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)

# -2 ln(1 + m) = m P(m) for m in [-1/3, 1/3): minimax in the error of the radius, rounded to float32
LOG = np.array(
    [
        -1.9999995231628418,
        0.9999931454658508,
        -0.6667859554290771,
        0.5004311203956604,
        -0.3953063488006592,
        0.3243201673030853,
        -0.3456399142742157,
        0.32569175958633423,
    ],
    np.float32,
)
# cos(pi/2 x) / sqrt(2) and sin(pi/2 x) / (sqrt(2) x) in powers of x^2, for x in (-1/2, 1/2)
EVEN = np.array([0.7071067690849304, -0.8723557591438293, 0.17932315170764923, -0.014434946700930595], np.float32)
ODD = np.array([1.1107207536697388, -0.45676571130752563, 0.05634622275829315, -0.003262000158429146], np.float32)
# -2 ln 2 for each of the exponent's units, which stand in bit 23 and up
EXPONENT = np.float32(-1.3862943649291992 * 2.0**-23)
# keeps the radius above zero: no square root of 0, and none of a negative rounding error
TINY = np.float32(2.0**-40)


def philox4x32(counter: ArrayLike, key: ArrayLike) -> NDArray[np.uint32]:
    """Philox4x32-10, a block of four random words for each counter; Salmon et al., SC 2011, section 3.3.

    A block cipher used as a random function: close counters give unrelated blocks, so that any number can be computed
    without those before it. Ten rounds; each multiplies words 0 and 2 by two constants and crosses the high halves of
    the products with words 1 and 3 and the key, which a Weyl sequence advances between rounds.

    Parameters
    ----------
    counter : array_like of uint32, shape (..., 4)
    key : array_like of uint32, shape (..., 2)
        Broadcast against the counter.

    Returns
    -------
    ndarray of uint32, shape (..., 4)
    """
    c0, c1, c2, c3 = _words("counter", counter, 4)
    k0, k1 = _words("key", key, 2)
    for _ in range(10):
        p0 = c0 * np.uint64(0xD2511F53)
        p1 = c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ k0, p1 & _LOW, (p0 >> _HALF) ^ c3 ^ k1, p0 & _LOW
        k0 = (k0 + np.uint64(0x9E3779B9)) & _LOW
        k1 = (k1 + np.uint64(0xBB67AE85)) & _LOW
    return np.stack(np.broadcast_arrays(c0, c1, c2, c3), axis=-1).astype(np.uint32)


def _words(name: str, values: ArrayLike, count: int) -> NDArray[np.uint64]:
    """Words of 32 bits as integers of 64, with the last axis, of length ``count``, first."""
    given = _in_32_bits(name, values)
    if given.ndim == 0 or given.shape[-1] != count:
        raise ValueError(f"{name} must have shape (..., {count}), got {given.shape}")
    return np.moveaxis(given.astype(np.uint64), -1, 0)


def _in_32_bits(name: str, values: ArrayLike) -> NDArray[np.uint32]:
    given = array(name, values)
    if given.dtype.kind not in "iu":
        raise TypeError(f"{name} must be words of 32 bits, got {given.dtype}")
    if given.size and not (given.min() >= 0 and given.max() < 1 << 32):
        raise ValueError(f"{name} must lie in [0, 2^32), got {values!r}")
    return given.astype(np.uint32)


def words(seed: int, stream: int, step: ArrayLike, sample: ArrayLike, count: int) -> NDArray[np.uint32]:
    """Random words 0 .. count - 1 of each address.

    Word e of a sample is word ``e mod 4`` of the block with counter
    ``(e div 4, stream << 28 | step, sample's low word, sample's high word)`` under the seed as key.

    Parameters
    ----------
    count : int
        Words a sample, in [0, 2^34].

    Returns
    -------
    ndarray of uint32, shape (B, count)
    """
    seed, stream = integer("seed", seed, 0, 1 << 64), integer("stream", stream, 0, STREAMS)
    count = integer("count", count, 0, ELEMENTS + 1)
    steps, samples = integer_row("step", step, STEPS), integer_row("sample", sample, 1 << 64)
    if 1 not in (len(steps), len(samples)) and len(steps) != len(samples):
        raise ValueError(f"step and sample must be one int or equally many, got {len(steps)} and {len(samples)}")
    steps, samples = np.broadcast_arrays(steps, samples)
    blocks = np.arange(-(-count // 4), dtype=np.uint64)
    counter = np.empty((len(samples), len(blocks), 4), np.uint64)
    counter[..., 0] = blocks
    counter[..., 1] = (np.uint64(stream << 28) | steps)[:, None]
    counter[..., 2] = (samples & _LOW)[:, None]
    counter[..., 3] = (samples >> _HALF)[:, None]
    key = np.array([seed & 0xFFFFFFFF, seed >> 32], np.uint64)
    return philox4x32(counter, key).reshape(len(samples), 4 * len(blocks))[:, :count]


def fma(a: ArrayLike, b: ArrayLike, c: ArrayLike) -> NDArray[np.float32]:
    """a b + c in float32, rounded once, as a GPU's fused multiply-add rounds it.

    The product of two float32 is exact in float64. The sum is then rounded to 53 bits and again to 24, which could
    differ from one rounding where the first lands halfway between two float32; no input of the transform below does
    that (the tests go through all of them).

    Parameters
    ----------
    a, b, c : array_like of float32

    Returns
    -------
    ndarray of float32, the broadcast shape
    """
    a, b, c = (_numbers(name, values) for name, values in (("a", a), ("b", b), ("c", c)))
    # what is too large for float32 is infinite there
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.multiply(a, b, dtype=np.float64) + c, np.float32)


def _numbers(name: str, values: ArrayLike) -> NDArray[Any]:
    given = array(name, values)
    if given.dtype.kind not in "iuf":
        raise TypeError(f"{name} must be real numbers, got {given.dtype}")
    return given


def _horner(x: NDArray[np.float32], coefficients: NDArray[np.float32]) -> NDArray[np.float32]:
    value = np.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = fma(value, x, coefficient)
    return value


def radius(u: ArrayLike) -> NDArray[np.float32]:
    """The Box-Muller radius sqrt(-2 ln w) of a random word, w = (u + 1/2) / 2^32.

        w = 2^e (1 + m),  1 + m in [2/3, 4/3),      -2 ln w = -2 ln 2 e + m P(m)

    w is rounded to float32 first. The polynomial P stands in place of a library's logarithm, whose last bit differs
    from one machine to the next.

    Parameters
    ----------
    u : array_like of uint32

    Returns
    -------
    ndarray of float32, the shape of `u`, in (0, 6.77)
    """
    w = fma(_in_32_bits("u", u).astype(np.float32), np.float32(2.0**-32), np.float32(2.0**-33))
    bits = w.view(np.int32)
    exponent = (bits - np.int32(0x3F2AAAAB)) & np.int32(-0x800000)
    m = (bits - exponent).view(np.float32) - np.float32(1)
    square = fma(exponent.astype(np.float32), EXPONENT, fma(_horner(m, LOG), m, TINY))
    return np.asarray(np.sqrt(square))


def direction(v: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The cosine and the sine of a random angle.

        cos = even(x) - x odd(x),    sin = even(x) + x odd(x)

    Bits 22 to 1 of `v` choose an angle pi/4 + pi/2 x in the first quadrant, x in (-1/2, 1/2). Bit 0 is read as 1, so
    that the values of x are symmetric about 0: the cosine and the sine take the same values, equally often. Bits 31 and
    30 are the signs of the two. The 2^24 directions are equally spaced.

    Parameters
    ----------
    v : array_like of uint32

    Returns
    -------
    cos, sin : ndarray of float32, the shape of `v`
    """
    v = _in_32_bits("v", v)
    x = ((v & np.uint32(0x7FFFFF)) | np.uint32(0x3F800001)).view(np.float32) - np.float32(1.5)
    square = x * x
    even, odd = _horner(square, EVEN), _horner(square, ODD)
    cos, sin = fma(-x, odd, even), fma(x, odd, even)
    top = np.uint32(0x80000000)
    return (cos.view(np.uint32) ^ (v & top)).view(np.float32), (sin.view(np.uint32) ^ ((v << np.uint32(1)) & top)).view(
        np.float32
    )


def normal_pair(u: ArrayLike, v: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two independent standard normals from two random words; Box and Muller, 1958.

        z_0 = sqrt(-2 ln w) cos(theta),    z_1 = sqrt(-2 ln w) sin(theta)

    Two normals as a point in the plane have a squared radius that is exponential and an angle that is uniform, both
    of which are easily made from uniform words.

    Parameters
    ----------
    u, v : array_like of uint32, equal shapes
        The word of the radius and the word of the angle.

    Returns
    -------
    z_0, z_1 : ndarray of float32
        |z| < 6.77. Within 1.2e-6 of the exact transform of the float32 w and the 24-bit angle.
    """
    r = radius(u)
    cos, sin = direction(v)
    if r.shape != cos.shape:
        raise ValueError(f"shapes must be equal, got u {r.shape}, v {cos.shape}")
    return r * cos, r * sin


def normal(seed: int, stream: int, step: ArrayLike, sample: ArrayLike, shape: Sequence[int]) -> NDArray[np.float32]:
    """Standard normal noise eps ~ N(0, I) at an address.

    Elements 2 i and 2 i + 1 of a sample, counted in C order, are the pair that words 2 i and 2 i + 1 make. The noise
    depends on the number of elements only, not on how they are arranged.

    Parameters
    ----------
    shape : sequence of int
        The shape of one sample.

    Returns
    -------
    ndarray of float32, shape (B, *shape)
        The same bits on every machine and in every implementation.

    Examples
    --------
    Image 7 gets the same noise alone and in a batch:

    >>> alone, batch = normal(0, FORWARD, 5, 7, (3,)), normal(0, FORWARD, 5, [6, 7], (3,))
    >>> bool((alone[0] == batch[1]).all())
    True
    """
    shape = sizes(shape)
    count = prod(shape)
    pairs = words(seed, stream, step, sample, count + count % 2)
    z_0, z_1 = normal_pair(pairs[:, 0::2], pairs[:, 1::2])
    z = np.stack([z_0, z_1], axis=-1).reshape(pairs.shape)
    return z[:, :count].reshape(len(pairs), *shape)


def uniform(seed: int, stream: int, step: ArrayLike, sample: ArrayLike) -> NDArray[np.float32]:
    """A uniform number in [0, 1) for each sample: the top 24 bits of its first word over 2^24.

    24 bits are as many as a float32 holds, so that no result is rounded up to 1.

    Returns
    -------
    ndarray of float32, shape (B,)
    """
    word = words(seed, stream, step, sample, 1)[:, 0]
    return (word >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def integers(seed: int, stream: int, step: ArrayLike, sample: ArrayLike, low: int, high: int) -> NDArray[np.int64]:
    """A uniform integer in low .. high, both included, for each sample: low + floor(word n / 2^32).

    With ``low=1, high=T`` it is the chapter's random timestep. A multiplication and a shift take the place of a
    remainder, and no word is rejected, so that every sample needs exactly one.

    Parameters
    ----------
    low, high : int
        n = high - low + 1 is in [1, 2^31].

    Returns
    -------
    ndarray of int64, shape (B,)
        No value is more likely than another by more than n / 2^32, relatively.

    Examples
    --------
    >>> integers(seed=0, stream=TIMESTEP, step=0, sample=range(5), low=1, high=1000).tolist()
    [70, 412, 3, 219, 497]
    """
    low, high = (integer(name, end, -(1 << 63), 1 << 63) for name, end in (("low", low), ("high", high)))
    n = high - low + 1
    if not 1 <= n <= 1 << 31:
        raise ValueError(f"low={low}, high={high} span {n} integers; 1 to 2^31 are allowed")
    word = words(seed, stream, step, sample, 1)[:, 0].astype(np.int64)
    return low + ((word * n) >> 32)


def permutation(seed: int, epoch: int, n: int) -> NDArray[np.int64]:
    """The order of the data in an epoch: 0 .. n - 1 sorted by one 64-bit number each.

    The number of i has word 2 i above word 2 i + 1; equal numbers keep their order. Sorting needs no state, where the
    usual shuffle swaps one element after another.

    Parameters
    ----------
    epoch : int
        In [0, 2^28).
    n : int
        In [0, 2^33].

    Returns
    -------
    ndarray of int64, shape (n,)

    Examples
    --------
    >>> permutation(0, 0, 6).tolist(), permutation(0, 1, 6).tolist()
    ([0, 2, 3, 4, 1, 5], [4, 1, 5, 3, 2, 0])
    """
    epoch, n = integer("epoch", epoch, 0, STEPS), integer("n", n, 0, ELEMENTS // 2 + 1)
    pairs = words(seed, PERMUTATION, epoch, 0, 2 * n)[0].astype(np.uint64)
    return np.argsort(pairs[0::2] << _HALF | pairs[1::2], kind="stable")
