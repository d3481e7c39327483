"""`noisestep train`: from the images to a trained, evaluated run folder."""

import platform
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..errors import LostRank, RunError, TrainingError
from ..models import UNet
from ..training.atomic import write_atomically, write_json
from ..training.checkpoint import Checkpoint
from ..training.config import TrainConfig, difference, to_json
from ..training.data import Split
from ..training.distributed import World, lost_rank_errors
from ..training.graph import require_cuda_graph
from ..training.log import Log, logged
from ..training.loop import train
from ..training.model_config import with_model
from ..training.state import State
from ..training.trained import TrainedModel, latest_checkpoint
from .evaluate import evaluate_trained, load_split, require_enough
from .features import Choice
from .lease import Lease, owned
from .loss_curve import loss_curve
from .pictures import save_png, to_uint8
from .report import write_report
from .run_folder import RunFolder
from .runtime import Runtime
from .sample import Layout


def train_new(
    config: TrainConfig, run: RunFolder | None, runtime: Runtime, *, features: str, command: str, begun: bool = False
) -> RunFolder:
    """Train, evaluate and report a new run.

    Parameters
    ----------
    config : TrainConfig
        With or without a model.
    run : RunFolder or None
        None for the next free one below runs/.
    runtime : Runtime
        Rank 0's disk has the run folder.
    features : str
        By which samples are compared with real images: what --features takes.
    command : str
        The command line, for the report.
    begun : bool
        Whether the folder may be that of a run which was stopped before its first checkpoint.
    """
    world = runtime.world
    world.micro_batches(config.batch_size, config.micro_batch)
    require_cuda_graph(config, runtime.device, world)
    require_enough(config.sample)
    config = _with_full_source(config)
    split = load_split(config, runtime)
    choice = Choice.of(features, split, runtime.device)
    config = with_model(config, split.record)

    def create() -> Path:
        if run is None:
            return RunFolder.create_next(config.data.source).path
        run.create()
        return run.path

    folder = RunFolder(world.on_rank0(create))
    with owned(folder, world) as lease:
        world.on_rank0(lambda: None if begun and folder.is_begun() else folder.require_new())
        runtime.say(f"the run folder is {folder}")
        _train_and_evaluate(config, split, choice, folder, None, lease, runtime, command=command)
    return folder


def resume_run(
    run: RunFolder,
    configure: Callable[[Checkpoint], TrainConfig],
    runtime: Runtime,
    *,
    features: str,
    expected: TrainConfig | None = None,
) -> RunFolder:
    """Continue a run from its newest undamaged checkpoint.

    Parameters
    ----------
    run : RunFolder
    configure : function of Checkpoint
        The configuration to go on with.
    runtime : Runtime
    features : str
        As for `train_new`.
    expected : TrainConfig, optional
        That of the run: checkpoints of another one are skipped.

    Raises
    ------
    RunError
        Another process trains in the folder, no checkpoint can be used, the images are others, or more steps than
        wanted have been made.
    """
    with owned(run, runtime.world) as lease:
        checkpoint = latest_checkpoint(run.checkpoints, runtime.world, config=expected, report=runtime.say)
        config = configure(checkpoint)
        runtime.world.micro_batches(config.batch_size, config.micro_batch)
        require_cuda_graph(config, runtime.device, runtime.world)
        if config.steps < checkpoint.step:
            raise RunError(f"--steps is {config.steps}, but {run} has made {checkpoint.step} steps already")
        require_enough(config.sample)
        split = load_split(config, runtime)
        checkpoint.data.require(split.record, config.data.source)
        choice = Choice.of(features, split, runtime.device)
        runtime.say(f"going on after step {checkpoint.step} of {config.steps}")
        command = _resume_command(run, runtime.world)
        _train_and_evaluate(config, split, choice, run, checkpoint, lease, runtime, command=command)
    return run


