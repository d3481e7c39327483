"""`python -m benchmarks.host_time`: what a call of each op costs the host, without a GPU.

Kernels are launched on a stub of libcuda (`stub_driver`), so everything of a launch is there but the driver's own two
microseconds. Ops and plain formulas take turns in one run, and so do two checkouts (`--against`); the least counts.
"""

from contextlib import ExitStack
from pathlib import Path

import click

from .worker import check_is_checkout, worker

ROOT = Path(__file__).resolve().parents[1]
# microseconds
TARGETS = {
    "noise": 8.0,
    "q_sample": 10.0,
    "reverse_step": 14.0,
    "advance": 5.0,
    "simple_loss": 28.0,
    "loss_and_gradient": 12.0,
}


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
    """Microseconds of the host for a call of each op on a small batch, beside the plain formula on CPU tensors.

    simple_loss is timed with its gradient, by autograd.
    """
    with ExitStack() as stack:
        workers = {"noisestep": stack.enter_context(worker(ROOT))}
        if against is not None:
            try:
                check_is_checkout(against)
            except ValueError as error:
                raise click.ClickException(str(error)) from error
            workers["against"] = stack.enter_context(worker(against))
        columns: dict[str, dict[str, float]] = {title: {} for title in (*workers, "plain")}
        launches = workers["noisestep"].launches
        names = list(launches) if only is None else only.split(",")
        if unknown := [name for name in names if name not in launches]:
            raise click.ClickException(f"no op {', '.join(map(repr, unknown))}; allowed: {', '.join(launches)}")
        asked = [(title, w, "host") for title, w in workers.items()] + [("plain", workers["noisestep"], "plain")]
        for _ in range(turns):
            for name in names:
                for title, w, clock in asked:
                    # another checkout may lack an op
                    for call in (call for call in w.timed[clock] if call.split()[0] == name):
                        found = w.seconds(clock, call) * 1e6
                        columns[title][name] = min(found, columns[title].get(name, found))
    click.echo(table(columns, launches))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.host_time")
