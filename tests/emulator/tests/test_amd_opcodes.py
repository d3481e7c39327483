"""The AMD interpreter's opcodes, each against integers and fractions of Python's, which do not round."""

import math
from functools import partial

import numpy as np
import pytest

from ..machine import UnknownInstruction
from . import exact
from .exact import elementwise
from .lines import run_amd
from .values import assert_numbers, floats, words, wrapped

U32, I32, F32, U64, F64 = np.uint32, np.int32, np.float32, np.uint64, np.float64
SIGNED = {"u32": U32, "i32": I32, "b32": U32, "u64": U64, "i64": np.int64, "b64": U64, "f32": F32, "f64": F64}


def in_lanes(opcode: str, kinds: list[str], to: str, function, *, lanes: int = 32, after: str = "") -> None:
    """One vector instruction of random sources is what a function of Python's numbers says."""
    sources = []
    for i, kind in enumerate(kinds):
        values = floats(i, kind) if kind[0] == "f" else words(i, int(kind[1:])).view(SIGNED[kind])
        sources.append(values)
    names = [
        f"v{10 + 2 * i}" if kind.endswith("32") else f"v[{10 + 2 * i}:{11 + 2 * i}]" for i, kind in enumerate(kinds)
    ]
    target = "v40" if to.endswith("32") else "v[40:41]"
    (result,) = run_amd(f"{opcode} {target}, {', '.join(names)}{after}", sources, [SIGNED[to]], lanes=lanes)
    expected = elementwise(function, *sources)
    if to[0] == "f":
        assert_numbers(actual=result, expected=expected)
    else:
        assert np.array_equal(result, wrapped(expected, SIGNED[to]))


INTEGER = {
    "v_add_u32": (2, lambda a, b: a + b),
    "v_add_nc_u32": (2, lambda a, b: a + b),
    "v_sub_nc_u32": (2, lambda a, b: a - b),
    "v_subrev_u32": (2, lambda a, b: b - a),
    "v_add3_u32": (3, lambda a, b, c: a + b + c),
    "v_mul_lo_u32": (2, lambda a, b: a * b),
    "v_mul_hi_u32": (2, lambda a, b: a * b >> 32),
    "v_mul_u32_u24": (2, lambda a, b: a % 2**24 * (b % 2**24)),
    "v_mad_u32_u24": (3, lambda a, b, c: a % 2**24 * (b % 2**24) + c),
    "v_min_u32": (2, min),
    "v_max_u32": (2, max),
    "v_med3_u32": (3, lambda a, b, c: sorted((a, b, c))[1]),
    "v_and_b32": (2, lambda a, b: a & b),
    "v_or_b32": (2, lambda a, b: a | b),
    "v_xor_b32": (2, lambda a, b: a ^ b),
    "v_xnor_b32": (2, lambda a, b: ~(a ^ b)),
    "v_not_b32": (1, lambda a: ~a),
    "v_or3_b32": (3, lambda a, b, c: a | b | c),
    "v_xor3_b32": (3, lambda a, b, c: a ^ b ^ c),
    "v_and_or_b32": (3, lambda a, b, c: a & b | c),
    "v_xad_u32": (3, lambda a, b, c: (a ^ b) + c),
    "v_lshlrev_b32": (2, lambda k, a: a << k % 32),
    "v_lshrrev_b32": (2, lambda k, a: a >> k % 32),
    "v_lshl_add_u32": (3, lambda a, k, b: (a << k % 32) + b),
    "v_add_lshl_u32": (3, lambda a, b, k: (a + b) % 2**32 << k % 32),
    "v_lshl_or_b32": (3, lambda a, k, b: a << k % 32 | b),
    "v_bfi_b32": (3, lambda m, a, b: m & a | ~m & b),
    "v_bfe_u32": (3, lambda a, p, n: a >> p % 32 & (1 << n % 32) - 1),
    "v_bfrev_b32": (1, lambda a: int(f"{a:032b}"[::-1], 2)),
    "v_ffbh_u32": (1, lambda a: 32 - a.bit_length() if a else -1),
    "v_bcnt_u32_b32": (2, lambda a, b: a.bit_count() + b),
    "v_alignbit_b32": (3, lambda a, b, k: (a << 32 | b) >> k % 32),
}


@pytest.mark.parametrize("lanes", [32, 64])
@pytest.mark.parametrize("opcode", INTEGER)
def test_integers(opcode, lanes):
    count, function = INTEGER[opcode]
    in_lanes(opcode, ["u32"] * count, "u32", function, lanes=lanes)


