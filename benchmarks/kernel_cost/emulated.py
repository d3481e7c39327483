"""Executed instructions where the machine code alone does not say: counted while PTX runs in the tests' emulator."""

import importlib
import sys
from collections import Counter
from pathlib import Path

from .specialise import Launch

_TESTS = Path(__file__).resolve().parents[2] / "tests"


def executed_ptx(launch: Launch, capability: int, threads: int) -> tuple[float | None, str]:
    """PTX instructions that a thread executes on average, and how that is known.

    A PTX instruction is not a machine instruction; the number says which share of the code runs, not what it costs.

    Parameters
    ----------
    launch : Launch
        Its tensors are read and written.
    capability : int
    threads : int
        Of the launch.
    """
    if str(_TESTS) not in sys.path:
        sys.path.append(str(_TESTS))
    try:
        emulator = importlib.import_module("emulation.driver")
    except ImportError:
        return None, "branches or calls, and tests/emulation is not there to run them"
    counts: Counter[tuple[str, str]] = Counter()
    with emulator.on(f"sm_{capability}", counts=counts):
        launch.kernel[launch.grid](**launch.arguments, **launch.options)
    warps = sum(count for (unit, _), count in counts.items() if unit == "warp")
    return warps * 32 / threads, "PTX, in the emulator"
