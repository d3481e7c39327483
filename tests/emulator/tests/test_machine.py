"""What the emulator must refuse, and how it counts: bounds, alignment, barriers, shuffles, arguments."""

from collections import Counter

import numpy as np
import pytest

from .. import ptx
from ..machine import BarrierError, UnknownInstruction
from ..memory import POISON, AccessError, Buffer, EmulationError, Global
from ..ptx.warp import LaneError
from .lines import run_amd, run_ptx

KERNEL = """
.version 8.0
.target sm_90
.address_size 64
{outside}
.visible .entry k(.param .u64 a, .param .u32 n)
.reqntid {threads}
{{
    .reg .pred %p<4>;
    .reg .b32 %r<9>;
    .reg .b64 %rd<9>;
    ld.param.b64 %rd1, [a];
    ld.param.b32 %r1, [n];
    mov.u32 %r2, %tid.x;
    mov.u32 %r3, %ctaid.x;
    mad.wide.u32 %rd2, %r2, 4, %rd1;
    {body}
    ret;
}}
"""


def run(body: str, array: np.ndarray, *, threads: int = 64, outside: str = "", grid=(1,), **options) -> None:
    text = KERNEL.format(body=body, threads=threads, outside=outside)
    ptx.launch(text, grid, [array, 0], **options)


def test_out_of_bounds_by_one_element():
    run("st.global.b32 [%rd2], %r2;", np.zeros(64, np.int32))
    with pytest.raises(AccessError, match=r"out of bounds.* 1 lanes") as caught:
        run("st.global.b32 [%rd2], %r2;", np.zeros(63, np.int32))
    assert "st.global.b32" in caught.value.__notes__[0]
    with pytest.raises(AccessError, match="out of bounds"):
        run("ld.global.b32 %r4, [%rd2+-4];", np.zeros(64, np.int32))
    # nothing is far enough away to be somebody else's
    for offset in (2**20, 2**31, -(2**31)):
        with pytest.raises(AccessError, match="out of bounds"):
            run(f"ld.global.b32 %r4, [%rd2+{offset}];", np.zeros(64, np.int32))


def test_two_arrays_are_not_neighbours():
    memory = np.zeros(128, np.int32)
    first, second = memory[:64], memory[64:]
    text = KERNEL.format(body="st.global.b32 [%rd2+256], %r2;", threads=64, outside="").replace(
        ".param .u32 n", ".param .u64 b, .param .u32 n"
    )
    with pytest.raises(AccessError, match="out of bounds"):
        ptx.launch(text, (1,), [first, second, 0])


def test_misaligned():
    array = np.zeros(256, np.int32)
    run("ld.global.v4.b32 {%r4, %r5, %r6, %r7}, [%rd1];", array)
    for offset in (4, 8):
        with pytest.raises(AccessError, match="misaligned: 16 bytes"):
            run(f"ld.global.v4.b32 {{%r4, %r5, %r6, %r7}}, [%rd1+{offset}];", array)
    with pytest.raises(AccessError, match="misaligned: 4 bytes"):
        run("st.global.b32 [%rd2+2], %r2;", array)


