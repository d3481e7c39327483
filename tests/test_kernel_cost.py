"""The kernels stay within their budgets, and what counts them counts right. No GPU is needed."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from noisestep.accelerated.backends import Launch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.kernel_cost import bound, budgets, cache, devices, page, results, sass, step, traffic

ROOT = Path(__file__).resolve().parents[1]

# 7 cases in 2 dtypes, 2 shapes and 2 layouts; noise in 2 dtypes and 2 shapes, for it is contiguous
KERNELS = 7 * 2 * 2 * 2 + 2 * 2
QUANTITIES = {
    "instructions an element": 8 * 2,
    "instructions over contiguous": 7 * 2 * 2,
    "spilled accesses": KERNELS,
    "bytes of local memory": KERNELS,
    "branches and calls": KERNELS,
    "bytes of shared memory": KERNELS - 2 * 2 * 2 * 2,
    "bytes an element in accesses of less than 16": 8 * 2 * 2,
}


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "benchmarks.kernel_cost", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=known | environment, check=False)


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """The kernels that have a budget, compiled and counted in a process that does not interpret them."""
    # caches of its own: what an earlier run counted proves nothing
    folder = tmp_path_factory.mktemp("kernel_cost")
    return _run(
        "--check", "--cache", str(folder / "counts"), TRITON_CACHE_DIR=str(folder / "triton")
    ), folder / "counts"


def limits(done: subprocess.CompletedProcess[str], word: str) -> list[str]:
    return [line for line in done.stdout.splitlines() if line.startswith(word)]


@pytest.mark.slow
@pytest.mark.parametrize("quantity", QUANTITIES)
def test_kernels_stay_within_their_budgets(quantity: str, counted: tuple[Any, Path]) -> None:
    done, _ = counted
    kept, broken = ([line for line in limits(done, word) if quantity in line] for word in ("kept", "EXCEEDED"))
    assert len(kept) + len(broken) == QUANTITIES[quantity], done.stderr
    assert not broken, "\n".join(broken)


@pytest.mark.slow
def test_a_limit_that_is_exceeded_is_the_status(counted: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    done, folder = counted
    assert done.returncode == bool(limits(done, "EXCEEDED"))
    # the counts that were kept, but for one kernel that has come to branch
    kept = next(folder.iterdir())
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"flow": 99}))
    again = _run("--check", "--cache", str(folder))
    found, of = re.search(rf"(\d+) of (\d+) results were in {folder}", again.stdout).groups()  # type: ignore[union-attr]
    assert found == of
    assert again.returncode == 1
    new = set(limits(again, "EXCEEDED")) - set(limits(done, "EXCEEDED"))
    assert new
    assert all("branches and calls" in line for line in new)
    assert "limits are exceeded" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--check", "--measure"], {}, "give --check or --measure, not both"),
        (["--measure"], {"CUDA_VISIBLE_DEVICES": ""}, "nothing is measured: --measure needs a CUDA device"),
        ([], {"TRITON_INTERPRET": "1"}, "unset it"),
    ],
)
def test_bad_input_is_refused(arguments: list[str], environment: dict[str, str], message: str) -> None:
    done = _run(*arguments, **environment)
    assert done.returncode != 0
    assert message in done.stderr.splitlines()[-1]


def test_the_page_is_made_from_the_committed_counts() -> None:
    found = json.loads(results.FILE.read_text())
    text = page.PAGE.read_text()
    assert page.filled(text, found) == text
    # another count is another page
    found["limits"][0]["kept"] = not found["limits"][0]["kept"]
    assert page.filled(text, found) != text
    assert results.FILE.stat().st_size < 300_000
    # the start of a thread's code is spread over enough of them
    kernels = [k for k in found["kernels"] if (k["provider"], k["shape"]) == ("noisestep", budgets.SHAPE)]
    assert all(k["elements_a_thread"] >= 16 for k in kernels if k["case"] in budgets.INSTRUCTIONS)
    for (case, provider), bar in page.bars(found).items():
        assert 0 < bar.fewest <= bar.static, (case, provider)
        assert bar.rate <= devices.device(90).bandwidth / bar.moved * (1 + 1e-4)


def test_the_counts_as_json_are_read_back_as_they_are(tmp_path: Path) -> None:
    found = {"versions": {"torch": None}, "kernels": [{"rate": 1 / 3, "by": "β"}, {"rate": 2}]}
    results.write(found, tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text()) == {
        **found,
        "kernels": [{"rate": 0.33333, "by": "β"}, {"rate": 2}],
    }


def test_the_key_of_a_kernel_changes_with_whatever_its_code_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = torch.zeros(64)

    def key(source: str = "a", x: Any = memory, n: Any = 3, capability: int = 90, **options: Any) -> str:
        return cache.key_of(Launch(SimpleNamespace(cache_key=source), (1,), {"x": x, "n": n}, options), capability)

    # another tensor like it is the same
    assert key() == key(x=torch.zeros(32))
    others = [
        key(source="b"),
        key(x=memory[1:]),
        key(x=memory.double()),
        key(x=None),
        key(n=4),
        key(capability=80),
        key(num_warps=2),
        key(n=SimpleNamespace(cache_key="device function")),
    ]
    for name, value in (("triton.__version__", "0"), ("benchmarks.kernel_cost.cache._source", lambda *modules: "")):
        with monkeypatch.context() as patch:
            patch.setattr(name, value)
            others.append(key())
    assert len({key(), *others}) == 1 + len(others)


def test_a_result_is_made_once(tmp_path: Path) -> None:
    kept = cache.Cache(tmp_path / "new")
    assert [kept.get(key, lambda: {"n": 1}) for key in ("a", "a", "b")] == [{"n": 1}] * 3
    assert (kept.found, kept.made) == (1, 2)
    assert sorted(path.name for path in kept.folder.iterdir()) == ["a.json", "b.json"]


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


def _code(listing: str) -> sass.MachineCode:
    return sass.MachineCode(*sass.parse(listing), registers=32, stack=0, shared=0, local=0)


def test_a_listing_is_read() -> None:
    code = _code(LISTING)
    # neither the NOP nor the jump to itself behind the last EXIT
    assert [i.base for i in code.instructions] == ["LDC", "IADD3", "LDG", "LDG", "IMAD", "FFMA", "EXIT", "STG", "EXIT"]
    assert [i.predicated for i in code.instructions] == [False, True, *[False] * 4, True, False, False]
    assert code.accesses("LDG") == Counter({128: 1, 16: 1})
    assert code.accesses("STG") == Counter({64: 1})
    assert not code.flow
    assert code.shortest == code.instructions


@pytest.mark.parametrize(
    ("line", "spills"),
    [("@P0 BRA `(.L_x_7)", 0), ("BRA `(.text._kernel)", 0), ("CALL.REL.NOINC `(sqrt)", 0), ("LDL.64 R2, [R1]", 1)],
)
def test_branches_calls_and_spills_are_seen(line: str, spills: int) -> None:
    code = _code(LISTING.replace("FFMA R5, R5, R6, R7", line))
    assert code.spills == spills
    assert len(code.flow) == 1 - spills


BRANCHES = """
.text._kernel:
        /*0000*/              @P2 EXIT ;
        /*0010*/              @P0 BRA `(.L_x_1) ;
        /*0020*/                   FADD R1, R1, R1 ;
.L_x_0:
        /*0030*/                   FMUL R1, R1, R1 ;
        /*0040*/              @P1 BRA `(.L_x_0) ;
        /*0050*/                   BRA `(.L_x_2) ;
.L_x_1:
        /*0060*/                   CALL.REL.NOINC `(.L_x_3) ;
        /*0070*/                   IADD3 R1, R1, R1, RZ ;
