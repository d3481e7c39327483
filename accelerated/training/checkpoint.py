"""Checkpoints: a run after a number of steps, in one safetensors file with a digest of everything in it.

A damaged checkpoint is never loaded. What cannot be used is renamed, not removed.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..address import NOISE_VERSION
from ..errors import CheckpointError, DamagedCheckpoint
from . import tensor_file
from .atomic import replacing
from .checkpoint_files import path_of, set_aside_after, steps
from .config import TrainConfig, difference, from_dict
from .data import DataRecord

FORMAT = 3


@dataclass(frozen=True)
class Unlogged:
    """What the next log entry takes from the steps before the checkpoint.

    Attributes
    ----------
    steps : int
        Steps since the last entry.
    loss : float
        The sum of their losses.
    seconds : float
        Time they took.
    """

    steps: int = 0
    loss: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Checkpoint:
    """A run after a number of optimizer steps.

    Attributes
    ----------
    step : int
        Optimizer steps made.
    seconds : float
        Time they took.
    config : TrainConfig
        With the model.
    data : DataRecord
        The images of the run.
    tensors : dict
        By name: `model.*`, `ema.*`, `optimizer.*`.
    unlogged : Unlogged
        So that a resumed run writes the log entries of one that was not interrupted.
    """

    step: int
    seconds: float
    config: TrainConfig
    data: DataRecord
    tensors: dict[str, Tensor]
    unlogged: Unlogged = Unlogged()

    def require(self, tensors: Mapping[str, Tensor]) -> None:
        """Check that the checkpoint has all these tensors, with the same types and shapes.

        Raises
        ------
        CheckpointError
            Naming the tensor.
        """
        for name, x in tensors.items():
            found = self.tensors.get(name)
            if found is None or (found.shape, found.dtype) != (x.shape, x.dtype):
                given = "is missing" if found is None else f"has shape {tuple(found.shape)} and type {found.dtype}"
                raise CheckpointError(
                    f"the checkpoint of step {self.step} does not fit its own model: {name!r} {given}, "
                    f"the model needs {tuple(x.shape)} and {x.dtype}"
                )


def save(
    folder: Path, checkpoint: Checkpoint, *, keep: int, report: Callable[[str], object] = lambda message: None
) -> Path:
    """Write a checkpoint, and remove all but the newest `keep`; those of later steps are set aside.

    Parameters
    ----------
    folder : Path
        Created if it does not exist.
    checkpoint : Checkpoint
        Its tensors may have any device and memory format; neither is stored.
    keep : int
        At least 1.
    report : function of str
        Called with one line for each file that is set aside.

    Returns
    -------
    Path
        The file, `step_XXXXXXXXX.safetensors`; it is on disk, under this name, when the function returns.

    Raises
    ------
    OSError
        It could not be written. The checkpoints before it are as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "format": FORMAT,
        "noise": NOISE_VERSION,
        "step": checkpoint.step,
        "seconds": checkpoint.seconds,
        "unlogged": asdict(checkpoint.unlogged),
        "data": asdict(checkpoint.data),
        "config": asdict(checkpoint.config),
    }
    set_aside_after(folder, checkpoint.step, report)
    path = path_of(folder, checkpoint.step)
    with replacing(path) as file:
        tensor_file.write(file, record, checkpoint.tensors)
    for step in steps(folder)[keep:]:
        path_of(folder, step).unlink(missing_ok=True)
    return path


def load(path: Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Read one checkpoint and verify it.

    Parameters
    ----------
    path : Path
    device : str or torch.device
        Device of the tensors.

    Raises
    ------
    DamagedCheckpoint
        The file was cut short, differs from what was written, or is of another step than its name says.
    CheckpointError
        Another format, another version of the noise, or a configuration that this version does not know.
    OSError
        The file cannot be read, which says nothing about what it holds.
    """
    try:
        record, tensors = tensor_file.read(path)
    except DamagedCheckpoint:
        if path.with_suffix(".json").exists():
            # two files a checkpoint
            raise CheckpointError(f"{path}: format 2 or older; this noisestep reads format {FORMAT}") from None
        raise
    if record.get("format") != FORMAT:
        raise CheckpointError(f"{path}: format {record.get('format')!r}; this noisestep reads format {FORMAT}")
    if record.get("noise") != NOISE_VERSION:
        # a resumed run would go on with other numbers, and a seed would give other images
        raise CheckpointError(
            f"{path}: noise of version {record.get('noise')!r}; this noisestep makes version {NOISE_VERSION}"
        )
    try:
        checkpoint = _from_record(record, {name: x.to(device) for name, x in tensors.items()})
    except (KeyError, OverflowError, TypeError) as error:
        raise DamagedCheckpoint(f"{path}: incomplete: {error}") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if path != path_of(path.parent, checkpoint.step):
        raise DamagedCheckpoint(f"{path}: the checkpoint of step {checkpoint.step}, which its name does not say")
    return checkpoint


def latest(
    folder: Path,
    *,
    config: TrainConfig | None = None,
    device: str | torch.device = "cpu",
    report: Callable[[str], object] = lambda message: None,
) -> Checkpoint:
    """The newest undamaged checkpoint, also while a training process writes others.

    Parameters
    ----------
    folder : Path
        The checkpoints of a run.
    config : TrainConfig, optional
        That of the run: a checkpoint of another one is skipped as if it were damaged.
    device : str or torch.device
        Device of the tensors.
    report : function of str
        Called with one line for each damaged checkpoint that is skipped.

    Raises
    ------
    CheckpointError
        There is none.
    OSError
        One could not be read. It may be good, and so no older one is used in its place.
    """
    tried: set[int] = set()
    while untried := [step for step in steps(folder) if step not in tried]:
        tried.add(untried[0])
        path = path_of(folder, untried[0])
        try:
            checkpoint = load(path, device)
            if config is not None and (other := difference(checkpoint.config, config)):
                raise DamagedCheckpoint(f"{path}: of another run than this one: {other}")
            return checkpoint
        except FileNotFoundError:
            # removed since it was listed, by the process that trains: there is a newer one
            continue
        except DamagedCheckpoint as error:
            report(f"skipping a damaged checkpoint: {error}")
    found = f"none of the {len(tried)} can be used" if tried else "there is none"
    raise CheckpointError(f"{folder}: no checkpoint that can be read; {found}")


def _from_record(record: Mapping[str, Any], tensors: dict[str, Tensor]) -> Checkpoint:
    data, unlogged = record["data"], record["unlogged"]
    fingerprint, shape, names = data["fingerprint"], data["shape"], data["class_names"]
    if not all(isinstance(text, str) for text in (fingerprint, *names)):
        raise TypeError("the fingerprint or a class name is not a text")
    if len(shape) != 3 or not all(type(side) is int for side in shape):
        raise TypeError(f"the images' shape is {shape!r}, not three integers")
    return Checkpoint(
        step=_integer(record, "step"),
        seconds=_number(record, "seconds"),
        config=from_dict(record["config"]),
        data=DataRecord(fingerprint, tuple(shape), tuple(names)),
        tensors=tensors,
        unlogged=Unlogged(_integer(unlogged, "steps"), _number(unlogged, "loss"), _number(unlogged, "seconds")),
    )


def _integer(values: Mapping[str, Any], name: str) -> int:
    value = values[name]
    if type(value) is not int or value < 0:
        raise TypeError(f"{name} is {value!r}, not a number of steps")
    return value


def _number(values: Mapping[str, Any], name: str) -> float:
    value = values[name]
    if type(value) not in (int, float):
        raise TypeError(f"{name} is {value!r}, not a number")
    return float(value)
