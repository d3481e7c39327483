"""The PTX interpreter's conversions, each against fractions, which do not round."""

import math
from functools import partial

import numpy as np
import pytest

from . import exact
from .exact import MODES, elementwise
from .lines import run_ptx
from .values import FLOAT, as_bits, assert_numbers, bfloat16s, floats, signed, words, wrapped


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
