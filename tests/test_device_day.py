"""The command that measures a GPU runs through without one, and where a part of it fails or takes too long."""

import gc
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from fake_cuda import FakeCuda

from benchmarks import baselines, bench_ops, calls, gpu, timing
from benchmarks.described import DESCRIPTIONS
from benchmarks.device_day import day, device, host, kernel_tests, machine, page, right, tools
from benchmarks.device_day import train as training
from benchmarks.device_day.__main__ import RESULTS, main
from benchmarks.device_day.day import Budget, Part
from benchmarks.device_day.parts import PARTS

ROOT = Path(__file__).resolve().parents[1]
without_gpu = pytest.mark.skipif(gpu.PRESENT, reason="a fake GPU stands in for one that is there")


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "results.json"


def takes(clock: Clock, *seconds: float) -> Any:
    """A part whose rows take these seconds each."""

    def rows(budget: Budget) -> Iterator[tuple[str, Any]]:
        for number, passing in enumerate(seconds):
            clock.now += passing
            yield f"row {number}", passing

    return rows


def run(parts: dict[str, Part], file: Path, clock: Clock, *, seconds: float = 100.0) -> dict[str, Any]:
    found = day.run(parts, list(parts), file, facts={"card": "x"}, seconds=seconds, clock=clock, say=lambda line: None)
    assert json.loads(file.read_text()) == found
    return found["parts"]


def test_each_row_is_on_disk_before_the_next_is_asked_for(file: Path, clock: Clock) -> None:
    seen = []

    def rows(budget: Budget) -> Iterator[tuple[str, Any]]:
        for name in ("a", "b"):
            yield name, 1
            seen.append(json.loads(file.read_text())["parts"]["p"]["rows"])

    run({"p": Part(rows, 10)}, file, clock)
    assert seen == [{"a": 1}, {"a": 1, "b": 1}]


def test_a_part_that_fails_leaves_its_traceback_and_the_next_one_runs(file: Path, clock: Clock) -> None:
    def fails(budget: Budget) -> Iterator[tuple[str, Any]]:
        yield "before", 1
        raise ArithmeticError("on purpose")

    parts = run({"fails": Part(fails, 10), "next": Part(takes(clock, 1.0), 10)}, file, clock)
    assert parts["fails"]["rows"] == {"before": 1}
    assert parts["fails"]["failed"].endswith("ArithmeticError: on purpose\n")
    assert parts["next"] == {"rows": {"row 0": 1.0}, "seconds": 1.0}


def test_a_part_is_cut_after_its_own_time(file: Path, clock: Clock) -> None:
    parts = run({"long": Part(takes(clock, 4.0, 4.0, 4.0, 4.0), 10), "next": Part(takes(clock, 1.0), 10)}, file, clock)
    assert parts["long"] == {"rows": {f"row {n}": 4.0 for n in range(3)}, "cut": "after row 2", "seconds": 12.0}
    assert "cut" not in parts["next"]


def test_no_part_begins_after_the_time_of_all(file: Path, clock: Clock) -> None:
    names = ("first", "second", "third")
    parts = run({name: Part(takes(clock, 4.0, 4.0), 10) for name in names}, file, clock, seconds=12.0)
    assert "cut" not in parts["first"]
    assert parts["second"]["cut"] == "after row 0"
    assert parts["third"] == {"rows": {}, "skipped": "the 12 seconds are over"}


def test_parts_are_chosen_by_name_in_the_order_of_the_day() -> None:
    assert day.choose(PARTS, None) == list(PARTS)
    assert day.choose(PARTS, "device, machine") == ["machine", "device"]
    with pytest.raises(ValueError, match=r"no part is called 'devise'; allowed: machine, tests, right, host, device"):
        day.choose(PARTS, "right,devise")


