"""The features of a run's evaluation: chosen by name, and learned once, from the run's own training images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch

from ..data import ImageSet
from ..errors import DamagedCheckpoint, RunError
from ..evaluation.extractors import load_features
from ..evaluation.features import BATCH, LEARNED_FROM, Features, Learned
from ..evaluation.metrics import fit_pixels
from ..evaluation.plan import Kind, Plan
from ..training import tensor_file
from ..training.atomic import replacing
from ..training.config import TrainConfig
from ..training.data import Split
from ..training.progress import progress_bar
from .run_folder import RunFolder

# features that were learned otherwise are learned again
VERSION = 1
# with fewer training images than this, of which a network learns half, `auto` takes pixels
LEAST_TRAINING = 64


@dataclass(frozen=True)
class Choice:
    """The features that --features asks for.

    Attributes
    ----------
    kind : {"pixels", "learned", "other"}
    loaded : Features or None
        Those of another network.
    """

    kind: Kind
    loaded: Features | None = None

    @classmethod
    def of(cls, name: str, split: Split, device: torch.device) -> Self:
        """The features of a name; RunError where they cannot be had, before any work."""
        shape = split.record.shape
        if name == "auto":
            learned = min(shape[1:]) >= LEARNED_FROM and len(split.train) >= LEAST_TRAINING
            return cls("learned" if learned else "pixels")
        if name == "learned":
            require_learnable(split)
        if name in ("pixels", "learned"):
            return cls("learned" if name == "learned" else "pixels")
        return cls("other", load_features(name, shape, device))

    def plan(self, split: Split, samples: int, seeds: int) -> Plan:
        """What the evaluation of so many samples of each seed takes."""
        classes = len(split.record.class_names)
        return Plan(samples, len(split.train), len(split.held_out), split.record.shape, classes, seeds, self.kind)


def require_learnable(split: Split) -> None:
    """Raise `RunError` where there are too few images to learn from."""
    if len(split.train) < LEAST_TRAINING:
        raise RunError(
            f"--features learned needs {LEAST_TRAINING} training images or more, of which a network learns half, and "
            f"there are {len(split.train)}: pass --features pixels"
        )


def run_features(
    run: RunFolder,
    choice: Choice,
    train: ImageSet,
    held_out: ImageSet,
    split: Split,
    config: TrainConfig,
    plan: Plan,
    device: torch.device,
    say: Callable[[str], object],
) -> Features:
    """The features of an evaluation, of which `train` and `held_out` are the images that the plan takes.

    Learned features are kept with the run, and learned again where they are missing, damaged, or of other images.
    """
    if choice.loaded is not None:
        return choice.loaded
    if choice.kind == "pixels":
        return fit_pixels(held_out.images[: plan.real])
    shape, classes = split.record.shape, len(split.record.class_names)
    settings = {
        "version": VERSION,
        "fingerprint": split.record.fingerprint,
        "held_out": config.data.held_out,
        "split_seed": config.data.split_seed,
        "images": plan.learned,
        "steps": plan.steps,
    }
    try:
        record, tensors = tensor_file.read(run.features)
        if record["settings"] == settings:
            return Learned.restore(shape, record["learned"], tensors, device).features()
        say(f"{run.features.name} is of other images or settings")
    except FileNotFoundError:
        pass
    except (DamagedCheckpoint, KeyError, RuntimeError) as error:
        say(f"{run.features.name} cannot be used: {error}")
    say(f"learning the features of the evaluation from {plan.learned} training images")
    with progress_bar(plan.steps * BATCH, "learning features") as bar:
        learned = Learned.learn(
            train.images[: plan.learned],
            train.labels[: plan.learned] if train.labels is not None and plan.learns_classes else None,
            classes,
            steps=plan.steps,
            device=device,
            progress=bar.update,
        )
    with replacing(run.features) as file:
        tensor_file.write(file, {"settings": settings, "learned": learned.record()}, learned.tensors())
    return learned.features()
