"""The run folder: the name of every file in it, and the choice of a new one."""

import re
from pathlib import Path

from ..data import is_tar
from ..errors import RunError
from ..files import read_text
from ..training import checkpoint_files
from ..training.atomic import partial_files
from ..training.config import TrainConfig, from_dict, read_json
from ..training.log import LogPaths


class SampleFolder:
    """A folder of samples: what `noisestep sample` writes, and what a run folder has of the evaluated samples."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # the grid, and all samples as arrays
        self.grid = path / "samples.png"
        self.arrays = path / "samples.npz"
        # how they were drawn
        self.settings = path / "sampling.json"
        # what was edited: the image, its mask or where the chain starts, and results
        self.edit = path / "edit.png"
        # x_t on the way from x_T to x_0
        self.reverse_strip = path / "reverse_strip.png"
        self.animation = path / "denoising.gif"

    def __str__(self) -> str:
        return str(self.path)

    def image(self, number: int) -> Path:
        """One sample as a PNG of its own."""
        return self.path / "images" / f"{number:06d}.png"

    def require_new(self) -> None:
        """Raise `RunError` if the folder has anything in it, or is a file."""
        if self.path.exists() and (not self.path.is_dir() or self._has_content()):
            raise RunError(f"--out {self} exists and is not an empty folder; name a new one")

    def _has_content(self) -> bool:
        return any(self.path.iterdir())

    def create(self) -> None:
        """Make the folder, if it does not exist."""
        self.path.mkdir(parents=True, exist_ok=True)


class RunFolder(SampleFolder):
    """What `noisestep train` and `noisestep evaluate` write."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        # names the process that trains, while it does
        self.lock = path / "training.lock"
        self.config = path / "config.json"
        # command, device and versions
        self.facts = path / "run.json"
        self.log = LogPaths(path / "log.csv", path / "train.log", path / "tensorboard")
        self.checkpoints = path / "checkpoints"
        # the evaluation
        self.metrics = path / "metrics.json"
        # the network by whose features samples are compared, where it was learned
        self.features = path / "features.safetensors"
        self.neighbours = path / "neighbours.png"
        self.forward_strip = path / "forward_strip.png"
        self.loss_curve = path / "loss.png"
        self.likelihood = path / "likelihood.json"
        self.likelihood_plot = path / "likelihood.png"
        # the samplers compared: numbers, quality against calls, and the same x_T by each
        self.comparison = path / "comparison.json"
        self.comparison_plot = path / "comparison.png"
        self.comparison_samples = path / "comparison_samples.png"
        self.report = path / "report.html"

    @classmethod
    def create_next(cls, source: str) -> "RunFolder":
        """Make the first of runs/SOURCE-001, runs/SOURCE-002, ... after those that exist; no other process gets it."""
        # tar files are often called by numbers, and the folder that they are in says more
        path = Path(source).parent if is_tar(source) else Path(source)
        stem = re.sub(r"[^A-Za-z0-9_]+", "-", path.name.split(".")[0]).strip("-") or "images"
        return cls(_create_numbered(Path("runs"), f"{stem}-"))

    def create_generated(self) -> SampleFolder:
        """Make the first of RUN/generated/001, RUN/generated/002, ... after those that exist, as `create_next` does."""
        return SampleFolder(_create_numbered(self.path / "generated", ""))

    def generated(self) -> list[SampleFolder]:
        """The folders that `create_generated` made."""
        return [SampleFolder(path) for path in sorted(self.path.glob("generated/*"))]

    def training_grid(self, step: int) -> Path:
        """The grid of samples drawn after a training step."""
        return self.path / "samples" / f"step_{step:06d}.png"

    def training_grids(self) -> dict[int, Path]:
        """The grids drawn so far by their training step, in order."""
        paths = self.training_grid(0).parent.glob("step_*.png")
        return dict(sorted((int(path.stem.removeprefix("step_")), path) for path in paths))

    def remove_measurements(self) -> None:
        """Remove what was measured of earlier weights, beyond what every training ends with."""
        for path in (
            self.likelihood,
            self.likelihood_plot,
            self.comparison,
            self.comparison_plot,
            self.comparison_samples,
        ):
            path.unlink(missing_ok=True)

    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint, good or not."""
        return bool(checkpoint_files.steps(self.checkpoints))

    def is_begun(self) -> bool:
        """Whether a run was begun here, and stopped before its first checkpoint."""
        return self.config.is_file() and not self.has_checkpoint()

    def partial_files(self) -> list[Path]:
        """The files that killed processes left unfinished, or that are being written."""
        folders = (self.path, self.checkpoints, self.training_grid(0).parent)
        return [path for folder in folders for path in partial_files(folder)]

    def _has_content(self) -> bool:
        return any(path != self.lock for path in self.path.iterdir())

    def read_config(self) -> TrainConfig:
        """The configuration of the run.

        Raises
        ------
        RunError
            There is no such folder, it is not a run folder, or its configuration cannot be read.
        """
        if not self.path.is_dir():
            raise RunError(f"{self}: no such run folder")
        try:
            return from_dict(read_json(read_text(self.config)))
        except FileNotFoundError:
            raise RunError(f"{self}: not a run folder, it has no {self.config.name}") from None
        except (OSError, ValueError) as error:
            raise RunError(f"{self.config}: {error}") from None


def _create_numbered(folder: Path, prefix: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        taken = [path.name.removeprefix(prefix) for path in folder.glob(f"{prefix}*")]
        number = max((int(name) for name in taken if name.isdecimal()), default=0) + 1
        path = folder / f"{prefix}{number:03d}"
        try:
            path.mkdir()
            return path
        except FileExistsError:
            # another process was faster
            continue
