"""`noisestep train | sample | evaluate | report`.

torch is imported by a command when its flags are known to be good, so that help and a bad flag answer at once.
"""

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from ..errors import Interrupted, LostRank, RunError, TrainingError
from ..training import config as configuration
from ..training.config import SampleConfig, TrainConfig
from .flags import RESUME_FLAGS, SAMPLE_FLAGS, TRAIN_FLAGS, Setting, changes, field_at, settings

COUNT = Setting(field_at("sample.count").metadata["allowed"])
FOLDER = click.Path(path_type=Path)
device_option = click.option(
    "--device", default="auto", metavar="auto|cpu|cuda|cuda:N", help="auto: a GPU if there is one  [default auto]"
)
parallel_option = click.option(
    "--parallel",
    type=click.Choice(["ddp", "fsdp"]),
    default="ddp",
    help="under torchrun: every process has all weights, or each a share of them  [default ddp]",
)
timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=600,
    metavar="SECONDS",
    help="under torchrun: how long a silent process is waited for  [default 600]",
)
run_argument = click.argument("run", type=FOLDER, metavar="RUN")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(version("noisestep"), package_name="noisestep", prog_name="noisestep")
def main() -> None:
    """Denoising diffusion: train on images, draw new ones, and measure how good they are.

    \b
      noisestep train                       the embedded handwritten digits, a few minutes on two cores
      noisestep sample runs/digits-001      new images from what was trained
      noisestep evaluate runs/digits-001    the figures once more
    """
    # threads that wait for work give their core up: spinning, as they do by default, makes a shared machine crawl
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@main.command()
@settings(TRAIN_FLAGS, defaults=True)
@click.option("--config", "config_file", type=FOLDER, metavar="FILE", help="JSON with settings, below the flags")
@click.option("--resume", type=FOLDER, metavar="RUN", help="go on with a run that was stopped, bit for bit")
@click.option("--out", type=FOLDER, metavar="DIR", help="the run folder  [default runs/DATA-NNN]")
@device_option
@parallel_option
@timeout_option
def train(
    config_file: Path | None,
    resume: Path | None,
    out: Path | None,
    device: str,
    parallel: str,
    timeout: float,
    **values: Any,
) -> None:
    """Train on images, draw samples, evaluate them, and write a report.

    \b
      noisestep train
      noisestep train --data photos --size 32 --flip --out runs/photos
      noisestep train --data train-images-idx3-ubyte.gz --prediction v --weighting min_snr
      noisestep train --resume runs/photos
      torchrun --nproc-per-node=8 -m noisestep.accelerated.cli train --data photos --size 64

    DATA is "digits" (1,797 images that are installed with scikit-learn), a folder of images (subfolders are
    classes), an .npz or .npy, or IDX files like MNIST's. A part of the images is held out, and the samples are
    judged by it. Everything goes into one new folder, with report.html as the page to open.
    """
    given = changes(values, TRAIN_FLAGS)
    if resume is not None:
        refused = [flag for flag in _given(values) if flag not in RESUME_FLAGS]
        refused += ["--config"] * (config_file is not None) + ["--out"] * (out is not None)
        if refused:
            raise click.UsageError(
                f"--resume takes the configuration of {resume}: {refused[0]} cannot be given with it; "
                f"only {', '.join(RESUME_FLAGS)} and --device can"
            )
        _require_run(resume)
        config = None
    else:
        config = _train_config(given, config_file)
        _refuse_unused(config, values)
        if _restarted() and out is not None and any(out.glob("checkpoints/*.json")):
            resume, given = out, {}
        elif not _restarted():
            _require_new(out)
    with working(device, parallel, timeout) as at:
        from . import pipeline

        if resume is not None:
            run = pipeline.resume(resume, given, **at)
        else:
            assert config is not None
            run = pipeline.begin(config, out, command=_command(), **at)
        at["say"](f"open {run / 'report.html'}")


@main.command()
@run_argument
@settings({flag: path for flag, path in SAMPLE_FLAGS.items() if flag != "--count"}, defaults=False)
@click.option("--count", "sample_count", type=COUNT, default=64, metavar="N", help="number of images  [default 64]")
@click.option(
    "--first",
    type=click.IntRange(0, 2**62),
    default=0,
    metavar="K",
    help="number of the first image: image K of a seed is always the same  [default 0]",
)
@click.option("--labels", metavar="A,B,...", help="classes, by name or number, in turn  [default all of them]")
@click.option("--out", type=FOLDER, metavar="DIR", help="where to write  [default RUN/generated/NNN]")
@device_option
@parallel_option
@timeout_option
def sample(
    run: Path,
    first: int,
    labels: str | None,
    out: Path | None,
    device: str,
    parallel: str,
    timeout: float,
    **values: Any,
) -> None:
    """Draw new images from a trained run: PNG, a grid, .npz, a strip and an animation of the denoising.

    \b
      noisestep sample runs/digits-001
      noisestep sample runs/digits-001 --count 10 --labels 3 --seed 7
      noisestep sample runs/digits-001 --sampler ddpm --steps 250 --out threes

    What is not given is as in the run's evaluation. Image K of a seed does not depend on how many images are
    drawn, nor on how many at a time.
    """
    config = _require_run(run)
    chosen = _sample_config(config, changes(values, SAMPLE_FLAGS))
    _refuse_unused(config, values)
    _require_new(out)
    with working(device, parallel, timeout) as at:
        from . import pipeline

        folder = pipeline.generate(run, chosen, first=first, labels=labels, out=out, **at)
        at["say"](f"{chosen.count} images are in {folder}")


