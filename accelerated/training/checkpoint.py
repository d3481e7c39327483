"""Checkpoints: the tensors of a run in a safetensors file, and everything else in a JSON file beside it.

Both files are written atomically, the JSON last. It holds the SHA-256 of the tensors, so that an incomplete or damaged
pair is recognised.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..address import NOISE_VERSION
from ..errors import CheckpointError, DamagedCheckpoint
from .atomic import remove_partial_files, replacing, write_atomically
from .config import TrainConfig, from_dict
from .data import DataRecord

FORMAT = 2


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
        """Check that the checkpoint has all these tensors, with the same shapes.

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
    """Write a checkpoint, and remove all but the newest `keep`; checkpoints of later steps are removed, too.

    Parameters
    ----------
    folder : Path
        Created if it does not exist.
    checkpoint : Checkpoint
        Its tensors may have any device and memory format; neither is stored.
    keep : int
        At least 1.

    Returns
    -------
    Path
        The file of the tensors, `step_XXXXXXXXX.safetensors`; the JSON file has the same stem.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_partial_files(folder)
    path = _path(folder, checkpoint.step)
    tensors = {name: x.detach().to("cpu").contiguous() for name, x in checkpoint.tensors.items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary)
    # without a newline at the end, so that a file that lacks its last byte is not JSON
    record = {
        "format": FORMAT,
        "noise": NOISE_VERSION,
        "step": checkpoint.step,
        "seconds": checkpoint.seconds,
        "unlogged": asdict(checkpoint.unlogged),
        "sha256": _sha256(path),
        "data": asdict(checkpoint.data),
        "config": asdict(checkpoint.config),
    }
    write_atomically(path.with_suffix(".json"), json.dumps(record, indent=2).encode())
    # checkpoints of later steps are from before this run went back; left there, they would push good ones out
    kept = [step for step in _steps(folder) if step <= checkpoint.step][:keep]
    for other in set(_steps(folder)) - set(kept):
        # the JSON first, as tensors without it are no checkpoint
        for suffix in (".json", ".safetensors"):
            _path(folder, other).with_suffix(suffix).unlink(missing_ok=True)
    return path


def load(path: Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Read one checkpoint and verify it.

    Parameters
    ----------
    path : Path
        Either of its two files.
    device : str or torch.device
        Device of the tensors.

    Raises
    ------
    DamagedCheckpoint
        A file is missing, cut short, or differs from what was written.
    CheckpointError
        Another format, another version of the noise, or a configuration that this version does not know.
    """
    tensors, described = path.with_suffix(".safetensors"), path.with_suffix(".json")
    record = _read_record(described)
    if record.get("format") != FORMAT:
        raise CheckpointError(f"{described}: format {record.get('format')!r}; this noisestep reads format {FORMAT}")
    if record.get("noise") != NOISE_VERSION:
        # a resumed run would go on with other numbers, and a seed would give other images
        raise CheckpointError(
            f"{described}: noise of version {record.get('noise')!r}; this noisestep makes version {NOISE_VERSION}"
        )
    try:
        if _sha256(tensors) != record["sha256"]:
            raise DamagedCheckpoint(f"{tensors}: not what was written (its SHA-256 is not the one in {described.name})")
        data = record["data"]
        return Checkpoint(
            step=record["step"],
            seconds=record["seconds"],
            config=from_dict(record["config"]),
            data=DataRecord(data["fingerprint"], tuple(data["shape"]), tuple(data["class_names"])),
            tensors=load_file(tensors, device=str(device)),
            unlogged=Unlogged(**record["unlogged"]),
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
    """The newest undamaged checkpoint.

    Parameters
    ----------
    folder : Path
        The checkpoints of a run.
    device : str or torch.device
        Device of the tensors.
    report : function of str
        Called with one line for each damaged checkpoint that is skipped.

    Raises
    ------
    CheckpointError
        There is none.
    """
    steps = _steps(folder)
    for step in steps:
        try:
            return load(_path(folder, step), device)
        except DamagedCheckpoint as error:
            report(f"skipping a damaged checkpoint: {error}")
    found = f"all {len(steps)} are damaged" if steps else "there is none"
    raise CheckpointError(f"{folder}: no checkpoint that can be read; {found}")


def newest_path(folder: Path) -> Path | None:
    """The tensor file of the newest checkpoint, whose content is not looked at; None if there is none."""
    paths = (_path(folder, step) for step in _steps(folder))
    return next((path for path in paths if path.with_suffix(".json").exists()), None)


def _path(folder: Path, step: int) -> Path:
    return folder / f"step_{step:09d}.safetensors"


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
