"""`python -m benchmarks.host_time`: what a call of each op costs the host, without a GPU.

Kernels are launched on a stub of libcuda (`stub_driver`), so everything of a launch is there but the driver's own two
microseconds. Ops and plain formulas take turns in one run, and so do two checkouts (`--against`); the least counts.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
# microseconds
TARGETS = {
    "noise": 8.0,
    "q_sample": 10.0,
    "reverse_step": 14.0,
    "advance": 5.0,
    "simple_loss and backward": 28.0,
    "loss_and_gradient": 12.0,
}


class Worker:
    """A process that times the calls of one checkout.

    Parameters
    ----------
    process : subprocess.Popen
        Of `host_calls`.

    Attributes
    ----------
    launches : dict of str to int
        By op, how many kernels a call launches; an op that the checkout does not have is not in it.
    plain : list of str
        The ops that have a plain formula.

    Raises
    ------
    RuntimeError
        If the process ends at once.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        known = json.loads(self._answer())
        self.launches: dict[str, int] = known["launches"]
        self.plain: list[str] = known["plain"]

    def microseconds(self, which: str, name: str) -> float:
        """One turn of a call; `which` is "ours" or "plain"."""
        assert self._process.stdin is not None
        print(which, name, file=self._process.stdin, flush=True)
        return float(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process that times the calls ended with status {self._process.wait()}")
        return line


@contextmanager
def worker(checkout: Path) -> Iterator[Worker]:
    """A process that has the `noisestep` of a checkout."""
    with tempfile.TemporaryDirectory() as folder:
        # the package as it is installed: its two folders under one name
        package = Path(folder, "noisestep")
        package.mkdir()
        for name in ("reference", "accelerated"):
            (package / name).symlink_to(checkout.resolve() / name)
        with subprocess.Popen(
            [sys.executable, "-m", "benchmarks.host_calls"],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": folder},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield Worker(process)
            finally:
                process.kill()


def table(columns: dict[str, dict[str, float]], launches: dict[str, int]) -> str:
    """Microseconds of each op in each column, the launches of a call, and the target where there is one."""
    names = dict.fromkeys(name for column in columns.values() for name in column)
    width = max(map(len, names))
    lines = [" ".join([" " * width, *(f"{title:>12}" for title in (*columns, "target", "launches"))])]
    for name in names:
        cells = [f"{column[name]:.1f}" if name in column else "–" for column in columns.values()]
        cells += [f"{TARGETS[name]:g}" if name in TARGETS else "–", str(launches.get(name, "–"))]
        lines.append(" ".join([f"{name:{width}}", *(f"{cell:>12}" for cell in cells)]))
    return "\n".join(lines)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--against",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Another checkout of the project, timed in turn with this one.",
)
@click.option("--turns", type=click.IntRange(1), default=15, help="Of each call.")
@click.option("--only", metavar="OP,...", help="Time these ops alone.")
def main(against: Path | None, turns: int, only: str | None) -> None:
    """Microseconds of the host for a call of each op on a small batch, beside the plain formula on CPU tensors."""
    if against is not None and not (against / "accelerated").is_dir():
        raise click.ClickException(f"{against} is no checkout of the project: it has no folder accelerated")
    with ExitStack() as stack:
        workers = {"noisestep": stack.enter_context(worker(ROOT))}
        if against is not None:
            workers["against"] = stack.enter_context(worker(against))
        launches = workers["noisestep"].launches
        names = list(launches) if only is None else only.split(",")
        if unknown := [name for name in names if name not in launches]:
            raise click.ClickException(f"no op {', '.join(map(repr, unknown))}; allowed: {', '.join(launches)}")
        columns: dict[str, dict[str, float]] = {title: {} for title in (*workers, "plain")}
        for _ in range(turns):
            for name in names:
                asked = [(title, w, "ours") for title, w in workers.items() if name in w.launches]
                if name in workers["noisestep"].plain:
                    asked.append(("plain", workers["noisestep"], "plain"))
                for title, w, which in asked:
                    found = w.microseconds(which, name)
                    columns[title][name] = min(found, columns[title].get(name, found))
    click.echo(table(columns, launches))
    for title, w in workers.items():
        for name in [name for name in TARGETS if name not in w.launches]:
            click.echo(f"{title} has no {name}")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.host_time")
