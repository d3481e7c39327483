"""The project's own tests that run kernels, in several processes; meanwhile another compiles what will be timed."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from .. import gpu
from .day import Budget

ROOT = Path(__file__).resolve().parents[2]
# what behaves differently on a GPU; and, without one, a few
_ON_A_GPU = ["tests", "-m", "gpu or (kernel and not kernel(op='native') and not property)"]
_FEW = ["tests/test_ops.py", "-m", "kernel(op='advance') and not property"]
_PROCESSES = 12
_OUTPUT = 4000


def rows(budget: Budget) -> Iterator[tuple[str, Any]]:
    """How many tests passed and which did not; without a GPU, or quickly, those of one small kernel."""
    full = gpu.PRESENT and not budget.quick
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += _ON_A_GPU if full else _FEW
    if full and importlib.util.find_spec("xdist"):
        command += ["-n", str(_PROCESSES), "--dist", "worksteal"]
    with _compiling(budget) if gpu.PRESENT else nullcontext() as compilation:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=max(1.0, budget.left))
        yield "command", " ".join(["python", *command[1:]])
        yield "status", done.returncode
        yield from outcomes(done.stdout).items()
        yield "failures", re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
        if done.returncode:
            yield "output", (done.stdout + done.stderr)[-_OUTPUT:]
        if compilation is not None:
            _, errors = compilation.communicate(timeout=max(1.0, budget.left))
            yield "compiled beforehand", compilation.returncode == 0 or errors[-_OUTPUT:]


@contextmanager
def _compiling(budget: Budget) -> Iterator[subprocess.Popen[str]]:
    """Another process meanwhile compiles what will be timed, for the caches on disk."""
    command = [sys.executable, "-m", "benchmarks.device_day.child", "warm"] + ["--quick"] * budget.quick
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def outcomes(output: str) -> dict[str, int]:
    """The counts in pytest's last line: {"failed": 1, "passed": 87}."""
    last = output.strip().rpartition("\n")[2]
    return {name: int(count) for count, name in re.findall(r"(\d+) (passed|failed|skipped|errors?)\b", last)}
