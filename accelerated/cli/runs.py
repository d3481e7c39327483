"""A run and its folder: what training leaves behind, and what is made of it afterwards.

RUN/  config.json  run.json  log.csv  train.log  metrics.json  samples.npz  report.html
      samples.png  neighbours.png  loss.png  forward_strip.png  reverse_strip.png  denoising.gif
      checkpoints/  samples/  tensorboard/
"""

import dataclasses
import io
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ..address import FORWARD, NoiseAddress
from ..data import DataError, ImageSet, ImageStream, is_tar, load_images, stratified_split
from ..errors import CheckpointError, RunError
from ..evaluation.evaluate import PAIRWISE_LIMIT, evaluate
from ..evaluation.results import Evaluation
from ..models import UNet, UNetConfig
from ..ops import q_sample
from ..samplers.loop import Samples, sample
from ..schedule import DeviceSchedule
from ..training import checkpoint as checkpoints
from ..training.checkpoint import Checkpoint, DataRecord
from ..training.config import DataConfig, SampleConfig, TrainConfig
from ..training.distributed import ALONE, World
from . import figures

# neighbours in the evaluation's measures, which need k + 2 images of every kind
K = 5
GRID, WATCHED, STRIP = 100, 20, 8
# of a streamed part, what is read to judge by; as float64 it takes eight times as much
JUDGED_BYTES = 1 << 28


@dataclass(frozen=True)
class Split:
    """The images of a run: `train` to learn from, `held_out` to judge by, and the record of both together."""

    train: ImageSet | ImageStream
    held_out: ImageSet | ImageStream
    record: DataRecord

    @classmethod
    def load(cls, config: DataConfig) -> Self:
        """Read the images that a configuration names and part them.

        Raises
        ------
        DataError
            Data that cannot be used, or a part too small for the evaluation.
        """
        images: ImageSet | ImageStream
        if config.stream or is_tar(config.source):
            images = ImageStream.open(config.source, size=config.size, channels=config.channels, fit=config.fit)
        else:
            images = load_images(config.source, size=config.size, channels=config.channels, fit=config.fit)
        labels_or_n = len(images) if images.labels is None else images.labels
        parts = stratified_split(labels_or_n, fraction=config.held_out, seed=config.split_seed)
        for name, part in zip(("to train on", "held out"), parts, strict=True):
            if len(part) < K + 2:
                raise DataError(
                    f"{config.source}: {len(images)} images with a share of {config.held_out:g} held out leave "
                    f"{len(part)} {name}; the evaluation needs at least {K + 2}"
                )
        record = DataRecord(images.fingerprint, images.shape, images.class_names)
        return cls(images.subset(parts[0]), images.subset(parts[1]), record)