def test_the_command_refuses_unknown_parts_before_any_work(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["--only", "devise", "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert "no part is called 'devise'; allowed: machine, tests" in done.output
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_every_part_runs_without_a_gpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.device_day", "--quick", "--out", str(tmp_path)]
    # the training loop and torch.compile are not for the number of tests that run beside this one
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = tmp_path.glob("*.json")
    parts = json.loads(file.read_text())["parts"]
    assert list(parts) == list(PARTS)
    for name, part in parts.items():
        assert part["rows"], name
        assert part.keys() <= {"rows", "seconds", "cut"}, name
    if not gpu.PRESENT:
        assert all(value is True for value in parts["right"]["rows"].values())
        assert all(isinstance(us, float) for us in parts["host"]["rows"].values())
        assert all(isinstance(value, dict) for value in parts["device"]["rows"].values())


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """A fake GPU, whose tensors are the CPU's."""
    fake = FakeCuda()
    fake.install(monkeypatch)
    monkeypatch.setattr(gpu, "PRESENT", True)
    return fake


@without_gpu
def test_a_failed_capture_raises_the_error_of_the_call_and_spoils_nothing(cuda: FakeCuda) -> None:
    def waits() -> None:
        if cuda.capturing:
            cuda.synchronize()

    # twice: what one leaves behind, the next one meets
    for _ in range(2):
        with pytest.raises(RuntimeError, match="operation not permitted when stream is capturing"):
            gpu.capture(waits)
        assert cuda.current is cuda.default
        assert gc.isenabled()
    counted: list[int] = []
    graph, result = gpu.capture(lambda: counted.append(1) or len(counted), times=2)
    assert (len(counted), result, graph.replays) == (5, 5, 0)


@without_gpu
def test_waits_are_noted_and_forbidden_only_inside(cuda: FakeCuda) -> None:
    import warnings

    with gpu.waits_noted() as places:
        assert cuda.sync_debug_mode == "warn"
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("another thing", stacklevel=1)
    assert [Path(file).name for file, _ in places] == [Path(__file__).name]
    assert cuda.sync_debug_mode == "default"
    modes = []
    with pytest.raises(ZeroDivisionError), gpu.waiting_forbidden():
        modes.append(cuda.sync_debug_mode) or 1 / 0
    assert modes == ["error"]
    assert cuda.sync_debug_mode == "default"


@without_gpu
def test_the_lines_for_a_gpu_run_on_a_fake_one(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, file: Path, clock: Clock
) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    calls._compiled.cache_clear()
    monkeypatch.setattr(machine, "MEBIBYTES", (1,))
    monkeypatch.setattr(machine, "_nvidia_smi", lambda *fields: ["1980 MHz", "3201 MHz", "84.90 W", "580.1"])
    for batch in ("BATCH", "LARGE_BATCH"):
        monkeypatch.setattr(right, batch, (2, 1, 8, 8))
    monkeypatch.setattr(device, "QUICK", device.TINY)
    monkeypatch.setattr(training, "QUICK_STRETCH", 1)
    config = training.train_config(training.TINY)
    monkeypatch.setattr(training, "train_config", lambda changes: config)
    monkeypatch.setattr(host, "SHAPE", (2, 1, 4, 4))
    names = ("machine", "right", "host", "device", "train")
    parts = {name: Part(PARTS[name].rows, 1e9) for name in names}
    found = day.run(parts, names, file, facts={}, seconds=1e9, quick=True, clock=clock, say=lambda line: None)["parts"]
    for name in names:
        assert found[name].keys() == {"rows", "seconds"}, found[name].get("failed")
    # the fake graph does nothing
    wrong = {name for name, value in found["right"]["rows"].items() if value is not True}
    assert wrong == {"replays of a captured training step: fresh noise, the eager bits"}
    providers = {"noisestep", "eager", "torch.compile"}
    assert providers <= {name.split(" | ")[1] for name in found["host"]["rows"]}
    assert all(isinstance(us, float) for us in found["host"]["rows"].values())
    timed = found["device"]["rows"]
    assert {value["us"] for value in timed.values() if value["how"] == "graph"} == {50.0}
    assert all(len(value["rounds"]) == 5 for value in timed.values())
    assert found["machine"]["rows"]["driver"] == "580.1"
    assert set(found["train"]["rows"]["as it is"]) >= {"ms a step", "ms the device works", "launches a step", "waits"}


def test_a_call_that_fails_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise ArithmeticError("on purpose")

    case = calls.case_of((2, 3, 8, 8), "bfloat16")
    one = [calls.Call("noise", name, case, run, False, 1) for name, run in (("broken", fails), ("sound", list))]
    for part in (host, device):
        monkeypatch.setattr(part, "calls", lambda *a, **k: one)
        monkeypatch.setattr(part, "OPS", ("noise",))
    budget = Budget(True, 1e9, lambda: 0.0)
    assert next(host.rows(budget)) == ("noise | broken", "ArithmeticError: on purpose")
    rows = dict(device.rows(budget))
    assert rows.pop("noise | broken | 2x3x8x8 | bfloat16") == "ArithmeticError: on purpose"
    assert set(rows["noise | sound | 2x3x8x8 | bfloat16"]) == {"us", "tbs", "how", "rounds"}


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda x: x.clone(), True),
        (lambda x: x + 1e-7, False),
        (lambda x: x.double(), False),
        (lambda x: x[:1], False),
    ],
)
def test_bits_are_compared(change: Any, same: bool) -> None:
    x = torch.tensor([1.0, float("nan")])
    assert right.same_bits(x, change(x)) is same


