"""`noisestep evaluate`: draw samples, measure them against held-out images, and write metrics, pictures and report."""

from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import torch

from ..address import FORWARD, NoiseAddress
from ..errors import RunError
from ..evaluation.evaluate import MIN_IMAGES, evaluate, in_memory
from ..evaluation.plan import Plan
from ..ops import q_sample
from ..samplers.editing import times
from ..samplers.loop import Samples
from ..schedule import DeviceSchedule
from ..training.atomic import write_json
from ..training.config import SampleConfig, TrainConfig
from ..training.data import Split
from ..training.progress import increments, progress_bar
from ..training.trained import TrainedModel
from .comparison import ComparisonSettings, compare_samplers, draw_sets
from .features import Choice, run_features
from .likelihood import LikelihoodSettings, measure_likelihood
from .pictures import pairs, save_png, strip, to_uint8
from .report import write_report
from .run_folder import RunFolder
from .runtime import Runtime
from .sample import STRIP, Layout, load_trained, write_samples


def evaluate_run(
    run: RunFolder,
    settings: SampleConfig,
    runtime: Runtime,
    *,
    features: str,
    likelihood: LikelihoodSettings | None = None,
    comparison: ComparisonSettings | None = None,
) -> None:
    """Evaluate new samples of a run, and write its metrics, pictures and report again.

    `features` is what --features takes. With `likelihood`, the likelihood of held-out images is measured first, and
    with `comparison` samplers are compared.
    """
    require_enough(settings)
    model = load_trained(run, runtime)
    split = load_split(model.config, runtime)
    model.record.require(split.record, model.config.data.source)
    choice = Choice.of(features, split, runtime.device)
    # before the samples: inference mode leaves buffers of a sharded model that no gradient passes through
    if likelihood is not None:
        measure_likelihood(run, model, split, settings, likelihood, runtime.say)
    if comparison is not None:
        compare_samplers(run, model, split, choice, comparison, runtime.say)
    evaluate_trained(run, model, split, choice, settings, runtime.say)


def require_enough(settings: SampleConfig) -> None:
    """Raise `RunError` if there would be too few samples to evaluate."""
    if settings.count < MIN_IMAGES:
        raise RunError(f"{settings.count} samples are too few for the evaluation, which needs at least {MIN_IMAGES}")


def load_split(config: TrainConfig, runtime: Runtime) -> Split:
    """The images that a configuration names, split, and checked to be the same in all processes."""
    runtime.say(f"reading images: {config.data.source}")
    split = Split.load(config.data, at_least=MIN_IMAGES)
    runtime.world.require_equal(f"the fingerprint of {config.data.source}", split.record.fingerprint)
    channels, height, width = split.record.shape
    classes = f"{len(split.record.class_names)} classes" if split.record.class_names else "no labels"
    runtime.say(
        f"{len(split.train)} images to train on and {len(split.held_out)} held out: "
        f"{height}×{width}, {channels} channel{'s' * (channels > 1)}, {classes}"
    )
    return split


def evaluate_trained(
    run: RunFolder,
    model: TrainedModel,
    split: Split,
    choice: Choice,
    settings: SampleConfig,
    say: Callable[[str], object],
) -> None:
    """Draw samples of each seed, and on rank 0 measure them, print the table and write pictures, metrics and report.

    Raises
    ------
    RunError
        The samples cannot be measured; their pictures and the report have been written nevertheless.
    """
    layout = Layout.of(model)
    plan = choice.plan(split, settings.count, settings.seeds)
    # of the first seed all are kept, of others no more than are compared
    others = settings.seeds - 1
    total = settings.count + others * plan.compared
    say(f"drawing {total} samples of {settings.seeds} seeds ({settings.sampler}, {settings.steps} steps)")
    try:
        with progress_bar(total, "sampling", shown=model.world.is_rank0) as bar:
            samples = model.sample(
                settings,
                labels=model.labels(0, settings.count),
                trajectory=min(2 * layout.columns, settings.count),
                progress=increments(bar.update),
            )
            following = replace(settings, seed=(settings.seed + 1) % 2**64)
            sets = draw_sets(model, following, seeds=others, count=plan.compared, progress=bar.update) if others else []
        if model.world.is_rank0:
            write_samples(run, samples, layout, times(model.chain(settings), None))
            write_json(run.settings, asdict(settings))
            _write_metrics(run, model, split, choice, plan, samples, sets, layout, say)
    finally:
        # samples that cannot be measured can still be looked at
        if model.world.is_rank0:
            write_report(run)


def _write_metrics(
    run: RunFolder,
    model: TrainedModel,
    split: Split,
    choice: Choice,
    plan: Plan,
    samples: Samples,
    sets: list[np.ndarray],
    layout: Layout,
    say: Callable[[str], object],
) -> None:
    train, held_out = in_memory(split.train, plan.loaded), in_memory(split.held_out, plan.real)
    _write_forward_strip(run, model.config, train.images[:STRIP])
    pixels = to_uint8(samples.images)
    labels = None if samples.labels is None else samples.labels.numpy()[: plan.compared]
    say(f"evaluating them: {plan.describe()}")
    features = run_features(run, choice, train, held_out, split, model.config, plan, model.device, say)
    real = (train.images, train.labels, held_out.images, held_out.labels)
    try:
        with progress_bar(plan.in_sets, "evaluating") as bar:
            evaluation = evaluate(
                [pixels[: plan.compared], *sets], labels, *real, features=features, plan=plan, progress=bar.update
            )
    except ValueError as error:
        raise RunError(f"the samples cannot be measured: {error}") from None
    write_json(run.metrics, evaluation.to_dict())
    shown = 2 * layout.columns
    nearest = train.images[list(evaluation.neighbour_index[:shown])]
    save_png(pairs(pixels[:shown], nearest, columns=max(1, layout.columns // 2)), run.neighbours)
    say(evaluation.table())


def _write_forward_strip(run: RunFolder, config: TrainConfig, images: np.ndarray, moments: int = 8) -> None:
    """A picture of real images becoming noise, x_0 on the left and x_T on the right."""
    tables = DeviceSchedule(config.schedule.build())
    x_0 = torch.from_numpy(images)
    address = NoiseAddress(config.seed, FORWARD, 0)
    moments_t = torch.linspace(0, tables.T, moments).round().long()
    # the same noise at every t, so that one can see each image fade into it
    frames = [q_sample(tables, x_0, t.expand(len(x_0)), address) for t in moments_t]
    save_png(strip(to_uint8(torch.stack(frames)), texts=[f"t = {t}" for t in moments_t]), run.forward_strip)
