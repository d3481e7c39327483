"""Arithmetic that several ops share on their PyTorch path."""

import torch
from torch import Tensor

# a sample is summed in chunks of this many elements; part of the definition of the ops that sum
CHUNK = 1024


def per_sample(rows: Tensor, x: Tensor) -> Tensor:
    """Coefficients (B,) with the trailing axes that let them multiply x (B, ...)."""
    return rows.reshape(-1, *(1,) * (x.ndim - 1))


def rows_at(table: Tensor, t: Tensor, x: Tensor) -> list[Tensor]:
    """Row t of a table, one coefficient a column, shaped for x. A t out of range reads the nearest row."""
    rows = table[t.clamp(0, table.shape[0] - 1)]  # (B, columns)
    return [per_sample(column, x) for column in rows.unbind(-1)]


def unit_range(x_0: Tensor, dtype: torch.dtype) -> Tensor:
    """Images in the type that an op computes in; uint8 levels 0..255 become [-1, 1], (2 k - 255) / 255."""
    if x_0.dtype != torch.uint8:
        return x_0.to(dtype)
    return (2.0 * x_0.to(dtype) - 255.0) * (1 / 255)


def stored(value: Tensor, like: Tensor, dtype: torch.dtype) -> Tensor:
    """value rounded once to dtype, in the memory layout that `torch.empty_like(like)` has."""
    if value.dtype == dtype and value.stride() == torch.empty_like(like, device="meta").stride():
        return value
    return torch.empty_like(like, dtype=dtype).copy_(value)


def like_input(result: Tensor, like: Tensor) -> Tensor:
    """The result in the memory layout that `torch.empty_like(like)` has; a copy only where it has another."""
    return stored(result, like, result.dtype)


def pairwise_sum(values: Tensor) -> Tensor:
    """Sums over the last axis in an order fixed for good, so that every device gives the same bits.

    Neighbours are added, then neighbouring sums, within chunks of 1024 elements that zeros fill up; the
    chunks' sums are added in the same way.

    Parameters
    ----------
    values : Tensor, shape (B, n)

    Returns
    -------
    Tensor, shape (B,)
    """
    batch, n = values.shape
    size = chunk_size(n)
    chunks = max(1, -(-n // size))
    sums = torch.nn.functional.pad(values, (0, chunks * size - n)).reshape(batch, chunks, size)
    while sums.shape[-1] > 1:
        sums = sums[..., 0::2] + sums[..., 1::2]
    return sums[:, 0, 0] if chunks == 1 else pairwise_sum(sums[..., 0])


def chunk_size(n: int) -> int:
    """How many of n elements are summed at once: a power of two, at most 1024. Zeros would not change a sum's bits."""
    return min(CHUNK, 1 << max(n - 1, 0).bit_length())
