"""The PTX interpreter's integer opcodes, moves and exchanges, each against Python's integers."""

import numpy as np
import pytest

from ..machine import UnknownInstruction
from ..memory import EmulationError
from .exact import elementwise
from .lines import run_ptx
from .values import BITS, RELATIONS, N, signed, words, wrapped


def quotient(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


INTEGER = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul.lo": lambda a, b: a * b,
    "min": min,
    "max": max,
    "div": quotient,
    "rem": lambda a, b: a - quotient(a, b) * b,
}


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32", "u64", "s64"])
@pytest.mark.parametrize("name", [*INTEGER, "mul.hi"])
def test_integer_arithmetic(name, kind):
    dtype, size = signed(kind), int(kind[1:])
    a, b = words(1, size).view(dtype), words(2, size).view(dtype)
    if name in ("div", "rem"):
        b = np.where(b == 0, dtype(3), b)
    function = INTEGER.get(name, lambda a, b: a * b >> size)
    (result,) = run_ptx(f"{name}.{kind} %o0, %i0, %i1;", [a, b], [dtype])
    assert np.array_equal(result, wrapped(elementwise(function, a, b), dtype))


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32"])
def test_products_with_twice_the_bits(kind):
    dtype, size = signed(kind), int(kind[1:])
    wide = signed(f"{kind[0]}{2 * size}")
    a, b, c = words(1, size).view(dtype), words(2, size).view(dtype), words(3, 2 * size).view(wide)
    (result,) = run_ptx(f"mul.wide.{kind} %o0, %i0, %i1;", [a, b], [wide])
    assert np.array_equal(result, wrapped(elementwise(lambda a, b: a * b, a, b), wide))
    (result,) = run_ptx(f"mad.wide.{kind} %o0, %i0, %i1, %i2;", [a, b, c], [wide])
    assert np.array_equal(result, wrapped(elementwise(lambda a, b, c: a * b + c, a, b, c), wide))


@pytest.mark.parametrize("kind", ["u32", "s32", "s64"])
@pytest.mark.parametrize("half", ["lo", "hi"])
def test_multiply_and_add(kind, half):
    dtype, size = signed(kind), int(kind[1:])
    a, b, c = (words(i, size).view(dtype) for i in range(3))
    (result,) = run_ptx(f"mad.{half}.{kind} %o0, %i0, %i1, %i2;", [a, b, c], [dtype])
    shift = size if half == "hi" else 0
    assert np.array_equal(result, wrapped(elementwise(lambda a, b, c: (a * b >> shift) + c, a, b, c), dtype))


@pytest.mark.parametrize("size", [16, 32, 64])
def test_logic_and_shifts(size):
    dtype = BITS[str(size)]
    a, b, k = words(1, size), words(2, size), words(3) % np.uint32(80)
    signed_a = a.view(signed(f"s{size}"))
    for name, function in (("and", lambda a, b: a & b), ("or", lambda a, b: a | b), ("xor", lambda a, b: a ^ b)):
        (result,) = run_ptx(f"{name}.b{size} %o0, %i0, %i1;", [a, b], [dtype])
        assert np.array_equal(result, wrapped(elementwise(function, a, b), dtype))
    (result,) = run_ptx(f"not.b{size} %o0, %i0;", [a], [dtype])
    assert np.array_equal(result, wrapped(elementwise(lambda a: ~a, a), dtype))
    (result,) = run_ptx(f"shl.b{size} %o0, %i0, %i1;", [a, k], [dtype])
    assert np.array_equal(result, wrapped(elementwise(lambda a, k: a << k, a, k), dtype))
    for kind, values in ((f"u{size}", a), (f"s{size}", signed_a)):
        (result,) = run_ptx(f"shr.{kind} %o0, %i0, %i1;", [a, k], [dtype])
        assert np.array_equal(result, wrapped(elementwise(lambda a, k: a >> k, values, k), dtype))
    (result,) = run_ptx(f"neg.s{size} %o0, %i0;", [a], [dtype])
    assert np.array_equal(result, wrapped(elementwise(lambda a: -a, signed_a), dtype))
    (result,) = run_ptx(f"abs.s{size} %o0, %i0;", [a], [dtype])
    assert np.array_equal(result, wrapped(elementwise(abs, signed_a), dtype))