def test_a_nan_is_a_nan_whatever_its_bits() -> None:
    one, other = (torch.tensor([bits], dtype=torch.int32).view(torch.float32) for bits in (0x7FC00000, 0x7FC00001))
    assert right.same_bits(one, other)
    assert not right.same_bits(one, torch.zeros(1))


def test_pytest_is_understood() -> None:
    assert kernel_tests.outcomes("..F\n1 failed, 87 passed, 70 warnings in 39.44s\n") == {"failed": 1, "passed": 87}
    assert kernel_tests.outcomes("20 passed in 1.2s") == {"passed": 20}


def test_the_counters_of_nsight_compute_are_understood() -> None:
    lines = ["==PROF== Connected", '"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"']
    for number in range(6):
        lines += [
            f'"{number}","_kernel","gpu__time_duration.sum","ns","2,{number}00"',
            f'"{number}","_kernel","launch__registers_per_thread","register/thread","40"',
        ]
    found = tools.kernels("\n".join(lines))
    assert list(found) == [
        "noise",
        "q_sample",
        "reverse_step",
        "loss_and_gradient",
        "loss_and_gradient, launch 2",
        "loss_and_gradient, launch 3",
    ]
    assert found["q_sample"] == {"kernel": "_kernel", "µs": 2.1, "registers": 40.0}


def test_only_our_kernels_are_counted() -> None:
    import re

    ours, others = ("_kernel", "_backward_kernel"), ("vectorized_elementwise_kernel", "triton_poi_fused_0")
    assert all(re.search(tools.KERNELS, name) for name in ours)
    assert not any(re.search(tools.KERNELS, name) for name in others)


def test_a_tool_that_is_not_there_says_so() -> None:
    assert tools._run(["no-such-tool"], 1.0) == {"status": None, "output": "no-such-tool is not installed"}


def test_the_page_says_what_the_newest_results_say(tmp_path: Path) -> None:
    copy = tmp_path / "gpu.md"
    copy.write_text(page.PAGE.read_text())
    page.write(page.newest(RESULTS), copy, tmp_path)
    assert copy.read_text() == page.PAGE.read_text()
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("gpu.png", "roofline.png"))


@pytest.mark.parametrize("results", sorted(RESULTS.glob("*/*.json")), ids=lambda path: path.stem)
def test_all_results_can_be_shown(results: Path, tmp_path: Path) -> None:
    found = json.loads(results.read_text())
    assert results.parent.name == found["card"].lower().replace(" ", "-")
    for make in page.SECTIONS.values():
        assert make(found)


