"""A counter moves on where it lies, so that a captured graph takes its own steps. Reads and writes one number."""

import torch
import triton.language as tl
from torch import Tensor

from ..address import check_dense, int_in
from ..backends.triton.launch import kernel
from .registered import Registered


@kernel(numbers=("by",))
def _kernel(counter_ptr, by):
    tl.store(counter_ptr, tl.load(counter_ptr) + by)


_advance = Registered("advance(Tensor(a!) counter, SymInt by) -> ()")


@_advance.triton
def _(counter, by):
    _kernel((1, 1, 1), (counter,), (by,), ())


@_advance.eager
def _(counter, by):
    counter.add_(by)


@_advance.fake
def _(counter, by):
    return None


def advance(counter: Tensor, by: int = 1) -> Tensor:
    """Add to a counter on its device: the optimizer step of training, or with ``by=-1`` the timestep of sampling.

    A step in a tensor is read by the kernels themselves (`NoiseAddress`), and t as well. A captured CUDA graph that
    ends with this draws fresh noise at each replay and takes the current step, with nothing from the host:

        x_s = reverse_step(schedule, x, model(x, t), t, NoiseAddress(seed, REVERSE, t), in_place=True)
        advance(t, -1)

    Parameters
    ----------
    counter : Tensor of int64, one element
        Changed in place.
    by : int
        In [-2^31, 2^31).

    Returns
    -------
    Tensor
        `counter`.

    Raises
    ------
    TypeError, ValueError
        For a counter of another type or size, or a `by` that is no integer or out of range.
    """
    if not isinstance(counter, Tensor) or counter.dtype != torch.int64:
        got = counter.dtype if isinstance(counter, Tensor) else type(counter).__name__
        raise TypeError(f"counter must be an int64 tensor, got {got}")
    check_dense("counter", counter)
    if counter.numel() != 1:
        raise ValueError(f"counter must have one element, got shape {tuple(counter.shape)}")
    by = int_in("by", by, -(1 << 31), 1 << 31)
    _advance(counter, by)
    return counter