@main.command()
@run_argument
@settings(SAMPLE_FLAGS, defaults=False)
@device_option
@parallel_option
@timeout_option
def evaluate(run: Path, device: str, parallel: str, timeout: float, **values: Any) -> None:
    """Draw samples from a run, judge them by the held-out images, and write metrics.json, pictures and report.

    \b
      noisestep evaluate runs/digits-001
      noisestep evaluate runs/digits-001 --sampler ddpm --steps 250 --seed 1

    What is not given is as in the run's configuration.
    """
    config = _require_run(run)
    chosen = _sample_config(config, changes(values, SAMPLE_FLAGS))
    _refuse_unused(config, values)
    with working(device, parallel, timeout) as at:
        from . import pipeline

        pipeline.evaluate(run, chosen, **at)
        at["say"](f"open {run / 'report.html'}")


@main.command()
@run_argument
def report(run: Path) -> None:
    """Write the report.html of a run anew, from what is in its folder."""
    _require_run(run)
    with one_line():
        from .report import write_report

        try:
            click.echo(f"open {write_report(run)}")
        except ValueError as error:
            raise click.ClickException(str(error)) from None


@contextmanager
def working(device: str, parallel: str, timeout: float) -> Iterator[dict[str, Any]]:
    """Where a command works, as keywords: its device, the processes that it works with, and whom it tells."""
    with one_line():
        from ..training import distributed
        from . import pipeline

        place = pipeline.find_device(device)
        with distributed.join(place, parallel=parallel, timeout=timeout) as world:
            yield {"device": place, "world": world, "say": click.echo if world.leader else lambda line: None}
        if not world.leader:
            # done, and long before the leader, who judges and writes: while the interpreter is taken down, a native
            # thread that is still alive aborts the process now and then, and torchrun would end the leader for it
            sys.stderr.flush()
            os._exit(0)


@contextmanager
def one_line() -> Iterator[None]:
    """Turn what a user can cause into one line and an exit status; anything else is a defect, and shows itself."""
    from ..data import DataError

    # torchrun starts several of this program, and numbers them
    leads = os.environ.get("RANK", "0") == "0"
    if leads:
        click.echo(f"noisestep {version('noisestep')}, loading PyTorch", err=True)
    try:
        yield
    except Interrupted as stopped:
        if leads:
            click.echo(str(stopped), err=True)
        # what a shell reports of a program that a signal ended
        sys.exit(128 + stopped.signal)
    except (RunError, DataError, TrainingError, LostRank) as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        raise click.ClickException(f"{place}{error.strerror or error}") from None
    except (RuntimeError, MemoryError) as error:
        if not (isinstance(error, MemoryError) or "memory" in str(error)):
            raise
        reason = str(error).splitlines()[0] if str(error) else "MemoryError"
        raise click.ClickException(f"out of memory; a smaller batch size needs less ({reason})") from None


def _train_config(given: dict[str, Any], config_file: Path | None) -> TrainConfig:
    base: dict[str, Any] = {}
    if config_file is not None:
        try:
            base = configuration.read_json(config_file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise click.UsageError(f"--config {config_file}: {reason}") from None
    try:
        return configuration.train_config(configuration.merge(base, given))
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _sample_config(config: TrainConfig, given: dict[str, Any]) -> SampleConfig:
    try:
        return configuration.with_sample(config, given.get("sample", {})).sample
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _refuse_unused(config: TrainConfig, values: dict[str, Any]) -> None:
    sampler = values["sample_sampler"] or config.sample.sampler
    for other, name in (("ddpm", "eta"), ("ddim", "variance")):
        if sampler == other and values[f"sample_{name}"] is not None:
            raise click.UsageError(f"--{name} means nothing to --sampler {sampler}")


def _require_run(run: Path) -> TrainConfig:
    if not run.is_dir():
        raise click.UsageError(f"{run}: no such run folder")
    path = run / "config.json"
    try:
        return configuration.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise click.UsageError(f"{run}: not a run folder, it has no config.json") from None
    except (OSError, ValueError) as error:
        raise click.UsageError(f"{path}: {error}") from None


def _require_new(out: Path | None) -> None:
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise click.UsageError(f"--out {out} exists and is not an empty folder; name a new one")


def _restarted() -> bool:
    """Whether torchrun started this program again, after one of its processes was lost."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def _given(values: dict[str, Any]) -> list[str]:
    return [flag for flag, path in TRAIN_FLAGS.items() if values[path.replace(".", "_")] is not None]


def _command() -> str:
    program = ["noisestep"]
    if (processes := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        machines = [f"--nnodes={processes // here}"] if processes > here else []
        program = ["torchrun", *machines, f"--nproc-per-node={here}", "-m", "noisestep.accelerated.cli"]
    return shlex.join([*program, *sys.argv[1:]])


if __name__ == "__main__":
    main(prog_name="noisestep")
