"""What each command does, from the data to the report: a run from its beginning to its end."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..data import is_tar
from ..errors import RunError
from ..training import config as configuration
from ..training.checkpoint import Checkpoint
from ..training.config import SampleConfig, TrainConfig
from ..training.distributed import ALONE, World, listening, torchrun
from ..training.log import Log, progress_bar
from ..training.loop import train
from ..training.state import State
from . import figures
from .report import write_report
from .runs import (
    WATCHED,
    Split,
    Trained,
    complete,
    facts,
    judge,
    latest,
    require_enough,
    write_json,
    write_pngs,
    write_samples,
)

Say = Callable[[str], object]


def find_device(name: str) -> torch.device:
    """The device of a name, "auto" being a GPU where there is one; of several processes, each has its own GPU.

    Raises
    ------
    RunError
        No such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if re.fullmatch(r"cpu|cuda(:\d+)?", name) is None:
        raise RunError(f"--device is {name!r}; allowed: auto, cpu, cuda, cuda:N")
    device = torch.device(name)
    _, size, place = torchrun()
    if device.type == "cuda" and size > 1:
        if device.index is not None:
            raise RunError(f"--device is {name!r}, one GPU for {size} processes; allowed: auto, cpu, cuda")
        name = f"cuda:{place}"
        device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RunError(f"--device is {name!r}, but this machine has {torch.cuda.device_count()} GPUs for torch")
    return device


def begin(
    config: TrainConfig, out: Path | None, *, device: torch.device, world: World = ALONE, command: str, say: Say
) -> Path:
    """A new run: read the images, train, judge, report.

    Parameters
    ----------
    config : TrainConfig
        With or without a model.
    out : Path or None
        The run folder; `runs/DATA-NNN` by default.
    device : torch.device
    world : World
        The processes that make this run together; the leader's disk has the run folder.
    command : str
        The command line, for the report.
    say : function of str
        Told what happens.

    Returns
    -------
    Path
        The run folder.
    """
    world.pieces(config.batch_size, config.micro_batch)
    if config.data.source != "digits":
        # evaluating the run from another folder has to find them
        source = str(Path(config.data.source).resolve())
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, source=source))
    split = _load(config, world, say)
    config = complete(config, split.record)

    def make() -> Path:
        folder = out if out is not None else _numbered(Path("runs"), _stem(config.data.source))
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    run = world.led(make)
    say(f"the run folder is {run}")
    return _run(config, split, run, None, device=device, world=world, command=command, say=say)


def resume(run: Path, changes: dict[str, Any], *, device: torch.device, world: World = ALONE, say: Say) -> Path:
    """Go on with a run from its newest whole checkpoint, with a few settings changed.

    Raises
    ------
    RunError
        No checkpoint that can be used, other images, or fewer steps than have been made.
    """
    found = latest(run, world, report=say)
    merged = configuration.merge(dataclasses.asdict(found.config), changes)
    config = configuration.from_dict(merged)
    world.pieces(config.batch_size, config.micro_batch)
    if config.steps < found.step:
        raise RunError(f"--steps is {config.steps}, but {run} has made {found.step} steps already")
    split = _load(config, world, say)
    found = dataclasses.replace(found, config=config)
    found.data.require(split.record, config.data.source)
    say(f"going on after step {found.step} of {config.steps}")
    command = f"{world.program} train --resume {run}"
    return _run(config, split, run, found, device=device, world=world, command=command, say=say)


def evaluate(run: Path, settings: SampleConfig, *, device: torch.device, world: World = ALONE, say: Say) -> None:
    """Judge a run's samples, and write metrics, pictures and report anew."""
    require_enough(settings)
    trained = Trained.load(run, device, world, report=say)
    split = _load(trained.config, world, say)
    trained.record.require(split.record, trained.config.data.source)
    _judge(run, trained, split, settings, say)


def generate(
    run: Path,
    settings: SampleConfig,
    *,
    first: int,
    labels: str | None,
    out: Path | None,
    device: torch.device,
    world: World = ALONE,
    say: Say,
) -> Path:
    """Draw new images into a folder of their own.

    Parameters
    ----------
    run : Path
    settings : SampleConfig
    first : int
        Number of the first image.
    labels : str or None
        Classes by name or number, between commas; all of them in turn by default.
    out : Path or None
        The folder; `RUN/generated/NNN` by default.
    device : torch.device
    world : World
        The processes that draw together; the leader writes.
    say : function of str

    Returns
    -------
    Path
        The folder, with `images/`, `samples.png`, `samples.npz`, `reverse_strip.png`, `denoising.gif` and
        `sampling.json`.
    """
    trained = Trained.load(run, device, world, report=say)
    wanted = None if labels is None else _classes(trained, labels)
    with progress_bar(settings.count, "sampling", shown=world.leader) as bar:
        samples = trained.sample(
            settings,
            first=first,
            labels=trained.labels(first, settings.count, wanted),
            trajectory=min(WATCHED, settings.count),
            progress=lambda done: bar.update(done - bar.n),
        )
    folder = out if out is not None else _numbered(run / "generated", "")
    if not world.leader:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    pixels = figures.to_uint8(samples.images)
    given = None if samples.labels is None else samples.labels.numpy()
    columns = None if labels is not None else trained.columns
    write_samples(folder, pixels, given, figures.to_uint8(samples.trajectory), columns=columns)
    write_pngs(folder / "images", pixels, first)
    write_json(
        folder / "sampling.json",
        {"run": str(run), "first": first, "labels": labels, **dataclasses.asdict(settings)},
    )
    return folder


