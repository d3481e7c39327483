"""What the Triton kernels share: the noise in registers, memory layouts, sums in a fixed order.

Compiled with floating-point fusion off: a fused multiply-add stands only where one is written.
"""

import triton
import triton.language as tl

from .noise import EVEN, EXPONENT, LOG, ODD, TINY

_LOG = tl.constexpr(LOG)
_EVEN = tl.constexpr(EVEN)
_ODD = tl.constexpr(ODD)
_EXPONENT = tl.constexpr(EXPONENT)
_TINY = tl.constexpr(TINY)


@triton.jit
def philox4x32(c0, c1, c2, c3, k0, k1):
    """Four random words for each counter, `noisestep.reference.noise.philox4x32`; uint32 throughout."""
    for _ in tl.static_range(10):
        p0 = c0.to(tl.uint64) * 0xD2511F53
        p1 = c2.to(tl.uint64) * 0xCD9E8D57
        c0, c1, c2, c3 = (
            (p1 >> 32).to(tl.uint32) ^ c1 ^ k0,
            p1.to(tl.uint32),
            (p0 >> 32).to(tl.uint32) ^ c3 ^ k1,
            p0.to(tl.uint32),
        )
        k0 = k0 + 0x9E3779B9
        k1 = k1 + 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def _horner(x, COEFFICIENTS: tl.constexpr, DEGREE: tl.constexpr):
    value = tl.full(x.shape, COEFFICIENTS[DEGREE], tl.float32)
    for i in tl.static_range(DEGREE):
        value = tl.fma(value, x, tl.full(x.shape, COEFFICIENTS[DEGREE - 1 - i], tl.float32))
    return value


@triton.jit
def _sqrt(x):
    # correctly rounded for every radius, from any estimate of 1/sqrt(x) within four units of the last place
    # (the tests go through them all), with neither branch nor call: one Goldschmidt step, one Markstein correction
    estimate = tl.rsqrt(x)
    root, half = x * estimate, 0.5 * estimate
    error = tl.fma(-root, half, tl.full(x.shape, 0.5, tl.float32))
    root, half = tl.fma(root, error, root), tl.fma(half, error, half)
    return tl.fma(tl.fma(-root, root, x), half, root)


@triton.jit
def normal_pair(u, v):
    """Two standard normals from two words, `noisestep.reference.noise.normal_pair`."""
    w = tl.fma(u.to(tl.float32), tl.full(u.shape, 2.0**-32, tl.float32), tl.full(u.shape, 2.0**-33, tl.float32))
    bits = w.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F2AAAAB) & -0x800000
    m = (bits - exponent).to(tl.float32, bitcast=True) - 1.0
    square = tl.fma(_horner(m, _LOG, 7), m, tl.full(m.shape, _TINY, tl.float32))
    square = tl.fma(exponent.to(tl.float32), tl.full(m.shape, _EXPONENT, tl.float32), square)
    r = _sqrt(square)
    x = ((v & 0x7FFFFF) | 0x3F800000).to(tl.float32, bitcast=True) - 1.5
    x_2 = x * x
    even, odd = _horner(x_2, _EVEN, 3), _horner(x_2, _ODD, 3)
    z_0, z_1 = r * tl.fma(-x, odd, even), r * tl.fma(x, odd, even)
    # bits 31 and 30 of the word are the signs
    z_0 = (z_0.to(tl.uint32, bitcast=True) ^ (v & 0x80000000)).to(tl.float32, bitcast=True)
    z_1 = (z_1.to(tl.uint32, bitcast=True) ^ ((v << 1) & 0x80000000)).to(tl.float32, bitcast=True)
    return z_0, z_1


@triton.jit
def _part(part_ptr, part, row, ROWS: tl.constexpr):
    # a part of the address: from a tensor with one element, or one a row, or from the launch
    if part_ptr is None:
        # a sum: Triton's interpreter hands over 2^31 to 2^32 - 1 as 32 bits that pass for 64, which a cast leaves alone
        value = part + tl.full((), 0, tl.int64)
    else:
        value = tl.load(part_ptr + (row if ROWS else 0)).to(tl.int64)
    return value


