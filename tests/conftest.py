"""What every test shares: how hypothesis runs, and what is skipped, with the reason, where the machine lacks it."""

import os
import shutil
import sysconfig
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, settings
from interpreter import import_ops

# before any test module imports an op: kernels are interpreted, or not, from their definition on
import_ops()

# compilation and the first call of an op have no place in a deadline; the same examples in every run, so that a change
# is what turns a test red, and new ones with --hypothesis-profile=explore
settings.register_profile("noisestep", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, derandomize=False, print_blob=True)
# only the examples that are written down: enough to see a planted fault, and quick
settings.register_profile("written", parent=settings.get_profile("noisestep"), phases=[Phase.explicit])
settings.load_profile("noisestep")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--emulation",
        choices=("quick", "each", "all"),
        default="quick",
        help="what runs in the emulator: some cases (quick), each on a GPU of NVIDIA and one of AMD in turn (each), or "
        "every case on every target (all)",
    )


WORKER = "PYTEST_XDIST_WORKER" in os.environ


def is_whole_suite(config: pytest.Config) -> bool:
    """Whether no file was named."""
    return config.args_source is pytest.Config.ArgsSource.TESTPATHS


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Unless -n says, the whole suite runs on all cores (at most 8), and tests that were named in one process."""
    # a worker starts here too
    if not is_whole_suite(config) or WORKER or config.option.usepdb:
        return
    # pytest-cov has decided by now for how many processes it measures: with --cov, say -n as well
    if config.option.numprocesses is None and not getattr(config.option, "cov_source", None):
        config.option.numprocesses = min(8, len(os.sched_getaffinity(0)))
        # the tests of a file share what is made for them
        config.option.dist = "loadfile"
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The whole suite leaves out what is marked slow, unless -m says what to choose; `-m faults` has a long form."""
    if config.option.markexpr != "faults":
        long = [item for item in items if (mark := item.get_closest_marker("faults")) and mark.kwargs.get("long")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
    if is_whole_suite(config) and not config.option.markexpr:
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests recorded as done, such as how many processes they killed; they may have run in other processes."""
    passed = [report for report in terminalreporter.getreports("passed") if report.when == "call"]
    done = [value for report in passed for name, value in report.user_properties if name == "did"]
    if done:
        terminalreporter.section("done")
        for line in done:
            terminalreporter.write_line(str(line))


def pytest_configure() -> None:
    if WORKER:
        # the other cores have work already
        torch.set_num_threads(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA or ROCm device, and there is none")


@pytest.fixture(scope="session")
def inductor() -> None:
    """torch.compile's default backend, which builds C++ against Python's headers."""
    if not any(map(shutil.which, ("g++", "clang++", "c++"))):
        pytest.skip("torch.compile needs a C++ compiler, and there is none")
    if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        pytest.skip("torch.compile needs Python.h, and it is not installed")
