"""The PTX interpreter's opcodes, each against integers and fractions of Python's, which do not round."""

import math
from functools import partial

import mpmath
import numpy as np
import pytest
from emulation import exact
from emulation.exact import MODES, elementwise
from emulation.lines import run_ptx
from emulation.machine import UnknownInstruction
from emulation.memory import EmulationError
from hypothesis import given, settings
from hypothesis import strategies as st

N = 256
BITS = {"16": np.uint16, "32": np.uint32, "64": np.uint64}
FLOAT = {"f16": np.float16, "f32": np.float32, "f64": np.float64}


def words(seed: int, size: int = 32) -> np.ndarray:
    """N words: the ends of the range, single bits, small numbers, and random ones."""
    rng = np.random.default_rng(seed)
    ends = [0, 1, 2, 3, 2**size - 1, 2**size - 2, 2 ** (size - 1), 2 ** (size - 1) - 1, 31, 32, 33, 255]
    found = rng.integers(0, 2**size, N, dtype=np.uint64)
    found[: len(ends)] = rng.permutation(np.array(ends, np.uint64))
    found[64:96] = np.uint64(1) << rng.integers(0, size, 32, dtype=np.uint64)
    found[96:128] >>= np.uint64(size // 2)
    return found.astype(BITS[str(size)])


def floats(seed: int, kind: str = "f32", *, close: bool = False) -> np.ndarray:
    """N numbers: zeros, infinities, NaNs, subnormal and extreme ones, and random bits, or near 1 (`close`)."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(FLOAT[kind])
    info = np.finfo(dtype)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, info.max, -info.max, info.smallest_normal, info.eps]
    special += [info.smallest_subnormal, -info.smallest_subnormal, info.smallest_normal - info.smallest_subnormal, 1.5]
    if close:
        found = rng.uniform(-4, 4, N).astype(dtype)
        # half of them with few digits, so that sums meet ties
        found[1::2] = np.rint(found[1::2] * 16) / 16 * dtype.type(2) ** rng.integers(-24, 24, N // 2)
    else:
        found = rng.integers(0, 2 ** (8 * dtype.itemsize), N, dtype=np.uint64).astype(BITS[str(8 * dtype.itemsize)])
        found = found.view(dtype)
    found[rng.permutation(N)[: len(special)]] = np.array(special, dtype)
    return found


def bfloat16s(seed: int) -> np.ndarray:
    """N bfloat16 as float32, which hold them exactly."""
    return (floats(seed).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def as_bits(x: np.ndarray) -> np.ndarray:
    return (x.view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def assert_numbers(*, actual: np.ndarray, expected: list[float]) -> None:
    """The same numbers and signs of zeros; a NaN is a NaN."""
    wanted = np.array(expected, np.float64)
    with np.errstate(invalid="ignore"):
        found = actual.astype(np.float64)
    same = (found == wanted) & (np.signbit(found) == np.signbit(wanted)) | np.isnan(found) & np.isnan(wanted)
    i = int((~same).argmax())
    assert same.all(), f"{(~same).sum()} differ, first {i}: {found[i]!r} for {wanted[i]!r}"


def wrapped(values: list[int], dtype: type) -> np.ndarray:
    size = 8 * np.dtype(dtype).itemsize
    return np.array([value & (2**size - 1) for value in values], BITS[str(size)]).view(dtype)


def signed(kind: str) -> type:
    return {"s16": np.int16, "s32": np.int32, "s64": np.int64}.get(kind) or BITS[kind[1:]]


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


RELATIONS = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}


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


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize("name", [*RELATIONS, "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"])
def test_float_comparisons(name, kind):
    a, b = floats(1, kind), floats(2, kind)
    b[::5] = a[::5]

    def related(a, b):
        unordered = math.isnan(a) or math.isnan(b)
        if name in ("num", "nan"):
            return unordered == (name == "nan")
        return (
            unordered
            if unordered and name != "ne" and name.endswith("u")
            else (not unordered and RELATIONS[name[:2]](a, b))
        )

    (result,) = run_ptx(f"setp.{name}.{kind} %o0, %i0, %i1;", [a, b], [np.bool_])
    assert result.tolist() == elementwise(related, a, b)


OPERATIONS = {
    "add": exact.add,
    "sub": lambda a, b, *rest: exact.add(a, -b, *rest),
    "mul": exact.multiply,
}


@pytest.mark.parametrize("close", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_single_precision(name, mode, close):
    a, b = floats(1, close=close), floats(2, close=close)
    (result,) = run_ptx(f"{name}.{mode}.f32 %o0, %i0, %i1;", [a, b], [np.float32])
    assert_numbers(actual=result, expected=elementwise(lambda a, b: OPERATIONS[name](a, b, "f32", mode), a, b))
    (result,) = run_ptx(f"{name}.{mode}.ftz.f32 %o0, %i0, %i1;", [a, b], [np.float32])
    flushed = elementwise(lambda a, b: exact.flush(OPERATIONS[name](exact.flush(a), exact.flush(b), "f32", mode)), a, b)
    assert_numbers(actual=result, expected=flushed)


@pytest.mark.parametrize("close", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_single_precision_fma_rounds_once(mode, close):
    a, b, c = (floats(i, close=close) for i in (1, 2, 3))
    if close:
        # ties of the sum that the product's last bits decide
        with np.errstate(all="ignore"):
            c[::4] = -(a[::4] * b[::4])
            c[1::4] = np.ldexp(a[1::4] * b[1::4], 24)
        # just below and above a tie, by less than float64 can hold
        a[2::16], b[2::16], c[2::16] = 2.0**-24 * (1 + 2.0**-23), 1 - 2.0**-23, 1 + 2.0**-23
        a[6::16], b[6::16], c[6::16] = 2.0**-24 * (1 + 2.0**-23), 1 + 2.0**-23, -1.0
    (result,) = run_ptx(f"fma.{mode}.f32 %o0, %i0, %i1, %i2;", [a, b, c], [np.float32])
    assert_numbers(actual=result, expected=elementwise(partial(exact.fma, kind="f32", mode=mode), a, b, c))


@pytest.mark.parametrize("close", [False, True])
def test_double_precision(close):
    a, b, c = (floats(i, "f64", close=close) for i in (1, 2, 3))
    if close:
        with np.errstate(all="ignore"):
            c[::4] = -(a[::4] * b[::4])
            c[1::4] = np.ldexp(a[1::4] * b[1::4], 53)
        a[2::16], b[2::16] = 2.0**-600, 2.0**-460
    for name, function in OPERATIONS.items():
        (result,) = run_ptx(f"{name}.rn.f64 %o0, %i0, %i1;", [a, b], [np.float64])
        assert_numbers(actual=result, expected=elementwise(lambda a, b, f=function: f(a, b, "f64"), a, b))
    (result,) = run_ptx("fma.rn.f64 %o0, %i0, %i1, %i2;", [a, b, c], [np.float64])
    assert_numbers(actual=result, expected=elementwise(partial(exact.fma, kind="f64"), a, b, c))
    (result,) = run_ptx("div.rn.f64 %o0, %i0, %i1;", [a, b], [np.float64])
    assert_numbers(actual=result, expected=elementwise(partial(exact.divide, kind="f64"), a, b))


@settings(max_examples=100)
@given(st.lists(st.tuples(*(st.floats(),) * 3), min_size=32, max_size=32))
def test_double_precision_fma_of_any_numbers(triples):
    a, b, c = np.array(triples).T
    (result,) = run_ptx("fma.rn.f64 %o0, %i0, %i1, %i2;", [a, b, c], [np.float64])
    assert_numbers(actual=result, expected=elementwise(partial(exact.fma, kind="f64"), a, b, c))


@pytest.mark.parametrize("name", ["add", "sub", "mul", "fma"])
def test_pairs_of_single_precision(name):
    sources = [(floats(i), floats(i + 10)) for i in range(3 if name == "fma" else 2)]
    packed = [np.ascontiguousarray(np.stack(pair, axis=1)).view(np.uint64)[:, 0] for pair in sources]
    names = ", ".join(f"%i{i}" for i in range(len(packed)))
    (result,) = run_ptx(f"{name}.rn.f32x2 %o0, {names};", packed, [np.uint64])
    for half in (0, 1):
        function = exact.fma if name == "fma" else OPERATIONS[name]
        expected = elementwise(lambda *x, f=function: f(*x, "f32"), *(pair[half] for pair in sources))
        assert_numbers(actual=result.view(np.float32).reshape(-1, 2)[:, half], expected=expected)


@pytest.mark.parametrize("name", ["add", "sub", "mul", "fma"])
def test_half_precision(name):
    function = exact.fma if name == "fma" else OPERATIONS[name]
    count = 3 if name == "fma" else 2
    names = ", ".join(f"%i{i}" for i in range(count))
    sources = [floats(i, "f16") for i in range(count)]
    (result,) = run_ptx(f"{name}.rn.f16 %o0, {names};", sources, [np.float16])
    assert_numbers(actual=result, expected=elementwise(lambda *x: function(*x, "f16"), *sources))
    sources = [bfloat16s(i) for i in range(count)]
    (result,) = run_ptx(f"{name}.rn.bf16 %o0, {names};", [as_bits(x) for x in sources], [np.uint16])
    actual = (result.astype(np.uint32) << 16).view(np.float32)
    assert_numbers(actual=actual, expected=elementwise(lambda *x: function(*x, "bf16"), *sources))


@pytest.mark.parametrize("name", ["add", "sub", "fma"])
def test_half_and_single_precision(name):
    narrow = [bfloat16s(1), bfloat16s(3)][: 2 if name == "fma" else 1]
    sources = [*narrow, floats(2)]
    names = ", ".join(f"%i{i}" for i in range(len(sources)))
    inputs = [*map(as_bits, narrow), sources[-1]]
    (result,) = run_ptx(f"{name}.rn.f32.bf16 %o0, {names};", inputs, [np.float32])
    function = exact.fma if name == "fma" else OPERATIONS[name]
    assert_numbers(actual=result, expected=elementwise(lambda *x: function(*x, "f32"), *sources))


@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_signs_and_extremes(kind):
    dtype = FLOAT[kind]
    a, b = floats(1, kind), floats(2, kind)
    a[:2], b[:2] = (0.0, -0.0), (-0.0, 0.0)
    (result,) = run_ptx(f"neg.{kind} %o0, %i0;", [a], [dtype])
    assert_numbers(actual=result, expected=elementwise(lambda a: -a, a))
    (result,) = run_ptx(f"abs.{kind} %o0, %i0;", [a], [dtype])
    assert_numbers(actual=result, expected=elementwise(abs, a))

    def extreme(a, b, name, nan):
        if math.isnan(a) or math.isnan(b):
            return math.nan if nan or (math.isnan(a) and math.isnan(b)) else b if math.isnan(a) else a
        # -0 is below +0
        key = lambda x: (x, math.copysign(1, x))  # noqa: E731
        return (min if name == "min" else max)(a, b, key=key)

    for name in ("min", "max"):
        for nan in ("", ".NaN") if kind == "f32" else ("",):
            (result,) = run_ptx(f"{name}{nan}.{kind} %o0, %i0, %i1;", [a, b], [dtype])
            assert_numbers(actual=result, expected=elementwise(partial(extreme, name=name, nan=nan), a, b))


def test_roots_and_quotients():
    a, b = floats(1), floats(2)

    def root(a):
        if a < 0 or math.isnan(a):
            return math.nan
        # float64 has more than twice the bits of float32
        return float(np.float32(math.sqrt(a)))

    (result,) = run_ptx("sqrt.rn.f32 %o0, %i0;", [a], [np.float32])
    assert_numbers(actual=result, expected=elementwise(root, a))
    (result,) = run_ptx("div.rn.f32 %o0, %i0, %i1;", [a, b], [np.float32])
    assert_numbers(actual=result, expected=elementwise(partial(exact.divide, kind="f32"), a, b))
    (result,) = run_ptx("rcp.rn.f32 %o0, %i0;", [a], [np.float32])
    assert_numbers(actual=result, expected=elementwise(lambda a: exact.divide(1.0, a, "f32"), a))


APPROXIMATE = {
    "rsqrt": (lambda x: 1 / mpmath.sqrt(x), 1e-30, 1e30, 2.0**-22.9),
    "rcp": (lambda x: 1 / mpmath.mpf(x), 1e-30, 1e30, 2.0**-23),
    "sqrt": (mpmath.sqrt, 1e-30, 1e30, 2.0**-23),
    "ex2": (lambda x: mpmath.mpf(2) ** mpmath.mpf(x), -100, 100, 2.0**-22),
    "lg2": (lambda x: mpmath.log(x, 2), 1e-30, 1e30, 2.0**-22),
}


@pytest.mark.parametrize("name", APPROXIMATE)
def test_approximations_are_rounded_correctly_or_off_by_what_the_isa_allows(name):
    function, low, high, relative = APPROXIMATE[name]
    rng = np.random.default_rng(4)
    x = rng.uniform(low, high, N) if name == "ex2" else np.exp(rng.uniform(np.log(low), np.log(high), N))
    x = x.astype(np.float32)
    with mpmath.workdps(50):
        expected = [function(value) for value in x.tolist()]
        line = f"{name}.approx.ftz.f32 %o0, %i0;"
        (result,) = run_ptx(line, [x], [np.float32])
        nearest = [float(np.float32(float(value))) for value in expected]
        assert_numbers(actual=result, expected=nearest)
        (off,) = run_ptx(line, [x], [np.float32], approximate=1)
        assert (off != result).any()
        error = [abs(mpmath.mpf(value) / wanted - 1) for value, wanted in zip(off.tolist(), expected, strict=True)]
        assert max(error) <= relative + 2.0**-24
        (again,) = run_ptx(line, [x], [np.float32], approximate=1)
        assert np.array_equal(off, again)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("to", ["f16", "bf16", "f32"])
@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_conversions_to_narrower_numbers(kind, to, mode):
    if kind == to:
        return
    a = floats(1, kind)
    a[100:140] = np.ldexp(np.arange(40, dtype=np.float64) - 20.5, -9).astype(a.dtype) + a.dtype.type(1)
    a[140:180] = floats(7, "f16")[:40].astype(a.dtype)
    size = np.uint16 if to == "bf16" else FLOAT[to]
    (result,) = run_ptx(f"cvt.{mode}.{to}.{kind} %o0, %i0;", [a], [size])
    actual = (result.astype(np.uint32) << 16).view(np.float32) if to == "bf16" else result
    assert_numbers(actual=actual, expected=elementwise(lambda a: exact.convert(a, to, mode), a))


def test_conversions_to_wider_numbers():
    half, brain, single = floats(1, "f16"), bfloat16s(2), floats(3)
    for line, source, to, expected in (
        ("cvt.f32.f16", half, np.float32, half),
        ("cvt.f64.f16", half, np.float64, half),
        ("cvt.f32.bf16", as_bits(brain), np.float32, brain),
        ("cvt.f64.bf16", as_bits(brain), np.float64, brain),
        ("cvt.f64.f32", single, np.float64, single),
    ):
        (result,) = run_ptx(f"{line} %o0, %i0;", [source], [to])
        assert_numbers(actual=result, expected=expected.tolist())
    (result,) = run_ptx("cvt.ftz.f64.f32 %o0, %i0;", [single], [np.float64])
    assert_numbers(actual=result, expected=elementwise(exact.flush, single))


@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize("mode", ["rn", "rz"])
def test_conversions_of_pairs(kind, mode):
    high, low = floats(1, close=True), floats(2)
    (result,) = run_ptx(f"cvt.{mode}.{kind}x2.f32 %o0, %i0, %i1;", [high, low], [np.uint32])
    for source, half in ((low, result & np.uint32(0xFFFF)), (high, result >> np.uint32(16))):
        bits = half.astype(np.uint16)
        actual = (bits.astype(np.uint32) << 16).view(np.float32) if kind == "bf16" else bits.view(np.float16)
        assert_numbers(actual=actual, expected=elementwise(lambda a: exact.convert(a, kind, mode), source))


@pytest.mark.parametrize("mode", ["rni", "rzi", "rmi", "rpi"])
@pytest.mark.parametrize("kind", ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"])
@pytest.mark.parametrize("source", ["f32", "f64"])
def test_conversions_to_integers(source, kind, mode):
    dtype = np.dtype(f"{'i' if kind[0] == 's' else 'u'}{int(kind[1:]) // 8}")
    info = np.iinfo(dtype)
    a = floats(1, source)
    a[100:228] = np.linspace(-2.0, 2.0, 128) * float(info.max)
    a[228:] = np.arange(28) / 2 - 7

    def converted(a):
        if math.isnan(a):
            return 0
        if math.isinf(a):
            return info.max if a > 0 else info.min
        whole = {"rni": round, "rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil}[mode](a)
        return min(max(whole, info.min), info.max)

    # a register has at least 16 bits; what is above the result is its sign
    wide = dtype if dtype.itemsize > 1 else np.dtype(f"{dtype.kind}2")
    (result,) = run_ptx(f"cvt.{mode}.{kind}.{source} %o0, %i0;", [a], [wide])
    assert result.tolist() == elementwise(converted, a)


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32", "u64", "s64"])
@pytest.mark.parametrize("mode", MODES)
def test_conversions_from_integers(kind, mode):
    a = words(1, int(kind[1:])).view(signed(kind))

    def converted(a, to, mode):
        return exact.rounded(exact.Fraction(a), to, mode) if a else 0.0

    for to in ("f32", "f16"):
        (result,) = run_ptx(f"cvt.{mode}.{to}.{kind} %o0, %i0;", [a], [FLOAT[to]])
        assert_numbers(actual=result, expected=elementwise(partial(converted, to=to, mode=mode), a))
    if mode == "rn":
        (result,) = run_ptx(f"cvt.rn.f64.{kind} %o0, %i0;", [a], [np.float64])
        assert_numbers(actual=result, expected=elementwise(partial(converted, to="f64", mode="rn"), a))


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32", "u64", "s64"])
@pytest.mark.parametrize("to", ["u16", "s16", "u32", "s32", "u64", "s64"])
def test_conversions_between_integers(kind, to):
    a = words(1, int(kind[1:])).view(signed(kind))
    (result,) = run_ptx(f"cvt.{to}.{kind} %o0, %i0;", [a], [signed(to)])
    assert np.array_equal(result, wrapped(a.tolist(), signed(to)))


def test_whole_numbers():
    a = floats(1)
    a[100:] = np.arange(156) / 4 - 20
    for mode, function in (("rni", round), ("rzi", math.trunc), ("rmi", math.floor), ("rpi", math.ceil)):

        def whole(a, function=function):
            return math.copysign(float(function(a)), a) if math.isfinite(a) else a

        (result,) = run_ptx(f"cvt.{mode}.f32.f32 %o0, %i0;", [a], [np.float32])
        assert_numbers(actual=result, expected=elementwise(whole, a))


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