def in_memory(images: ImageSet | ImageStream) -> ImageSet:
    """The images to judge by; of a stream the first, which a split has shuffled, as many as the measures look at."""
    if isinstance(images, ImageSet):
        return images
    return images.load(min(PAIRWISE_LIMIT, max(K + 2, JUDGED_BYTES // prod(images.shape))))


def complete(config: TrainConfig, record: DataRecord) -> TrainConfig:
    """The configuration with a model for these images: the given one, checked, or `UNetConfig.for_image`.

    Raises
    ------
    RunError
        A given model, or guidance, that does not fit the images; too few samples to be measured.
    """
    require_enough(config.sample)
    channels, height, width = record.shape
    num_classes = len(record.class_names) if config.conditional and record.class_names else None
    if num_classes is None and config.sample.guidance != 1.0:
        raise RunError(f"guidance is {config.sample.guidance:g}, but the images have no labels: only 1 is possible")
    if config.model is None:
        model = UNetConfig.for_image(channels, height, width, num_classes)
        return dataclasses.replace(config, model=dataclasses.replace(model, dropout=config.dropout))
    if config.model.dropout not in (0, config.dropout):
        raise RunError(
            f"model: dropout is {config.model.dropout:g}, but that of training is {config.dropout:g}; "
            "leave it out of the model"
        )
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dropout=config.dropout))
    assert config.model is not None
    wanted = {"in_channels": channels, "out_channels": channels, "num_classes": num_classes}
    for name, value in wanted.items():
        if (given := getattr(config.model, name)) != value:
            raise RunError(f"model: {name} is {given}, but the images need {value}")
    if height % config.model.stride or width % config.model.stride:
        raise RunError(
            f"model: {len(config.model.channels)} levels need sides that {config.model.stride} divides; "
            f"the images are {height}×{width}"
        )
    return config


def require_enough(settings: SampleConfig) -> None:
    """Refuse, before anything is drawn, a number of samples that is too small to be measured."""
    if settings.count < K + 2:
        raise RunError(f"{settings.count} samples are too few for the evaluation, which needs at least {K + 2}")


@dataclass(frozen=True)
class Trained:
    """A trained network, ready to draw from: the average of its weights, and what it was trained with."""

    model: UNet
    config: TrainConfig
    record: DataRecord
    device: torch.device
    world: World = ALONE

    @classmethod
    def load(cls, run: Path, device: torch.device, world: World = ALONE, *, report: Callable[[str], object]) -> Self:
        """The network of a run's newest whole checkpoint.

        Raises
        ------
        CheckpointError
            No checkpoint that can be used.
        """
        checkpoint = latest(run, world, report=report)
        config = checkpoint.config
        if config.model is None:
            raise CheckpointError(f"the checkpoint of step {checkpoint.step} does not say what its model is")
        model = UNet(config.model).requires_grad_(False).eval()
        # weights that are to be shared may be too many for one device
        model = model if world.mesh is not None else model.to(device)
        world.shard(model)
        tensors = {f"ema.{name}": x for name, x in model.state_dict().items()}
        world.led(lambda: checkpoint.require(tensors))
        for name, x in tensors.items():
            world.fill(x, checkpoint.tensors.get(name))
        return cls(model, config, checkpoint.data, device, world)

    @property
    def columns(self) -> int | None:
        """Images in a row of a grid: a column for each class, while they fit."""
        return self.num_classes if self.num_classes is not None and 4 <= self.num_classes <= 16 else None

    @property
    def num_classes(self) -> int | None:
        """Number of classes that the network can be told, or None."""
        assert self.config.model is not None
        return self.config.model.num_classes

    def labels(self, first: int, count: int, wanted: Sequence[int] | None = None) -> Tensor | None:
        """Label of image k: `wanted[k mod len(wanted)]`, all classes in turn by default; a matter of k alone."""
        if self.num_classes is None:
            return None
        cycle = torch.tensor(range(self.num_classes) if wanted is None else wanted)
        return cycle[torch.arange(first, first + count) % len(cycle)]

    def sample(
        self,
        settings: SampleConfig,
        *,
        first: int = 0,
        labels: Tensor | None = None,
        trajectory: int = 0,
        progress: Callable[[int], object] = lambda images: None,
    ) -> Samples:
        """Images first .. first + settings.count − 1 of the seed; see `noisestep.accelerated.samplers.loop.sample`.

        Several processes draw equally many, one range of numbers after another, and the leader returns them all. (What
        the last one draws beyond the count is thrown away: a network that is shared runs in all of them, or in none.)
        """
        world, count = self.world, settings.count
        own = -(-count // world.size)
        skipped = world.rank * own
        if labels is not None:
            labels = labels[(skipped + torch.arange(own)) % count]
        samples = sample(
            self.model,
            self.config.schedule.build(),
            count=own,
            shape=self.record.shape,
            seed=settings.seed,
            first=first + skipped,
            labels=labels,
            steps=settings.steps,
            sampler=settings.sampler,
            eta=settings.eta,
            variance=settings.variance,
            prediction=self.config.prediction,
            clip=settings.clip,
            guidance=settings.guidance,
            temperature=settings.temperature,
            null_label=self.num_classes,
            batch_size=settings.batch_size,
            trajectory=min(trajectory, own),
            device=self.device,
            progress=lambda done: progress(min(done * world.size, count)),
        )
        if world.size == 1:
            return samples
        watched = world.gather(samples.trajectory.transpose(0, 1)).transpose(0, 1)[:, :trajectory]
        wanted = None if samples.labels is None else world.gather(samples.labels)[:count]
        return Samples(world.gather(samples.images)[:count], wanted, watched)


def latest(run: Path, world: World, *, report: Callable[[str], object]) -> Checkpoint:
    """A run's newest whole checkpoint; of several processes, the leader reads it and has the tensors.

    Raises
    ------
    CheckpointError
        No checkpoint that can be used.
    """
    found: list[Checkpoint] = []

    def read() -> Checkpoint:
        found.append(checkpoints.latest(run / "checkpoints", report=report))
        return dataclasses.replace(found[0], tensors={})

    told = world.led(read)
    return found[0] if found else told


def judge(
    run: Path,
    trained: Trained,
    split: Split,
    settings: SampleConfig,
    *,
    progress: Callable[[int], object] = lambda images: None,
) -> Evaluation | None:
    """Draw samples, measure them against the held-out images, and write every picture of them and `metrics.json`.

    Parameters
    ----------
    run : Path
        The run folder.
    trained : Trained
    split : Split
        The images of the run; a fingerprint other than the run's is refused.
    settings : SampleConfig
        How to draw, and how many.
    progress : function of int
        Told how many samples are drawn.

    Returns
    -------
    Evaluation or None
        None to a process that is not the leader, who alone has all the samples.

    Raises
    ------
    RunError
        Other images than the run was trained on, or images that cannot be measured.
    """
    trained.record.require(split.record, split.train.source)
    watched = min(WATCHED, settings.count)
    samples = trained.sample(settings, labels=trained.labels(0, settings.count), trajectory=watched, progress=progress)
    if not trained.world.leader:
        return None
    pixels = figures.to_uint8(samples.images)
    labels = None if samples.labels is None else samples.labels.numpy()
    write_samples(run, pixels, labels, figures.to_uint8(samples.trajectory), columns=trained.columns)
    train, held_out = in_memory(split.train), in_memory(split.held_out)
    write_forward_strip(run, trained, train.images[:STRIP])
    write_json(run / "sampling.json", dataclasses.asdict(settings))
    try:
        evaluation = evaluate(
            pixels / 255,
            labels,
            train.images / 255,
            train.labels,
            held_out.images / 255,
            held_out.labels,
            k=K,
        )
    except ValueError as error:
        raise RunError(f"the samples cannot be measured: {error}") from None
    write_json(run / "metrics.json", evaluation.to_dict())
    nearest = train.images[list(evaluation.neighbour_index[:watched])]
    figures.save_png(figures.pairs(pixels[:watched], nearest), run / "neighbours.png")
    return evaluation


def write_samples(
    folder: Path, pixels: np.ndarray, labels: np.ndarray | None, trajectory: np.ndarray, *, columns: int | None
) -> None:
    """Samples as a grid, an array file, a strip and an animation.

    Parameters
    ----------
    folder : Path
        Where `samples.png`, `samples.npz`, `reverse_strip.png` and `denoising.gif` go.
    pixels : ndarray
        uint8 (N, C, H, W); the grid shows the first 100.
    labels : ndarray or None
        int64 (N,).
    trajectory : ndarray
        uint8 (S + 1, k, C, H, W), from x_T to x_0; the strip shows the first 8.
    columns : int or None
        Images a row.
    """
    figures.save_png(figures.grid(pixels[:GRID], columns=columns), folder / "samples.png")
    figures.save_png(figures.strip(trajectory[:, :STRIP]), folder / "reverse_strip.png")
    figures.save_gif(trajectory, folder / "denoising.gif", columns=columns)
    buffer = io.BytesIO()
    if labels is None:
        np.savez_compressed(buffer, images=pixels)
    else:
        np.savez_compressed(buffer, images=pixels, labels=labels)
    figures.write_atomically(folder / "samples.npz", buffer.getvalue())


def write_pngs(folder: Path, pixels: np.ndarray, first: int) -> None:
    """One PNG an image, as many pixels as it has, named by its number: `000000.png`, ..."""
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(pixels, start=first):
        figures.save_png(figures.grid(image[None], scale=1, padding=0), folder / f"{number:06d}.png")


def write_forward_strip(run: Path, trained: Trained, images: np.ndarray, moments: int = 10) -> None:
    """`forward_strip.png`: real images on their way to noise, x_0 on the left, x_T on the right."""
    tables = DeviceSchedule(trained.config.schedule.build())
    x_0 = torch.from_numpy(images)
    address = NoiseAddress(trained.config.seed, FORWARD, 0)
    times = torch.linspace(0, tables.T, moments).round().long()
    # the same noise at every t, so that each image is seen to fade into it
    frames = [q_sample(tables, x_0, t.expand(len(x_0)), address) for t in times]
    figures.save_png(figures.strip(figures.to_uint8(torch.stack(frames))), run / "forward_strip.png")


def write_json(path: Path, content: object) -> None:
    """JSON in one piece, for people to read, too."""
    figures.write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def facts(trained: Trained, command: str) -> dict[str, Any]:
    """What `run.json` says about a run: the command, the network's size, the machine and the versions."""
    device, world = trained.device, trained.world
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "command": command,
        "parameters": f"{sum(x.numel() for x in trained.model.parameters()):,}",
        "device": f"{device} ({name})" + (f", {world.size} processes" if world.size > 1 else ""),
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("noisestep", "torch", "numpy", "scikit-learn")},
        },
    }
