"""`python -m benchmarks.diffusers_schedulers`: the table of docs/integrations.md, diffusers' time over ours, on a CPU.

The two take turns in one process, and the least time of each counts. A ratio above 1 is a gain.
"""

import time
from collections.abc import Callable

import click
import diffusers
import torch
from noisestep.accelerated.integrations.diffusers import FusedDDIMScheduler, FusedDDPMScheduler
from torch import Tensor

SHAPES = [(1, 4, 64, 64), (128, 1, 8, 8), (16, 3, 32, 32), (64, 3, 64, 64)]
DTYPES = [torch.float32, torch.bfloat16]
STEPS = 50
# a turn is so many seconds of calls, and each has so many turns
TURN, TURNS = 2e-3, 60
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

    generator = torch.Generator()
    return {
        "`add_noise`": both(noising, "ddpm", "add_noise"),
        "`get_velocity`": both(noising, "ddpm", "get_velocity"),
        "DDPM `step`": both(stepping, "ddpm", generator=generator),
        "DDPM `step`, learned range": both(
            stepping, "ddpm", wide, config={"variance_type": "learned_range"}, generator=generator
        ),
        "DDPM `step`, thresholding": both(stepping, "ddpm", config={"thresholding": True}, generator=generator),
        "DDIM `step`, η = 0": both(stepping, "ddim"),
        "DDIM `step`, η = 1": both(stepping, "ddim", eta=1.0, generator=generator),
    }


def least(calls: tuple[Call, Call]) -> list[float]:
    """The least seconds of each of two calls, which take turns."""
    found, repeats = [float("inf")] * 2, [0, 0]
    for i, call in enumerate(calls):
        for _ in range(3):
            call()
        repeats[i] = max(1, int(TURN / seconds(call, 1)))
    for _ in range(TURNS):
        for i, call in enumerate(calls):
            found[i] = min(found[i], seconds(call, repeats[i]))
    return found


def seconds(call: Call, repeats: int) -> float:
    """Of one call."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--threads", multiple=True, type=click.IntRange(1), default=(1, 2), help="Of PyTorch; more than once.")
@click.option("--only", default="", metavar="TEXT", help="The rows that contain it.")
def main(threads: tuple[int, ...], only: str) -> None:
    """Print the ratios as a table in Markdown, and below it the rows that are slower than diffusers'."""
    columns = [(shape, count) for shape in SHAPES for count in threads]
    titles = [f"{shape}".replace(" ", "") + f", {count}" for shape, count in columns]
    lines = ["| | " + " | ".join(titles) + " |", "| --- |" + " --- |" * len(titles)]
    slower = []
    with torch.no_grad():
        for dtype in DTYPES:
            type_name = str(dtype).removeprefix("torch.")
            by_shape = {shape: pairs(shape, dtype) for shape in SHAPES}
            for name in [name for name in by_shape[SHAPES[0]] if only in name]:
                cells = []
                for (shape, count), title in zip(columns, titles, strict=True):
                    torch.set_num_threads(count)
                    theirs, ours = least(by_shape[shape][name])
                    cells.append(f"{theirs / ours:.1f}")
                    if ours > theirs:
                        slower.append(f"{name}, {type_name}, {title}: {ours * 1e6:.0f} µs against {theirs * 1e6:.0f}")
                lines.append(f"| {name}, {type_name} | " + " | ".join(cells) + " |")
                click.echo(lines[-1], err=True)
    click.echo("\n".join(lines))
    click.echo("\n".join(slower))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.diffusers_schedulers")