@triton.jit
def normals(
    first,
    row,
    seed_ptr,
    seed,
    STREAM: tl.constexpr,
    step_ptr,
    step,
    sample_ptr,
    sample,
    STEP_ROWS: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """Elements 4 first .. 4 (first + BLOCKS) - 1 of the noise of a row, float32 (4 BLOCKS,)."""
    key = _part(seed_ptr, seed, row, False)
    at_step = _part(step_ptr, step, row, STEP_ROWS)
    number = _part(sample_ptr, sample, row, True)
    if sample_ptr is None:
        number += row
    zero = tl.zeros((BLOCKS,), tl.uint32)
    c0 = (first + tl.arange(0, BLOCKS)).to(tl.uint32)
    c1 = zero + ((at_step & 0xFFFFFFF) | (STREAM << 28)).to(tl.uint32)
    c2 = zero + (number & 0xFFFFFFFF).to(tl.uint32)
    c3 = zero + ((number >> 32) & 0xFFFFFFFF).to(tl.uint32)
    k0 = zero + (key & 0xFFFFFFFF).to(tl.uint32)
    k1 = zero + ((key >> 32) & 0xFFFFFFFF).to(tl.uint32)
    w0, w1, w2, w3 = philox4x32(c0, c1, c2, c3, k0, k1)
    z0, z1 = normal_pair(w0, w1)
    z2, z3 = normal_pair(w2, w3)
    return tl.join(tl.join(z0, z2), tl.join(z1, z3)).reshape((4 * BLOCKS,))


@triton.jit
def place(programs_a_row, BLOCKS: tl.constexpr, WIDE: tl.constexpr):
    """The row of this program, its first block of four elements, and the elements (4 BLOCKS,) that it computes."""
    program = tl.program_id(0)
    row = program // programs_a_row
    first = (program - row * programs_a_row).to(tl.int64 if WIDE else tl.int32) * BLOCKS
    return row.to(tl.int64), first, first * 4 + tl.arange(0, 4 * BLOCKS)


@triton.jit
def offsets(element, channels, inner, CHANNELS_LAST: tl.constexpr):
    """Where an element, counted in C order, stands in the memory of its sample."""
    if CHANNELS_LAST:
        channel = element // inner
        offset = (element - channel * inner) * channels + channel
    else:
        offset = element
    return offset


@triton.jit
def row_of_table(t_ptr, row, rows, T_ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Where row t of a table begins; a t out of range reads the nearest row."""
    t = tl.load(t_ptr + (row if T_ROWS else 0)).to(tl.int64)
    return tl.minimum(tl.maximum(t, 0), rows - 1) * COLUMNS


@triton.jit
def unit_range(x_0, compute: tl.constexpr):
    """Images in the type that an op computes in, `noisestep.accelerated.arithmetic.unit_range`."""
    value = x_0.to(compute)
    if x_0.dtype == tl.uint8:
        value = (2.0 * value - 255.0) * 0.00392156862745098
    return value


@triton.jit
def stored(value, pointer):
    """value in the type that a pointer points to; from float64 by way of float32, as PyTorch does it."""
    if value.dtype == tl.float64 and pointer.dtype.element_ty != tl.float64:
        value = value.to(tl.float32)
    return value.to(pointer.dtype.element_ty)


@triton.jit
def pairwise_sum(values, SIZE: tl.constexpr):
    """The sum of values (SIZE,), a power of two, neighbours first: `noisestep.accelerated.arithmetic.pairwise_sum`."""
    # a sum over two elements has one order
    if SIZE > 1:
        total = pairwise_sum(tl.sum(values.reshape((SIZE // 2, 2)), axis=1), SIZE // 2)
    else:
        total = tl.sum(values, axis=0)
    return total
