"""Sums in a fixed order: `noisestep.accelerated.backends.eager.pairwise_sum`. Reads a tensor, writes a column."""

import torch
import triton.language as tl
from torch import Tensor

from ..backends import eager
from ..backends.triton import kernels
from ..backends.triton.launch import kernel
from .checks import check_batch
from .registered import Registered


@kernel
def _kernel(values_ptr, sums_ptr, n, chunks, SIZE: tl.constexpr):
    program = tl.program_id(0).to(tl.int64)
    row = program // chunks
    element = (program - row * chunks) * SIZE + tl.arange(0, SIZE)
    values = tl.load(values_ptr + row * n + element, mask=element < n, other=0)
    tl.store(sums_ptr + program, kernels.pairwise_sum(values, SIZE))


_pairwise_sum = Registered("pairwise_sum(Tensor values) -> Tensor")


@_pairwise_sum.triton
def _(values):
    values = values.contiguous()
    while True:
        batch, n = values.shape
        size = eager.chunk_size(n)
        chunks = max(1, -(-n // size))
        sums = values.new_empty((batch, chunks))
        _kernel((batch * chunks, 1, 1), (values, sums), (), (n, chunks, size))
        if chunks == 1:
            return sums[:, 0]
        values = sums


@_pairwise_sum.eager
def _(values):
    # an op's result must not be a view of its argument
    return eager.pairwise_sum(values).clone()


@_pairwise_sum.fake
def _(values):
    return values.new_empty(values.shape[0])


def _save(ctx, inputs, output):
    ctx.shape = inputs.values.shape


def _backward(ctx, grad):
    return {"values": grad[:, None].expand(ctx.shape)}


_pairwise_sum.backward(_save, _backward)


def run_pairwise_sum(values: Tensor) -> Tensor:
    """The sums for the implementation of another op, on the backend that was chosen."""
    return _pairwise_sum.run(values)


def pairwise_sum(values: Tensor) -> Tensor:
    """Sums over the last axis with the same bits on every device.

    Neighbours are added, then neighbouring sums, within chunks of 1024 elements, and the chunks' sums in
    the same way. Differentiable.

    Parameters
    ----------
    values : Tensor, shape (B, n)
        float32 or float64.

    Returns
    -------
    Tensor, shape (B,)

    Raises
    ------
    TypeError, ValueError
        For another dtype or rank.
    """
    check_batch("values", values, dtypes=(torch.float32, torch.float64))
    if values.ndim != 2:
        raise ValueError(f"values must have shape (B, n), got {tuple(values.shape)}")
    return _pairwise_sum(values)
