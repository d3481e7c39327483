"""What the Triton kernels share: the noise in registers, memory layouts, sums in a fixed order.

Compiled with floating-point fusion off: a fused multiply-add stands only where one is written.
"""

import triton
import triton.language as tl

from ...address import EVEN, EXPONENT, LOG, ODD, TINY
from .tiling import blocks_of_unit, units

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
    x = ((v & 0x7FFFFF) | 0x3F800001).to(tl.float32, bitcast=True) - 1.5
    x_2 = x * x
    even, odd = _horner(x_2, _EVEN, 3), _horner(x_2, _ODD, 3)
    z_0, z_1 = r * tl.fma(-x, odd, even), r * tl.fma(x, odd, even)
    # bits 31 and 30 of the word are the signs
    z_0 = (z_0.to(tl.uint32, bitcast=True) ^ (v & 0x80000000)).to(tl.float32, bitcast=True)
    z_1 = (z_1.to(tl.uint32, bitcast=True) ^ ((v << 1) & 0x80000000)).to(tl.float32, bitcast=True)
    return z_0, z_1


@triton.jit
def _word(pointer, word, at):
    # a word of the address, from a tensor or from the launch
    if pointer is not None:
        word = tl.load(pointer + at)
    return word.to(tl.uint32, bitcast=True)


@triton.jit
def _in_turn(even, odd):
    # the columns of two tensors (rows, columns), one after the other
    return tl.join(even, odd).reshape((even.shape[0], 2 * even.shape[1]))


