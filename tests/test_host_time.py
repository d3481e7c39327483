"""Kernels on a stub of libcuda: the host's time of every op, and programs of other sizes. No GPU is needed."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from noisestep.accelerated.backends import Launch, recording
from noisestep.accelerated.ops import noise, pairwise_sum
from noisestep.accelerated.schedule import DeviceSchedule

from benchmarks import calls, cpu_time, host_time
from benchmarks.sweep import SIZES, launch_of, resized, times

ROOT = Path(__file__).resolve().parents[1]
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="the stub of libcuda is for machines without a GPU")


def run(*command: str) -> str:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@without_gpu
def test_host_time_of_two_checkouts_in_one_run() -> None:
    said = run("-m", "benchmarks.host_time", "--turns", "1", "--against", str(ROOT))
    lines = [re.split(r"  +", line.strip()) for line in said.splitlines()]
    assert lines[0] == ["noisestep", "against", "plain", "target", "launches"]
    rows = {name: cells for name, *cells in lines[1:]}
    assert rows.keys() >= {*host_time.TARGETS, "vlb_terms", "words", "uniform", "integers", "pairwise_sum"}
    for name, (ours, against, plain, target, launches) in rows.items():
        assert float(ours) > 0, name
        assert float(against) > 0, name
        assert plain == "–" or float(plain) > 0
        assert target == (f"{host_time.TARGETS[name]:g}" if name in host_time.TARGETS else "–")
        # an op that took another backend would launch nothing
        assert int(launches) >= 1, name


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(host_time.main, ["--against", str(tmp_path)])
    assert done.exit_code == 1
    assert "is no checkout of the project that can be timed: it has no accelerated" in done.output


def test_a_table_has_a_dash_where_nothing_was_timed() -> None:
    said = host_time.table({"noisestep": {"noise": 8.04, "words": 2.0}, "plain": {"noise": 1.0}}, {"noise": 1})
    assert [line.split() for line in said.splitlines()[1:]] == [
        ["noise", "8.0", "1.0", "8", "1"],
        ["words", "2.0", "–", "–", "–"],
    ]


@pytest.mark.slow
@without_gpu
def test_programs_of_every_size_compile_and_launch() -> None:
    program = """
import torch
from benchmarks import calls, stub_driver
from benchmarks.sweep import SIZES, launch_of, times
with stub_driver.installed():
    for op in ("q_sample", "reverse_step"):
        before = stub_driver.launches()
        one = launch_of(op, calls.case_of((2, 3, 8, 8), "bfloat16"))
        sizes = [size for size, found in times(*one, lambda launch: [1e-6])]
        assert len(set(sizes)) == len(SIZES), sizes
        print(op, stub_driver.launches() - before - 1 - len(SIZES))
"""
    assert run("-c", program).split() == ["q_sample", "0", "reverse_step", "0"]


@pytest.mark.parametrize("shape", [(2, 4, 64, 64), (3, 1000), (2, 7), (1, 4100)])
@pytest.mark.parametrize(("warps", "blocks"), SIZES)
def test_another_size_covers_the_same_elements(shape: tuple[int, ...], warps: int, blocks: int) -> None:
    from noisestep.accelerated.address import NoiseAddress

    with recording() as launches:
        noise(NoiseAddress(0, 0, 0), shape)
    launch = resized(launches[0], warps, blocks)
    tiling, n = launch.arguments["TILING"], torch.Size(shape[1:]).numel()
    a_program = 4 * tiling.blocks
    assert launch.grid == (shape[0], -(-n // a_program), 1)
    assert tiling.whole == (n % a_program == 0)
    # an access stays within a program, and a program within a power of two of what there is
    assert a_program % tiling.vector == 0
    assert tiling.blocks <= max(blocks, 1 << (-(-n // 4) - 1).bit_length())
    assert launch.options["num_warps"] == warps


def test_a_kernel_without_a_program_size_is_refused() -> None:
    with recording() as launches:
        pairwise_sum(torch.zeros(2, 8))
    with pytest.raises(ValueError, match="_kernel has no program size that can be changed"):
        resized(launches[0], 1, 64)


def test_an_op_of_several_launches_is_refused() -> None:
    with pytest.raises(ValueError, match="loss_and_gradient makes 2 launches, and one is wanted"):
        launch_of("loss_and_gradient", calls.case_of((2, 3, 8, 8)))


def test_other_bits_are_told() -> None:
    result = torch.zeros(3)
    written = iter([1.0, *[1.0] * (len(SIZES) - 1), 2.0])
    tiling = SimpleNamespace(wide=False, vector=4, _replace=lambda **changes: tiling)

    class Kernel:
        def __getitem__(self, grid):
            return lambda **arguments: result.fill_(next(written))

    launch = Launch(Kernel(), (1, 1, 1), {"TILING": tiling, "n": 4096}, {})
    same = [found["same"] for _, found in times(launch, result, lambda run: [0.0])]
    assert same == [True] * (len(SIZES) - 1) + [False]


def test_every_call_that_is_timed_on_a_cpu_runs_and_has_a_ratio_to_plain_pytorch(monkeypatch) -> None:
    monkeypatch.setattr(cpu_time, "_TURN", 0.0)
    schedule = DeviceSchedule.from_name("linear", 10)
    trained = cpu_time.microseconds(cpu_time.training(schedule, (2, 1, 4, 4), torch.bfloat16, False), 1)
    bounded = cpu_time.microseconds(cpu_time.terms(schedule, (2, 1, 4, 4)), 1)
    assert list(trained) == ["PyTorch", "simple_loss", "loss_and_gradient"]
    assert list(bounded) == ["PyTorch", "vlb_terms"]
    rows = iter([(("1",), {"PyTorch": 200.0, "torch.compile": 90.0, "vlb_terms": 150.0})])
    assert list(cpu_time.table(rows, ("threads",))) == [
        "| threads | PyTorch | torch.compile | vlb_terms | vlb_terms / PyTorch |",
        "| --- | --- | --- | --- | --- |",
        "| 1 | 200 | 90 | 150 | 0.75 |",
    ]
