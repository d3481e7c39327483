"""Which elements a program of a Triton kernel computes, and where they stand in memory.

A program is one warp and computes `blocks` blocks of one sample. A block is the four elements, next to each other in C
order, whose noise one call of Philox makes. A unit is what a thread computes at a time, one block or several. An access
is one load or store of a thread: `vector` elements that are next to each other in memory. The thread that makes noise
also stores it, so that none of it passes through shared memory. `order` is the order in which a program goes:

- contiguous: as the sample stands in memory. A unit is a block, or two where one access takes eight elements.
- pixels: channels_last, as it stands in memory. A unit is four pixels of `vector` channels, an access is one pixel.
- channels: channels_last in C order, for sums, whose order is the same in every layout. An access is an element.
- elements: the same where the pixels are no multiple of four, so that a block may hold those of several channels.
"""

from typing import NamedTuple

import triton
import triton.language as tl


class Tiling(NamedTuple):
    """How the programs of a kernel cover a sample: one constant of the kernel."""

    order: str
    channels: int
    # 64-bit offsets, and the programs of a row on two axes of the grid
    wide: bool
    # the programs of a row cover it exactly, so that no access is masked
    whole: bool
    vector: int
    blocks: int


# in Triton 3.6's interpreter a tuple comes to these two without the names of its fields
@triton.constexpr_function
def blocks_of_unit(TILING):
    """How many blocks a unit has."""
    order, *_, vector, _ = TILING
    return vector if order == "pixels" else max(1, vector // 4)


@triton.constexpr_function
def accesses(TILING):
    """How many accesses a unit takes."""
    order, *_, vector, _ = TILING
    blocks = vector if order == "pixels" else max(1, vector // 4)
    return 4 * blocks // vector


@triton.jit
def program_of_row(TILING: tl.constexpr):
    """The row of this program, and which of the row's programs it is."""
    program = tl.program_id(1)
    if TILING.wide:
        program = program.to(tl.int64) + tl.program_id(2).to(tl.int64) * tl.num_programs(1)
    return tl.program_id(0).to(tl.int64), program


@triton.jit
def offsets(element, inner, CHANNELS: tl.constexpr):
    """Where an element, counted in C order, stands in its sample; CHANNELS is 1 where that is contiguous."""
    if CHANNELS > 1:
        channel = element // inner
        offset = (element - channel * inner) * CHANNELS + channel
    else:
        offset = element
    return offset


@triton.jit
def _unit(program, TILING: tl.constexpr):
    UNITS: tl.constexpr = TILING.blocks // blocks_of_unit(TILING)
    return program * UNITS + tl.arange(0, UNITS)


@triton.jit
def _pixels(unit, TILING: tl.constexpr):
    # which four pixels, and the first of the channels: neighbouring threads take neighbouring channels
    pixels = unit // (TILING.channels // TILING.vector)
    return pixels, (unit - pixels * (TILING.channels // TILING.vector)) * TILING.vector


@triton.jit
def units(program, inner, TILING: tl.constexpr):
    """The first block (units,) of each unit of a program, and how far apart the blocks of a unit are."""
    unit = _unit(program, TILING)
    if TILING.order == "pixels":
        pixels, channel = _pixels(unit, TILING)
        stride = inner // 4
        block = channel * stride + pixels
    else:
        stride = 1
        block = unit * blocks_of_unit(TILING)
    return block, stride


@triton.jit
def access(i, row, program, n, inner, TILING: tl.constexpr):
    """Access i of each unit of a program: its elements' offsets in memory, and their number in the row, below n."""
    if TILING.order == "contiguous" and TILING.vector >= 4:
        # apart from where the program begins, a thread's offsets are constants, which the accesses themselves hold
        local = tl.arange(0, 4 * TILING.blocks)
        number = program * (4 * TILING.blocks) + local
        # that the vector divides n is said once more, for the compiler, which would take the accesses apart
        size = n if program.dtype == tl.int64 else n.to(tl.uint32) // TILING.vector * TILING.vector
        offset = (row * size + program * (4 * TILING.blocks)) + local
    elif TILING.order == "pixels":
        pixels, channel = _pixels(_unit(program, TILING), TILING)
        begin = pixels * (4 * TILING.channels) + channel
        step = i * TILING.channels + tl.arange(0, TILING.vector)[None, :]
        number = begin[:, None] + step
        offset = (row * n + begin)[:, None] + step
    else:
        begin = 4 * _unit(program, TILING)
        step = i * TILING.vector + tl.arange(0, TILING.vector)[None, :]
        number = begin[:, None] + step
        if TILING.order == "elements":
            offset = row * n + offsets(number, inner, TILING.channels)
        else:
            # a block is of one channel: one division for all of its elements
            offset = (row * n + offsets(begin, inner, TILING.channels))[:, None] + step * TILING.channels
    return offset, number


@triton.jit
def store_sum(sums_ptr, row, program, total):
    """Write what a program has added up: a row for each sample, a column for each of its programs."""
    programs = tl.num_programs(1) * tl.num_programs(2)
    tl.store(sums_ptr + row * programs + program, total)