def test_signed_integers():
    in_lanes("v_mul_hi_i32", ["i32", "i32"], "i32", lambda a, b: a * b >> 32)
    in_lanes("v_ashrrev_i32", ["u32", "i32"], "i32", lambda k, a: a >> k % 32)
    in_lanes("v_max_i32", ["i32", "i32"], "i32", max)
    in_lanes("v_med3_i32", ["i32"] * 3, "i32", lambda a, b, c: sorted((a, b, c))[1])

    def field(a, p, n):
        p, n = p % 32, n % 32
        value = a >> p & (1 << n) - 1
        return value - (1 << n) if n and value >> n - 1 & 1 else value

    in_lanes("v_bfe_i32", ["i32", "u32", "u32"], "i32", field)

    def low_24(a):
        return (a + 2**23) % 2**24 - 2**23

    in_lanes("v_mul_i32_i24", ["i32", "i32"], "i32", lambda a, b: low_24(a) * low_24(b))
    in_lanes("v_mad_i32_i24", ["i32"] * 3, "i32", lambda a, b, c: low_24(a) * low_24(b) + c)


def test_wide_integers():
    in_lanes("v_lshlrev_b64", ["u32", "u64"], "u64", lambda k, a: a << k % 64)
    in_lanes("v_lshrrev_b64", ["u32", "u64"], "u64", lambda k, a: a >> k % 64)
    in_lanes("v_ashrrev_i64", ["u32", "i64"], "i64", lambda k, a: a >> k % 64)
    in_lanes("v_lshl_add_u64", ["u64", "u32", "u64"], "u64", lambda a, k, b: (a << k % 64) + b)
    a, b, c = words(0), words(1), words(2, 64)
    (result,) = run_amd("v_mad_u64_u32 v[40:41], vcc_lo, v10, v12, v[14:15]", [a, b, c], [U64])
    assert np.array_equal(result, wrapped(elementwise(lambda a, b, c: a * b + c, a, b, c), U64))


def test_overflow_of_wide_products():
    for opcode, kind, limit in (("v_mad_u64_u32", "u32", (0, 2**64)), ("v_mad_i64_i32", "i32", (-(2**63), 2**63))):
        a, b = (words(i).view(SIGNED[kind]) for i in (0, 1))
        c = words(2, 64).view(SIGNED[f"{kind[0]}64"])
        lines = f"{opcode} v[40:41], vcc_lo, v10, v12, v[14:15]\n v_cndmask_b32 v42, 0, 1, vcc_lo"
        value, over = run_amd(lines, [a, b, c], [U64, U32])
        exact_values = elementwise(lambda a, b, c: a * b + c, a, b, c)
        assert np.array_equal(value, wrapped(exact_values, U64))
        assert over.tolist() == [int(not limit[0] <= x < limit[1]) for x in exact_values]


def test_permuted_bytes():
    def permuted(a, b, selector):
        both, result = a << 32 | b, 0
        for i in range(4):
            choice = selector >> 8 * i & 255
            if choice < 8:
                byte = both >> 8 * choice & 255
            elif choice < 12:
                byte = 255 * (both >> 16 * (choice - 8) + 15 & 1)
            else:
                byte = 0 if choice == 12 else 255
            result |= byte << 8 * i
        return result

    a, b = words(1), words(2)
    selector = np.random.default_rng(3).integers(0, 16, (256, 4), dtype=np.uint8).view(U32)[:, 0]
    (result,) = run_amd("v_perm_b32 v40, v10, v12, v14", [a, b, selector], [U32])
    assert np.array_equal(result, wrapped(elementwise(permuted, a, b, selector), U32))


def test_carries():
    a, b = words(1), words(2)
    for lanes, vcc in ((32, "vcc_lo"), (64, "vcc")):
        # 64-bit sums and differences from their halves
        for low, high, sign in (("v_add_co_u32", "v_addc_co_u32", 1), ("v_sub_co_u32", "v_subb_co_u32", -1)):
            lines = f"{low} v40, {vcc}, v10, v12\n {high} v42, {vcc}, v12, v10, {vcc}"
            first, second = run_amd(lines, [a, b], [U32, U32], lanes=lanes)
            both = elementwise(lambda a, b, s=sign: (b << 32 | a) + s * (a << 32 | b), a, b)
            assert np.array_equal(first, wrapped(both, U64).astype(U32))
            assert np.array_equal(second, (wrapped(both, U64) >> U64(32)).astype(U32))


