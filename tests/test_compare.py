"""Verdicts on samples whose answer is known, and a count that grows fails. No GPU is needed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import compare
from benchmarks.device_day.__main__ import RESULTS

COUNTS = {"q_sample, bfloat16": {"launches": 1, "instructions an element": 37.25, "bytes an element": 4.0}}


def samples(median: float, spread: float = 0.01, n: int = 40, seed: int = 0) -> list[float]:
    return list(median * (1 + spread * np.random.default_rng(seed).standard_normal(n)))


def saved(path: Path, times: dict[str, list[float]], counts: Any = COUNTS) -> str:
    """As `pytest benchmarks` saves them: by the provider, of q_sample."""
    benchmarks = [
        {
            "name": f"test_op[{provider}]",
            "extra_info": {"op": "q_sample", "case": "64x4-float32", "provider": provider, "clock": "device"},
            "stats": {"data": data},
        }
        for provider, data in times.items()
    ]
    path.write_text(json.dumps({"benchmarks": benchmarks, "counts": counts}))
    return str(path)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(compare.main, list(arguments))


@pytest.mark.parametrize(
    ("b", "word"),
    [
        (samples(1.0, seed=1), "same"),
        (samples(0.5, seed=1), "faster"),
        (samples(2.0, seed=1), "slower"),
        # no interval holds the ratio closely enough, nor does one of 7 samples hold anything
        (samples(1.0, 0.3, seed=1), "unclear"),
        (samples(2.0, n=7, seed=1), "unclear"),
    ],
)
@pytest.mark.parametrize("in_turn", [False, True])
def test_verdicts(b: list[float], word: str, in_turn: bool) -> None:
    a = samples(1.0, n=len(b))
    assert compare.verdict(compare.ratio_interval(a, b, in_turn=in_turn), 0.03) == word


def test_a_difference_below_the_tolerance_is_none() -> None:
    assert [compare.verdict((1.01, 1.02), tolerance) for tolerance in (0.03, 0.015, 0.005)] == [
        "same",
        "slower",
        "slower",
    ]
    assert [compare.verdict((0.98, 0.99), tolerance) for tolerance in (0.03, 0.005)] == ["same", "faster"]


def test_turns_tell_what_two_runs_cannot() -> None:
    # both sides slow down and recover together; one is always 10 % behind
    drift = np.linspace(1, 3, 30)
    a, b = list(drift), list(1.1 * drift)
    assert compare.verdict(compare.ratio_interval(a, b, in_turn=False), 0.03) == "unclear"
    assert compare.verdict(compare.ratio_interval(a, b, in_turn=True), 0.03) == "slower"


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        low, high = compare.median_interval(generator.exponential(size=15), 0.95)
        held += low <= np.log(2) <= high
    # 0.95 or more, but for 300 tries: five standard errors
    assert held / 300 > 0.95 - 5 * (0.05 * 0.95 / 300) ** 0.5


def test_two_files(tmp_path: Path) -> None:
    a = saved(tmp_path / "a.json", {"noisestep": samples(1.0), "eager": samples(1.0), "gone": samples(1.0)})
    b = saved(tmp_path / "b.json", {"noisestep": samples(0.5), "eager": samples(2.0)})
    done = run(a, b)
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.output.splitlines()]
    assert [line[-1] for line in lines[1:3]] == ["faster", "slower"]
    assert done.output.splitlines()[-2:] == ["times: 1 faster, 1 slower", "counts: 3 same"]
    assert "times: none on both sides" in run(a, b, "--case", "8x8").output
    assert "times: none on both sides" in run(a, b, "--op", "noise").output


@pytest.mark.parametrize(
    ("change", "word", "status"),
    [
        ({"instructions an element": 37.5}, "more", 1),
        ({"launches": 2}, "more", 1),
        ({"bytes an element": 3.0}, "fewer", 0),
        ({"spills": 0}, "new", 0),
        (None, "gone", 1),
    ],
)
def test_a_count_that_grows_is_the_status(tmp_path: Path, change: Any, word: str, status: int) -> None:
    a = saved(tmp_path / "a.json", {})
    counted = {} if change is None else {name: found | change for name, found in COUNTS.items()}
    done = run(a, saved(tmp_path / "b.json", {}, counted), "--counts")
    assert done.exit_code == status, done.output
    assert f" {word}" in done.output.splitlines()[-1]
    assert any(line.startswith("q_sample, bfloat16: ") and line.endswith(word) for line in done.output.splitlines())


def test_results_of_a_day_on_a_gpu_are_read() -> None:
    old, new = sorted(RESULTS.glob("*/*.json"))[:2]
    done = run(str(old), str(new), "--op", "q_sample", "--case", "4x4x64x64")
    assert done.exit_code == 0, done.output
    # they keep one number for each call
    assert done.output.splitlines()[-2].startswith("times: ")
    assert done.output.splitlines()[-2].endswith(" unclear")


@pytest.mark.parametrize(
    ("text", "message"), [("no", "is no JSON"), ("{}", "neither the benchmarks of pytest nor the parts of")]
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.json").write_text(text)
    done = run(*[str(tmp_path / "x.json")] * 2)
    assert done.exit_code == 1
    assert message in done.output


def test_a_file_and_a_checkout_are_refused(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.json", {})
    assert "give two files or two checkouts" in run(file, str(tmp_path)).output
    done = run(str(tmp_path), str(tmp_path))
    assert done.exit_code == 1
    assert "is no checkout of the project that can be timed: it has no accelerated" in done.output
