"""`noisestep evaluate --likelihood`: measure how many bits a pixel of the held-out images costs."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from noisestep.reference.likelihood import Dequantisation, likelihood_grid

from ..data import ImageSet
from ..evaluation.likelihood import measure
from ..evaluation.likelihood_results import summarise
from ..schedule import DeviceSchedule
from ..training.atomic import write_json
from ..training.config import SampleConfig
from ..training.data import Split
from ..training.progress import progress_bar
from ..training.trained import TrainedModel
from .likelihood_plot import likelihood_plot
from .pictures import save_png
from .run_folder import RunFolder


@dataclass(frozen=True)
class LikelihoodSettings:
    """The flags that begin with --likelihood-.

    Attributes
    ----------
    images : int or None
        At most so many of the held-out images are measured, at least 2; None: all.
    steps : int
        Intervals of the solver, 2..T − 1.
    dequantisation : {"truncated_normal", "uniform"}
    exact_trace : bool
        Whether the trace is exact, and not estimated with one probe.
    """

    images: int | None
    steps: int
    dequantisation: Dequantisation
    exact_trace: bool


def measure_likelihood(
    run: RunFolder,
    model: TrainedModel,
    split: Split,
    settings: SampleConfig,
    likelihood: LikelihoodSettings,
    say: Callable[[str], object],
) -> None:
    """Measure the likelihood of held-out images, and on rank 0 print the table and write results and picture.

    It is the likelihood of the model itself, with each image's own label: guidance and temperature do not enter.
    """
    world, held_out = model.world, split.held_out
    count = len(held_out) if likelihood.images is None else min(likelihood.images, len(held_out))
    say(f"measuring the likelihood of {count} of {len(held_out)} held-out images")
    images = held_out.subset(np.arange(count)) if isinstance(held_out, ImageSet) else held_out.load(count)
    # each process has as many images, since a sharded model has to run equally often in all
    own = -(-count // world.size)
    numbers = (world.rank * own + torch.arange(own)) % count
    labels = None if model.num_classes is None or images.labels is None else torch.from_numpy(images.labels)[numbers]
    schedule = DeviceSchedule(model.config.schedule.build(), model.device)
    grid = likelihood_grid(schedule.schedule, likelihood.steps).tolist()
    probes = 0 if likelihood.exact_trace else 1
    with progress_bar(count, "likelihood", shown=world.is_rank0) as bar:
        rows = measure(
            model.model,
            schedule,
            torch.from_numpy(images.images)[numbers],
            labels,
            numbers,
            grid,
            seed=settings.seed,
            prediction=model.config.prediction,
            clip=(-1.0, 1.0) if settings.clip_x0 else None,
            dequantisation=likelihood.dequantisation,
            probes=probes,
            batch_size=settings.batch_size,
            progress=lambda done: bar.update(min(done * world.size, count) - bar.n),
        )
    rows = world.gather(rows)
    if world.is_rank0:
        result = summarise(
            rows[:count].numpy(),
            held_out=len(held_out),
            grid=grid,
            dequantisation=likelihood.dequantisation,
            probes=probes,
            clip_x0=settings.clip_x0,
            seed=settings.seed,
        )
        write_json(run.likelihood, result.to_dict())
        save_png(likelihood_plot(result), run.likelihood_plot)
        say(result.table())
