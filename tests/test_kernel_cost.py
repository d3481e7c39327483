"""The kernels stay within their budgets, and what counts them counts right. No GPU is needed."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]

# 4 cases in 2 dtypes, 2 shapes and 2 layouts; noise in 2 dtypes and 2 shapes, for it is contiguous
KERNELS = 4 * 2 * 2 * 2 + 2 * 2
QUANTITIES = {
    "instructions an element": 5 * 2,
    "instructions over contiguous": 4 * 2 * 2,
    "spilled accesses": KERNELS,
    "bytes of local memory": KERNELS,
    "branches and calls": KERNELS,
    "bytes of shared memory": KERNELS - 2 * 2 * 2,
    "bytes an element in accesses of less than 16": 5 * 2 * 2,
}


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "benchmarks.kernel_cost", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=known | environment, check=False)


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """The kernels that have a budget, compiled and counted in a process that does not interpret them."""
    folder = tmp_path_factory.mktemp("kernel_cost")
    # a cache of its own: what an earlier run compiled proves nothing
    done = _run("--check", "--json", str(folder / "counted.json"), TRITON_CACHE_DIR=str(folder / "cache"))
    assert (folder / "counted.json").exists(), done.stderr
    return done, json.loads((folder / "counted.json").read_text())


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_kernels_stay_within_their_budgets(quantity: str, counted: tuple[Any, dict[str, Any]]) -> None:
    limits = [limit for limit in counted[1]["limits"] if limit["quantity"] == quantity]
    assert len(limits) == QUANTITIES[quantity]
    broken = [
        f"{x['case']} ({x['shape']}, {x['dtype']}, {x['layout']}): {x['found']:.4g} > {x['allowed']}"
        for x in limits
        if not x["found"] <= x["allowed"]
    ]
    assert not broken, "\n".join(broken)


def test_a_budget_that_is_exceeded_is_the_status(counted: tuple[subprocess.CompletedProcess[str], Any]) -> None:
    done, found = counted
    assert len(found["limits"]) == sum(QUANTITIES.values())
    broken = [limit for limit in found["limits"] if not limit["kept"]]
    assert done.returncode == bool(broken)
    assert done.stdout.count("EXCEEDED") == len(broken)


def test_budgets_are_counted_at_16_or_more_elements_a_thread(counted: tuple[Any, dict[str, Any]]) -> None:
    kernels = [k for k in counted[1]["kernels"] if k["shape"] == "latents" and k["layout"] == "contiguous"]
    # the loss's gradient is a kernel of its own
    assert len(kernels) == (5 + 1) * 2
    few = {k["case"]: k["elements_a_thread"] for k in kernels if k["elements_a_thread"] < 16}
    assert not few
    # no branch, so that executed and static are one number
    assert all(k["executed_an_element"] == k["instructions_an_element"] for k in kernels)


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--target", "75"], {}, "'75' is not one of '80', '90', '100'"),
        (["--json", "nowhere/x.json"], {}, "nowhere/x.json: there is no folder nowhere"),
        (["--check", "--markdown", "x.md"], {}, "--check counts too little"),
        (["--markdown", "LICENSE"], {}, "LICENSE has no part between"),
        ([], {"TRITON_INTERPRET": "1"}, "unset it"),
    ],
)
def test_bad_input_is_refused(arguments: list[str], environment: dict[str, str], message: str) -> None:
    done = _run(*arguments, **environment)
    assert done.returncode != 0
    assert message in done.stderr.splitlines()[-1]


@pytest.fixture
def kernel_cost(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The package, which is not installed, with the modules that count."""
    monkeypatch.syspath_prepend(str(ROOT))
    import benchmarks.kernel_cost as package
    from benchmarks.kernel_cost import bound, cost, devices, sass, traffic  # noqa: F401

    return package


LISTING = """
        .section        .text._kernel,"ax",@progbits
.text._kernel:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P1 IADD3 R13, R13, 0x1, RZ ;
        /*0020*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0030*/                   LDG.E.U16 R9, desc[UR4][R2.64] ;
        /*0040*/                   IMAD.WIDE.U32 R10, R10, -0x326172a9, RZ ;
        /*0050*/                   FFMA R5, R5, R6, R7 ;
        /*0060*/               @P0 EXIT ;
        /*0070*/                   STG.E.64 desc[UR4][R2.64], R4 ;
        /*0080*/                   EXIT ;
.L_x_0:
        /*0090*/                   BRA `(.L_x_0);
        /*00a0*/                   NOP;
"""


