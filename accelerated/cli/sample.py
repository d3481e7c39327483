"""`noisestep sample`: draw samples from a trained run, and write them as pictures and arrays."""

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from noisestep.reference.samplers.editing import x_T_between
from PIL import Image

from ..data import read_image
from ..errors import RunError
from ..samplers.editing import Edit, times
from ..samplers.loop import Samples
from ..training.atomic import write_atomically, write_json
from ..training.config import EditConfig, SampleConfig
from ..training.progress import progress_bar
from ..training.trained import TrainedModel
from .pictures import grid, save_gif, save_png, strip, to_uint8
from .run_folder import RunFolder, SampleFolder
from .runtime import Runtime

# samples in a strip
STRIP = 8
# the column of the report, in pixels; images of 84 and fewer stand side by side ten times
COLUMN, MOST = 840, 10


def sample_run(
    run: RunFolder,
    settings: SampleConfig,
    runtime: Runtime,
    *,
    first: int = 0,
    labels: str | None = None,
    edit: EditConfig | None = None,
    interpolate: tuple[int, int] | None = None,
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
    edit : EditConfig, optional
        The image to edit, where there is one.
    interpolate : (int, int), optional
        Numbers of two samples of the seed; the samples start on the arc between their x_T, both ends included.
    out : SampleFolder, optional
        The next free one of the run by default.

    Returns
    -------
    SampleFolder
    """
    model = load_trained(run, runtime)
    classes = None if labels is None else _parse_labels(labels, model)
    given = None if edit is None or edit.image is None else _read_edit(edit, model)
    x_T = None if interpolate is None else _starts_between(interpolate, settings, model)
    layout = Layout.of(model) if labels is None else Layout.of(model, by_class=False)
    with progress_bar(settings.count, "sampling", shown=runtime.world.is_rank0) as bar:
        samples = model.sample(
            settings,
            first=first,
            labels=model.labels(first, settings.count, classes),
            x_T=x_T,
            edit=given,
            trajectory=min(2 * layout.columns, settings.count),
            progress=lambda done: bar.update(done - bar.n),
        )

    def create() -> Path:
        if out is None:
            return run.create_generated().path
        out.create()
        return out.path

    folder = SampleFolder(runtime.world.on_rank0(create))
    if runtime.world.is_rank0:
        write_samples(folder, samples, layout, times(model.chain(settings), given))
        if given is not None:
            save_png(_edit_picture(given, samples), folder.edit)
        for number, pixels in enumerate(to_uint8(samples.images), start=first):
            path = folder.image(number)
            path.parent.mkdir(exist_ok=True)
            save_png(grid(pixels[None], scale=1, padding=0), path)
        facts = {"run": str(run), "first": first, "labels": labels, **asdict(settings)}
        if given is not None and edit is not None:
            facts["edit"] = asdict(edit)
        if interpolate is not None:
            facts["interpolate"] = list(interpolate)
        write_json(folder.settings, facts)
    return folder


def load_trained(run: RunFolder, runtime: Runtime) -> TrainedModel:
    """The model of a run's newest checkpoint that is whole and of this run."""
    return TrainedModel.load(
        run.checkpoints, runtime.device, runtime.world, config=run.read_config(), report=runtime.say
    )


@dataclass(frozen=True)
class Layout:
    """How many samples stand in a row of a grid, so that they fill the column of the report.

    Attributes
    ----------
    columns : int
        Where there are not too many classes, a whole number of columns for each: a column then has one class.
    texts : tuple of str
        The class of each column, if that is so and the names are short enough.
    """

    columns: int
    texts: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: TrainedModel, *, by_class: bool = True) -> Self:
        """The layout of samples whose labels are those of `TrainedModel.labels`, or others."""
        width, names = model.record.shape[2], model.record.class_names if model.num_classes and by_class else ()
        most = min(MOST, max(4, COLUMN // width))
        if 1 < len(names) <= most:
            columns = most // len(names) * len(names)
        elif most < len(names) <= 16 and width <= COLUMN // 16:
            columns = len(names)
        else:
            return cls(most)
        # a letter is about 1/66 of the page wide
        short = max(map(len, names)) * columns <= 66
        return cls(columns, names * (columns // len(names)) if short else ())

    @property
    def most(self) -> int:
        """Samples in a grid of whole rows: at most 100, and no more rows than columns."""
        return self.columns * min(self.columns, max(1, 100 // self.columns))

    def grid(self, images: np.ndarray) -> Image.Image:
        """The first images as a grid, uint8 (N, C, H, W)."""
        columns = min(self.columns, len(images))
        return grid(images[: self.most], columns=columns, above=self.texts[:columns])


def write_samples(folder: SampleFolder, samples: Samples, layout: Layout, times: Sequence[int]) -> None:
    """Write samples as a grid and as arrays, and their trajectories, at these times, as a strip and an animation."""
    pixels, trajectory = to_uint8(samples.images), to_uint8(samples.trajectory)
    save_png(layout.grid(pixels), folder.grid)
    save_png(strip(trajectory[:, :STRIP], texts=[f"t = {t}" for t in times]), folder.reverse_strip)
    save_gif(trajectory, folder.animation, columns=layout.columns)
    buffer = io.BytesIO()
    if samples.labels is None:
        np.savez_compressed(buffer, images=pixels)
    else:
        np.savez_compressed(buffer, images=pixels, labels=samples.labels.numpy())
    write_atomically(folder.arrays, buffer.getvalue())


def _read_edit(edit: EditConfig, model: TrainedModel) -> Edit:
    """The image and the mask of an edit from their files, which must have the size of the run's images."""
    assert edit.image is not None
    pixels = read_image(Path(edit.image), model.record.shape)
    mask = None
    if edit.mask is not None:
        mask = torch.tensor(read_image(Path(edit.mask), (1, *model.record.shape[1:]))[0] >= 128)
    images = torch.tensor(pixels, dtype=torch.float32) / 127.5 - 1
    return Edit(images, edit.strength, mask, edit.resample, edit.jump)


def _starts_between(numbers: tuple[int, int], settings: SampleConfig, model: TrainedModel) -> torch.Tensor:
    fractions = np.linspace(0, 1, settings.count)
    x_T = x_T_between(settings.seed, *numbers, fractions, model.record.shape)
    # rounded as the x_T of the two samples is
    return settings.temperature * torch.from_numpy(x_T).to(torch.float32)


def _edit_picture(edit: Edit, samples: Samples) -> Image.Image:
    """A row: the image, its mask or where the first chain starts, and the first samples."""
    second = samples.trajectory[0, 0] if edit.mask is None else (2.0 * edit.mask - 1).expand(edit.images.shape)
    row = torch.cat([edit.images[None], second[None], samples.images[:STRIP]])
    return grid(to_uint8(row), columns=len(row))


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
