"""Arithmetic that several ops share on their PyTorch path."""

import torch
from torch import Tensor

# a sample is summed in chunks of this many elements, then over chunks; part of the ops' definition
CHUNK = 1024


def per_sample(rows: Tensor, x: Tensor) -> Tensor:
    """Coefficients (B,) with the trailing axes that let them multiply x (B, ...)."""
    return rows.reshape(-1, *(1,) * (x.ndim - 1))


def rows_at(table: Tensor, t: Tensor, x: Tensor) -> list[Tensor]:
    """Row t of a table, one coefficient a column, shaped for x. A t out of range reads the nearest row."""
    rows = table[t.clamp(0, table.shape[0] - 1)]  # (B, columns)
    return [per_sample(column, x) for column in rows.unbind(-1)]


def unit_range(x_0: Tensor) -> Tensor:
    """uint8 levels 0..255 as float32 in [-1, 1], (2 k - 255) / 255; other dtypes as they are."""
    if x_0.dtype != torch.uint8:
        return x_0
    return (2.0 * x_0.float() - 255.0) * (1 / 255)


def stored(value: Tensor, like: Tensor, dtype: torch.dtype) -> Tensor:
    """value rounded once to dtype, in the memory layout that `torch.empty_like(like)` has."""
    out = torch.empty_like(like, dtype=dtype)
    return out.copy_(value)


def tree_sum(values: Tensor) -> Tensor:
    """Sums over the last axis in an order fixed for good, so that every device gives the same bits.

    Zeros fill the axis up to chunks of 1024; within a chunk, element i takes element i + 512, then
    i + 256, and so on down to one; then the chunks' sums are added up in the same way.

    Parameters
    ----------
    values : Tensor, shape (B, n)

    Returns
    -------
    Tensor, shape (B,)
    """
    batch, n = values.shape
    chunks = max(1, -(-n // CHUNK))
    values = torch.nn.functional.pad(values, (0, chunks * CHUNK - n))
    sums = _halve(values.reshape(batch, chunks, CHUNK))  # (B, chunks)
    padded = 1 << (chunks - 1).bit_length()
    return _halve(torch.nn.functional.pad(sums, (0, padded - chunks)))


def _halve(values: Tensor) -> Tensor:
    while values.shape[-1] > 1:
        half = values.shape[-1] // 2
        values = values[..., :half] + values[..., half:]
    return values[..., 0]