@pytest.mark.parametrize("way", ["l", "r"])
@pytest.mark.parametrize("mode", ["wrap", "clamp"])
def test_funnel_shift(way, mode):
    low, high, k = words(1), words(2), words(3) % np.uint32(70)

    def shift(low, high, k):
        k = k % 32 if mode == "wrap" else min(k, 32)
        both = high << 32 | low
        return both << k >> 32 if way == "l" else both >> k

    (result,) = run_ptx(f"shf.{way}.{mode}.b32 %o0, %i0, %i1, %i2;", [low, high, k], [np.uint32])
    assert np.array_equal(result, wrapped(elementwise(shift, low, high, k), np.uint32))


@pytest.mark.parametrize("kind", ["u32", "s32", "u64", "s64"])
def test_bit_fields(kind):
    dtype, size = signed(kind), int(kind[1:])
    a, position, length = words(1, size).view(dtype), words(2) % np.uint32(80), words(3) % np.uint32(80)

    def extracted(a, position, length):
        # the ISA's own words, bit by bit
        sign = 0
        if kind[0] == "s" and length:
            sign = a >> min(position + length - 1, size - 1) & 1
        bits = [a >> position + i & 1 if i < length and position + i < size else sign for i in range(size)]
        return sum(bit << i for i, bit in enumerate(bits))

    (result,) = run_ptx(f"bfe.{kind} %o0, %i0, %i1, %i2;", [a, position, length], [dtype])
    assert np.array_equal(result, wrapped(elementwise(extracted, a, position, length), dtype))

    def inserted(field, base, position, length):
        for i in range(length):
            if position + i < size:
                base = base & ~(1 << position + i) | (field >> i & 1) << position + i
        return base

    field, base = words(4, size), words(5, size)
    (result,) = run_ptx(f"bfi.b{size} %o0, %i0, %i1, %i2, %i3;", [field, base, position, length], [field.dtype])
    assert np.array_equal(result, wrapped(elementwise(inserted, field, base, position, length), field.dtype.type))


@pytest.mark.parametrize("table", [0, 0xE8, 0x96, 0xCA, 0x2D, 255])
def test_logic_of_three(table):
    def lookup(a, b, c):
        return sum((table >> (4 * (a >> i & 1) + 2 * (b >> i & 1) + (c >> i & 1)) & 1) << i for i in range(32))

    a, b, c = words(1), words(2), words(3)
    (result,) = run_ptx(f"lop3.b32 %o0, %i0, %i1, %i2, {table};", [a, b, c], [np.uint32])
    assert np.array_equal(result, wrapped(elementwise(lookup, a, b, c), np.uint32))


def test_permuted_bytes():
    def permuted(a, b, selector):
        result = 0
        for i in range(4):
            choice = selector >> 4 * i & 15
            byte = (b << 32 | a) >> 8 * (choice & 7) & 255
            result |= (255 * (byte >> 7) if choice & 8 else byte) << 8 * i
        return result

    a, b, c = words(1), words(2), words(3)
    (result,) = run_ptx("prmt.b32 %o0, %i0, %i1, %i2;", [a, b, c], [np.uint32])
    assert np.array_equal(result, wrapped(elementwise(permuted, a, b, c), np.uint32))


@pytest.mark.parametrize("size", [32, 64])
def test_counted_bits(size):
    a = words(1, size)
    for line, function in (
        (f"popc.b{size}", lambda a: a.bit_count()),
        (f"clz.b{size}", lambda a: size - a.bit_length()),
    ):
        (result,) = run_ptx(f"{line} %o0, %i0;", [a], [np.uint32])
        assert result.tolist() == elementwise(function, a)
    (result,) = run_ptx(f"brev.b{size} %o0, %i0;", [a], [a.dtype])
    assert result.tolist() == elementwise(lambda a: int(f"{a:0{size}b}"[::-1], 2), a)


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32", "u64", "s64"])
@pytest.mark.parametrize("name", RELATIONS)
def test_integer_comparisons(name, kind):
    a, b = (words(i, int(kind[1:])).view(signed(kind)) for i in (1, 2))
    b[::5] = a[::5]
    (result,) = run_ptx(f"setp.{name}.{kind} %o0, %i0, %i1;", [a, b], [np.bool_])
    assert result.tolist() == elementwise(RELATIONS[name], a, b)
    q = words(3) % 2 == 0
    for combine, function in (("and", np.logical_and), ("or", np.logical_or), ("xor", np.logical_xor)):
        line = f"setp.{name}.{combine}.{kind} %o0, %i0, %i1, %i2;"
        assert np.array_equal(run_ptx(line, [a, b, q], [np.bool_])[0], function(result, q))
    (chosen,) = run_ptx(f"selp.{kind} %o0, %i0, %i1, %i2;", [a, b, q], [a.dtype])
    assert np.array_equal(chosen, np.where(q, a, b))


