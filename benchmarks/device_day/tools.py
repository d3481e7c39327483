"""NVIDIA's tools over our kernels: compute-sanitizer for memory errors, Nsight Compute for what a kernel waits for."""

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from .. import gpu
from .child import IN_TURN
from .day import Budget
from .kernel_tests import ROOT

# Triton names a kernel as its Python function, and ours begin with an underscore; PyTorch's do not
KERNELS = "^_[a-z][a-z_]*$"
METRICS = {
    "gpu__time_duration.sum": "µs",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "memory, % of peak",
    "sm__inst_issued.avg.pct_of_peak_sustained_active": "issue, % of peak",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "occupancy, %",
    "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio": "warps stalled on memory an issue",
    "launch__registers_per_thread": "registers",
    "launch__grid_size": "programs",
    "launch__block_size": "threads a program",
}
_LAUNCHES = 12
_OUTPUT = 2000


def rows(budget: Budget) -> Iterator[tuple[str, Any]]:
    """The sanitizer's verdict on one small call of each op, and counters of the large kernels."""
    if not gpu.PRESENT:
        yield "skipped", "needs a GPU"
        return
    child = [sys.executable, "-m", "benchmarks.device_day.child"]
    sanitizer = ["compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9", *child, "small"]
    # each tensor is an allocation of its own, so that an access beside it shows
    yield "memcheck", _run(sanitizer, 0.6 * budget.left, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    counters = ["ncu", "--csv", "--print-units", "base", "--clock-control", "none", "--kernel-name", f"regex:{KERNELS}"]
    counters += ["--launch-count", str(_LAUNCHES), "--metrics", ",".join(METRICS), *child, "large"]
    found = _run(counters, budget.left)
    yield "ncu", {**found, "output": found["output"][-_OUTPUT:]}
    yield from kernels(found["output"]).items()


def _run(command: list[str], seconds: float, **environment: str) -> dict[str, Any]:
    if shutil.which(command[0]) is None:
        return dict(status=None, output=f"{command[0]} is not installed")
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=max(1.0, seconds),
        )
    except subprocess.TimeoutExpired as late:
        output = late.stdout.decode(errors="replace") if isinstance(late.stdout, bytes) else str(late.stdout)
        return dict(status="cut", output=output)
    return dict(status=done.returncode, output=done.stdout)


def kernels(output: str) -> dict[str, dict[str, float]]:
    """The counters of each launch in Nsight Compute's table of comma-separated values, in the order of the launches."""
    lines = [line for line in output.splitlines() if line.startswith('"')]
    launches: dict[str, dict[str, Any]] = {}
    for row in csv.DictReader(lines):
        values = launches.setdefault(row["ID"], {"kernel": row["Kernel Name"]})
        value = float(row["Metric Value"].replace(",", ""))
        # base units: nanoseconds
        values[METRICS[row["Metric Name"]]] = value / 1e3 if row["Metric Unit"] in ("ns", "nsecond") else value
    named = {}
    for number, values in enumerate(launches.values()):
        op = IN_TURN[number] if number < len(IN_TURN) else f"{IN_TURN[-1]}, launch {number - len(IN_TURN) + 2}"
        named[op] = values
    return named