def test_the_host_s_alignment_is_the_kernel_s():
    memory = np.zeros(300, np.int32)
    begin = -(memory.ctypes.data // 4) % 64
    for shift in (0, 1, 2, 4):
        buffer = Buffer.of(memory[begin + shift : begin + 200])
        assert Global([buffer]).address(buffer) % 256 == 4 * shift


def test_overlapping_arrays_are_refused_and_equal_ones_are_one():
    memory = np.zeros(128, np.int32)
    same = Global([Buffer.of(memory), Buffer.of(memory)])
    assert len(same.places) == 1
    with pytest.raises(ValueError, match="overlap"):
        Global([Buffer.of(memory[:80]), Buffer.of(memory[64:])])


SHARED = ".extern .shared .align 16 .b8 s[];"


def test_shared_memory_has_the_bytes_of_the_launch():
    body = "mov.b32 %r4, s; shl.b32 %r5, %r2, 2; add.s32 %r4, %r4, %r5; st.shared.b32 [%r4], %r2;"
    run(body, np.zeros(64, np.int32), outside=SHARED, shared=256)
    with pytest.raises(AccessError, match="shared access out of bounds: 4 bytes at 0xfc, of 252"):
        run(body, np.zeros(64, np.int32), outside=SHARED, shared=252)
    # each program has its own
    exchange = body + "bar.sync 0; ld.shared.b32 %r6, [%r4]; add.s32 %r6, %r6, %r3; st.global.b32 [%rd2], %r6;"
    array = np.zeros(64, np.int32)
    run(exchange, array, outside=SHARED, shared=256, grid=(3,))
    assert np.array_equal(array, np.arange(64) + 2)


def test_what_was_never_written_is_not_a_number():
    array = np.zeros(64, np.float32)
    run("mov.b32 %r4, s; ld.shared.b32 %r5, [%r4]; st.global.b32 [%rd2], %r5;", array, outside=SHARED, shared=16)
    assert np.isnan(array).all()
    run("st.global.b32 [%rd2], %r8;", array)
    assert np.isnan(array).all()
    half = np.array([POISON, POISON], np.uint16)
    assert np.isnan(half.view(np.float16)).all()
    assert np.isnan(half.view(np.float32)).all()
    assert np.isnan((half.astype(np.uint32) << 16).view(np.float32)).all()


def test_divergent_barriers():
    array = np.zeros(64, np.int32)
    split = "setp.lt.u32 %p1, %r2, 40;"
    run("bar.sync 0;", array)
    with pytest.raises(BarrierError, match="wait at instructions"):
        run(split + "@%p1 bra L; bar.sync 0; bra M; L: bar.sync 0; M: mov.b32 %r4, 0;", array)
    with pytest.raises(BarrierError, match="have left"):
        run(split + "@%p1 bra L; ret; L: bar.sync 0;", array)
    with pytest.raises(BarrierError, match="predicate"):
        run(split + "@%p1 bar.sync 0;", array)
    with pytest.raises(BarrierError):
        run(split + "@%p1 bra L; ret; L: bar.sync 0;", array, sched="random", seed=1)


def test_branches_loops_and_their_reunion():
    # thread i adds up 0 .. i, in a loop of its own length
    body = """
    mov.b32 %r4, 0; mov.b32 %r5, 0;
    L: add.s32 %r4, %r4, %r5; add.s32 %r5, %r5, 1; setp.le.s32 %p1, %r5, %r2; @%p1 bra L;
    shfl.sync.bfly.b32 %r6, %r4, 1, 31, -1;
    st.global.b32 [%rd2], %r6;
    """
    array = np.zeros(64, np.int32)
    for options in ({}, {"sched": "random", "seed": 3}):
        run(body, array, **options)
        i = np.arange(64) ^ 1
        assert np.array_equal(array, i * (i + 1) // 2)


def test_a_shuffle_from_a_thread_that_is_not_there():
    array = np.zeros(64, np.int32)
    split = "setp.lt.u32 %p1, %r2, 40; @!%p1 bra L;"
    with pytest.raises(LaneError, match="does not take part"):
        run(split + "shfl.sync.bfly.b32 %r6, %r2, 16, 31, -1; L: mov.b32 %r4, 0;", array)
    with pytest.raises(LaneError, match="some of its threads"):
        run(split + "redux.sync.add.s32 %r6, %r2, -1; L: mov.b32 %r4, 0;", array)


def test_a_missing_barrier_is_seen_in_random_orders_alone():
    # warp 0 reads what warp 1 writes: in lockstep all writes come first
    write = "mov.b32 %r4, s; shl.b32 %r5, %r2, 2; add.s32 %r4, %r4, %r5; st.shared.b32 [%r4], %r2;"
    read = "xor.b32 %r5, %r5, 128; mov.b32 %r4, s; add.s32 %r4, %r4, %r5; ld.shared.b32 %r6, [%r4];"
    read += "st.global.b32 [%rd2], %r6;"
    expected = np.arange(64) ^ 32

    def right(between: str, **options) -> bool:
        array = np.zeros(64, np.int32)
        run(write + between + read, array, outside=SHARED, shared=256, **options)
        return np.array_equal(array, expected)

    assert right("")
    assert all(right("bar.sync 0;", sched="random", seed=seed) for seed in range(10))
    assert not all(right("", sched="random", seed=seed) for seed in range(10))


def test_atomics():
    for options in ({}, {"sched": "random"}):
        array = np.array([5, 0], np.int32)
        run("atom.global.add.s32 %r4, [%rd1], 2; red.global.max.s32 [%rd1+4], %r2;", array, **options)
        assert array.tolist() == [5 + 128, 63]


@pytest.mark.parametrize("order", ["acq_rel.gpu.global", "global.gpu.acq_rel", "global", "relaxed.sys.global"])
def test_what_orders_an_atomic_operation_stands_before_or_after_its_space(order: str):
    # what the PTX ISA writes, and what Triton emits
    array = np.array([5], np.int32)
    run(f"atom.{order}.add.u32 %r4, [%rd1], 2; red.{order}.add.u32 [%rd1], 1;", array)
    assert array.tolist() == [5 + 64 * 3]
    with pytest.raises(UnknownInstruction):
        run("atom.global.gpu.any.add.u32 %r4, [%rd1], 2;", array)


def test_counts():
    body = "setp.lt.u32 %p1, %r2, 40; @%p1 bra L; add.s32 %r4, %r2, 1; L: @%p1 add.s32 %r4, %r2, 2;"
    counts: Counter[tuple[str, str]] = Counter()
    run(body, np.zeros(64, np.int32), grid=(3,), counts=counts)
    # the second warp parts; under a predicate a warp issues, and some of its threads execute
    assert (counts["warp", "setp.lt.u32"], counts["thread", "setp.lt.u32"]) == (6, 192)
    assert (counts["warp", "add.s32"], counts["thread", "add.s32"]) == (3 + 6, 3 * 24 + 3 * 40)
    random: Counter[tuple[str, str]] = Counter()
    run(body, np.zeros(64, np.int32), grid=(3,), counts=random, sched="random")
    assert {key: value for key, value in random.items() if key[0] == "thread"} == {
        key: value for key, value in counts.items() if key[0] == "thread"
    }


def test_the_arguments_of_a_launch():
    array = np.zeros(64, np.int32)
    text = KERNEL.format(body="", threads=64, outside="")
    for arguments, message in (
        ([array], "takes 2 arguments, got 1"),
        ([array, 2**32], "n has type u32, got 4294967296"),
        ([array, 1.0], "n has type u32, got 1.0"),
        ([array, array], "n has type u32, got an array"),
    ):
        with pytest.raises(ValueError, match=message):
            ptx.launch(text, (1,), arguments)
    with pytest.raises(ValueError, match="64 threads a program, num_warps=4"):
        ptx.launch(text, (1,), [array, 0], num_warps=4)
    with pytest.raises(ValueError, match='sched must be "lockstep" or "random"'):
        ptx.launch(text, (1,), [array, 0], sched="any")
    with pytest.raises(ValueError, match="grid must have one to three sizes"):
        ptx.launch(text, (1, 1, 1, 1), [array, 0])


def test_a_program_that_does_not_end(monkeypatch):
    monkeypatch.setattr("emulator.machine.LIMIT", 1000)
    with pytest.raises(EmulationError, match="does not end"):
        run("L: bra L;", np.zeros(64, np.int32))


def test_text_that_is_not_one_kernel():
    with pytest.raises(UnknownInstruction, match="0 kernels"):
        ptx.launch(".version 8.0", (1,), [])
    with pytest.raises(UnknownInstruction, match="register %r99x is not declared"):
        run("mov.b32 %r99x, 1;", np.zeros(64, np.int32))


def test_amd_bounds_and_alignment():
    a = np.zeros(64, np.uint32)
    with pytest.raises(AccessError, match="out of bounds"):
        run_amd("v_lshlrev_b32 v1, 2, v0\n global_load_b32 v2, v1, s[4:5] offset:4", [a], [np.uint32])
    with pytest.raises(AccessError, match="misaligned"):
        run_amd("v_lshlrev_b32 v1, 1, v0\n global_load_b32 v2, v1, s[4:5]", [a], [np.uint32])
    run_amd("v_lshlrev_b32 v1, 2, v0\n ds_store_b32 v1, v0", [a], [np.uint32], shared=256)
    with pytest.raises(AccessError, match="LDS access out of bounds"):
        run_amd("v_lshlrev_b32 v1, 2, v0\n ds_store_b32 v1, v0", [a], [np.uint32], shared=252)


def test_amd_divergent_barrier():
    a = np.zeros(128, np.uint32)
    lines = "v_readfirstlane_b32 s8, v0\n s_cmp_lg_u32 s8, 0\n s_cbranch_scc1 L\n s_barrier\nL:"
    with pytest.raises(BarrierError, match="have left"):
        run_amd(lines, [a], [np.uint32])


def test_amd_buffers_leave_out_what_is_beyond_their_size():
    a = np.arange(64, dtype=np.uint32)
    lines = """
    s_load_b64 s[8:9], s[0:1], 0x0
    s_mov_b32 s10, 0x80
    s_mov_b32 s11, 0x31027000
    v_lshlrev_b32 v1, 2, v0
    buffer_load_b32 v40, v1, s[8:11], 0 offen
    """
    (result,) = run_amd(lines, [a], [np.uint32])
    assert np.array_equal(result, np.where(a < 32, a, 0))
    with pytest.raises(AccessError, match="begins within the buffer and ends beyond"):
        run_amd(lines.replace("0x80", "0x82"), [a], [np.uint32])


def test_a_scalar_is_not_a_predicate():
    with pytest.raises(UnknownInstruction):
        run_ptx("selp.b32 %o0, %i0, %i0, %i0;", [np.zeros(32, np.uint32)], [np.uint32])