FLOAT = {
    "v_add": (2, exact.add),
    "v_sub": (2, lambda a, b, kind: exact.add(a, -b, kind)),
    "v_mul": (2, exact.multiply),
    "v_fma": (3, exact.fma),
}


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize("opcode", FLOAT)
def test_floats_round_once(opcode, kind):
    count, function = FLOAT[opcode]
    in_lanes(f"{opcode}_{kind}", [kind] * count, kind, lambda *x: function(*x, kind))


def test_other_orders_and_signs_of_sources():
    a, b, c = (floats(i) for i in range(3))
    for line, expected in (
        ("v_subrev_f32 v40, v10, v12", lambda a, b, c: exact.add(b, -a, "f32")),
        ("v_fma_f32 v40, -v10, |v12|, -|v14|", lambda a, b, c: exact.fma(-a, abs(b), -abs(c), "f32")),
        ("v_fmaak_f32 v40, v10, v12, 0x3fc00000", lambda a, b, c: exact.fma(a, b, 1.5, "f32")),
        ("v_fmamk_f32 v40, v10, 0x3fc00000, v12", lambda a, b, c: exact.fma(a, 1.5, b, "f32")),
        ("v_mov_b32 v40, v14\n v_fmac_f32 v40, v10, v12", lambda a, b, c: exact.fma(a, b, c, "f32")),
        ("v_add_f32 v40, v10, 0.5", lambda a, b, c: exact.add(a, 0.5, "f32")),
        ("v_mul_f32 v40, v10, -4.0", lambda a, b, c: exact.multiply(a, -4.0, "f32")),
        # two that read before either writes
        (
            "v_mov_b32 v40, v10\n v_dual_mov_b32 v40, v12 :: v_dual_mul_f32 v41, v40, v14\n v_mov_b32 v40, v41",
            lambda a, b, c: exact.multiply(a, c, "f32"),
        ),
    ):
        (result,) = run_amd(line, [a, b, c], [F32])
        assert_numbers(actual=result, expected=elementwise(expected, a, b, c))


def test_pairs():
    a, b, c = (np.ascontiguousarray(np.stack([floats(i), floats(i + 5)], axis=1)).view(U64)[:, 0] for i in range(3))
    halves = [x.view(F32).reshape(-1, 2) for x in (a, b, c)]
    for modifiers, pick in (
        ("", lambda i, half: (half, 1)),
        (" op_sel_hi:[1,0,1]", lambda i, half: (0 if i == 1 else half, 1)),
        (" op_sel:[1,0,0] neg_lo:[0,0,1]", lambda i, half: (1 if i == 0 else half, -1 if (i, half) == (2, 0) else 1)),
    ):
        (result,) = run_amd(f"v_pk_fma_f32 v[40:41], v[10:11], v[12:13], v[14:15]{modifiers}", [a, b, c], [U64])
        for half in (0, 1):
            with np.errstate(invalid="ignore"):
                sources = [halves[i][:, pick(i, half)[0]] * F32(pick(i, half)[1]) for i in range(3)]
            expected = elementwise(partial(exact.fma, kind="f32"), *sources)
            assert_numbers(actual=result.view(F32).reshape(-1, 2)[:, half], expected=expected)


def test_extremes():
    def extreme(a, b, least):
        if math.isnan(a) or math.isnan(b):
            return a if math.isnan(b) else b
        return (min if least else max)(a, b, key=lambda x: (x, math.copysign(1, x)))

    for kind in ("f32", "f64"):
        in_lanes(f"v_min_{kind}", [kind, kind], kind, partial(extreme, least=True))
        in_lanes(f"v_max_{kind}", [kind, kind], kind, partial(extreme, least=False))


def test_conversions():
    in_lanes("v_cvt_f32_u32", ["u32"], "f32", lambda a: exact.rounded(exact.Fraction(a), "f32") if a else 0.0)
    in_lanes("v_cvt_f32_i32", ["i32"], "f32", lambda a: exact.rounded(exact.Fraction(a), "f32") if a else 0.0)
    in_lanes("v_cvt_f64_i32", ["i32"], "f64", float)
    in_lanes("v_cvt_f64_f32", ["f32"], "f64", float)
    in_lanes("v_cvt_f32_f64", ["f64"], "f32", lambda a: exact.convert(a, "f32"))
    for byte in range(4):
        in_lanes(f"v_cvt_f32_ubyte{byte}", ["u32"], "f32", lambda a, byte=byte: float(a >> 8 * byte & 255))

    def whole(a, low, high):
        if math.isnan(a):
            return 0
        return int(max(min(a, float(high)), float(low))) if math.isinf(a) else max(min(math.trunc(a), high), low)

    for kind in ("f32", "f64"):
        in_lanes(f"v_cvt_i32_{kind}", [kind], "i32", partial(whole, low=-(2**31), high=2**31 - 1))
        in_lanes(f"v_cvt_u32_{kind}", [kind], "u32", partial(whole, low=0, high=2**32 - 1))
    a = floats(1)
    (result,) = run_amd("v_cvt_f16_f32 v40, v10", [a], [U32], lanes=64)
    actual = result.astype(np.uint16).view(np.float16)
    assert_numbers(actual=actual, expected=elementwise(lambda a: exact.convert(a, "f16"), a))