.L_x_2:
        /*0080*/                   EXIT ;
.L_x_3:
        /*0090*/                   RET.REL.NODEC R2 `(_kernel) ;
.L_x_4:
        /*00a0*/                   BRA `(.L_x_4);
"""


def test_the_shortest_path() -> None:
    # past the EXIT of threads without work, around the loop, and not into what is called
    assert [i.base for i in _code(BRANCHES).shortest] == ["EXIT", "BRA", "CALL", "IADD3", "EXIT"]
    # without the way around it, through the loop once
    straight = BRANCHES.replace("@P0 BRA `(.L_x_1)", "NOP")
    assert [i.base for i in _code(straight).shortest] == ["EXIT", "FADD", "FMUL", "BRA", "BRA", "EXIT"]
    # a predicate among the operands, and a branch where threads part, are conditions as well
    for condition in ("BRA P3, `(.L_x_2)", "BRA.DIV `(.L_x_2)"):
        assert len(_code(BRANCHES.replace("BRA `(.L_x_2)", condition)).shortest) == 5
    with pytest.raises(ValueError, match="no path"):
        _code(straight.replace("BRA `(.L_x_2)", "BRA `(.L_x_0)").replace("@P1 BRA `(.L_x_0)", "NOP")).shortest  # noqa: B018
    with pytest.raises(ValueError, match="where does BRX R2 lead"):
        _code(straight.replace("BRA `(.L_x_2)", "BRX R2")).shortest  # noqa: B018


def test_the_bound_is_the_slowest_pipe() -> None:
    taken = bound.lanes(_code(LISTING).instructions)
    # IMAD.WIDE takes two lanes of the heavy half, which are lanes of the whole; 16 bytes take four of the LSU
    assert taken == Counter({"issue": 9, "fma": 3, "fma heavy": 2, "alu": 1, "lsu": 4 + 1 + 2})
    gpu = devices.device(90)
    by_lsu = bound.bound(gpu, taken, 8, 0.0)
    assert by_lsu.by == "lsu"
    assert by_lsu.rate == pytest.approx(132 * 1.755e9 * 32 * 8 / 7)
    by_memory = bound.bound(gpu, taken, 8, 100.0)
    assert (by_memory.by, by_memory.rate) == ("memory", pytest.approx(3.35e12 / 100))


@pytest.mark.parametrize(
    ("registers", "shared", "warps", "expected"),
    [(32, 0, 4, 1.0), (33, 0, 4, 48 / 64), (255, 0, 4, 8 / 64), (32, 100 << 10, 4, 8 / 64), (32, 0, 1, 32 / 64)],
)
def test_occupancy(registers: int, shared: int, warps: int, expected: float) -> None:
    # 65,536 registers, 228 KiB, 64 warps, 32 blocks an SM
    gpu = devices.device(90)
    assert devices.occupancy(gpu, registers, shared, warps) == expected


def test_launches_bytes_and_reads_of_eager_code() -> None:
    x, table = torch.zeros(4, 8), torch.ones(3)
    found = traffic.Traffic("", "", "")
    with traffic._Counter(found, x.numel(), on_device=[x]):
        y = x.view(8, 4) * table[1] + torch.randn_like(x).view(8, 4)
        y.sum().item()
        # on the host: nothing of it is made from x
        (table * 2).sum().item()
    # mul, randn_like, add, sum; x read and the product written, the noise written, two read and one written, one read
    assert (found.launches, found.reads) == (4, 1)
    assert found.bytes_an_element == 4 * (2 + 1 + 3 + 1)


def test_the_operations_of_the_networks() -> None:
    unet_2d = pytest.importorskip("diffusers.models.unets.unet_2d")
    unet_2d_condition = pytest.importorskip("diffusers.models.unets.unet_2d_condition")
    with torch.device("meta"):
        text = {"encoder_hidden_states": torch.empty(1, 77, 768)}
        cifar = unet_2d.UNet2DModel(
            sample_size=32,
            block_out_channels=(128, 256, 256, 256),
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            layers_per_block=2,
            attention_head_dim=None,
            downsample_padding=0,
            flip_sin_to_cos=False,
            freq_shift=1,
            norm_eps=1e-6,
        )
        latent = unet_2d_condition.UNet2DConditionModel(
            sample_size=64, block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8
        )
        for network, model, conditions in zip(step.NETWORKS, (cifar, latent), ({}, text), strict=True):
            assert sum(parameter.numel() for parameter in model.parameters()) == network.parameters
            with FlopCounterMode(display=False) as counter:
                output = model(torch.empty(1, *network.shape), torch.zeros(1), **conditions).sample
                assert counter.get_total_flops() == network.forward
                output.pow(2).mean().backward()
            assert counter.get_total_flops() == network.forward + network.backward
