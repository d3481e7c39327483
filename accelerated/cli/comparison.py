"""`noisestep evaluate --samplers`: pictures of the same x_T by several samplers, and quality against network calls."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from ..evaluation.comparison import SAMPLES, Cell, Comparison, DistanceToReal
from ..evaluation.evaluate import in_memory
from ..evaluation.plan import Plan
from ..training.atomic import write_json
from ..training.config import SampleConfig
from ..training.data import Split
from ..training.progress import progress_bar
from ..training.trained import TrainedModel
from .comparison_plot import comparison_plot
from .pictures import grid, save_png, to_uint8
from .run_folder import RunFolder

# x_T in the picture
COLUMNS = 8


@dataclass(frozen=True)
class ComparisonSettings:
    """What --samplers, --calls and --seeds ask for.

    Attributes
    ----------
    cells : dict of SampleConfig
        By sampler and calls; see `noisestep.accelerated.training.config.with_sampler`.
    seeds : int
        Sets of samples of a cell, at least 2; their seeds count from that of the cell.
    """

    cells: dict[tuple[str, int], SampleConfig]
    seeds: int


def draw_sets(
    model: TrainedModel,
    settings: SampleConfig,
    *,
    seeds: int,
    count: int,
    progress: Callable[[int], object] = lambda images: None,
) -> list[np.ndarray]:
    """Sets of `count` samples, uint8 (count, C, H, W), from the seeds settings.seed, settings.seed + 1, ...

    `progress` is told the number of new samples after each set. Rank 0 gets all samples.
    """
    sets = []
    for seed in range(settings.seed, settings.seed + seeds):
        drawn = model.sample(replace(settings, seed=seed, count=count), labels=model.labels(0, count))
        sets.append(to_uint8(drawn.images))
        progress(count)
    return sets


def distance_to_real(split: Split, count: int) -> DistanceToReal:
    """The distance of sets of so many samples to the held-out images, as far as an evaluation takes them."""
    plan = Plan(count, len(split.train), len(split.held_out), prod(split.record.shape), classes=0)
    train, held_out = in_memory(split.train, plan.loaded), in_memory(split.held_out, plan.real)
    return DistanceToReal(train.images, held_out.images, count)


def compare_samplers(
    run: RunFolder, model: TrainedModel, split: Split, comparison: ComparisonSettings, say: Callable[[str], object]
) -> None:
    """Draw the same x_T by each sampler and number of calls; on rank 0 measure, print, write results and pictures."""
    world, seeds = model.world, comparison.seeds
    count = min(SAMPLES, len(split.train))
    total = len(comparison.cells) * seeds * count
    say(f"comparing samplers: {len(comparison.cells)} combinations, {count} samples of {seeds} seeds each")
    distance = None
    if world.is_rank0:
        distance = distance_to_real(split, count)
    cells, rows = [], []
    with progress_bar(total, "comparing", shown=world.is_rank0) as bar:
        for (sampler, calls), settings in comparison.cells.items():
            sets = draw_sets(model, settings, seeds=seeds, count=count, progress=bar.update)
            if distance is not None:
                distances = tuple(distance(images) for images in sets)
                cells.append(Cell(sampler, settings.grid, calls, distances))
                rows.append(sets[0][:COLUMNS])
    if distance is None:
        return
    first = next(iter(comparison.cells.values()))
    numbers = tuple(range(first.seed, first.seed + seeds))
    result = Comparison(distance.features, distance.real, count, numbers, tuple(cells))
    write_json(run.comparison, result.to_dict())
    save_png(comparison_plot(result, first.grid), run.comparison_plot)
    texts = [f"{cell.sampler}\n{cell.calls} calls" for cell in cells]
    save_png(grid(np.concatenate(rows), columns=len(rows[0]), beside=texts), run.comparison_samples)
    say(result.table())