@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_exponents(kind):
    in_lanes(f"v_frexp_mant_{kind}", [kind], kind, lambda a: math.frexp(a)[0])
    finite = lambda a: math.frexp(a)[1] if math.isfinite(a) else 0  # noqa: E731
    in_lanes(f"v_frexp_exp_i32_{kind}", [kind], "i32", finite)
    for name, function in (("rndne", round), ("floor", math.floor), ("ceil", math.ceil), ("trunc", math.trunc)):
        in_lanes(
            f"v_{name}_{kind}",
            [kind],
            kind,
            lambda a, f=function: math.copysign(float(f(a)), a) if math.isfinite(a) else a,
        )


RELATIONS = {
    "eq": np.equal,
    "lg": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}


@pytest.mark.parametrize(("lanes", "vcc"), [(32, "vcc_lo"), (64, "vcc")])
def test_comparisons_and_selections(lanes, vcc):
    a, b = floats(1), floats(2)
    b[::5] = a[::5]
    unordered = np.isnan(a) | np.isnan(b)
    one, two = words(5), words(6)
    expected = {name: relation(a, b) & ~unordered for name, relation in RELATIONS.items()}
    # n stands for not, and is true of what is unordered
    expected |= {f"n{name}": ~expected[name] for name in ("lg", "lt", "le", "gt", "ge")}
    expected |= {"neq": ~expected["eq"], "o": ~unordered, "u": unordered}
    for relation, true in expected.items():
        lines = f"v_cmp_{relation}_f32 {vcc}, v10, v12\n v_cndmask_b32 v40, v14, v16, {vcc}"
        (result,) = run_amd(lines, [a, b, one, two], [U32], lanes=lanes)
        assert np.array_equal(result, np.where(true, two, one)), relation
    signed = one.view(I32), two.view(I32)
    lines = f"v_cmp_gt_i32 {vcc}, v10, v12\n v_cndmask_b32 v40, v10, v12, {vcc}"
    (result,) = run_amd(lines, [one, two], [U32], lanes=lanes)
    assert np.array_equal(result, np.where(signed[0] > signed[1], two, one))


def test_classes():
    a = floats(1, "f64")
    subnormal = (a != 0) & (np.abs(a) < np.finfo(F64).smallest_normal)
    for bit, expected in (
        (1, np.isnan(a)),
        (2, a == -np.inf),
        (4, subnormal & (a < 0)),
        (5, (a == 0) & np.signbit(a)),
        (6, (a == 0) & ~np.signbit(a)),
        (8, np.isfinite(a) & ~subnormal & (a > 0)),
        (9, a == np.inf),
    ):
        lines = f"v_cmp_class_f64 s8, v[10:11], {1 << bit:#x}\n v_cndmask_b32 v40, 0, 1, s8"
        (result,) = run_amd(lines, [a], [U32])
        assert np.array_equal(result, expected.astype(U32)), bit


