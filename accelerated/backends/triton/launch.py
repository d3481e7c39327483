"""How a Triton kernel is launched: which part of a batch each program takes, and compiled kernels that are kept."""

import struct
from collections.abc import Sequence
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
            # a sum for each program is one more number to add up: fewer of them are enough
            enough = PROGRAMS // 2 if sums else PROGRAMS
            while blocks > _FEWEST_BLOCKS and shape[0] * -(-n // (4 * blocks)) < enough:
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
        # what a batch with these strides needs no copy for: to be read, and to be written as torch.empty_like gives it
        self._reads = x.is_contiguous(memory_format=self.format)
        like = torch.empty_like(x)
        self._writes = torch.empty_like(x, memory_format=self.format).stride() == like.stride()

    def reads(self, x: Tensor) -> Tensor:
        """The batch that the layout was made for; a copy only where it is in another layout."""
        return x if self._reads else x.contiguous(memory_format=self.format)

    def read(self, x: Tensor | None) -> Tensor | None:
        """Another batch of its shape in this layout; a copy only where it has another."""
        return None if x is None else x.contiguous(memory_format=self.format)

    def write(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Memory for a result like x in this layout."""
        if not self._writes:
            return torch.empty_like(x, dtype=dtype, memory_format=self.format)
        return torch.empty_like(x) if dtype is x.dtype else torch.empty_like(x, dtype=dtype)

    def finished(self, result: Tensor, x: Tensor) -> Tensor:
        """The result with the strides of torch.empty_like(x); a copy only where it has others."""
        return result if self._writes else torch.empty_like(x, dtype=result.dtype).copy_(result)


_layout = lru_cache(maxsize=4096)(Layout)


def layout_of(x: Tensor, dtype: torch.dtype, *, sums: bool = False, blocks: int | None = None) -> Layout:
    """The layout of a kernel that goes through x and writes a dtype; its programs have `blocks` at the most."""
    told = choice()
    if told.blocks is not None:
        blocks = told.blocks if blocks is None else min(told.blocks, blocks)
    return _layout(x.shape, x.stride(), dtype.itemsize, sums, blocks, told.axis or AXIS)


class Kernel:
    """A Triton kernel whose compiled forms are kept.

    Triton looks at the name, type and value of every argument to find the compiled form of a launch, which takes longer
    than many a kernel runs. Here one look-up finds it. The kernel's parameters come in this order: pointers, numbers
    that change from call to call, and what it is compiled for, `constants`. A kernel that is launched with a `Layout`
    ends with ``n, inner, TILING: tl.constexpr``.

    Parameters
    ----------
    function : triton.JITFunction
        Its numbers must be named in `do_not_specialize`.
    """

    def __init__(self, function: Any) -> None:
        self.function = function
        self._kept: dict[tuple[Any, ...], tuple[Any, tuple[Any, ...]]] = {}

    def __call__(
        self,
        layout: Layout | tuple[int, ...],
        tensors: Sequence[Tensor | None],
        numbers: tuple[int, ...] = (),
        constants: tuple[Any, ...] = (),
        *,
        warps: int = 1,
    ) -> None:
        """Launch on the device of the first tensor; not where there is nothing to do.

        Parameters
        ----------
        layout : Layout or tuple of int
            What the programs go through, or the grid alone.
        tensors : sequence of Tensor or None
            For the pointers; the first one must not be None.
        numbers : tuple of int
            32-bit integers.
        constants : tuple
            Integers that Triton specialises the kernel for, and values of tl.constexpr.
        warps : int
            Of a program.
        """
        first = tensors[0]
        assert first is not None
        on_cuda = first.is_cuda
        if on_cuda and first.get_device() != torch._C._cuda_getDevice():
            with torch.cuda.device(first.device):
                return self(layout, tensors, numbers, constants, warps=warps)
        pointers = [None if x is None else x.data_ptr() for x in tensors]
        dtypes = [None if x is None else x.dtype for x in tensors]
        bits = 0
        for pointer in pointers:
            bits |= pointer or 0
        # Triton's code for pointers that are multiples of 16 is another one
        aligned = True if bits & 15 == 0 else tuple([None if p is None else p & 15 == 0 for p in pointers])
        key = (layout, constants, warps, first.device, aligned, *dtypes)
        kept = None if choice().hook is not None else self._kept.get(key)
        if kept is None:
            return self._first(key, layout, tensors, numbers, constants, warps)
        launch, constants = kept
        if on_cuda:
            launch(*pointers, *numbers, *constants, stream=torch._C._cuda_getCurrentRawStream(first.get_device()))
        else:
            launch(*pointers, *numbers, *constants)

    def _first(
        self,
        key: tuple[Any, ...],
        layout: Layout | tuple[int, ...],
        tensors: Sequence[Tensor | None],
        numbers: tuple[int, ...],
        constants: tuple[Any, ...],
        warps: int,
    ) -> None:
        """A launch by Triton, or to whoever records it; what Triton compiled is kept."""
        grid: tuple[int, ...]
        if isinstance(layout, Layout):
            grid, constants = layout.grid, (*constants, layout.n, layout.inner, layout.tiling)
        else:
            grid = layout
        if 0 in grid:
            return
        arguments = dict(zip(self.function.arg_names, (*tensors, *numbers, *constants), strict=True))
        arguments |= {name: _in_words(arguments[name]) for name in WORDS if arguments.get(name) is not None}
        launch = Launch(self.function, grid, arguments, {"num_warps": warps, "enable_fp_fusion": False})
        hook = choice().hook
        if hook is not None:
            hook(launch)
            return
        compiled = launch.run()
        # the interpreter compiles nothing
        if compiled is not None:
            self._kept[key] = compiled[grid], constants


def kernel(function: Any = None, *, numbers: tuple[str, ...] = ()) -> Any:
    """Decorate a device function that takes the given numbers as a `Kernel`."""
    if function is None:
        return lambda function: kernel(function, numbers=numbers)
    return Kernel(triton.jit(do_not_specialize=list(numbers))(function))


# of a kernel that makes noise, in its parameters' order: the pointers, to int64 that it reads in words of 32 bits, the
# low one first; and the numbers
WORDS = ("seed_ptr", "step_ptr", "sample_ptr")
ADDRESS = ("seed_low", "seed_high", "step", "sample_low", "sample_high")


def pointers_of(address: Address) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The tensors of an address as the pointers `WORDS`."""
    _, seed, _, _, step, _, sample = address
    return (
        seed if seed is None else seed.contiguous(),
        step if step is None else step.contiguous(),
        sample if sample is None else sample.contiguous(),
    )


def numbers_of(address: Address) -> tuple[int, int, int, int, int]:
    """The integers of an address as `ADDRESS` names them."""
    seed, _, _, step, _, sample, _ = address
    if 0 <= seed < 1 << 31 and 0 <= sample < 1 << 31:
        return seed, 0, step, sample, 0
    return _signed(seed), _signed(seed >> 32), step, _signed(sample), _signed(sample >> 32)


def constants_of(address: Address) -> tuple[int, bool]:
    """The stream of an address, and whether its step is one for each row."""
    return address[2], address[4] is not None and address[4].numel() > 1


def rows_of(t: Tensor) -> tuple[Tensor, bool]:
    """Timesteps as a pointer, and whether they are one for each row."""
    if t.ndim == 0 or t.shape[0] == 1 or t.stride(0) == 0:
        return t, False
    return t.contiguous(), True


# of each count, the formats of float64 numbers and of their words
_STRUCTS = [(struct.Struct(f"<{count}d").pack, struct.Struct(f"<{2 * count}i").unpack) for count in range(5)]


def words_of(*numbers: float) -> tuple[int, ...]:
    """The 64 bits of each float64 in two numbers of a kernel, the low ones first: a float would be taken as float32."""
    pack, unpack = _STRUCTS[len(numbers)]
    return unpack(pack(*numbers))


def scalars_of(
    values: Sequence[float | Tensor | None],
) -> tuple[tuple[Tensor | None, ...], tuple[int, ...], tuple[bool, ...]]:
    """Numbers and tensors () or (B,) for `kernels.scalar`: pointers, words of 32 bits, and which are one a row."""
    words = words_of(*[value if type(value) is float else 0.0 for value in values])
    for value in values:
        if type(value) is not float and value is not None:
            break
    else:
        return (None,) * len(values), words, (False,) * len(values)
    rows = [rows_of(value) if isinstance(value, Tensor) else (None, False) for value in values]
    pointers, one_a_row = zip(*rows, strict=True)
    return pointers, words, one_a_row


def _in_words(part: Tensor) -> Tensor:
    return part.reshape(-1).view(torch.int32)


def _signed(number: int) -> int:
    # the low word as int32, so that an argument has one type whatever its value
    word = number & 0xFFFFFFFF
    return word - ((word >> 31) << 32)
