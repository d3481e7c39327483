"""Sums in a fixed order: `noisestep.accelerated.backends.eager.pairwise_sum`. Reads a tensor, writes a column."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..backends.eager import chunk_size, pairwise_sum
from ..backends.triton.kernels import pairwise_sum as pairwise_sum_kernel
from ..backends.triton.launch import launch, use_kernels
from .checks import check_batch


@triton.jit
def _kernel(values_ptr, sums_ptr, n, chunks, SIZE: tl.constexpr):
    program = tl.program_id(0).to(tl.int64)
    row = program // chunks
    element = (program - row * chunks) * SIZE + tl.arange(0, SIZE)
    values = tl.load(values_ptr + row * n + element, mask=element < n, other=0)
    tl.store(sums_ptr + program, pairwise_sum_kernel(values, SIZE))


@torch.library.custom_op("noisestep::pairwise_sum", mutates_args=())
def _pairwise_sum(values: Tensor) -> Tensor:
    if not use_kernels(values):
        # an op's result must not be a view of its argument
        return pairwise_sum(values).clone()
    values = values.contiguous()
    while True:
        batch, n = values.shape
        size = chunk_size(n)
        chunks = max(1, -(-n // size))
        sums = values.new_empty((batch, chunks))
        launch(_kernel, (batch * chunks,), values_ptr=values, sums_ptr=sums, n=n, chunks=chunks, SIZE=size)
        if chunks == 1:
            return sums[:, 0]
        values = sums


@_pairwise_sum.register_fake
def _(values):
    return values.new_empty(values.shape[0])


def _save(ctx, inputs, output) -> None:
    (values,) = inputs
    ctx.shape = values.shape


def _backward(ctx, grad: Tensor) -> Tensor:
    return grad[:, None].expand(ctx.shape)


_pairwise_sum.register_autograd(_backward, setup_context=_save)


def fixed_sum(values: Tensor) -> Tensor:
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
