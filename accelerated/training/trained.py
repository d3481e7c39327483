"""A trained model: loaded from a checkpoint, and drawn from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from noisestep.reference.schedule import Schedule
from torch import Tensor

from ..errors import CheckpointError
from ..models import UNet
from ..samplers import SAMPLERS
from ..samplers.editing import Edit
from ..samplers.guidance import Guidance
from ..samplers.loop import Samples, sample
from . import checkpoint as checkpoints
from .checkpoint import Checkpoint
from .config import SampleConfig, TrainConfig
from .data import DataRecord
from .distributed import SINGLE_PROCESS, World
from .state import load_tensors


@dataclass(frozen=True)
class TrainedModel:
    """The EMA of a run's network, ready to draw samples from.

    Attributes
    ----------
    model : UNet
    config : TrainConfig
        That of the run, with the model.
    record : DataRecord
        The images that it was trained on.
    device : torch.device
        Where the model is.
    world : World
        The processes that draw together.
    """

    model: UNet
    config: TrainConfig
    record: DataRecord
    device: torch.device
    world: World = SINGLE_PROCESS

    @classmethod
    def load(
        cls,
        checkpoint_folder: Path,
        device: torch.device,
        world: World = SINGLE_PROCESS,
        *,
        config: TrainConfig | None = None,
        report: Callable[[str], object] = lambda message: None,
    ) -> Self:
        """The model of the newest undamaged checkpoint of a run with this configuration, or any.

        `report` is called with a line for each that is skipped.

        Raises
        ------
        CheckpointError
            There is none.
        """
        checkpoint = latest_checkpoint(checkpoint_folder, world, config=config, report=report)
        config = checkpoint.config
        if config.model is None:
            raise CheckpointError(f"the checkpoint of step {checkpoint.step} does not say what its model is")
        model = UNet(config.model).requires_grad_(False).eval()
        # weights that will be sharded may not fit on one device
        model = model if world.mesh is not None else model.to(device)
        world.shard(model)
        load_tensors(checkpoint, {f"ema.{name}": x for name, x in model.state_dict().items()}, world)
        return cls(model, config, checkpoint.data, device, world)

    @property
    def num_classes(self) -> int | None:
        """Number of classes that the model is conditioned on, or None."""
        assert self.config.model is not None
        return self.config.model.num_classes

    def chain(self, settings: SampleConfig) -> Schedule:
        """The steps that these samples take."""
        return self.config.schedule.build().respace(settings.steps, settings.grid)

    def labels(self, first: int, count: int, classes: Sequence[int] | None = None) -> Tensor | None:
        """Labels of samples first .. first + count − 1: that of sample k is `classes[k mod len(classes)]`.

        `classes` are all classes by default. None without classes.
        """
        if self.num_classes is None:
            return None
        cycle = torch.tensor(range(self.num_classes) if classes is None else classes)
        return cycle[torch.arange(first, first + count) % len(cycle)]

    def sample(
        self,
        settings: SampleConfig,
        *,
        first: int = 0,
        labels: Tensor | None = None,
        x_T: Tensor | None = None,
        edit: Edit | None = None,
        trajectory: int = 0,
        progress: Callable[[int], object] = lambda images: None,
    ) -> Samples:
        """Draw samples first .. first + settings.count − 1 of the seed; see `noisestep.accelerated.sample`.

        Each process draws the same number of samples, a contiguous range, and rank 0 gets all of them. The last range
        may go beyond the count; the excess is dropped, as a sharded model has to run in all processes equally often.
        """
        world, count = self.world, settings.count
        own = -(-count // world.size)
        start = world.rank * own
        rows = (start + torch.arange(own)) % count
        labels, x_T = (None if x is None else x[rows] for x in (labels, x_T))
        samples = sample(
            self.model,
            self.config.schedule.build(),
            count=own,
            shape=self.record.shape,
            seed=settings.seed,
            first=first + start,
            labels=labels,
            steps=settings.steps,
            grid=settings.grid,
            sampler=settings.sampler,
            prediction=self.config.prediction,
            clip=settings.clip_x0,
            guidance=Guidance(settings.guidance, settings.guidance_interval, settings.guidance_rescale),
            temperature=settings.temperature,
            null_label=self.num_classes,
            x_T=x_T,
            edit=None if edit is None else edit.take(rows),
            batch_size=settings.batch_size,
            trajectory=min(trajectory, own),
            device=self.device,
            progress=lambda done: progress(min(done * world.size, count)),
            **{name: getattr(settings, name) for name in SAMPLERS[settings.sampler].settings},
        )
        if world.size == 1:
            return samples
        shown = world.gather(samples.trajectory.transpose(0, 1)).transpose(0, 1)[:, :trajectory]
        all_labels = None if samples.labels is None else world.gather(samples.labels)[:count]
        return Samples(world.gather(samples.images)[:count], all_labels, shown)


def latest_checkpoint(
    folder: Path, world: World, *, config: TrainConfig | None = None, report: Callable[[str], object]
) -> Checkpoint:
    """The newest undamaged checkpoint; only rank 0 reads it and has its tensors. See `checkpoint.latest`.

    Raises
    ------
    CheckpointError
        There is none.
    """
    loaded: list[Checkpoint] = []

    def load() -> Checkpoint:
        loaded.append(checkpoints.latest(folder, config=config, report=report))
        return replace(loaded[0], tensors={})

    without_tensors = world.on_rank0(load)
    return loaded[0] if loaded else without_tensors
