"""The tests of Robert G. Brown's dieharder over random words in every order of the address."""

import shutil
import subprocess
import sys
from collections.abc import Sequence

from scipy import stats

from .feed import ORDERS

# those that dieharder calls good; of them 203 alone, sums of words at 33 lags, takes longer than the others together
TESTS = (0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 13, 15, 16, 17, 100, 101, 102, 200, 201, 202, 204, 205, 206, 207, 208, 209)
# the sizes of tuples that `dieharder -a` gives to tests which want one
_SIZES = {200: range(1, 13), 201: range(2, 6), 202: range(2, 6)}
_FIELDS = ("test_name", "ntuple", "pvalues", "assessment")


def report(tests: Sequence[int]) -> None:
    """Run tests by their numbers; print each p-value, then what they come to in each order.

    Raises
    ------
    RuntimeError
        dieharder is not installed, or gives no p-value for a test.
    """
    program = shutil.which("dieharder")
    if program is None:
        raise RuntimeError("dieharder is not installed (apt-get install dieharder)")
    command = [program, "-g", "200", "-c", ",", *(part for field in _FIELDS for part in ("-D", field))]
    feed = [sys.executable, "-m", "benchmarks.noise_quality", "words"]
    feeds = {order: subprocess.Popen([*feed, order], stdout=subprocess.PIPE) for order in ORDERS}
    found: dict[str, list[tuple[float, str]]] = {order: [] for order in ORDERS}
    for test in tests:
        for order, process in feeds.items():
            runs = [["-d", str(test), "-n", str(size)] for size in _SIZES.get(test, ())] or [["-d", str(test)]]
            results = []
            for run in runs:
                done = subprocess.run(
                    [*command, *run], stdin=process.stdout, stdout=subprocess.PIPE, text=True, check=True
                )
                rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
                results += [row for row in rows if len(row) == len(_FIELDS)]
            if len(results) < len(runs):
                raise RuntimeError(f"dieharder has no result for test {test} of {order}")
            for name, size, p, assessment in results:
                print(f"{order:12} {name:24} {size:>3}   p = {p}   {assessment}", flush=True)
                found[order].append((float(p), assessment))
    for process in feeds.values():
        assert process.stdout is not None
        process.stdout.close()
        process.wait()
    for order, values in found.items():
        numbers, words = zip(*values, strict=True)
        uniform = stats.kstest(numbers, "uniform").pvalue
        print(
            f"{order:12} {len(numbers)} p-values from {min(numbers):.5f} to {max(numbers):.5f}, "
            f"{words.count('WEAK')} weak, {words.count('FAILED')} failed; as uniform numbers p = {uniform:.3f}"
        )
