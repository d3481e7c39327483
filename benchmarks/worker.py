"""A process that times and counts the calls of one checkout, so that two of them can take turns.

`python -m benchmarks.worker`, in the checkout's folder, says what it can time, then reads a request a line
("CLOCK NAME", or "counts OP,...") and answers each with a line of JSON.
"""

import json
import os
import subprocess
import sys
import tempfile
import timeit
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

_HERE = Path(__file__)
# a batch on which the host is the limit; two of a CPU; and those of a GPU
HOST_SHAPES = ((4, 3, 8, 8),)
CPU_SHAPES = ((16, 3, 32, 32), (64, 3, 64, 64))
DEVICE_SHAPES = ((4, 4, 64, 64), (64, 4, 64, 64), (64, 4, 256, 256))
# a turn on the host's clock: the least of so many rounds of so many calls
_ROUNDS, _CALLS, _WARMUP = 100, 8, 40
# a turn on a CPU: the least of so many calls
_CPU_CALLS = 5


class Worker:
    """The process, as seen from outside.

    Attributes
    ----------
    timed : dict of str to list of str
        By clock ("host", "plain": the plain formula in the op's place, "cpu" or "device"), what can be timed:
        "q_sample 4x3x8x8-float32".
    launches : dict of str to int
        By op, how many kernels a call launches.

    Raises
    ------
    RuntimeError
        If the process ends.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        known = self._answer()
        self.timed: dict[str, list[str]] = known["timed"]
        self.launches: dict[str, int] = known["launches"]

    def seconds(self, clock: str, name: str) -> float:
        """One turn of a call."""
        return float(self._ask(f"{clock} {name}"))

    def counts(self, ops: Collection[str]) -> dict[str, dict[str, float]]:
        """As `benchmarks.counts` has them."""
        return dict(self._ask(f"counts {','.join(ops)}"))

    def _ask(self, request: str) -> Any:
        assert self._process.stdin is not None
        print(request, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process that times the calls ended with status {self._process.wait()}")
        return json.loads(line)


def check_is_checkout(folder: Path) -> None:
    """Raises ValueError for a folder that has no `benchmarks/worker.py` beside the package."""
    for part in ("accelerated", "reference", f"benchmarks/{_HERE.name}"):
        if not (folder / part).exists():
            raise ValueError(f"{folder} is no checkout of the project that can be timed: it has no {part}")


@contextmanager
def worker(checkout: Path) -> Iterator[Worker]:
    """A process that has the `noisestep` and the benchmarks of a checkout."""
    with tempfile.TemporaryDirectory() as folder:
        # the package as it is installed: its two folders under one name
        package = Path(folder, "noisestep")
        package.mkdir()
        # a regular package comes before one that is installed
        (package / "__init__.py").touch()
        for name in ("reference", "accelerated"):
            (package / name).symlink_to(checkout.resolve() / name)
        with subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"],
            cwd=checkout,
            env=os.environ | {"PYTHONPATH": folder},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield Worker(process)
            finally:
                process.kill()


def _serve() -> None:
    import torch
    from noisestep.accelerated.backends import recording

    from . import gpu, stub_driver
    from .calls import EAGER, OURS, Call, cases, make, name_of
    from .counts import counts
    from .described import DESCRIPTIONS

    torch.set_num_threads(1)
    shapes = {"host": HOST_SHAPES, "plain": HOST_SHAPES}
    shapes |= {"device": DEVICE_SHAPES} if gpu.PRESENT else {"cpu": CPU_SHAPES}
    dtypes = {"device": ("bfloat16", "float32")}
    known = {
        clock: {
            f"{op} {name_of(op, case)}": (op, case)
            for op in DESCRIPTIONS
            for case in cases(op, shapes[clock], dtypes.get(clock, ("float32",)))
        }
        for clock in shapes
    }

    @lru_cache(maxsize=None if not gpu.PRESENT else 4)
    def call_of(clock: str, name: str) -> Call:
        return make(known[clock][name][0], EAGER if clock == "plain" else OURS, known[clock][name][1])

    def launches(op: str, name: str) -> int:
        call = call_of("host", name)
        with torch.set_grad_enabled(call.grad), recording() as found:
            call.run()
        return len(found)

    def seconds(clock: str, name: str) -> float:
        call = call_of(clock, name)
        # a call of our own launches its kernels
        on_stub = clock == "host" and not gpu.PRESENT
        with torch.set_grad_enabled(call.grad), stub_driver.installed() if on_stub else nullcontext():
            if clock == "device":
                return median(gpu.device_rounds(call.run, times=20, rounds=5))
            if clock == "cpu":
                call.run()
                return min(timeit.repeat(call.run, number=1, repeat=_CPU_CALLS))
            timeit.timeit(call.run, number=_WARMUP)
            return min(timeit.repeat(call.run, number=_CALLS, repeat=_ROUNDS)) / _CALLS

    first = {op: name for name, (op, _) in reversed(known["host"].items())}
    timed = {clock: list(names) for clock, names in known.items()}
    print(json.dumps({"timed": timed, "launches": {op: launches(op, first[op]) for op in DESCRIPTIONS}}), flush=True)
    for line in sys.stdin:
        clock, _, name = line.strip().partition(" ")
        print(json.dumps(counts(name.split(",")) if clock == "counts" else seconds(clock, name)), flush=True)


if __name__ == "__main__":
    _serve()