@pytest.mark.parametrize("approximate", [None, 1])
@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_the_steps_of_a_division_make_a_correctly_rounded_one(kind, approximate):
    # as LLVM writes them, for numbers of any size
    a, b = floats(1, kind), floats(2, kind)
    wide = kind == "f64"
    r = (lambda i: f"v[{i}:{i + 1}]") if wide else (lambda i: f"v{i}")
    d, n = r(12), r(10)
    lines = [
        f"v_div_scale_{kind} {r(20)}, null, {d}, {d}, {n}",
        f"v_rcp_{kind} {r(22)}, {r(20)}",
        f"v_div_scale_{kind} {r(24)}, vcc_lo, {n}, {d}, {n}",
        f"v_fma_{kind} {r(26)}, -{r(20)}, {r(22)}, 1.0",
        f"v_fma_{kind} {r(22)}, {r(26)}, {r(22)}, {r(22)}",
        f"v_fma_{kind} {r(26)}, -{r(20)}, {r(22)}, 1.0",
        f"v_fma_{kind} {r(22)}, {r(26)}, {r(22)}, {r(22)}",
        f"v_mul_{kind} {r(28)}, {r(24)}, {r(22)}",
        f"v_fma_{kind} {r(26)}, -{r(20)}, {r(28)}, {r(24)}",
    ]
    if not wide:
        lines += [
            f"v_fma_{kind} {r(28)}, {r(26)}, {r(22)}, {r(28)}",
            f"v_fma_{kind} {r(26)}, -{r(20)}, {r(28)}, {r(24)}",
        ]
    lines += [
        f"v_div_fmas_{kind} {r(30)}, {r(26)}, {r(22)}, {r(28)}",
        f"v_div_fixup_{kind} {r(40)}, {r(30)}, {d}, {n}",
    ]
    (result,) = run_amd("\n ".join(lines), [a, b], [F64 if wide else F32], approximate=approximate)
    assert_numbers(actual=result, expected=elementwise(partial(exact.divide, kind=kind), a, b))


SCALAR = {
    "s_add_u32": (lambda a, b: a + b, lambda a, b: a + b >= 2**32),
    "s_sub_u32": (lambda a, b: a - b, lambda a, b: a < b),
    "s_and_b32": (lambda a, b: a & b, lambda a, b: a & b != 0),
    "s_or_b32": (lambda a, b: a | b, lambda a, b: a | b != 0),
    "s_xor_b32": (lambda a, b: a ^ b, lambda a, b: a ^ b != 0),
    "s_andn2_b32": (lambda a, b: a & ~b, lambda a, b: a & ~b != 0),
    "s_lshl_b32": (lambda a, b: a << b % 32, lambda a, b: (a << b % 32) % 2**32 != 0),
    "s_lshr_b32": (lambda a, b: a >> b % 32, lambda a, b: a >> b % 32 != 0),
    "s_bfe_u32": (
        lambda a, b: a >> b % 32 & (1 << (b >> 16 & 127)) - 1,
        lambda a, b: a >> b % 32 & (1 << (b >> 16 & 127)) - 1 != 0,
    ),
    "s_min_u32": (min, lambda a, b: a <= b),
    "s_mul_i32": (lambda a, b: a * b, None),
    "s_mul_hi_u32": (lambda a, b: a * b >> 32, None),
    "s_lshl2_add_u32": (lambda a, b: 4 * a + b, lambda a, b: 4 * a + b >= 2**32),
}


@pytest.mark.parametrize("opcode", SCALAR)
def test_scalars(opcode):
    function, code = SCALAR[opcode]
    rng = np.random.default_rng(5)
    a, b = (np.repeat(rng.integers(0, 2**32, 64, dtype=U32), 32) for _ in range(2))
    b[: 32 * 8] = np.repeat(np.array([0, 1, 31, 32, 2**32 - 1, 0x100004, 0x200000, 5], U32), 32)
    lines = f"""
    v_readfirstlane_b32 s8, v10
    v_readfirstlane_b32 s9, v12
    s_cmp_eq_u32 s8, s8
    {opcode} s10, s8, s9
    s_cselect_b32 s11, 1, 0
    v_mov_b32 v40, s10
    v_mov_b32 v42, s11
    """
    value, flag = run_amd(lines, [a, b], [U32, U32])
    assert np.array_equal(value, wrapped(elementwise(function, a, b), U32))
    expected = [1] * len(a) if code is None else [int(bit) for bit in elementwise(code, a, b)]
    assert flag.tolist() == expected


@pytest.mark.parametrize(
    "line",
    [
        "v_add_f32 v40, v10, v12 clamp",
        "v_add_f32 v40, v10, v12 mul:2",
        "v_mfma_f32_32x32x8f16 v[40:55], v[10:11], v[12:13], 0",
        "v_add_f32_dpp v40, v10, v12 row_spin:1",
        "v_and_b32_sdwa v40, v10, v12 dst_sel:WORD_1",
        "v_fma_f32 v40, v10, v12",
        "v_add_f64 v40, v10, v12",
        "s_add_u32 s8, v10, s9",
        "s_cbranch_scc1 nowhere",
        "scratch_load_b32 v40, off, s0",
        "global_atomic_add_u32 v1, v10, s[4:5]",
    ],
)
def test_what_is_not_known_is_refused(line):
    with pytest.raises(UnknownInstruction) as caught:
        run_amd(line, [words(1), words(2)], [U32])
    assert line in caught.value.__notes__[0]
