"""`noisestep learn | train | sample | evaluate | report | verify`: the flags of each command, and what it calls.

A command imports torch only once its flags are known to be good, so that help and a bad flag answer at once.
"""

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import click

from ..files import read_text
from ..samplers import SAMPLERS
from ..training.config import (
    EditConfig,
    SampleConfig,
    TrainConfig,
    from_dict,
    merge,
    read_json,
    train_config,
    with_sampler,
)
from .errors import runtime_errors, usage_errors
from .flags import (
    EDIT_FLAGS,
    RESUME_FLAGS,
    SAMPLE_FLAGS,
    TRAIN_FLAGS,
    FieldType,
    field_at,
    field_options,
    given,
    keyword,
)
from .run_folder import RunFolder, SampleFolder

FOLDER = click.Path(path_type=Path)
device_option = click.option(
    "--device",
    default="auto",
    metavar="auto|cpu|cuda|cuda:N",
    help="device; auto: a GPU if there is one  [default auto]",
)
parallel_option = click.option(
    "--parallel",
    type=click.Choice(["ddp", "fsdp"]),
    default="ddp",
    help="under torchrun: replicate the weights (DDP) or shard them (FSDP2)  [default ddp]",
)
timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=600,
    metavar="SECONDS",
    help="under torchrun: stop when another process does not answer for this long  [default 600]",
)


features_option = click.option(
    "--features",
    default="auto",
    metavar="NAME",
    help="by what the evaluation compares images: pixels; learned (a small network that learns the training images); "
    "inception (FID); torchvision:NAME; FILE.pt (TorchScript); module:function; auto: pixels where a side has fewer "
    "than 16, learned else  [default auto]",
)


