"""Integer operations that NumPy lacks, on arrays of unsigned words."""

import numpy as np


def high_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The upper half of the product of two integers of one type, signed or not."""
    dtype = a.dtype
    if dtype.itemsize < 8:
        wide = np.dtype(f"{dtype.kind}{2 * dtype.itemsize}")
        return ((a.astype(wide) * b.astype(wide)) >> wide.type(8 * dtype.itemsize)).astype(dtype)
    a, b = np.broadcast_arrays(a, b)
    return np.array([(int(x) * int(y) >> 64) & (2**64 - 1) for x, y in zip(a, b, strict=True)], np.uint64).view(dtype)


def shift_left(x: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """x shifted left; by as many bits as it has, or more, 0."""
    bits = 8 * x.dtype.itemsize
    return np.where(amount >= bits, x.dtype.type(0), x << np.minimum(amount, bits - 1).astype(x.dtype))


def shift_right(x: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """x shifted right, a signed one with its sign; by as many bits as it has, or more, 0 or the sign."""
    bits = 8 * x.dtype.itemsize
    shifted = x >> np.minimum(amount, bits - 1).astype(x.dtype)
    return shifted if x.dtype.kind == "i" else np.where(amount >= bits, x.dtype.type(0), shifted)


def leading_zeros(x: np.ndarray) -> np.ndarray:
    """How many zeros stand before the first one of unsigned words, as uint32."""
    bits = 8 * x.dtype.itemsize
    count = np.zeros(x.shape, np.uint32)
    for step in (32, 16, 8, 4, 2, 1):
        if step < bits:
            none = x < x.dtype.type(1) << x.dtype.type(bits - step)
            count += np.where(none, np.uint32(step), np.uint32(0))
            x = np.where(none, x << x.dtype.type(step), x)
    return count + (x == 0)


def reversed_bits(x: np.ndarray) -> np.ndarray:
    """Unsigned words with their bits in the opposite order."""
    raw = np.unpackbits(np.ascontiguousarray(x).view(np.uint8).reshape(len(x), -1), axis=1, bitorder="little")
    return np.packbits(raw[:, ::-1], axis=1, bitorder="little").view(x.dtype)[:, 0]


def extract(x: np.ndarray, position: np.ndarray, length: np.ndarray) -> np.ndarray:
    """`length` bits of x from `position` on; past the end are zeros, or the sign where x is signed.

    The sign of a signed result is its last bit that x has (PTX: ``bfe``).
    """
    bits = 8 * x.dtype.itemsize
    position, length = position.astype(np.int64) & 255, length.astype(np.int64) & 255
    unsigned = np.dtype(f"u{x.dtype.itemsize}")
    mask = shift_right(np.full(1, -1, np.int64).astype(unsigned), np.maximum(bits - length, 0))
    field = shift_right(x, position).view(unsigned) & mask
    if x.dtype.kind == "i":
        last = np.minimum(position + length - 1, bits - 1)
        sign = shift_right(x, np.maximum(last, 0)) & x.dtype.type(1)
        field = np.where(sign != 0, field | ~mask, field)
    field = field.view(x.dtype)
    return np.where(length == 0, x.dtype.type(0), field)
