"""Checkpoints: every tensor of a run in safetensors, and beside it a JSON with all that is not a tensor.

A checkpoint is whole or it is not there.  Both files are written under a temporary name, synced and renamed,
the JSON last; it holds the SHA-256 of the tensors, so that a torn or damaged pair is told from a good one.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import CheckpointError, DamagedCheckpoint
from . import config as configuration
from .config import TrainConfig

FORMAT = 1


@dataclass(frozen=True)
class DataRecord:
    """What a run remembers of its images, so that it can be told from other images.

    Attributes
    ----------
    fingerprint : str
        `ImageSet.fingerprint` of all the images, those held out included.
    shape : tuple of int
        (C, H, W) of one image.
    class_names : tuple of str
        Empty where there are no labels.
    """

    fingerprint: str
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]

    def require(self, found: "DataRecord", source: str) -> None:
        """Refuse images, found under the name `source`, that are not these."""
        if found.shape != self.shape:
            raise CheckpointError(
                f"{source}: images of shape {found.shape} (C, H, W); the run was trained on {self.shape}"
            )
        if found.fingerprint != self.fingerprint:
            raise CheckpointError(f"{source}: not the images of this run any more (their fingerprint differs)")


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after a number of steps.

    Attributes
    ----------
    step : int
        Optimizer steps that were made.
    seconds : float
        Time they took.
    config : TrainConfig
        The whole configuration, the model included.
    data : DataRecord
        The images it is trained on.
    tensors : dict
        By name: `model.*`, `ema.*`, `optimizer.*`.
    """

    step: int
    seconds: float
    config: TrainConfig
    data: DataRecord
    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `prefix`, without it."""
        return {name.removeprefix(prefix): x for name, x in self.tensors.items() if name.startswith(prefix)}

    def require(self, tensors: Mapping[str, Tensor]) -> None:
        """Refuse to fill these tensors from the checkpoint's if it lacks one or has one of another shape.

        Raises
        ------
        CheckpointError
            Naming the tensor.
        """
        for name, x in tensors.items():
            found = self.tensors.get(name)
            if found is None or found.shape != x.shape:
                given = "is missing" if found is None else f"has shape {tuple(found.shape)}"
                raise CheckpointError(
                    f"the checkpoint of step {self.step} does not fit its own model: {name!r} {given}, "
                    f"the model needs {tuple(x.shape)}"
                )


def save(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write a checkpoint, and remove all but the newest `keep` up to its step.

    Parameters
    ----------
    folder : Path
        `checkpoints/` of the run; made if it is not there.
    checkpoint : Checkpoint
        Its tensors may lie on any device and in any memory order; both are left out of the file.
    keep : int
        At least 1.

    Returns
    -------
    Path
        The file with the tensors, `step_XXXXXXXXX.safetensors`; the JSON has the same stem.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for remains in folder.glob(".*.partial"):
        remains.unlink()
    path = folder / f"step_{checkpoint.step:09d}.safetensors"
    tensors = {name: x.detach().to("cpu").contiguous() for name, x in checkpoint.tensors.items()}
    _write(path, lambda temporary: save_file(tensors, temporary))
    # no newline follows: with the last byte gone, it is no JSON any more
    record = {
        "format": FORMAT,
        "step": checkpoint.step,
        "seconds": checkpoint.seconds,
        "sha256": _sha256(path),
        "data": asdict(checkpoint.data),
        "config": asdict(checkpoint.config),
    }
    _write(path.with_suffix(".json"), lambda temporary: temporary.write_text(json.dumps(record, indent=2)))
    # later steps are of a past that this run went back from: left there, they would push good ones out
    kept = [step for step in _steps(folder) if step <= checkpoint.step][:keep]
    for other in set(_steps(folder)) - set(kept):
        # the JSON goes first: tensors without it are no checkpoint
        for suffix in (".json", ".safetensors"):
            (folder / f"step_{other:09d}{suffix}").unlink(missing_ok=True)
    return path


def load(path: Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Read one checkpoint and verify it.

    Parameters
    ----------
    path : Path
        Either of its two files.
    device : str or torch.device
        Where the tensors go.

    Raises
    ------
    DamagedCheckpoint
        A file that is missing, cut short, or not what was written.
    CheckpointError
        A checkpoint of another format, or with a configuration that this version does not know.
    """
    tensors, described = path.with_suffix(".safetensors"), path.with_suffix(".json")
    record = _read_record(described)
    if record.get("format") != FORMAT:
        raise CheckpointError(f"{described}: format {record.get('format')!r}; this noisestep reads format {FORMAT}")
    try:
        if _sha256(tensors) != record["sha256"]:
            raise DamagedCheckpoint(f"{tensors}: not what was written (its SHA-256 is not the one in {described.name})")
        data = record["data"]
        return Checkpoint(
            step=record["step"],
            seconds=record["seconds"],
            config=configuration.from_dict(record["config"]),
            data=DataRecord(data["fingerprint"], tuple(data["shape"]), tuple(data["class_names"])),
            tensors=load_file(tensors, device=str(device)),
        )
    except (OSError, SafetensorError) as error:
        raise DamagedCheckpoint(f"{tensors}: {_reason(error)}") from None
    except (KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"{described}: incomplete: {error}") from None
    except ValueError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{described}: {error}") from None


def latest(
    folder: Path, *, device: str | torch.device = "cpu", report: Callable[[str], object] = lambda message: None
) -> Checkpoint:
    """The newest checkpoint that is whole.

    Parameters
    ----------
    folder : Path
        `checkpoints/` of a run.
    device : str or torch.device
        Where the tensors go.
    report : function of str
        Told, in one line each, of newer checkpoints that are damaged and passed over.

    Raises
    ------
    CheckpointError
        No checkpoint that can be used.
    """
    steps = _steps(folder)
    for step in steps:
        try:
            return load(folder / f"step_{step:09d}.json", device)
        except DamagedCheckpoint as error:
            report(f"passing over a damaged checkpoint: {error}")
    found = f"all {len(steps)} are damaged" if steps else "there is none"
    raise CheckpointError(f"{folder}: no checkpoint that can be read; {found}")


def _steps(folder: Path) -> list[int]:
    stems = {path.stem for suffix in ("json", "safetensors") for path in folder.glob(f"step_*.{suffix}")}
    return sorted((int(stem[5:]) for stem in stems if stem[5:].isdecimal()), reverse=True)


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DamagedCheckpoint(f"{path}: {_reason(error)}") from None
    if not isinstance(record, dict):
        raise DamagedCheckpoint(f"{path}: not the record of a checkpoint")
    return record


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    write(temporary)
    _sync(temporary)
    os.replace(temporary, path)
    # the new name is safe only when the folder is written, too
    _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