@triton.jit
def _normals_of_blocks(block, stride, c1, c2, c3, k0, k1, COUNT: tl.constexpr):
    """Normals 0, 1, 2 and 3 of COUNT blocks, a stride apart, that begin with these (units,): each (units, COUNT)."""
    if COUNT == 1:
        w0, w1, w2, w3 = philox4x32(block.to(tl.uint32), c1, c2, c3, k0, k1)
        z0, z1 = normal_pair(w0, w1)
        z2, z3 = normal_pair(w2, w3)
        z0, z1, z2, z3 = z0[:, None], z1[:, None], z2[:, None], z3[:, None]
    else:
        a0, a1, a2, a3 = _normals_of_blocks(block, 2 * stride, c1, c2, c3, k0, k1, COUNT // 2)
        b0, b1, b2, b3 = _normals_of_blocks(block + stride, 2 * stride, c1, c2, c3, k0, k1, COUNT // 2)
        z0, z1, z2, z3 = _in_turn(a0, b0), _in_turn(a1, b1), _in_turn(a2, b2), _in_turn(a3, b3)
    return z0, z1, z2, z3


@triton.jit
def counter_and_key(address, row, STREAM: tl.constexpr, STEP_ROWS: tl.constexpr):
    """Words 1 to 3 of Philox' counter for a row, and its key.

    address is (seed_ptr, seed_low, seed_high, step_ptr, step, sample_ptr, sample_low, sample_high).
    """
    seed_ptr, seed_low, seed_high, step_ptr, step, sample_ptr, sample_low, sample_high = address
    # one for the whole program, these words stay scalars: the keys and half of the first two rounds are computed once.
    # 32 bits from the start: LLVM would carry words of 64-bit numbers on at 64 bits, two instructions for one
    k0, k1 = _word(seed_ptr, seed_low, 0), _word(seed_ptr, seed_high, 1)
    c1 = (_word(step_ptr, step, 2 * row if STEP_ROWS else 0) & 0xFFFFFFF) | (STREAM << 28)
    c2, c3 = _word(sample_ptr, sample_low, 2 * row), _word(sample_ptr, sample_high, 2 * row + 1)
    if sample_ptr is None:
        low = c2
        c2 = low + row.to(tl.uint32)
        c3 = c3 + (c2 < low).to(tl.uint32)
    return c1, c2, c3, k0, k1


@triton.jit
def normals(address, row, program, inner, STREAM: tl.constexpr, STEP_ROWS: tl.constexpr, TILING: tl.constexpr):
    """The noise of a program's units, float32, a tensor for each access; the terms are those of `tiling`.

    address is (seed_ptr, seed_low, seed_high, step_ptr, step, sample_ptr, sample_low, sample_high).
    """
    c1, c2, c3, k0, k1 = counter_and_key(address, row, STREAM, STEP_ROWS)
    block, stride = units(program, inner, TILING)
    z0, z1, z2, z3 = _normals_of_blocks(block, stride, c1, c2, c3, k0, k1, blocks_of_unit(TILING))
    if TILING.order == "pixels" or TILING.vector == 1:
        accesses = (z0, z1, z2, z3)
    elif TILING.vector == 2:
        accesses = (_in_turn(z0, z1), _in_turn(z2, z3))  # type: ignore[assignment]
    else:
        accesses = (tl.join(tl.join(z0, z2), tl.join(z1, z3)).reshape((4 * TILING.blocks,)),)  # type: ignore[assignment]
    return accesses


@triton.jit
def row_of_table(t_ptr, row, rows, T_ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Where row t of a table begins; a t out of range reads the nearest row."""
    t = tl.load(t_ptr + (row if T_ROWS else 0)).to(tl.int64)
    return tl.minimum(tl.maximum(t, 0), rows - 1) * COLUMNS


@triton.jit
def upcast(value, compute: tl.constexpr):
    """value in the type that an op computes in."""
    if value.dtype == tl.bfloat16:
        value = (value.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    return value.to(compute)


@triton.jit
def unit_range(x_0, compute: tl.constexpr):
    """Images in the type that an op computes in, `backends.eager.unit_range`."""
    value = upcast(x_0, compute)
    if x_0.dtype == tl.uint8:
        value = (2.0 * value - 255.0) * 0.00392156862745098
    return value


@triton.jit
def cast(value, pointer):
    """value in the type that a pointer points to; from float64 by way of float32, as PyTorch does it."""
    if value.dtype == tl.float64 and pointer.dtype.element_ty != tl.float64:
        value = value.to(tl.float32)
    return value.to(pointer.dtype.element_ty)


@triton.jit
def pairwise_sum(values, SIZE: tl.constexpr):
    """The sum of values (SIZE,), a power of two, neighbours first: `backends.eager.pairwise_sum`."""
    # a sum over two elements has one order
    if SIZE > 1:
        total = pairwise_sum(tl.sum(values.reshape((SIZE // 2, 2)), axis=1), SIZE // 2)
    else:
        total = tl.sum(values, axis=0)
    return total


@triton.jit
def pairwise_sum_of_rows(values, ROWS: tl.constexpr, SIZE: tl.constexpr):
    """`pairwise_sum` of each row of values (ROWS, SIZE)."""
    if SIZE > 1:
        total = pairwise_sum_of_rows(tl.sum(values.reshape((ROWS, SIZE // 2, 2)), axis=2), ROWS, SIZE // 2)
    else:
        total = tl.sum(values, axis=1)
    return total


@triton.jit
def divide(x, by):
    """x / by of an integer, correctly rounded, `backends.eager.divide`."""
    # `/` is that for float64 alone, and div_rn takes nothing but float32
    if x.dtype == tl.float64:
        quotient = x / by.to(tl.float64)
    else:
        quotient = tl.div_rn(x, by.to(tl.float32))
    return quotient


@triton.jit
def float_of_words(low, high):
    """A float64 from its two words of 32 bits."""
    bits = low.to(tl.uint32, bitcast=True).to(tl.uint64) | (high.to(tl.uint32, bitcast=True).to(tl.uint64) << 32)
    return bits.to(tl.float64, bitcast=True)


@triton.jit
def scalar(pointer, low, high, row, PER_ROW: tl.constexpr, compute: tl.constexpr):
    """A number of a call in the type that an op computes in: of a tensor, for all rows or this one, or of two words."""
    if pointer is not None:
        value = upcast(tl.load(pointer + (row if PER_ROW else 0)), compute)
    else:
        value = float_of_words(low, high).to(compute)
    return value