def test_moves_pack_and_unpack():
    a, b, wide = words(1), words(2), words(3, 64)
    (packed,) = run_ptx("mov.b64 %o0, {%i0, %i1};", [a, b], [np.uint64])
    assert packed.tolist() == elementwise(lambda a, b: b << 32 | a, a, b)
    low, high = run_ptx("mov.b64 {%o0, %o1}, %i0;", [wide], [np.uint32, np.uint32])
    assert low.tolist() == elementwise(lambda x: x & 0xFFFFFFFF, wide)
    assert high.tolist() == elementwise(lambda x: x >> 32, wide)
    (high,) = run_ptx("mov.b64 {_, %o0}, %i0;", [wide], [np.uint32])
    assert high.tolist() == elementwise(lambda x: x >> 32, wide)
    (constant,) = run_ptx("mov.f32 %o0, 0f3FC00000;", [a], [np.float32])
    assert (constant == 1.5).all()


@pytest.mark.parametrize(("mode", "source"), [("bfly", lambda i, b: i ^ b), ("idx", lambda i, b: b)])
def test_shuffles(mode, source):
    a = words(1)
    lane = np.arange(N) % 32
    for b in (1, 5, 16, 31):
        result, inside = run_ptx(f"shfl.sync.{mode}.b32 %o0|%o1, %i0, {b}, 31, -1;", [a], [np.uint32, np.bool_])
        assert np.array_equal(result, a[np.arange(N) - lane + source(lane, b)])
        assert inside.all()


@pytest.mark.parametrize(("mode", "clamp", "step"), [("up", 0, -1), ("down", 31, 1)])
def test_shuffles_along(mode, clamp, step):
    a = words(1)
    lane = np.arange(N) % 32
    result, inside = run_ptx(f"shfl.sync.{mode}.b32 %o0|%o1, %i0, 3, {clamp}, -1;", [a], [np.uint32, np.bool_])
    wanted = lane + 3 * step
    assert np.array_equal(inside, (wanted >= 0) & (wanted < 32))
    assert np.array_equal(result, a[np.arange(N) + np.where(inside, 3 * step, 0)])


def test_reductions_and_votes_of_a_warp():
    a = words(1)
    rows = a.reshape(-1, 32)
    for line, expected in (
        ("add.u32", rows.sum(axis=1, dtype=np.uint32)),
        ("min.s32", rows.view(np.int32).min(axis=1).view(np.uint32)),
        ("max.u32", rows.max(axis=1)),
        ("and.b32", np.bitwise_and.reduce(rows, axis=1)),
        ("xor.b32", np.bitwise_xor.reduce(rows, axis=1)),
    ):
        (result,) = run_ptx(f"redux.sync.{line} %o0, %i0, -1;", [a], [np.uint32])
        assert np.array_equal(result, np.repeat(expected, 32)), line
    q = words(2) % 3 == 0
    (ballot,) = run_ptx("vote.sync.ballot.b32 %o0, %i0, -1;", [q], [np.uint32])
    expected = [sum(int(bit) << i for i, bit in enumerate(row)) for row in q.reshape(-1, 32)]
    assert ballot.tolist() == np.repeat(expected, 32).tolist()


@pytest.mark.parametrize(
    "line",
    [
        "add.s32.sat %o0, %i0, %i1;",
        "add.f32 %o0, %i0, %i1;",
        "mul.f32 %o0, %i0, %i1;",
        "fma.rn.f32.relu %o0, %i0, %i1, %i1;",
        "setp.lo.s32 %p0, %i0, %i1;",
        "cvt.rn.bf16.f32.sat %o0, %i0;",
        "ld.global.v3.b32 {%o0,%x0,%x1}, [%at];",
        "wgmma.fence.sync.aligned;",
        "cp.async.wait_all;",
        "shfl.bfly.b32 %o0, %i0, 1, 31;",
        "shfl.sync.bfly.b32 %o0, %i0, 1, 31, 15;",
        "bar.sync 1;",
        "add.s64 %o0, %i0, %i1;",
        "mov.b32 %o0, %nothing;",
        "bra nowhere;",
    ],
)
def test_what_is_not_known_is_refused(line):
    with pytest.raises(UnknownInstruction) as caught:
        run_ptx(line, [words(1), words(2)], [np.uint32])
    assert line[:-1] in caught.value.__notes__[0]


def test_division_by_zero_is_refused():
    with pytest.raises(EmulationError, match="division by zero"):
        run_ptx("div.u32 %o0, %i0, %i1;", [words(1), words(2) * np.uint32(0)], [np.uint32])
