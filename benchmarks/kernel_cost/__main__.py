"""`python -m benchmarks.kernel_cost`: count what every kernel costs, and print or write the tables."""

import os
from pathlib import Path

import click

_TARGETS = ("80", "90", "100")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--target",
    "targets",
    multiple=True,
    type=click.Choice(_TARGETS),
    default=_TARGETS,
    help="Compute capability: 80 for A100, 90 for H100, 100 for B200. May be given more than once.",
)
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write all numbers there.")
@click.option(
    "--markdown",
    "markdown_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the tables there: between the marks of a page that has them, or as a new page.",
)
@click.option("--check", is_flag=True, help="Only count the kernels that have a budget; status 1 if one is exceeded.")
@click.option("--measure", is_flag=True, help="Also time the kernels on this machine's GPU.")
@click.option(
    "--utilisation",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.4,
    help="Share of the tensor cores' peak that a network reaches.",
)
@click.option("--launch-us", type=click.FloatRange(0), default=2.5, help="Microseconds of a launch besides its work.")
@click.option("--read-us", type=click.FloatRange(0), default=10.0, help="Microseconds lost when the host waits.")
def main(
    targets: tuple[str, ...],
    json_path: Path | None,
    markdown_path: Path | None,
    check: bool,
    measure: bool,
    utilisation: float,
    launch_us: float,
    read_us: float,
) -> None:
    """Count what every kernel costs, from its machine code; no GPU is needed.

    Compiles the kernels of noisestep.accelerated.ops and those that torch.compile generates for the same functions,
    counts their instructions, and works out what bounds them.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise click.ClickException("kernels cannot be compiled with TRITON_INTERPRET=1; unset it")
    for path in (json_path, markdown_path):
        if path is not None and not path.parent.is_dir():
            raise click.ClickException(f"{path}: there is no folder {path.parent}")
    if check and (measure or markdown_path):
        raise click.ClickException("--check counts too little for --measure or --markdown; give one or the other")
    # only now: kernels are made for the compiler or for the interpreter when the ops are first imported
    from . import page, results
    from .measure import capability, device_name
    from .step import Assumptions

    if markdown_path is not None:
        page.check_marks(markdown_path)
    capabilities = tuple(sorted(map(int, set(targets))))
    if measure:
        if device_name() is None:
            raise click.ClickException("--measure needs a CUDA device, and there is none")
        if capability() not in capabilities:
            raise click.ClickException(f"--measure needs a GPU of target {', '.join(targets)}, got {capability()}")
    if check:
        found = results.check()
        for limit in found.limits:
            click.echo(f"{'kept    ' if limit.kept else 'EXCEEDED'} {limit}")
    else:
        assumptions = Assumptions(utilisation, launch_us * 1e-6, read_us * 1e-6)
        found = results.everything(capabilities, assumptions, measuring=measure)
        click.echo("\n\n".join(page.sections(found).values()))
    if json_path is not None:
        found.write_json(json_path)
    if markdown_path is not None:
        page.write(markdown_path, found)
    if check and found.broken:
        raise click.ClickException(f"{len(found.broken)} of {len(found.limits)} limits are exceeded")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.kernel_cost")
