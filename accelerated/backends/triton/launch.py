"""When the Triton kernels run, and what their launches share."""

import os
from math import gcd, prod
from typing import Any

import torch
from torch import Tensor

from ...address import Address

# blocks of four elements a program, one warp: 32 elements a thread spread its start thin and leave it the registers,
# and the smaller a program, the less of the last one in a row is idle
BLOCKS = 256
# a grid's second and third axes hold no more
_AXIS = (1 << 16) - 1


def use_kernels(x: Tensor) -> bool:
    """Whether an op on x runs its Triton kernel: on a GPU, or interpreted where TRITON_INTERPRET=1 asks for it."""
    return x.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"


class Layout:
    """How a kernel walks the memory of a batch, contiguous or channels_last, without a copy; `walk` has the ways.

    Parameters
    ----------
    x : Tensor, shape (B, ...)
        Decides the layout. One that is neither contiguous nor channels_last is walked as a contiguous copy.
    stores : torch.dtype
        What the kernel writes; an access takes 16 bytes of it where the shape allows.
    sums : bool
        The kernel adds elements up, for which it walks them in C order.
    blocks : int, optional
        Blocks of four elements that a program computes, a power of two; `BLOCKS` by default.
    """

    def __init__(self, x: Tensor, stores: torch.dtype, *, sums: bool = False, blocks: int = BLOCKS) -> None:
        self.shape = tuple(x.shape)
        self.n = prod(self.shape[1:])
        self.format = torch.contiguous_format
        if not x.is_contiguous():
            if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
                self.format = torch.channels_last
            elif x.ndim == 5 and x.is_contiguous(memory_format=torch.channels_last_3d):
                self.format = torch.channels_last_3d
        self.channels = 1 if self.format is torch.contiguous_format else self.shape[1]
        self.inner = self.n // self.channels
        self.blocks = min(blocks, 1 << max(-(-self.n // 4) - 1, 0).bit_length())
        most = 16 // stores.itemsize
        if self.channels == 1:
            self.walk, self.vector = "contiguous", gcd(most, self.n, 4 * self.blocks)
        elif self.inner % 4:
            self.walk, self.vector = "elements", 1
        elif sums:
            self.walk, self.vector = "channels", 1
        else:
            self.walk, self.vector = "pixels", gcd(most, self.channels, self.blocks)
        programs = -(-self.n // (4 * self.blocks))
        # from 2^26 elements a sample on, its programs take two axes of the grid, and with them 64 bits
        self.wide = programs > _AXIS
        deep = -(-programs // _AXIS) if self.wide else 1
        self.grid = (self.shape[0], -(-programs // deep), deep)
        self.programs_a_row = self.grid[1] * self.grid[2]

    def read(self, x: Tensor | None) -> Tensor | None:
        """x in this layout; a copy only where it has another."""
        return None if x is None else x.contiguous(memory_format=self.format)

    def write(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Memory for a result like x in this layout."""
        return torch.empty_like(x, dtype=dtype, memory_format=self.format)

    def arguments(self) -> dict[str, Any]:
        """The arguments of a kernel that walks by units and pieces, a warp a program."""
        return dict(
            n=self.n,
            inner=self.inner,
            WALK=self.walk,
            CHANNELS=self.channels,
            WIDE=self.wide,
            WHOLE=self.n == 4 * self.blocks * self.programs_a_row,
            VECTOR=self.vector,
            BLOCKS=self.blocks,
            num_warps=1,
        )


def address_arguments(address: Address) -> dict[str, Any]:
    """The kernel arguments that say where the noise is; 64-bit numbers go in words of 32, the low one first."""
    seed, seed_tensor, stream, step, step_tensor, sample, sample_tensor = address
    return dict(
        seed_ptr=_in_words(seed_tensor),
        seed_low=_signed(seed),
        seed_high=_signed(seed >> 32),
        STREAM=stream,
        step_ptr=_in_words(step_tensor),
        step=step,
        sample_ptr=_in_words(sample_tensor),
        sample_low=_signed(sample),
        sample_high=_signed(sample >> 32),
        STEP_ROWS=step_tensor is not None and step_tensor.numel() > 1,
    )


def _in_words(part: Tensor | None) -> Tensor | None:
    return None if part is None else part.reshape(-1).contiguous().view(torch.int32)


def _signed(number: int) -> int:
    # the low word as int32, so that an argument has one type whatever its value
    word = number & 0xFFFFFFFF
    return word - ((word >> 31) << 32)


def as_rows(t: Tensor) -> dict[str, Any]:
    """The kernel arguments for timesteps (B,), which may be one number expanded."""
    one = t.stride(0) == 0 or t.numel() == 1
    return dict(t_ptr=t if one else t.contiguous(), T_ROWS=not one)


def launch(kernel: Any, grid: tuple[int, ...], **arguments: Any) -> None:
    """Run a kernel on a grid; not where there is nothing to do."""
    if 0 not in grid:
        kernel[grid](**arguments, enable_fp_fusion=False)