def _run(
    config: TrainConfig,
    split: Split,
    run: Path,
    checkpoint: Checkpoint | None,
    *,
    device: torch.device,
    world: World,
    command: str,
    say: Say,
) -> Path:
    if world.leader:
        figures.write_atomically(run / "config.json", configuration.to_json(config).encode())

    def draw(state: State, log: Log) -> None:
        trained = Trained(state.average, config, split.record, device, world)
        settings = dataclasses.replace(config.sample, count=WATCHED)
        samples = trained.sample(settings, labels=trained.labels(0, WATCHED))
        if not world.leader:
            return
        pixels = figures.to_uint8(samples.images)
        (run / "samples").mkdir(exist_ok=True)
        path = run / "samples" / f"step_{state.step:06d}.png"
        figures.save_png(figures.grid(pixels, columns=trained.columns), path)
        log.say(f"step {state.step}: samples in {path}")

    with listening(world.rank, f"go on from the last checkpoint with: {world.program} train --resume {run}"):
        state = train(
            config, split.train, split.record, run, device=device, world=world, checkpoint=checkpoint, draw=draw
        )
    trained = Trained(state.average, config, split.record, device, world)
    if world.leader:
        write_json(run / "run.json", facts(trained, command))
        figures.save_png(figures.loss_figure(run / "log.csv"), run / "loss.png")
    _judge(run, trained, split, config.sample, say)
    return run


def _judge(run: Path, trained: Trained, split: Split, settings: SampleConfig, say: Say) -> None:
    say(f"drawing {settings.count} samples ({settings.sampler}, {settings.steps} steps) and evaluating them")
    try:
        with progress_bar(settings.count, "sampling", shown=trained.world.leader) as bar:

            def progress(done: int) -> None:
                bar.update(done - bar.n)
                if done == settings.count:
                    # the measuring that follows takes a while, too, and is not what the bar counts
                    bar.close()

            evaluation = judge(run, trained, split, settings, progress=progress)
        if evaluation is not None:
            say(evaluation.table())
    finally:
        # images that cannot be measured can still be looked at
        if trained.world.leader:
            write_report(run)


def _load(config: TrainConfig, world: World, say: Say) -> Split:
    say(f"reading images: {config.data.source}")
    split = Split.load(config.data)
    world.agree(f"the fingerprint of {config.data.source}", split.record.fingerprint)
    channels, height, width = split.record.shape
    classes = f"{len(split.record.class_names)} classes" if split.record.class_names else "no labels"
    say(
        f"{len(split.train)} images to train on and {len(split.held_out)} held out: "
        f"{height}×{width}, {channels} channel{'s' * (channels > 1)}, {classes}"
    )
    return split


def _classes(trained: Trained, text: str) -> list[int]:
    names = trained.record.class_names
    if trained.num_classes is None:
        raise RunError(f"--labels is {text!r}, but this run was trained without labels")
    chosen = []
    for part in (part.strip() for part in text.split(",")):
        if part in names:
            chosen.append(names.index(part))
        elif part.isdecimal() and int(part) < len(names):
            chosen.append(int(part))
        else:
            raise RunError(
                f"--labels: no class {part!r}; there are {', '.join(names)}, or their numbers 0 to {len(names) - 1}"
            )
    return chosen


def _stem(source: str) -> str:
    # tar files are called by numbers, and by the folder that they are in
    path = Path(source).parent if is_tar(source) else Path(source)
    return re.sub(r"[^A-Za-z0-9_]+", "-", path.name.split(".")[0]).strip("-") or "images"


def _numbered(folder: Path, stem: str) -> Path:
    """The first of folder/stem-001, folder/stem-002, ... that does not exist."""
    prefix = f"{stem}-" if stem else ""
    taken = [path.name.removeprefix(prefix) for path in folder.glob(f"{prefix}*")]
    number = max((int(name) for name in taken if name.isdecimal()), default=0) + 1
    return folder / f"{prefix}{number:03d}"
