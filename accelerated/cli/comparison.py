"""`noisestep evaluate --samplers`: pictures of the same x_T by several samplers, and quality against network calls."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..evaluation.comparison import SAMPLES, Cell, Comparison, DistanceToReal
from ..evaluation.evaluate import in_memory
from ..training.atomic import write_json
from ..training.config import SampleConfig
from ..training.data import Split
from ..training.progress import increments, progress_bar
from ..training.trained import TrainedModel
from .comparison_plot import comparison_plot
from .features import Choice, run_features
from .pictures import grid, save_png, to_uint8
from .run_folder import RunFolder

# x_T in the picture
COLUMNS = 8


@dataclass(frozen=True)
class ComparisonSettings:
    """What --samplers and --calls ask for.

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
    """Sets of `count` samples, uint8 (count, C, H, W), from the seeds settings.seed, settings.seed + 1, ... mod 2⁶⁴.

    `progress` is told the number of new samples after each batch. Rank 0 gets all samples.
    """
    sets = []
    for number in range(seeds):
        own, labels = replace(settings, seed=(settings.seed + number) % 2**64, count=count), model.labels(0, count)
        drawn = model.sample(own, labels=labels, progress=increments(progress))
        sets.append(to_uint8(drawn.images))
    return sets


def compare_samplers(
    run: RunFolder,
    model: TrainedModel,
    split: Split,
    choice: Choice,
    comparison: ComparisonSettings,
    say: Callable[[str], object],
) -> None:
    """Draw the same x_T by each sampler and number of calls; on rank 0 measure, print, write results and pictures."""
    world, seeds = model.world, comparison.seeds
    plan = choice.plan(split, SAMPLES, seeds)
    count = plan.compared
    total = len(comparison.cells) * seeds * count
    say(f"comparing samplers: {len(comparison.cells)} combinations, {count} samples of {seeds} seeds each")
    distance = None
    if world.is_rank0:
        train, held_out = in_memory(split.train, plan.loaded), in_memory(split.held_out, plan.real)
        features = run_features(run, choice, train, held_out, split, model.config, plan, model.device, say)
        distance = DistanceToReal(features, train.images[plan.learned :], held_out.images, count)
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
