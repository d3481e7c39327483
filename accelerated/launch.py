"""When the Triton kernels run, and what their launches share."""

import os
from math import prod
from typing import Any

import torch
from torch import Tensor

from .noise import Address

# blocks of four elements a program: 16 elements a thread at four warps
BLOCKS = 512
# offsets within a sample need 64 bits from here on
_WIDE = 1 << 31


def use_kernels(x: Tensor) -> bool:
    """Whether an op on x runs its Triton kernel: on a GPU, or interpreted where TRITON_INTERPRET=1 asks for it."""
    return x.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"


class Layout:
    """How a kernel walks the memory of a batch: contiguous or channels_last, without a copy.

    Parameters
    ----------
    x : Tensor, shape (B, ...)
        Decides the layout. One that is neither contiguous nor channels_last is walked as a contiguous copy.
    blocks : int, optional
        Blocks of four elements that a program computes; `BLOCKS` by default.
    """

    def __init__(self, x: Tensor, blocks: int | None = None) -> None:
        self.shape = tuple(x.shape)
        self.n = prod(self.shape[1:])
        self.format = torch.contiguous_format
        if not x.is_contiguous():
            if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
                self.format = torch.channels_last
            elif x.ndim == 5 and x.is_contiguous(memory_format=torch.channels_last_3d):
                self.format = torch.channels_last_3d
        self.blocks = min(blocks or BLOCKS, 1 << max(-(-self.n // 4) - 1, 0).bit_length())
        self.programs_a_row = -(-self.n // (4 * self.blocks))
        self.programs = self.shape[0] * self.programs_a_row

    def read(self, x: Tensor | None) -> Tensor | None:
        """x in this layout; a copy only where it has another."""
        return None if x is None else x.contiguous(memory_format=self.format)

    def write(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Memory for a result like x in this layout."""
        return torch.empty_like(x, dtype=dtype, memory_format=self.format)

    def arguments(self) -> dict[str, Any]:
        """The kernel arguments that describe the layout."""
        channels_last = self.format is not torch.contiguous_format
        channels = self.shape[1] if channels_last else 1
        return dict(
            n=self.n,
            programs_a_row=self.programs_a_row,
            channels=channels,
            inner=self.n // channels if channels_last else self.n,
            CHANNELS_LAST=channels_last,
            WIDE=self.n >= _WIDE,
            BLOCKS=self.blocks,
        )


def address_arguments(address: Address) -> dict[str, Any]:
    """The kernel arguments that say where the noise is."""
    seed, seed_tensor, stream, step, step_tensor, sample, sample_tensor = address
    return dict(
        seed_ptr=seed_tensor,
        seed=seed,
        STREAM=stream,
        step_ptr=step_tensor,
        step=step,
        sample_ptr=None if sample_tensor is None else sample_tensor.contiguous(),
        sample=sample,
        STEP_ROWS=step_tensor is not None and step_tensor.numel() > 1,
    )


def as_rows(t: Tensor) -> dict[str, Any]:
    """The kernel arguments for timesteps (B,), which may be one number expanded."""
    one = t.stride(0) == 0 or t.numel() == 1
    return dict(t_ptr=t if one else t.contiguous(), T_ROWS=not one)


def launch(kernel: Any, programs: int, **arguments: Any) -> None:
    """Run a kernel on a one-dimensional grid; none where there is nothing to do."""
    if programs:
        kernel[(programs,)](**arguments, enable_fp_fusion=False)