class ImageCount(click.ParamType):
    """A number of images from 2, or "all"."""

    name = "images"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, or "all"; a usage error otherwise."""
        if value == "all":
            return value
        if not (str(value).isdecimal() and int(value) >= 2):
            self.fail(f"{value!r} is not an integer from 2, or all.", param, ctx)
        return int(value)


run_argument = click.argument("run", type=FOLDER, metavar="RUN")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(version("noisestep"), package_name="noisestep", prog_name="noisestep")
def main() -> None:
    """Denoising diffusion: learn how it works, train on images, draw samples, and measure how good they are.

    \b
      noisestep learn                       write the lessons as notebooks; needs no PyTorch
      noisestep train                       train on the embedded handwritten digits: minutes on two cores
      noisestep sample runs/digits-001      draw samples from the trained model
      noisestep evaluate runs/digits-001    evaluate new samples
    """
    # OpenMP threads spin while they wait, which slows down everything else on a shared machine
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@main.command()
@click.argument("lessons", type=click.IntRange(1), nargs=-1, metavar="[NUMBER]...")
@click.option("--out", type=FOLDER, default="lessons", metavar="DIR", help="output folder  [default lessons]")
def learn(lessons: tuple[int, ...], out: Path) -> None:
    """Write the lessons as Jupyter notebooks, run, with their pictures.

    \b
      noisestep learn
      noisestep learn 2 5 --out posterior

    They need NumPy, matplotlib, and scikit-learn for its images of digits; PyTorch only where a lesson says so.
    """
    with runtime_errors():
        from .learn import write_lessons

        write_lessons(out, lessons)


@main.command()
@field_options(TRAIN_FLAGS, defaults=True)
@click.option("--config", "config_file", type=FOLDER, metavar="FILE", help="JSON config; flags override it")
@click.option("--resume", type=FOLDER, metavar="RUN", help="continue an interrupted run, to the same bits")
@click.option("--out", type=FOLDER, metavar="DIR", help="the run folder  [default runs/DATA-NNN]")
@click.option(
    "--continue", "go_on", is_flag=True, help="with --out: continue the run in DIR, or begin it if there is none yet"
)
@features_option
@device_option
@parallel_option
@timeout_option
def train(
    config_file: Path | None,
    resume: Path | None,
    out: Path | None,
    go_on: bool,
    features: str,
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
      noisestep train --data photos --size 32 --out runs/photos --continue
      torchrun --nproc-per-node=8 -m noisestep.accelerated.cli train --data photos --size 64

    The data is "digits" (1,797 images that come with scikit-learn), a folder of images (subfolders are classes),
    .npz or .npy, or IDX files like MNIST's. Some of the images are held out, and the samples are evaluated against
    them. All files go into a new run folder; open its report.html.
    """
    changes = given(values, TRAIN_FLAGS)
    # torchrun starts the same command again after it lost a process
    go_on = go_on or (out is not None and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0")
    config = None
    if resume is not None:
        extra = [flag for flag, path in TRAIN_FLAGS.items() if values[keyword(path)] is not None]
        extra = [flag for flag in extra if flag not in RESUME_FLAGS]
        extra += ["--config"] * (config_file is not None) + ["--out"] * (out is not None) + ["--continue"] * go_on
        if extra:
            raise click.UsageError(
                f"--resume takes the configuration of {resume}: {extra[0]} cannot be given with it; "
                f"only {', '.join(RESUME_FLAGS)} and --device can"
            )
        with usage_errors():
            config = RunFolder(resume).read_config()
    else:
        if go_on and out is None:
            raise click.UsageError("--continue needs --out, the folder of the run to begin or to continue")
        with usage_errors():
            config = train_config(merge(_read_config_file(config_file), changes))
        _refuse_unused(config, values)
        if out is not None and not (go_on and out.is_dir()):
            with usage_errors():
                SampleFolder(out).require_new()
    _greet()
    with runtime_errors():
        from .runtime import start
        from .train import continue_run, resume_run, train_new

        with start(device, parallel, timeout) as runtime:
            if resume is not None:
                run = resume_run(
                    RunFolder(resume),
                    lambda checkpoint: from_dict(merge(asdict(checkpoint.config), changes)),
                    runtime,
                    features=features,
                    expected=config,
                )
            elif go_on:
                assert config is not None
                assert out is not None
                run = continue_run(config, RunFolder(out), runtime, features=features, command=_command())
            else:
                assert config is not None
                folder = None if out is None else RunFolder(out)
                run = train_new(config, folder, runtime, features=features, command=_command())
            runtime.say(f"open {run.report}")


@main.command()
@run_argument
@field_options(
    {flag: path for flag, path in SAMPLE_FLAGS.items() if flag not in ("--count", "--seeds")}, defaults=False
)
@click.option(
    "--count",
    keyword("sample.count"),
    type=FieldType(field_at("sample.count").metadata["kind"]),
    default="64",
    metavar="N",
    help="number of samples  [default 64]",
)
@click.option(
    "--first",
    type=click.IntRange(0, 2**62),
    default=0,
    metavar="K",
    help="number of the first sample; sample K of a seed is always the same  [default 0]",
)
@field_options(EDIT_FLAGS, defaults=False)
@click.option(
    "--interpolate",
    nargs=2,
    type=click.IntRange(0, 2**62),
    metavar="K L",
    help="draw samples between samples K and L of the seed; needs a sampler without noise on the way, such as --eta 0",
)
@click.option("--labels", metavar="A,B,...", help="cycle through these classes, by name or number  [default all]")
@click.option("--out", type=FOLDER, metavar="DIR", help="output folder  [default RUN/generated/NNN]")
@device_option
@parallel_option
@timeout_option
def sample(
    run: Path,
    first: int,
    interpolate: tuple[int, int] | None,
    labels: str | None,
    out: Path | None,
    device: str,
    parallel: str,
    timeout: float,
    **values: Any,
) -> None:
    """Draw samples from a trained run: PNG files, a grid, .npz, and a strip and an animation of the denoising.

    \b
      noisestep sample runs/digits-001
      noisestep sample runs/digits-001 --count 10 --labels 3 --seed 7
      noisestep sample runs/digits-001 --sampler ddpm --steps 250 --out threes
      noisestep sample runs/digits-001 --image three.png --strength 0.5
      noisestep sample runs/digits-001 --image three.png --mask hole.png --resample 10
      noisestep sample runs/digits-001 --interpolate 3 8 --count 9 --eta 0

    The defaults are the settings of the run's evaluation. Sample K of a seed does not depend on how many samples
    are drawn, or how many at a time.
    """
    folder = RunFolder(run)
    settings = _sample_config(folder, values)
    with usage_errors():
        edit = EditConfig(**given(values, EDIT_FLAGS).get("edit", {}))
        edit.check(settings)
        if interpolate is not None:
            _check_interpolation(interpolate, settings, edit)
        if out is not None:
            SampleFolder(out).require_new()
    _greet()
    with runtime_errors():
        from .runtime import start
        from .sample import sample_run

        with start(device, parallel, timeout) as runtime:
            target = None if out is None else SampleFolder(out)
            written = sample_run(
                folder, settings, runtime, first=first, labels=labels, edit=edit, interpolate=interpolate, out=target
            )
            runtime.say(f"{settings.count} images are in {written}")


@main.command()
@run_argument
@click.option(
    "--likelihood",
    is_flag=True,
    help="also measure the likelihood of the held-out images: the variational bound, and by the probability-flow ODE",
)
@click.option(
    "--likelihood-images",
    type=ImageCount(),
    metavar="N|all",
    help="number of held-out images whose likelihood is measured  [default 1000, or all where there are fewer]",
)
@click.option(
    "--likelihood-steps",
    type=click.IntRange(2),
    metavar="N",
    help="intervals between timesteps, at most T - 1: of the ODE's solver, and strata of the bound's t  [default 50]",
)
@click.option(
    "--likelihood-dequantisation",
    type=click.Choice(["truncated_normal", "uniform"]),
    help="how a point within a pixel's level is drawn for the ODE  [default truncated_normal]",
)
@click.option(
    "--likelihood-trace",
    type=click.Choice(["hutchinson", "exact"]),
    help="trace in the ODE: estimated with one probe, or exact, at one backward pass a pixel  [default hutchinson]",
)
@click.option(
    "--samplers",
    metavar="A,B,...",
    help="also compare these samplers, or all: pictures of the same x_T, and quality against network calls",
)
@click.option(
    "--calls",
    metavar="N,M,...",
    help="numbers of network calls at which samplers are compared  [default 5,10,20, at most T]",
)
@features_option
@field_options(SAMPLE_FLAGS, defaults=False)
@device_option
@parallel_option
@timeout_option
def evaluate(
    run: Path,
    samplers: str | None,
    calls: str | None,
    features: str,
    likelihood: bool,
    likelihood_images: int | str | None,
    likelihood_steps: int | None,
    likelihood_dequantisation: Literal["truncated_normal", "uniform"] | None,
    likelihood_trace: str | None,
    device: str,
    parallel: str,
    timeout: float,
    **values: Any,
) -> None:
    """Draw samples from a run, evaluate them against the held-out images, and update metrics, pictures and report.

    \b
      noisestep evaluate runs/digits-001
      noisestep evaluate runs/digits-001 --sampler ddpm --steps 250 --seed 1
      noisestep evaluate runs/digits-001 --likelihood --likelihood-images 200
      noisestep evaluate runs/digits-001 --samplers ddim,unipc --calls 5,10,20

    The defaults are the run's configuration. The likelihood is that of the model itself, with each image's own label:
    guidance and temperature do not enter. Samplers are compared with their own settings by default, and at temperature
    1 unless --temperature is given, by 200 samples of each of the seeds.
    """
    folder = RunFolder(run)
    settings = _sample_config(folder, values)
    flags = {
        "--likelihood-images": likelihood_images,
        "--likelihood-steps": likelihood_steps,
        "--likelihood-dequantisation": likelihood_dequantisation,
        "--likelihood-trace": likelihood_trace,
        "--likelihood": likelihood,
    }
    with usage_errors():
        steps = _likelihood_steps(folder.read_config(), settings, flags)
        cells = _compared(folder.read_config(), values, samplers, calls)
        if cells is not None and settings.seeds < 2:
            raise ValueError("--samplers compares samplers over seeds, and needs --seeds of at least 2")
    _greet()
    with runtime_errors():
        from .comparison import ComparisonSettings
        from .evaluate import evaluate_run
        from .likelihood import LikelihoodSettings
        from .runtime import start

        wanted = None
        if steps is not None:
            wanted = LikelihoodSettings(
                images=None if likelihood_images == "all" else int(likelihood_images or 1000),
                steps=steps,
                dequantisation=likelihood_dequantisation or "truncated_normal",
                exact_trace=likelihood_trace == "exact",
            )
        comparison = None if cells is None else ComparisonSettings(cells, settings.seeds)
        with start(device, parallel, timeout) as runtime:
            evaluate_run(folder, settings, runtime, features=features, likelihood=wanted, comparison=comparison)
            runtime.say(f"open {folder.report}")


@main.command()
@run_argument
def report(run: Path) -> None:
    """Write the report of a run again, from the files in its folder."""
    folder = RunFolder(run)
    with usage_errors():
        folder.read_config()
    with runtime_errors():
        from .report import write_report

        try:
            click.echo(f"open {write_report(folder)}")
        except ValueError as error:
            raise click.ClickException(str(error)) from None


@main.command()
@run_argument
def verify(run: Path) -> None:
    """Say of every file of a run whether it is whole; exit status 1 if one is not.

    \b
      noisestep verify runs/digits-001

    A checkpoint is whole if its digest is that of every byte in it, and if it is of this run's configuration. Nothing
    is changed, and the run may train meanwhile.
    """
    folder = RunFolder(run)
    with usage_errors():
        folder.read_config()
    with runtime_errors():
        from .verify import verify_run

        if not verify_run(folder, click.echo):
            raise click.ClickException(f"{folder} is not whole")


def _read_config_file(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return read_json(read_text(path))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"--config {path}: {reason}") from None


def _sample_config(run: RunFolder, values: Mapping[str, Any]) -> SampleConfig:
    """The sampling settings of a run's configuration with those of the flags on top."""
    with usage_errors():
        config = run.read_config()
        config = from_dict(merge(asdict(config), given(values, SAMPLE_FLAGS)))
    _refuse_unused(config, values)
    return config.sample


def _refuse_unused(config: TrainConfig, values: Mapping[str, Any]) -> None:
    """A setting that the sampler does not take is a mistake when it is given, and not when a recipe has it."""
    own = [name for sampler in SAMPLERS.values() for name in sampler.settings]
    given_here = {name: value for name in own if (value := values[keyword(f"sample.{name}")]) is not None}
    with usage_errors():
        SAMPLERS[config.sample.sampler].with_defaults(given_here)


def _likelihood_steps(config: TrainConfig, settings: SampleConfig, flags: Mapping[str, object]) -> int | None:
    """The steps of --likelihood, None without it; ValueError where its flags do not fit each other or the run."""
    T = config.schedule.T
    given_here = [flag for flag, value in flags.items() if value not in (None, False)]
    if not given_here:
        return None
    if "--likelihood" not in given_here:
        raise ValueError(f"{given_here[0]} means nothing without --likelihood")
    if T < 3:
        raise ValueError(f"the likelihood needs a schedule of at least 3 timesteps, and this has T = {T}")
    if config.prediction == "eps" and not settings.clip_x0:
        raise ValueError(
            "the likelihood of a network that predicts eps needs --clip-x0: an error of eps is divided by "
            f"{config.schedule.build().sqrt_alpha_bar[-1]:.2g} at t = T"
        )
    steps = flags["--likelihood-steps"] or min(50, T - 1)
    assert isinstance(steps, int)
    if steps >= T:
        raise ValueError(f"{steps} likelihood steps, but the schedule has T = {T}: at most {T - 1}")
    return steps


def _compared(
    config: TrainConfig, values: Mapping[str, Any], samplers: str | None, calls: str | None
) -> dict[tuple[str, int], SampleConfig] | None:
    """How each sampler is run with each number of calls, None without --samplers; ValueError where one cannot be."""
    if samplers is None:
        if calls is not None:
            raise ValueError("--calls means nothing without --samplers")
        return None
    names = list(SAMPLERS) if samplers == "all" else [name.strip() for name in samplers.split(",")]
    if calls is None:
        numbers = [number for number in (5, 10, 20) if number <= config.schedule.T] or [config.schedule.T]
    else:
        texts = [text.strip() for text in calls.split(",")]
        if not all(text.isdecimal() and int(text) for text in texts):
            raise ValueError(f"--calls is {calls!r}; it must be numbers of network calls from 1, such as 5,10,20")
        numbers = [int(text) for text in texts]
    for flag, given_here in (("--samplers", names), ("--calls", numbers)):
        if twice := [item for place, item in enumerate(given_here) if item in given_here[:place]]:
            raise ValueError(f"{flag} has {twice[0]} twice")
    # a temperature above 1 makes up for what one sampler loses, and would be in the way of another
    config = from_dict(merge(asdict(config), merge({"sample": {"temperature": 1.0}}, given(values, SAMPLE_FLAGS))))
    try:
        return {(name, number): with_sampler(config, name, number) for number in numbers for name in names}
    except ValueError as error:
        raise ValueError(f"--samplers: {error}") from None


def _check_interpolation(numbers: tuple[int, int], settings: SampleConfig, edit: EditConfig) -> None:
    """Refuse what has no place between two samples."""
    if numbers[0] == numbers[1]:
        raise ValueError(f"--interpolate {numbers[0]} {numbers[1]}: name two different samples")
    if edit.image is not None:
        raise ValueError("--interpolate starts from noise, and cannot be given with --image")
    own = SAMPLERS[settings.sampler].settings
    for name, without in (("eta", 0), ("variance", "zero"), ("churn", 0)):
        if name in own and getattr(settings, name) != without:
            raise ValueError(
                f"--interpolate needs a sampler without noise on the way, and {settings.sampler} adds some: pass "
                f"--{name} {without}"
            )


def _greet() -> None:
    if os.environ.get("RANK", "0") == "0":
        click.echo(f"noisestep {version('noisestep')}, loading PyTorch", err=True)


def _command() -> str:
    program = ["noisestep"]
    if (processes := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        machines = [f"--nnodes={processes // local}"] if processes > local else []
        program = ["torchrun", *machines, f"--nproc-per-node={local}", "-m", "noisestep.accelerated.cli"]
    return shlex.join([*program, *sys.argv[1:]])
