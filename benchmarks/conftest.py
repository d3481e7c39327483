"""What every benchmark shares: a header, filters by op and case, results by device, and a summary at the end."""

import os
import sys

# PyTorch's OpenMP threads spin while they wait, and on two cores take the time of whatever runs next; it is read when
# PyTorch is loaded, and extra_info tells what held
if "torch" not in sys.modules:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from benchmarks import calls, gpu, timing
from benchmarks.described import DESCRIPTIONS

_LINES = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("noisestep")
    group.addoption("--op", metavar="OP,...", help=f"time these ops alone: {', '.join(DESCRIPTIONS)}, copy, multiply")
    group.addoption("--case", metavar="TEXT", help="time the cases alone whose name has this: 64x4x64x64, bfloat16")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    plugins = config.pluginmanager
    if not plugins.hasplugin("pytest_benchmark.plugin") and not plugins.hasplugin("benchmark"):
        raise pytest.UsageError("the benchmarks need pytest-benchmark: pip install 'noisestep[bench]'")
    given = " ".join(map(str, config.invocation_params.args))
    # a table that fits a screen, and every result kept with its samples, unless something else is asked for
    if "--benchmark-columns" not in given:
        config.option.benchmark_columns = ["min", "median", "iqr", "rounds", "iterations"]
    if "--benchmark-storage" not in given:
        config.option.benchmark_storage = f"file://{config.rootpath}/.benchmarks/{slug(timing.card())}"
    if not (config.option.benchmark_save or config.option.benchmark_json):
        from pytest_benchmark.utils import get_tag

        # named by the commit and the time
        config.option.benchmark_autosave = get_tag()
    config.option.benchmark_save_data = True


def slug(card: str) -> str:
    """A device's name as folders have it: nvidia-h200."""
    return "-".join("".join(c if c.isalnum() else " " for c in card.lower()).split())


def pytest_report_header(config: pytest.Config) -> list[str]:
    """What is timed here, and what is not."""
    lines = [f"times on: {timing.card()}; results: {config.option.benchmark_storage.removeprefix('file://')}"]
    if gpu.PRESENT:
        lines.append("timed: every op and dtype on the device and on the host, beside eager, torch.compile and a copy")
    else:
        lines.append("timed: the ops' code for CPUs, bfloat16 and float32, beside eager PyTorch and torch.compile")
        lines.append(
            "not timed: the kernels, for there is no GPU; `python -m benchmarks.kernel_cost` counts what they take, "
            "and `python -m benchmarks.host_time` times their launches"
        )
    if missing := calls.missing_compiler():
        lines.append(f"not timed: torch.compile; {missing}")
    if importlib.util.find_spec("diffusers") is None:
        lines.append("not timed: diffusers, which is not installed (pip install 'noisestep[bench]')")
    return lines


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ops, text = config.getoption("--op"), config.getoption("--case")
    if ops is None and text is None:
        return
    names = None if ops is None else [op.strip() for op in ops.split(",")]
    if unknown := [op for op in names or () if op not in (*DESCRIPTIONS, *calls.PASSES)]:
        raise pytest.UsageError(f"no op {', '.join(map(repr, unknown))}; allowed: {', '.join(DESCRIPTIONS)}")
    kept = [item for item in items if _is_wanted(getattr(item, "callspec", None), names, text)]
    if not kept:
        raise pytest.UsageError(f"no case of {ops or 'any op'} has {text!r} in its name")
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def _is_wanted(call: Any, ops: list[str] | None, text: str | None) -> bool:
    if call is None or "op" not in call.params:
        return False
    op = call.params["op"]
    return (ops is None or op in ops) and (text is None or text in calls.name_of(op, call.params["case"]))


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]) -> None:
    """The exact counts stand beside the times, for `benchmarks.compare`."""
    from benchmarks.counts import counts

    output_json["counts"] = counts({benchmark.extra_info.get("op") for benchmark in benchmarks})


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(timing.THREADS)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Adds a line to the summary at the end of the run."""
    return request.config.stash.setdefault(_LINES, []).append


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(_LINES, [])
    if lines:
        terminalreporter.section("noisestep against its peers")
        for line in lines:
            terminalreporter.line(line)
