"""The PTX interpreter's floating-point opcodes, each against fractions, which do not round."""

import math
from functools import partial

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from . import exact
from .exact import MODES, elementwise
from .lines import run_ptx
from .values import FLOAT, RELATIONS, N, as_bits, assert_numbers, bfloat16s, floats


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