def test_results_of_parts_that_did_not_run_can_be_shown() -> None:
    found = {"card": "x", "date": "2026-01-01", "commit": "0", "parts": {"right": {"rows": {"a": "other bits"}}}}
    assert "- wrong: a: other bits" in page.SECTIONS["right"](found)
    for make in page.SECTIONS.values():
        make(found)


def test_a_page_without_marks_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / "gpu.md"
    copy.write_text("# Nothing\n")
    with pytest.raises(ValueError, match=r"gpu\.md marks nothing; known: run, right"):
        page.write(page.newest(RESULTS), copy, tmp_path)
    assert not (tmp_path / "gpu.png").exists()


class Benchmark:
    """What the fixture of pytest-benchmark does, with two rounds."""

    def __init__(self, timer: Any) -> None:
        self.timer, self.extra_info, self.seconds, self.group = timer, {}, [], ""
        self.stats = SimpleNamespace(stats=SimpleNamespace(median=1e-6))

    def pedantic(self, call: Any, *, rounds: int, iterations: int = 1, warmup_rounds: int) -> None:
        """Time a call."""
        assert rounds >= 8, "too few for an interval"
        for _ in range(2):
            begin = self.timer()
            for _ in range(min(iterations, 2)):
                call()
            self.seconds.append((self.timer() - begin) / iterations)


@without_gpu
def test_the_benchmarks_of_a_gpu_run_on_a_fake_one(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    calls._compiled.cache_clear()
    monkeypatch.setattr(bench_ops, "DTYPES", calls.DTYPES)
    monkeypatch.setattr(bench_ops, "LATENTS", (2, 3, 8, 8))
    monkeypatch.setattr(bench_ops, "COMPILED", (2, 3, 8, 8))
    rows = list(bench_ops.plan(((2, 3, 8, 8),)))
    assert {row[0] for row in rows} == {*DESCRIPTIONS, *calls.PASSES}
    assert {row[2] for row in rows} >= {"noisestep", "eager", "torch.compile", "torch"}
    assert {row[3] for row in rows} == {"device", "host"}
    names = {calls.name_of(*row[:2]) for row in rows if row[0] == "q_sample"}
    assert names == {f"2x3x8x8-{dtype}" for dtype in (*calls.DTYPES, "float32-channels_last")}
    for op, case, provider, clock in rows:
        benchmark = Benchmark(timing.CLOCKS[clock]())
        bench_ops.test_op(benchmark, op, case, provider, clock)
        assert (
            benchmark.extra_info.items() >= {"op": op, "provider": provider, "clock": clock, "device": "fake"}.items()
        )
        # a millisecond between two events, for all the calls of a graph
        assert clock == "host" or benchmark.seconds == [1e-3 / timing.IN_A_GRAPH] * 2


def test_every_op_has_a_baseline() -> None:
    assert baselines.BASELINES.keys() == DESCRIPTIONS.keys()


def test_sets_of_inputs_take_turns() -> None:
    # so many that no cache holds them all, and no more
    assert [calls.sets_of(calls.case_of(shape, "bfloat16")) for shape in ((1, 8), (64, 4, 256, 256), (2**31, 1))] == [
        32,
        8,
        2,
    ]
    call = calls.make("noise", "noisestep", calls.case_of((2, 8)), sets=3)
    first, second, third, again = (call.run() for _ in range(4))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


@pytest.mark.parametrize(("op", "provider"), [("q_sample", "noisestep"), ("q_sample", "eager"), ("vlb_terms", "eager")])
def test_what_is_wrong_is_not_timed(op: str, provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = calls.case_of((2, 3, 8, 8))
    calls.check(op, provider, case)
    bind = calls._bind

    def off(*arguments: Any) -> Any:
        run = bind(*arguments)
        return lambda *noise: 1.02 * run(*noise)

    monkeypatch.setattr(calls, "_bind", off)
    with pytest.raises(
        AssertionError, match="differ" if provider == "noisestep" else f"{provider} of {op} is not timed"
    ):
        calls.check(op, provider, case)
