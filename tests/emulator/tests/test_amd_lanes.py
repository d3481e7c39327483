"""The AMD interpreter's lanes: patterns, exchanges, parts of registers and masks."""

import numpy as np
import pytest

from .lines import run_amd
from .values import words

U32 = np.uint32


@pytest.mark.parametrize(
    ("pattern", "source"),
    [
        ("quad_perm:[1,0,3,2]", lambda i: i ^ 1),
        ("row_xmask:5", lambda i: i ^ 5),
        ("row_mirror", lambda i: i ^ 15),
        ("row_half_mirror", lambda i: i ^ 7),
        ("row_ror:3", lambda i: i & ~15 | i - 3 & 15),
        ("row_share:2", lambda i: i & ~15 | 2),
    ],
)
def test_lanes_of_a_row(pattern, source):
    a, i = words(1), np.arange(256)
    tail = "row_mask:0xf bank_mask:0xf bound_ctrl:1"
    (result,) = run_amd(f"v_mov_b32_dpp v40, v10 {pattern} {tail}", [a], [U32])
    assert np.array_equal(result, a[source(i)])


def test_lanes_beyond_a_row():
    a, i = words(1), np.arange(256)
    tail = "row_mask:0xf bank_mask:0xf"
    (zeros,) = run_amd(f"v_mov_b32 v40, v10\n v_mov_b32_dpp v40, v10 row_shr:1 {tail} bound_ctrl:1", [a], [U32])
    assert np.array_equal(zeros, np.where(i % 16 == 0, 0, a[i - 1]))
    (kept,) = run_amd(f"v_mov_b32 v40, v10\n v_mov_b32_dpp v40, v10 row_shr:1 {tail}", [a], [U32])
    assert np.array_equal(kept, np.where(i % 16 == 0, a, a[i - 1]))
    (rows,) = run_amd("v_mov_b32 v40, 7\n v_mov_b32_dpp v40, v10 row_xmask:1 row_mask:0x1 bank_mask:0xf", [a], [U32])
    assert np.array_equal(rows, np.where(i % 32 < 16, a[i ^ 1], 7))


def test_other_exchanges():
    a, i = words(1), np.arange(256)
    (result,) = run_amd("v_xor_b32 v2, 5, v0\n v_lshlrev_b32 v2, 2, v2\n ds_bpermute_b32 v40, v2, v10", [a], [U32])
    assert np.array_equal(result, a[i ^ 5])
    lines = "s_mov_b32 s8, 0x76543210\n v_permlanex16_b32 v40, v10, s8, 0xfedcba98 op_sel:[1,0]"
    (result,) = run_amd(lines, [a], [U32])
    assert np.array_equal(result, a[i ^ 16])
    (result,) = run_amd("v_readfirstlane_b32 s8, v10\n v_mov_b32 v40, s8", [a], [U32], lanes=64)
    assert np.array_equal(result, np.repeat(a[::64], 64))


def test_parts_of_registers():
    a, b = words(1), words(2)
    tail = "dst_sel:DWORD dst_unused:UNUSED_PAD src0_sel:WORD_1 src1_sel:DWORD"
    (result,) = run_amd(f"v_and_b32_sdwa v40, v10, v12 {tail}", [a, b], [U32], lanes=64)
    assert np.array_equal(result, a >> U32(16) & b)
    (result,) = run_amd("v_mov_b32 v40, v12\n v_mov_b16 v40.h, v10.l", [a, b], [U32])
    assert np.array_equal(result, a << U32(16) | b & U32(0xFFFF))
    (result,) = run_amd("v_pack_b32_f16 v40, v10, v12", [a, b], [U32])
    assert np.array_equal(result, b << U32(16) | a & U32(0xFFFF))


def test_masked_lanes_are_left_alone():
    a, b = words(1), words(2)
    lines = "v_mov_b32 v40, v12\n v_cmp_gt_u32 vcc_lo, 16, v0\n s_and_saveexec_b32 s8, vcc_lo\n v_mov_b32 v40, v10\n"
    (result,) = run_amd(lines + "s_mov_b32 exec_lo, s8", [a, b], [U32])
    assert np.array_equal(result, np.where(np.arange(256) < 16, a, b))
