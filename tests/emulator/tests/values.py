"""Inputs for the tests of opcodes, and how their results are compared."""

from typing import Any

import numpy as np

N = 256
BITS: dict[str, Any] = {"16": np.uint16, "32": np.uint32, "64": np.uint64}
FLOAT: dict[str, Any] = {"f16": np.float16, "f32": np.float32, "f64": np.float64}


def words(seed: int, size: int = 32) -> np.ndarray:
    """N words: the ends of the range, single bits, small numbers, and random ones."""
    rng = np.random.default_rng(seed)
    ends = [0, 1, 2, 3, 2**size - 1, 2**size - 2, 2 ** (size - 1), 2 ** (size - 1) - 1, 31, 32, 33, 255]
    found = rng.integers(0, 2**size, N, dtype=np.uint64)
    found[: len(ends)] = rng.permutation(np.array(ends, np.uint64))
    found[64:96] = np.uint64(1) << rng.integers(0, size, 32, dtype=np.uint64)
    found[96:128] >>= np.uint64(size // 2)
    return found.astype(BITS[str(size)])


def floats(seed: int, kind: str = "f32", *, close: bool = False) -> np.ndarray:
    """N numbers: zeros, infinities, NaNs, subnormal and extreme ones, and random bits, or near 1 (`close`)."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(FLOAT[kind])
    info = np.finfo(dtype)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, info.max, -info.max, info.smallest_normal, info.eps]
    special += [info.smallest_subnormal, -info.smallest_subnormal, info.smallest_normal - info.smallest_subnormal, 1.5]
    if close:
        found = rng.uniform(-4, 4, N).astype(dtype)
        # half of them with few digits, so that sums meet ties
        found[1::2] = np.rint(found[1::2] * 16) / 16 * dtype.type(2) ** rng.integers(-24, 24, N // 2)
    else:
        found = rng.integers(0, 2 ** (8 * dtype.itemsize), N, dtype=np.uint64).astype(BITS[str(8 * dtype.itemsize)])
        found = found.view(dtype)
    found[rng.permutation(N)[: len(special)]] = np.array(special, dtype)
    return found


def bfloat16s(seed: int) -> np.ndarray:
    """N bfloat16 as float32, which hold them exactly."""
    return (floats(seed).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def as_bits(x: np.ndarray) -> np.ndarray:
    return (x.view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def assert_numbers(*, actual: np.ndarray, expected: list[float]) -> None:
    """The same numbers and signs of zeros; a NaN is a NaN."""
    wanted = np.array(expected, np.float64)
    with np.errstate(invalid="ignore"):
        found = actual.astype(np.float64)
    same = (found == wanted) & (np.signbit(found) == np.signbit(wanted)) | np.isnan(found) & np.isnan(wanted)
    i = int((~same).argmax())
    assert same.all(), f"{(~same).sum()} differ, first {i}: {found[i]!r} for {wanted[i]!r}"


def wrapped(values: list[Any], dtype: type) -> np.ndarray:
    size = 8 * np.dtype(dtype).itemsize
    return np.array([value & (2**size - 1) for value in values], BITS[str(size)]).view(dtype)


def signed(kind: str) -> type:
    return {"s16": np.int16, "s32": np.int32, "s64": np.int64}.get(kind) or BITS[kind[1:]]


RELATIONS = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}