def _code(kernel_cost: ModuleType, listing: str) -> Any:
    return kernel_cost.sass.MachineCode(kernel_cost.sass.parse(listing), registers=32, stack=0, shared=0, local=0)


def test_a_listing_is_read(kernel_cost: ModuleType) -> None:
    code = _code(kernel_cost, LISTING)
    # neither the NOP nor the jump to itself behind the last EXIT
    assert [i.base for i in code.instructions] == ["LDC", "IADD3", "LDG", "LDG", "IMAD", "FFMA", "EXIT", "STG", "EXIT"]
    assert [i.predicated for i in code.instructions] == [False, True, *[False] * 4, True, False, False]
    assert code.accesses("LDG") == Counter({128: 1, 16: 1})
    assert code.accesses("STG") == Counter({64: 1})
    assert not code.flow
    assert kernel_cost.cost.executed(code) == (9, "no branch: all of them")


@pytest.mark.parametrize(
    ("line", "spills"),
    [("@P0 BRA `(.L_x_7)", 0), ("BRA `(.text._kernel)", 0), ("CALL.REL.NOINC `(sqrt)", 0), ("LDL.64 R2, [R1]", 1)],
)
def test_branches_calls_and_spills_are_seen(kernel_cost: ModuleType, line: str, spills: int) -> None:
    code = _code(kernel_cost, LISTING.replace("FFMA R5, R5, R6, R7", line))
    assert code.spills == spills
    assert len(code.flow) == 1 - spills
    if not spills:
        assert kernel_cost.cost.executed(code)[0] is None


def test_the_bound_is_the_slowest_pipe(kernel_cost: ModuleType) -> None:
    taken = kernel_cost.bound.lanes(_code(kernel_cost, LISTING))
    # IMAD.WIDE takes two lanes of the heavy half, which are lanes of the whole; 16 bytes take four of the LSU
    assert taken == Counter({"issue": 9, "fma": 3, "fma heavy": 2, "alu": 1, "lsu": 4 + 1 + 2})
    gpu = kernel_cost.devices.device(90)
    by_lsu = kernel_cost.bound.bound(gpu, taken, 8, 0.0)
    assert by_lsu.by == "lsu"
    assert by_lsu.rate == pytest.approx(132 * 1.755e9 * 32 * 8 / 7)
    by_memory = kernel_cost.bound.bound(gpu, taken, 8, 100.0)
    assert (by_memory.by, by_memory.rate) == ("memory", pytest.approx(3.35e12 / 100))


@pytest.mark.parametrize(
    ("registers", "shared", "warps", "expected"),
    [(32, 0, 4, 1.0), (33, 0, 4, 48 / 64), (255, 0, 4, 8 / 64), (32, 100 << 10, 4, 8 / 64), (32, 0, 1, 32 / 64)],
)
def test_occupancy(kernel_cost: ModuleType, registers: int, shared: int, warps: int, expected: float) -> None:
    # 65,536 registers, 228 KiB, 64 warps, 32 blocks an SM
    gpu = kernel_cost.devices.device(90)
    assert kernel_cost.devices.occupancy(gpu, registers, shared, warps) == expected


def test_launches_bytes_and_reads_of_eager_code(kernel_cost: ModuleType) -> None:
    x, table = torch.zeros(4, 8), torch.ones(3)
    found = kernel_cost.traffic.Traffic("", "", "")
    with kernel_cost.traffic._Counter(found, x.numel(), on_device=[x]):
        y = x.view(8, 4) * table[1] + torch.randn_like(x).view(8, 4)
        y.sum().item()
        # on the host: nothing of it is made from x
        (table * 2).sum().item()
    # mul, randn_like, add, sum; x read and the product written, the noise written, two read and one written, one read
    assert (found.launches, found.reads) == (4, 1)
    assert found.bytes_an_element == 4 * (2 + 1 + 3 + 1)
