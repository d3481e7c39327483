"""`python -m benchmarks.diffusers_schedulers`: the table of docs/integrations.md, diffusers' time over ours, on a CPU.

The two take turns in one process, and the least time of each counts. A ratio above 1 is a gain. It takes four minutes;
with `--save` a run that was interrupted goes on.
"""

import functools
import json
import time
from collections.abc import Callable
from pathlib import Path

import click
import diffusers
import torch
from noisestep.accelerated.integrations.diffusers import FusedDDIMScheduler, FusedDDPMScheduler
from torch import Tensor

from . import timing

SHAPES = [(1, 4, 64, 64), (128, 1, 8, 8), (16, 3, 32, 32), (64, 3, 64, 64)]
DTYPES = [torch.float32, torch.bfloat16]
STEPS = 50
# of the calls of one turn
TURN = 2e-3
Call = Callable[[], object]


def pairs(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, tuple[Call, Call]]:
    """By name, what diffusers' schedulers do and what ours do, on the same tensors."""
    draw = torch.Generator().manual_seed(0)
    x, output, eps = (torch.randn(shape, generator=draw).to(dtype) for _ in range(3))
    t = torch.randint(0, 1000, shape[:1], generator=draw)
    wide = torch.cat([output, eps.tanh()], dim=1)

    def noising(scheduler: diffusers.SchedulerMixin, name: str) -> Call:
        return lambda: getattr(scheduler, name)(x, eps, t)

    def stepping(scheduler: diffusers.SchedulerMixin, output: Tensor = output, **options: object) -> Call:
        scheduler.set_timesteps(STEPS)
        one = scheduler.timesteps[20]
        return lambda: scheduler.step(output, one, x, **options)

    def both(make: Callable[..., Call], kind: str, *arguments: object, **options: object) -> tuple[Call, Call]:
        config = options.pop("config", {})
        theirs, ours = {
            "ddpm": (diffusers.DDPMScheduler, FusedDDPMScheduler),
            "ddim": (diffusers.DDIMScheduler, FusedDDIMScheduler),
        }[kind]
        return make(theirs(**config), *arguments, **options), make(ours(**config), *arguments, **options)

    generator, thresholding = torch.Generator(), {"thresholding": True, "sample_max_value": 1.5}
    return {
        "`add_noise`": both(noising, "ddpm", "add_noise"),
        "`get_velocity`": both(noising, "ddpm", "get_velocity"),
        "DDPM `step`": both(stepping, "ddpm", generator=generator),
        "DDPM `step`, learned range": both(
            stepping, "ddpm", wide, config={"variance_type": "learned_range"}, generator=generator
        ),
        "DDPM `step`, learned": both(
            stepping, "ddpm", wide.abs(), config={"variance_type": "learned"}, generator=generator
        ),
        "DDPM `step`, thresholding": both(stepping, "ddpm", config=thresholding, generator=generator),
        "DDIM `step`, η = 0": both(stepping, "ddim"),
        "DDIM `step`, η = 1": both(stepping, "ddim", eta=1.0, generator=generator),
    }


def least(calls: tuple[Call, Call], seconds: float) -> list[float]:
    """The least seconds of each of two calls, which take turns for so many seconds, and at least three times."""
    repeats = []
    for call in calls:
        for _ in range(3):
            call()
        repeats.append(max(1, int(TURN / timed(call, 1))))
    found, turns, end = [float("inf")] * 2, 0, time.perf_counter() + seconds
    while turns < 3 or time.perf_counter() < end:
        for i, call in enumerate(calls):
            found[i] = min(found[i], timed(call, repeats[i]))
        turns += 1
    return found


def timed(call: Call, repeats: int) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


class Saved:
    """The cells that are measured, each written to a file at once, where there is one: a line of JSON each."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._cells: dict[str, list[float]] = {}
        if path is not None and path.exists():
            for line in path.read_text().splitlines():
                self._cells |= json.loads(line)

    def __call__(self, cell: str, measure: Callable[[], list[float]]) -> list[float]:
        """diffusers' seconds and ours: from the file, or measured now."""
        if cell not in self._cells:
            self._cells[cell] = measure()
            if self._path is not None:
                with self._path.open("a") as file:
                    file.write(json.dumps({cell: self._cells[cell]}) + "\n")
        return self._cells[cell]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--threads", multiple=True, type=click.IntRange(1), default=(1, 2), help="Of PyTorch; more than once.")
@click.option("--only", default="", metavar="TEXT", help="The rows that contain it.")
@click.option("--seconds", default=2.0, type=click.FloatRange(0), help="For each cell of the table.")
@click.option(
    "--save", type=click.Path(dir_okay=False, path_type=Path), help="Each cell is added to it, and not measured again."
)
def main(threads: tuple[int, ...], only: str, seconds: float, save: Path | None) -> None:
    """Print the ratios as a table in Markdown, and below it the cells that are slower than diffusers'."""
    columns = [(shape, count) for shape in SHAPES for count in threads]
    titles = [f"{shape}, {count}" for shape, count in columns]
    saved, slower = Saved(save), []
    click.echo(f"{timing.surroundings('cpu')}, threads {threads}", err=True)
    click.echo("| | " + " | ".join(titles) + " |\n| --- |" + " --- |" * len(titles))
    with torch.no_grad():
        for dtype in DTYPES:
            by_shape = {shape: pairs(shape, dtype) for shape in SHAPES}
            for name in [name for name in by_shape[SHAPES[0]] if only in name]:
                row = f"{name}, {str(dtype).removeprefix('torch.')}"
                cells = []
                for (shape, count), title in zip(columns, titles, strict=True):
                    torch.set_num_threads(count)
                    theirs, ours = saved(f"{row}, {title}", functools.partial(least, by_shape[shape][name], seconds))
                    cells.append(f"{theirs / ours:.2f}")
                    if ours > theirs:
                        slower.append(f"{row}, {title}: {ours * 1e6:.0f} µs against {theirs * 1e6:.0f}")
                click.echo(f"| {row} | " + " | ".join(cells) + " |")
    click.echo("\n".join(["", f"Slower than diffusers': {len(slower)}", *slower]))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.diffusers_schedulers")
