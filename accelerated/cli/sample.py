"""`noisestep sample`: draw samples from a trained run, and write them as pictures and arrays."""

import io
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from ..errors import RunError
from ..samplers.loop import Samples
from ..training.atomic import write_atomically, write_json
from ..training.config import SampleConfig
from ..training.progress import progress_bar
from ..training.trained import TrainedModel
from .pictures import grid, save_gif, save_png, strip, to_uint8
from .run_folder import RunFolder, SampleFolder
from .runtime import Runtime

# samples in the grid, in the animation and in a strip
GRID, ANIMATED, STRIP = 100, 20, 8


def sample_run(
    run: RunFolder,
    settings: SampleConfig,
    runtime: Runtime,
    *,
    first: int = 0,
    labels: str | None = None,
    out: SampleFolder | None = None,
) -> SampleFolder:
    """Draw samples into a folder of their own.

    Parameters
    ----------
    run : RunFolder
    settings : SampleConfig
    runtime : Runtime
        Rank 0 writes the files.
    first : int
        Number of the first sample.
    labels : str, optional
        Names or numbers of classes, separated by commas, through which the samples cycle; all by default.
    out : SampleFolder, optional
        The next free one of the run by default.

    Returns
    -------
    SampleFolder
    """
    model = TrainedModel.load(run.checkpoints, runtime.device, runtime.world, report=runtime.say)
    classes = None if labels is None else _parse_labels(labels, model)
    with progress_bar(settings.count, "sampling", shown=runtime.world.is_rank0) as bar:
        samples = model.sample(
            settings,
            first=first,
            labels=model.labels(first, settings.count, classes),
            trajectory=min(ANIMATED, settings.count),
            progress=lambda done: bar.update(done - bar.n),
        )
    folder = out or run.next_generated()
    if runtime.world.is_rank0:
        folder.create()
        write_samples(folder, samples, columns=grid_columns(model.num_classes) if labels is None else None)
        for number, pixels in enumerate(to_uint8(samples.images), start=first):
            path = folder.image(number)
            path.parent.mkdir(exist_ok=True)
            save_png(grid(pixels[None], scale=1, padding=0), path)
        write_json(folder.settings, {"run": str(run), "first": first, "labels": labels, **asdict(settings)})
    return folder


def write_samples(folder: SampleFolder, samples: Samples, *, columns: int | None) -> None:
    """Write samples as a grid of `columns`, as arrays, and their trajectories as a strip and an animation."""
    pixels, trajectory = to_uint8(samples.images), to_uint8(samples.trajectory)
    save_png(grid(pixels[:GRID], columns=columns), folder.grid)
    save_png(strip(trajectory[:, :STRIP]), folder.reverse_strip)
    save_gif(trajectory, folder.animation, columns=columns)
    buffer = io.BytesIO()
    if samples.labels is None:
        np.savez_compressed(buffer, images=pixels)
    else:
        np.savez_compressed(buffer, images=pixels, labels=samples.labels.numpy())
    write_atomically(folder.arrays, buffer.getvalue())


def grid_columns(num_classes: int | None) -> int | None:
    """Columns of a grid: one for each class, if that gives a grid of sensible shape."""
    return num_classes if num_classes is not None and 4 <= num_classes <= 16 else None


def _parse_labels(text: str, model: TrainedModel) -> Sequence[int]:
    names = model.record.class_names
    if model.num_classes is None:
        raise RunError(f"--labels is {text!r}, but this run was trained without labels")
    classes = []
    for part in (part.strip() for part in text.split(",")):
        if part in names:
            classes.append(names.index(part))
        elif part.isdecimal() and int(part) < len(names):
            classes.append(int(part))
        else:
            raise RunError(
                f"--labels: no class {part!r}; there are {', '.join(names)}, or their numbers 0 to {len(names) - 1}"
            )
    return classes
