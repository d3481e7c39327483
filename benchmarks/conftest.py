"""What every benchmark shares: two threads that wait without spinning, and a summary that is seen without -s."""

import os
import sys

# PyTorch's OpenMP threads spin while they wait, and on two cores take the time of whatever runs next; it is read when
# PyTorch is loaded, and extra_info tells what held
if "torch" not in sys.modules:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from collections.abc import Callable, Iterator

import pytest
import torch
from timing import THREADS

_LINES = pytest.StashKey[list[str]]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if not config.pluginmanager.hasplugin("pytest_benchmark.plugin") and not config.pluginmanager.hasplugin(
        "benchmark"
    ):
        raise pytest.UsageError("the benchmarks need pytest-benchmark: pip install 'noisestep[bench]'")
    # a table that fits a screen, unless another one is asked for
    if not any(argument.startswith("--benchmark-columns") for argument in map(str, config.invocation_params.args)):
        config.option.benchmark_columns = ["min", "median", "iqr", "rounds", "iterations"]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
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
