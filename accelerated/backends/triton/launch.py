"""How a Triton kernel is launched: which part of a batch each program takes, and compiled kernels that are kept."""

import struct
from functools import lru_cache
from math import gcd, prod
from typing import Any

import torch
import triton
from torch import Tensor

from ...address import Address
from .. import Launch, choice
from .tiling import Tiling

# blocks of four elements a program of one warp: 32 elements a thread spread the cost of its start, and it has the
# registers for them
BLOCKS = 256
# a small batch takes smaller programs, down to 8 elements a thread, until there are this many of them: with fewer, part
# of a GPU is idle. Measured on an H200 (docs/gpu.md)
PROGRAMS = 2048
_FEWEST_BLOCKS = 64
# a grid's second and third axes hold no more
AXIS = (1 << 16) - 1


class Layout:
    """How a kernel goes through the memory of a batch, contiguous or channels_last, without a copy; see `tiling`.

    Parameters
    ----------
    shape, strides : tuple of int
        Of the batch (B, ...). One that is neither contiguous nor channels_last is read from a contiguous copy.
    itemsize : int
        Bytes of an element that the kernel writes; an access takes 16 bytes where the shape allows.
    sums : bool
        The kernel adds elements up, for which it goes through them in C order.
    blocks : int, optional
        Blocks of four elements that a program computes at the most, a power of two; by default a number for the size of
        the batch.
    axis : int
        The most programs on the grid's second axis.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        itemsize: int,
        sums: bool = False,
        blocks: int | None = None,
        axis: int = AXIS,
    ) -> None:
        self.shape = shape
        self.n = n = prod(shape[1:])
        x = torch.empty_strided(shape, strides, device="meta")
        self.format = torch.contiguous_format
        for rank, last in ((4, torch.channels_last), (5, torch.channels_last_3d)):
            if x.ndim == rank and not x.is_contiguous() and x.is_contiguous(memory_format=last):
                self.format = last
        channels = 1 if self.format is torch.contiguous_format else shape[1]
        self.inner = n // channels
        if blocks is None:
            blocks = BLOCKS
            while blocks > _FEWEST_BLOCKS and shape[0] * -(-n // (4 * blocks)) < PROGRAMS:
                blocks //= 2
        blocks = min(blocks, 1 << max(-(-n // 4) - 1, 0).bit_length())
        most = 16 // itemsize
        if channels == 1:
            order, vector = "contiguous", gcd(most, n, 4 * blocks)
        elif self.inner % 4:
            order, vector = "elements", 1
        elif sums:
            order, vector = "channels", 1
        else:
            order, vector = "pixels", gcd(most, channels, blocks)
        programs = -(-n // (4 * blocks))
        # from 2^26 elements a sample on, its programs take two axes of the grid, and with them 64 bits
        wide = programs > axis
        deep = -(-programs // axis) if wide else 1
        self.grid = (shape[0], -(-programs // deep), deep)
        self.programs_a_row = self.grid[1] * self.grid[2]
        self.tiling = Tiling(order, channels, wide, n == 4 * blocks * self.programs_a_row, vector, blocks)
        # whether memory in this format has the strides that torch.empty_like gives
        self.as_empty_like = torch.empty_like(x, memory_format=self.format).stride() == torch.empty_like(x).stride()

    def read(self, x: Tensor | None) -> Tensor | None:
        """x in this layout; a copy only where it has another."""
        return None if x is None else x.contiguous(memory_format=self.format)

    def write(self, x: Tensor, dtype: torch.dtype | None) -> Tensor | None:
        """Memory for a result like x in this layout."""
        if dtype is None:
            return None
        return torch.empty_like(x, dtype=dtype, memory_format=self.format)

    def finished(self, result: Tensor | None, x: Tensor) -> Tensor | None:
        """The result with the strides of torch.empty_like(x); a copy only where it has others."""
        if result is None or self.as_empty_like:
            return result
        return torch.empty_like(x, dtype=result.dtype).copy_(result)


_layout = lru_cache(maxsize=4096)(Layout)


def layout_of(x: Tensor, dtype: torch.dtype, *, sums: bool = False, blocks: int | None = None) -> Layout:
    """The layout of a kernel that goes through x and writes a dtype."""
    told = choice()
    return _layout(tuple(x.shape), x.stride(), dtype.itemsize, sums, told.blocks or blocks, told.axis or AXIS)


class Kernel:
    """A Triton kernel whose compiled forms are kept.

    Triton looks at the name, type and value of every argument to find the compiled form of a launch, which takes longer
    than many a kernel runs. Here one look-up finds it. The kernel's parameters come in this order: pointers, numbers
    that change from call to call, and what it is compiled for, `constants`.

    Parameters
    ----------
    function : triton.JITFunction
        Its numbers must be named in `do_not_specialize`.
    """

    def __init__(self, function: Any) -> None:
        self.function = function
        self._kept: dict[tuple[Any, ...], Any] = {}

    def __call__(
        self,
        grid: tuple[int, ...],
        tensors: tuple[Tensor | None, ...],
        numbers: tuple[int, ...],
        constants: tuple[Any, ...],
        *,
        warps: int = 1,
    ) -> None:
        """Launch on the device of the first tensor; not where there is nothing to do.

        Parameters
        ----------
        grid : tuple of int
        tensors : tuple of Tensor or None
            For the pointers; the first one must not be None.
        numbers : tuple of int
            32-bit integers.
        constants : tuple
            Integers that Triton specialises the kernel for, and values of tl.constexpr.
        warps : int
            Of a program.
        """
        if 0 in grid:
            return
        told = choice()
        if told.hook is not None:
            told.hook(self._launch(grid, tensors, numbers, constants, warps))
            return
        first = tensors[0]
        assert first is not None
        if first.is_cuda and first.get_device() != torch.cuda.current_device():
            with torch.cuda.device(first.device):
                self(grid, tensors, numbers, constants, warps=warps)
            return
        pointers = [None if x is None else x.data_ptr() for x in tensors]
        key = (
            grid,
            constants,
            warps,
            first.device,
            *[None if x is None else x.dtype for x in tensors],
            # Triton's code for a pointer that is a multiple of 16 is another one
            *[p is None or p & 15 == 0 for p in pointers],
        )
        compiled = self._kept.get(key)
        if compiled is None:
            # None of Triton's interpreter, which keeps nothing
            self._kept[key] = self._launch(grid, tensors, numbers, constants, warps).run()
            return
        compiled[grid](*pointers, *numbers, *constants)

    def _launch(
        self,
        grid: tuple[int, ...],
        tensors: tuple[Tensor | None, ...],
        numbers: tuple[int, ...],
        constants: tuple[Any, ...],
        warps: int,
    ) -> Launch:
        arguments = dict(zip(self.function.arg_names, (*tensors, *numbers, *constants), strict=True))
        return Launch(self.function, grid, arguments, {"num_warps": warps, "enable_fp_fusion": False})


def kernel(function: Any = None, *, numbers: tuple[str, ...] = ()) -> Any:
    """Decorate a device function that takes the given numbers as a `Kernel`."""
    if function is None:
        return lambda function: kernel(function, numbers=numbers)
    return Kernel(triton.jit(do_not_specialize=list(numbers))(function))


# the numbers of a kernel that makes noise, in its parameters' order
ADDRESS = ("seed_low", "seed_high", "step", "sample_low", "sample_high")


def pointers_of(address: Address) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The tensors of an address as pointers: seed, step and sample, in words of 32 bits, the low one first."""
    return _in_words(address[1]), _in_words(address[4]), _in_words(address[6])


def numbers_of(address: Address) -> tuple[int, int, int, int, int]:
    """The integers of an address as `ADDRESS` names them."""
    seed, _, _, step, _, sample, _ = address
    return _signed(seed), _signed(seed >> 32), step, _signed(sample), _signed(sample >> 32)


def constants_of(address: Address) -> tuple[int, bool]:
    """The stream of an address, and whether its step is one for each row."""
    return address[2], address[4] is not None and address[4].numel() > 1


def rows_of(t: Tensor) -> tuple[Tensor, bool]:
    """Timesteps as a pointer, and whether they are one for each row."""
    if t.ndim == 0 or t.shape[0] == 1 or t.stride(0) == 0:
        return t, False
    return t.contiguous(), True


def words_of(number: float) -> tuple[int, int]:
    """The 64 bits of a float64 in two numbers of a kernel, which would take a float as float32."""
    low, high = struct.unpack("<ii", struct.pack("<d", number))
    return low, high


def _in_words(part: Tensor | None) -> Tensor | None:
    return None if part is None else part.reshape(-1).contiguous().view(torch.int32)


def _signed(number: int) -> int:
    # the low word as int32, so that an argument has one type whatever its value
    word = number & 0xFFFFFFFF
    return word - ((word >> 31) << 32)
