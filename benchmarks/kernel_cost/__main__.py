"""`python -m benchmarks.kernel_cost`: count what every kernel costs, and write it down."""

import os
from pathlib import Path

import click


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--check", is_flag=True, help="Only hold the kernels to their budgets; status 1 if one is exceeded.")
@click.option("--measure", is_flag=True, help="Only time the kernels, on this machine's GPU.")
@click.option(
    "--cache",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=".benchmarks/kernel_cost",
    help="What was counted before.",
)
def main(check: bool, measure: bool, folder: Path) -> None:
    """Count what every kernel costs, from its machine code; no GPU is needed.

    Compiles the kernels of noisestep.accelerated.ops and those that torch.compile generates for the same functions,
    counts their instructions, and works out what bounds them. Writes benchmarks/results/kernel_cost.json, and from it
    docs/kernel-cost.md and its picture. What has not changed since the last time is not compiled again.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise click.ClickException("kernels cannot be compiled with TRITON_INTERPRET=1; unset it")
    if check and measure:
        raise click.ClickException("give --check or --measure, not both")
    # only now: kernels are made for the compiler or for the interpreter when the ops are first imported
    import torch

    from . import measure as measuring
    from . import page, results
    from .cache import Cache
    from .devices import DEVICES

    cache = Cache(folder)
    if measure:
        known = [gpu.capability for gpu in DEVICES]
        if not torch.cuda.is_available():
            raise click.ClickException("nothing is measured: --measure needs a CUDA device, and there is none")
        if measuring.capability() not in known:
            raise click.ClickException(f"bounds are known for sm_{known}, got a GPU of sm_{measuring.capability()}")
        click.echo(f"On {torch.cuda.get_device_name()}, medians:")
        for time in measuring.measured(cache):
            click.echo(str(time))
        return
    if check:
        limits = results.check(cache)
        for limit in limits:
            click.echo(f"{'kept    ' if limit.kept else 'EXCEEDED'} {limit}")
    else:
        found, limits = results.everything(cache)
        results.write(found, results.FILE)
        page.write(found)
        click.echo(f"wrote {results.FILE}, {page.PAGE} and {page.PICTURE}")
        if found["versions"]["diffusers"] is None:
            click.echo(
                "Not counted: what diffusers launches, for it is not installed (pip install 'noisestep[diffusers]')."
            )
        click.echo("Not measured: times are bounds, from counts. On a GPU, --measure times the kernels.")
    click.echo(f"{cache.found} of {cache.found + cache.made} results were in {folder}")
    if broken := [limit for limit in limits if not limit.kept]:
        raise click.ClickException(f"{len(broken)} limits are exceeded, {broken[0]}")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.kernel_cost")