def continue_run(config: TrainConfig, run: RunFolder, runtime: Runtime, *, features: str, command: str) -> RunFolder:
    """Begin the run in a folder, or continue it: for a command that is given again whenever it was stopped.

    Raises
    ------
    RunError
        The run in the folder has another configuration, apart from what may change within a run.
    """

    def configure(checkpoint: Checkpoint) -> TrainConfig:
        wanted = with_model(_with_full_source(config), checkpoint.data)
        if other := difference(wanted, checkpoint.config):
            raise RunError(f"--continue: {run} has another configuration: {other}; name a new folder")
        return wanted

    if runtime.world.on_rank0(run.has_checkpoint):
        return resume_run(run, configure, runtime, features=features)
    return train_new(config, run, runtime, features=features, command=command, begun=True)


def _with_full_source(config: TrainConfig) -> TrainConfig:
    """So that the run can be evaluated from another working folder."""
    if config.data.source == "digits":
        return config
    return replace(config, data=replace(config.data, source=str(Path(config.data.source).resolve())))


def _train_and_evaluate(
    config: TrainConfig,
    split: Split,
    choice: Choice,
    run: RunFolder,
    checkpoint: Checkpoint | None,
    lease: Lease | None,
    runtime: Runtime,
    *,
    command: str,
) -> None:
    device, world = runtime.device, runtime.world
    if world.is_rank0:
        write_atomically(run.config, to_json(config).encode())
        write_json(run.facts, _facts(config, device, world, command))
    resume = _resume_command(run, world)
    plan = choice.plan(split, config.sample.count, config.sample.seeds)
    drawn = f"{plan.samples} samples of each of {plan.seeds} seeds" if plan.seeds > 1 else f"{plan.samples} samples"
    runtime.say(f"after training, {drawn} are drawn; to evaluate them takes {plan.describe()}")

    def draw(state: State, log: Log) -> None:
        model = TrainedModel(state.ema, config, split.record, device, world)
        layout = Layout.of(model)
        settings = replace(config.sample, count=2 * layout.columns)
        samples = model.sample(settings, labels=model.labels(0, settings.count))
        if world.is_rank0:
            path = run.training_grid(state.step)
            path.parent.mkdir(exist_ok=True)
            save_png(layout.grid(to_uint8(samples.images)), path)
            log.info(f"step {state.step}: samples in {path}")

    def show(state: State) -> None:
        if world.is_rank0:
            if logged(run.log.csv):
                save_png(loss_curve(run.log.csv), run.loss_curve)
            write_report(run, training=True)

    try:
        with lost_rank_errors(world.rank, f"go on from the last checkpoint with: {resume}"):
            state = train(
                config,
                split.train,
                split.record,
                device=device,
                checkpoint_folder=run.checkpoints,
                log_paths=run.log,
                world=world,
                checkpoint=checkpoint,
                draw=draw,
                confirm=lambda: None if lease is None else lease.confirm(),
                after_saving=show,
            )
    except (LostRank, TrainingError):
        # they say how to go on
        raise
    except Exception as error:
        error.add_note(f"go on with: {resume}")
        raise
    model = TrainedModel(state.ema, config, split.record, device, world)
    if world.is_rank0:
        save_png(loss_curve(run.log.csv), run.loss_curve)
        run.remove_measurements()
    evaluate_trained(run, model, split, choice, config.sample, runtime.say)


def _resume_command(run: RunFolder, world: World) -> str:
    program = "noisestep" if world.size == 1 else "torchrun --nproc-per-node=N -m noisestep.accelerated.cli"
    return f"{program} train --resume {run}"


def _facts(config: TrainConfig, device: torch.device, world: World, command: str) -> dict[str, Any]:
    """The command, the size of the network, the machine and the versions, for the report."""
    assert config.model is not None
    with torch.device("meta"):
        network = UNet(config.model)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "command": command,
        "parameters": f"{sum(x.numel() for x in network.parameters()):,}",
        "device": f"{device} ({name})" + (f", {world.size} processes" if world.size > 1 else ""),
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("noisestep", "torch", "numpy", "scikit-learn")},
        },
    }
