"""`python -m benchmarks.device_day`: measure on this machine's GPU, or write the page from what was measured."""

import subprocess
from datetime import date
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--quick", is_flag=True, help="Small sizes and few repetitions: about a minute on a GPU.")
@click.option("--only", metavar="PART,...", help="Run these parts alone.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), default=480.0, help="For all parts together.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/device_day"),
    help="Folder of the results, a JSON file named by the date.",
)
@click.option("--commit", help="Written into the results, where git cannot say it.")
@click.option("--page", is_flag=True, help="Measure nothing: write docs/gpu.md and its picture from results.")
@click.option(
    "--results",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The results that --page takes; by default the newest below benchmarks/results.",
)
def main(
    quick: bool, only: str | None, seconds: float, out: Path, commit: str | None, page: bool, results: Path | None
) -> None:
    """Check and time the ops on this machine's GPU beside eager PyTorch, torch.compile and diffusers."""
    if page:
        from . import page as pages

        results = pages.newest(RESULTS) if results is None else results
        click.echo(f"from {results}: {', '.join(map(str, pages.write(results)))}")
        return
    if results is not None:
        raise click.ClickException("--results is for --page")
    from . import day, machine
    from .parts import PARTS

    try:
        names = day.choose(PARTS, only)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{date.today().isoformat()}.json"
    facts = dict(card=machine.card(), date=date.today().isoformat(), commit=commit or _commit())
    found = day.run(PARTS, names, file, facts=facts, seconds=seconds, quick=quick, say=click.echo)
    failed = [name for name, record in found["parts"].items() if "failed" in record]
    click.echo(f"{file}; failed: {', '.join(failed) or 'none'}")
    if failed:
        raise SystemExit(1)


def _commit() -> str | None:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or None


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.device_day")
