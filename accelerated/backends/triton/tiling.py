"""Which elements a program of a Triton kernel computes, and where they stand in memory.

A program is one warp and computes BLOCKS blocks of one sample: a block is the four elements, next to each other in C
order, whose noise one call of Philox makes. A unit is what a thread computes at a time, one block or several. A piece
of it is what one access to memory takes: VECTOR elements that are next to each other there. So the thread that makes
noise is the one that stores it, and none of it passes through shared memory. WALK is the order in which it goes:

- contiguous: as the sample stands in memory. A unit is a block, or two where one access takes eight elements.
- pixels: channels_last, as it stands in memory. A unit is four pixels of VECTOR channels, a piece is one of the pixels.
- channels: channels_last in C order, for sums, whose order is the same in every layout. A piece is an element.
- elements: the same where the pixels are no multiple of four, so that a block may hold those of several channels.
"""

import triton
import triton.language as tl


@triton.constexpr_function
def blocks_of_unit(WALK, VECTOR):
    """How many blocks a unit has."""
    return VECTOR if WALK == "pixels" else max(1, VECTOR // 4)


@triton.constexpr_function
def pieces(WALK, VECTOR):
    """How many pieces a unit has."""
    return 4 * blocks_of_unit(WALK, VECTOR) // VECTOR


@triton.jit
def program_of_row(WIDE: tl.constexpr):
    """The row of this program, and which of the row's programs it is: 64 bits, and on two axes, where WIDE says so."""
    program = tl.program_id(1)
    if WIDE:
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
def _unit(program, WALK: tl.constexpr, VECTOR: tl.constexpr, BLOCKS: tl.constexpr):
    UNITS: tl.constexpr = BLOCKS // blocks_of_unit(WALK, VECTOR)
    return program * UNITS + tl.arange(0, UNITS)


@triton.jit
def _pixels(unit, CHANNELS: tl.constexpr, VECTOR: tl.constexpr):
    # which four pixels, and the first of the channels: neighbouring threads take neighbouring channels
    pixels = unit // (CHANNELS // VECTOR)
    return pixels, (unit - pixels * (CHANNELS // VECTOR)) * VECTOR


@triton.jit
def units(program, inner, WALK: tl.constexpr, CHANNELS: tl.constexpr, VECTOR: tl.constexpr, BLOCKS: tl.constexpr):
    """The first block (units,) of each unit of a program, and how far apart the blocks of a unit are."""
    unit = _unit(program, WALK, VECTOR, BLOCKS)
    if WALK == "pixels":
        pixels, channel = _pixels(unit, CHANNELS, VECTOR)
        stride = inner // 4
        block = channel * stride + pixels
    else:
        stride = 1
        block = unit * blocks_of_unit(WALK, VECTOR)
    return block, stride


@triton.jit
def piece(
    i,
    row,
    program,
    n,
    inner,
    WALK: tl.constexpr,
    CHANNELS: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """Piece i of each unit of a program: where its elements stand in memory, and where in the walk, which ends at n."""
    if WALK == "contiguous" and VECTOR >= 4:
        # apart from where the program begins, a thread's offsets are constants, which the accesses themselves hold
        local = tl.arange(0, 4 * BLOCKS)
        place = program * (4 * BLOCKS) + local
        # that VECTOR divides n is said once more, for the compiler, which would take the accesses apart
        size = n if program.dtype == tl.int64 else n.to(tl.uint32) // VECTOR * VECTOR
        offset = (row * size + program * (4 * BLOCKS)) + local
    elif WALK == "pixels":
        pixels, channel = _pixels(_unit(program, WALK, VECTOR, BLOCKS), CHANNELS, VECTOR)
        begin = pixels * (4 * CHANNELS) + channel
        step = i * CHANNELS + tl.arange(0, VECTOR)[None, :]
        place = begin[:, None] + step
        offset = (row * n + begin)[:, None] + step
    else:
        begin = 4 * _unit(program, WALK, VECTOR, BLOCKS)
        step = i * VECTOR + tl.arange(0, VECTOR)[None, :]
        place = begin[:, None] + step
        if WALK == "elements":
            offset = row * n + offsets(place, inner, CHANNELS)
        else:
            # a block is of one channel: one division for all of its elements
            offset = (row * n + offsets(begin, inner, CHANNELS))[:, None] + step * CHANNELS
    return offset, place


@triton.jit
def store_sum(sums_ptr, row, program, total):
    """Write what a program has added up: a row for each sample, a column for each of its programs."""
    programs = tl.num_programs(1) * tl.num_programs(2)
    tl.store(sums_ptr + row * programs + program, total)
