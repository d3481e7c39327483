"""The machine: card, versions, and what its memory allows by a copy."""

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import triton

from .. import gpu
from .day import Budget

# one tensor of a copy: within the cache, and far beyond it
MEBIBYTES, MEBIBYTES_WITHOUT_A_GPU = (64, 1024, 4096), (1,)


def rows(budget: Budget) -> Iterator[tuple[str, Any]]:
    """Versions, the card, and TB/s (bytes read and written) of a copy and of a product."""
    yield "python", sys.version.split()[0]
    yield "torch", torch.__version__
    yield "triton", triton.__version__
    yield "processors", os.cpu_count()
    yield "card", card()
    if gpu.PRESENT:
        facts = torch.cuda.get_device_properties(gpu.DEVICE)
        yield "multiprocessors", facts.multi_processor_count
        yield "capability", f"{facts.major}.{facts.minor}"
        yield "GiB", facts.total_memory >> 30
        clocks, memory, power, driver = _nvidia_smi("clocks.sm", "clocks.mem", "power.draw", "driver_version")
        yield "driver", driver
        yield "at rest", f"{clocks}, memory {memory}, {power}"
    for mebibytes in MEBIBYTES if gpu.PRESENT else MEBIBYTES_WITHOUT_A_GPU:
        a = torch.randn(mebibytes << 18, device=gpu.DEVICE)
        b = torch.empty_like(a)
        for name, call in (("copy", partial(b.copy_, a)), ("multiply", partial(torch.mul, a, 2.0, out=b))):
            seconds = statistics.median(gpu.queued_rounds(call, times=10, rounds=5 if budget.quick else 15))
            yield f"{name} {mebibytes} MiB, TB/s", round(2 * a.numel() * 4 / seconds / 1e12, 3)


def _nvidia_smi(*fields: str) -> list[str]:
    query = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    # a line for each card, of which the first is measured
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0].split(", ")


def card() -> str:
    """The name of the GPU, or "CPU"."""
    return torch.cuda.get_device_name(gpu.DEVICE) if gpu.PRESENT else "CPU"
