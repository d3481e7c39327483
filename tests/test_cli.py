"""The command line: a bad flag or folder is one clear line and an exit status, a good one leaves a whole run folder."""

import io
import json
import math
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from noisestep.accelerated.cli import commands as cli
from noisestep.accelerated.cli import main
from noisestep.accelerated.cli import sample as sampling
from noisestep.accelerated.cli.flags import EDIT_FLAGS, RESUME_FLAGS, SAMPLE_FLAGS, TRAIN_FLAGS, default_of, field_at
from noisestep.accelerated.cli.flags import given as given_flags
from noisestep.accelerated.cli.report import write_report
from noisestep.accelerated.cli.run_folder import RunFolder
from noisestep.accelerated.samplers import SAMPLERS
from noisestep.accelerated.samplers.editing import Edit, times
from noisestep.accelerated.training import tensor_file
from noisestep.accelerated.training.config import (
    RECIPES,
    SECTIONS,
    SampleConfig,
    ScheduleConfig,
    TrainConfig,
    from_dict,
    train_config,
)
from noisestep.accelerated.training.settings import Choice, Interval, Kind, Range, Size, Switch
from PIL import Image
from tiny_run import SETTINGS, run


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run in it, and some that are broken in one way each."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "tiny.json").write_text(json.dumps({**SETTINGS, "steps": 10, "warmup": 2, "sample_every": 5}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = call("train", "--config", "tiny.json", "--out", "run", "--device", "cpu")
    assert result.exit_code == 0, result.output
    (folder / "empty").mkdir()
    (folder / "not-json.json").write_text("{")
    (folder / "unknown.json").write_text('{"stepz": 3}')
    (folder / "list.json").write_text("[]")
    (folder / "bad-data.json").write_text('{"data": "digits"}')
    (folder / "photos").mkdir()
    for name in ("torn", "bare", "other-version", "other-data", "gone", "config-only", "plain", "other-run"):
        shutil.copytree(folder / "run", folder / name)
    shutil.rmtree(folder / "bare" / "checkpoints")
    for path in (folder / "torn" / "checkpoints").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:1000])
    (folder / "config-only" / "config.json").write_text('{"steps": -1}')
    rewrite_record(folder / "other-version", '"format": 3', '"format": 99')
    rewrite_record(folder / "other-data", '"fingerprint": "....', '"fingerprint": "0000')
    rewrite_record(folder / "gone", '"source": "digits"', '"source": "gone.npy"')
    config = (folder / "run" / "config.json").read_text()
    (folder / "other-run" / "config.json").write_text(config.replace('"seed": 0', '"seed": 5'))
    (folder / "photos-and-more").mkdir()
    (folder / "photos-and-more" / "notes.txt").write_text("")
    (folder / "short").mkdir()
    (folder / "short" / "config.json").write_text('{"schedule": {"T": 2}, "sample": {"steps": 1}}')
    (folder / "file").write_text("")
    picture = np.arange(90, dtype=np.uint8).reshape(9, 10)
    Image.fromarray(picture).save(folder / "big.png")
    Image.fromarray(picture[:8, :8]).save(folder / "small.png")
    Image.fromarray(np.where(np.arange(8) < 4, 255, 0).astype(np.uint8)[None].repeat(8, axis=0)).save(
        folder / "left.png"
    )
    (folder / "few.npy").write_bytes(npy(np.zeros((9, 8, 8), np.uint8)))
    (folder / "odd.npy").write_bytes(npy(np.arange(20 * 7 * 7, dtype=np.uint8).reshape(20, 7, 7)))
    return folder


def rewrite_record(run: Path, pattern: str, text: str) -> None:
    """Change what the checkpoints of a run say."""
    for path in (run / "checkpoints").iterdir():
        record, tensors = tensor_file.read(path)
        changed = re.sub(pattern, text, json.dumps(record))
        with path.open("wb") as file:
            tensor_file.write(file, json.loads(changed), tensors)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


# what is typed, the exit status, and what is said
BAD_FLAGS: list[tuple[str, int, str]] = [
    ("trane", 2, "No such command 'trane'"),
    ("train --stepz 3", 2, "No such option '--stepz'|No such option: --stepz"),
    ("train --steps", 2, "Option '--steps' requires an argument"),
    ("train --steps 0", 2, "'0' is not an integer from 1 to 268435455"),
    ("train --steps ten", 2, "'ten' is not an integer from 1 to 268435455"),
    ("train --steps 1e3", 2, "'1e3' is not an integer"),
    ("train --batch-size -1", 2, "'-1' is not an integer from 1 to 65536"),
    ("train --learning-rate 0", 2, "'0' is not a number from 0 to 1, 0 excluded"),
    ("train --learning-rate nan", 2, "'nan' is not a number"),
    ("train --max-grad-norm -1", 2, "'-1' is not a number above 0"),
    ("train --ema 1", 2, "'1' is not a number from 0 to 1, 1 excluded"),
    ("train --seed -1", 2, "'-1' is not an integer from 0"),
    ("train --size 0", 2, "'0' is not height and width from 1 to 4096"),
    ("train --size 32x32x3", 2, "'32x32x3' is not height and width from 1 to 4096: .* 32x48 or 32 as a flag"),
    ("train --size big", 2, "'big' is not height and width"),
    ("train --channels 2", 2, "'2' is not one of 1, 3, 4"),
    ("train --fit stretch", 2, "'stretch' is not one of crop, pad"),
    ("train --schedule cos", 2, "'cos' is not one of linear, "),
    ("train --prediction noise", 2, "'noise' is not one of eps, x_0, v, flow"),
    ("train --weighting snr", 2, "'snr' is not one of none, min_snr"),
    (
        "train --sample-sampler euler",
        2,
        "'euler' is not one of ddim, ddpm, deis, .*, unipc; euler is called ddim with eta 0 here",
    ),
    ("sample run --sampler edm", 2, "is not one of .*; edm is called heun with a churn here"),
    ("sample run --sampler euler2", 2, "is not one of ddim, ddpm, deis, .*, unipc.$"),
    ("sample run --grid trailing", 2, "is not one of .*, exponential; trailing is called uniform here"),
    ("sample run --sampler heun --s-min 2 --s-max 1", 2, "s_max must be at least s_min = 2"),
    ("sample run --churn 3", 2, "churn means nothing to sampler ddim"),
    ("sample run --interpolate 3 4 --sampler heun --churn 1", 2, "and heun adds some: pass --churn 0"),
    ("train --schedule flow", 2, "x_T of schedule flow is pure noise, .*; allowed: x_0, v, flow"),
    ("train --schedule flow --prediction flow --sample-sampler deis", 2, "deis needs a finite rho_T"),
    ("train --sample-grid cosine", 2, "'cosine' is not one of uniform, quadratic, karras, exponential"),
    (
        "train --zero-terminal-snr --prediction v --sample-sampler deis",
        2,
        r"alpha_bar_T is 0 \(zero terminal SNR\): deis needs a finite rho_T",
    ),
    ("train --data ''", 2, "'' is not a non-empty string"),
    ("train --held-out 1", 2, "'1' is not a number from 0 to 1, 0 excluded and 1 excluded"),
    ("train --warmup 50 --steps 50", 2, "warmup is 50 of 50 steps; it must be smaller than steps"),
    ("train --timesteps 20 --sample-steps 30", 2, "30 sampling steps, but the schedule has T = 20: at most that"),
    ("train --sample-guidance 2", 2, "guidance is 2; other than 1 it needs a model trained with and without labels"),
    (
        "train --sample-guidance 2 --label-dropout 0.1 --no-conditional",
        2,
        "guidance is 2; other than 1 it needs a model",
    ),
    ("train --zero-terminal-snr", 2, "prediction is 'eps', but x_T of schedule cosine is pure noise"),
    ("train --sample-sampler ddpm --sample-eta 0.5", 2, "eta means nothing to sampler ddpm, which takes variance"),
    ("train --sample-variance beta", 2, "variance means nothing to sampler ddim, which takes eta"),
    ("train --out run", 2, "--out run exists and is not an empty folder; name a new one"),
    ("train --out file", 2, "--out file exists and is not an empty folder; name a new one"),
    ("train --config nowhere.json", 2, "--config nowhere.json: No such file or directory"),
    ("train --config photos", 2, "--config photos: Is a directory"),
    ("train --config not-json.json", 2, "--config not-json.json: not JSON: "),
    ("train --config list.json", 2, r"--config list.json: a JSON object is expected, got '\[\]'"),
    ("train --config unknown.json", 2, "unknown name 'stepz'; known: data"),
    ("train --config bad-data.json", 2, "data is 'digits'; it must be an object of names and values"),
    ("train --data nowhere", 1, "nowhere: no such file or folder"),
    ("train --data photos", 1, "photos: expected images"),
    ("train --data file", 1, "file: expected a folder of images"),
    (
        "train --data few.npy --held-out 0.5",
        1,
        "9 images with a fraction of 0.5 held out leave 4 to train on; the eval",
    ),
    (
        "train --data odd.npy --held-out 0.4 --sample-guidance 2",
        1,
        "guidance is 2, but the images have no labels: only 1 is possible",
    ),
    ("train --data odd.npy --config tiny.json --held-out 0.4", 1, "model: num_classes is 10, but the images need None"),
    ("train --sample-count 6", 1, "6 samples are too few for the evaluation, which needs at least 7"),
    ("train --device tpu", 1, "--device is 'tpu'; allowed: auto, cpu, cuda, cuda:N"),
    ("train --device cuda:99", 1, "--device is 'cuda:99', but this machine has [0-9]+ GPUs for torch"),
    ("train --device cpu --cuda-graph", 1, "--cuda-graph needs a GPU, but the device is cpu; choose --no-cuda-graph"),
    ("train --micro-batch 8 --cuda-graph", 2, "cuda_graph is on and micro_batch is 8; a captured step computes"),
    ("train --resume run --device cpu --cuda-graph", 1, "--cuda-graph needs a GPU, but the device is cpu"),
    ("train --resume nowhere", 2, "nowhere: no such run folder"),
    ("train --resume empty", 2, "empty: not a run folder, it has no config.json"),
    ("train --resume run --batch-size 3", 2, "--resume takes the configuration of run: --batch-size cannot be given"),
    ("train --resume run --no-flip", 2, "--resume takes the configuration of run: --flip cannot be given with it"),
    ("train --resume run --config tiny.json", 2, "--config cannot be given with it; only --data, --workers, --steps"),
    ("train --resume run --out other", 2, "--out cannot be given with it"),
    ("train --continue", 2, "--continue needs --out"),
    ("train --resume run --continue", 2, "--continue cannot be given with it"),
    ("train --out photos-and-more --continue", 1, "photos-and-more exists and is not an empty folder"),
    ("train --config tiny.json --out run --continue --seed 1", 1, "run has another configuration: seed is 1, not 0"),
    ("train --config tiny.json --out run --continue --steps 5", 1, "--steps is 5, but run has made 10 steps already"),
    ("train --resume other-run", 1, "no checkpoint that can be read; none of the 2 can be used"),
    ("sample other-run", 1, "no checkpoint that can be read; none of the 2 can be used"),
    ("verify nowhere", 2, "nowhere: no such run folder"),
    ("verify torn", 1, "torn is not whole"),
    ("verify other-run", 1, "other-run is not whole"),
    ("verify bare", 1, "bare is not whole"),
    ("train --resume run --steps 5", 1, "--steps is 5, but run has made 10 steps already"),
    ("train --resume bare", 1, "bare/checkpoints: no checkpoint that can be read; there is none"),
    ("train --resume torn", 1, "torn/checkpoints: no checkpoint that can be read; none of the 2 can be used"),
    ("train --resume other-version", 1, "format 99; this noisestep reads format 3"),
    ("train --resume other-data", 1, r"digits: not the images of this run any more \(their fingerprint differs\)"),
    ("train --resume run --data odd.npy", 1, r"odd.npy: images of shape \(1, 7, 7\) \(C, H, W\); the run was trained"),
    ("sample", 2, "Missing argument 'RUN'"),
    ("sample nowhere", 2, "nowhere: no such run folder"),
    ("sample empty", 2, "empty: not a run folder, it has no config.json"),
    ("sample config-only", 2, "config-only/config.json: steps is -1; allowed: an integer from 1"),
    ("sample bare", 1, "bare/checkpoints: no checkpoint that can be read; there is none"),
    ("sample run --count 0", 2, "'0' is not an integer from 1 to 10000000"),
    ("sample run --first -1", 2, "-1 is not in the range"),
    ("sample run --steps 21", 2, "21 sampling steps, but the schedule has T = 20: at most that many"),
    ("sample run --eta 1.5", 2, "'1.5' is not a number from 0.0 to 1.0"),
    ("sample run --sampler ddpm --eta 0.1", 2, "eta means nothing to sampler ddpm, which takes variance"),
    ("sample run --sampler heun --eta 0", 2, "eta means nothing to sampler heun, which takes churn, s_min"),
    ("sample run --guidance-rescale 2", 2, "'2' is not a number from 0 to 1"),
    ("sample run --guidance-interval 2", 2, "'2' is not two numbers with 0 <= low <= high: .* 0.2,5 as a flag"),
    ("sample run --guidance-interval 2,1", 2, "'2,1' is not two numbers with 0 <= low <= high"),
    ("sample run --guidance-rescale 0.7", 2, "guidance_rescale is 0.7, but guidance is 1: there is none"),
    ("sample run --strength 0.5", 2, "strength is 0.5, but there is no image to edit"),
    ("sample run --image big.png", 2, "image is big.png; it also needs a strength, a mask, or both"),
    ("sample run --image big.png --strength 0", 2, "'0' is not a number from 0 to 1, 0 excluded"),
    ("sample run --image big.png --strength 1 --resample 2", 2, "resample is 2; without a mask there is nothing"),
    ("sample run --image big.png --mask big.png --sampler heun", 2, "a mask changes x .*, and sampler heun looks"),
    ("sample run --image big.png --mask big.png --resample 2", 2, "jump is 10, and the chain has 3 steps"),
    ("sample run --image nowhere.png --strength 0.5", 1, "nowhere.png: no such file"),
    ("sample run --image file --strength 0.5", 1, "file: expected an image"),
    ("sample run --image big.png --strength 0.5", 1, r"big.png: expected 8×8 pixels \(height × width\), got 9×10"),
    ("sample run --image small.png --mask big.png", 1, "big.png: expected 8×8 pixels .*, got 9×10"),
    ("sample run --interpolate 3 3 --eta 0", 2, "--interpolate 3 3: name two different samples"),
    (
        "sample run --interpolate 3 4 --eta 0.5",
        2,
        "--interpolate needs a sampler without noise .* and ddim adds some: pass --eta",
    ),
    ("sample run --interpolate 3 4 --sampler ddpm", 2, "and ddpm adds some: pass --variance zero"),
    ("sample run --interpolate 3 4 --eta 0 --image small.png --strength 1", 2, "cannot be given with --image"),
    ("sample run --labels 10", 1, "--labels: no class '10'; there are 0, 1, 2, .*, or their numbers 0 to 9"),
    ("sample run --labels 1,,2", 1, "--labels: no class ''"),
    ("sample plain --out file", 2, "--out file exists and is not an empty folder"),
    ("evaluate nowhere", 2, "nowhere: no such run folder"),
    ("evaluate run --count 3", 1, "3 samples are too few for the evaluation, which needs at least 7"),
    ("evaluate other-data", 1, "digits: not the images of this run any more"),
    ("evaluate gone", 1, "gone.npy: no such file or folder"),
    ("evaluate run --likelihood-steps 5", 2, "--likelihood-steps means nothing without --likelihood"),
    ("evaluate run --likelihood-trace exact", 2, "--likelihood-trace means nothing without --likelihood"),
    ("evaluate run --likelihood --likelihood-trace both", 2, "'both' is not one of 'hutchinson', 'exact'"),
    ("evaluate run --likelihood --likelihood-images 1", 2, "'1' is not an integer from 2, or all"),
    ("evaluate run --likelihood --likelihood-steps 20", 2, "20 likelihood steps, but the schedule has T = 20: at most"),
    ("evaluate run --likelihood --no-clip-x0", 2, "a network that predicts eps needs --clip-x0: an error of eps is"),
    ("evaluate short --likelihood", 2, "the likelihood needs a schedule of at least 3 timesteps, and this has T = 2"),
    ("evaluate run --calls 5", 2, "--calls means nothing without --samplers"),
    ("evaluate run --samplers ddim --seeds 1", 2, "--samplers compares samplers over seeds, and needs --seeds of at"),
    ("evaluate run --features nope", 1, "--features is 'nope'; allowed: auto, pixels, learned, inception, torchvision"),
    ("evaluate run --features inception", 1, "inception-2015-12-05.pt, which is not there and is not downloaded"),
    ("evaluate run --features gone.pt", 1, "--features gone.pt: no such file"),
    ("evaluate run --features gone_module:f", 1, "--features gone_module:f: No module named 'gone_module'"),
    ("evaluate run --features math:sqrt", 1, r"--features math:sqrt: images \(1, 8, 8\) .* cannot be given to it"),
    ("train --config tiny.json --features nope", 1, "--features is 'nope'; allowed: auto, pixels"),
    ("evaluate run --samplers ddim,euler", 2, "--samplers: no sampler 'euler'; there are ddim, ddpm, deis, dpmpp_2m"),
    ("evaluate run --samplers ddim,,heun", 2, "--samplers: no sampler ''; there are ddim"),
    ("evaluate run --samplers ddim,heun,ddim", 2, "--samplers has ddim twice"),
    ("evaluate run --samplers ddim --calls 5,5", 2, "--calls has 5 twice"),
    ("evaluate run --samplers ddim --calls 0", 2, "--calls is '0'; it must be numbers of network calls from 1, such"),
    ("evaluate run --samplers ddim --calls five", 2, "--calls is 'five'; it must be numbers"),
    ("evaluate run --samplers heun,ddim --calls 5,21", 2, "ddim with 21 network calls: 21 sampling steps, but the sch"),
    (
        "evaluate short --samplers heun --calls 5",
        2,
        "heun with 5 network calls: 3 sampling steps, but the schedule has",
    ),
    ("report empty", 2, "empty: not a run folder, it has no config.json"),
]


@pytest.mark.parametrize(("arguments", "status", "message"), BAD_FLAGS)
def test_bad_flags_and_folders_end_in_one_clear_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, status: int, message: str
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    result = call(*shlex.split(arguments))
    assert (result.exit_code, type(result.exception)) == (status, SystemExit), result.output
    last = result.output.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert re.search(message, last), result.output
    assert "Traceback" not in result.output
    assert sorted(folder.iterdir()) == before, "nothing is left behind"


def test_a_run_folder_holds_what_the_report_shows(folder: Path) -> None:
    names = {str(path.relative_to(folder / "run")) for path in (folder / "run").rglob("*") if path.is_file()}
    events = {name for name in names if name.startswith("tensorboard/events.out.tfevents")}
    assert len(events) == 1
    assert names - events == {
        "config.json",
        "run.json",
        "log.csv",
        "train.log",
        "metrics.json",
        "sampling.json",
        "samples.npz",
        "samples.png",
        "neighbours.png",
        "loss.png",
        "forward_strip.png",
        "reverse_strip.png",
        "denoising.gif",
        "report.html",
        "samples/step_000005.png",
        "samples/step_000010.png",
        *(f"checkpoints/step_{step:09d}.safetensors" for step in (5, 10)),
    }
    assert "missing from the run folder" not in (folder / "run" / "report.html").read_text()
    assert json.loads((folder / "run" / "config.json").read_text())["steps"] == 10
    with Image.open(folder / "run" / "denoising.gif") as animation:
        assert getattr(animation, "n_frames", 1) == SETTINGS["sample"]["steps"] + 1


def test_a_report_is_written_at_every_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    written = []

    def watched(run: RunFolder, *, training: bool = False) -> Path:
        path = write_report(run, training=training)
        written.append((training, path.read_text().count("<img"), list(run.training_grids())))
        return path

    monkeypatch.setattr("noisestep.accelerated.cli.train.write_report", watched)
    result = call("train", "--config", "tiny.json", "--steps", "15", "--out", "watched", "--device", "cpu")
    assert result.exit_code == 0, result.output
    # the loss and the grids so far; after the last step it is the evaluation's
    assert written == [(True, 2, [5]), (True, 3, [5, 10])]
    shutil.rmtree("watched")


def test_the_times_on_a_strip_are_those_of_its_chain() -> None:
    schedule = ScheduleConfig(T=20).build().respace(4)
    assert times(schedule, None) == [20, 15, 10, 5, 0]
    image = torch.zeros(1, 8, 8)
    assert times(schedule, Edit(image, strength=0.5)) == [10, 5, 0]
    mask = torch.ones(8, 8, dtype=torch.bool)
    assert times(schedule, Edit(image, mask=mask, resample=2, jump=2)) == [20, 15, 10, 5, 10, 15, 10, 5, 0]


@pytest.mark.parametrize(
    ("classes", "width", "columns", "most"),
    [
        (10, 8, 10, 100),
        (4, 32, 8, 64),
        (3, 32, 9, 81),
        (16, 32, 16, 96),
        (16, 100, 8, 64),
        (17, 8, 10, 100),
        (1, 8, 10, 100),
        (0, 8, 10, 100),
        (4, 256, 4, 16),
        (10, 512, 4, 16),
    ],
)
def test_a_grid_fills_the_column_for_any_classes_and_size(classes: int, width: int, columns: int, most: int) -> None:
    names = tuple(f"class {k}" for k in range(classes))
    record = SimpleNamespace(shape=(3, width, width), class_names=names)
    layout = sampling.Layout.of(SimpleNamespace(num_classes=classes or None, record=record))
    assert (layout.columns, layout.most) == (columns, most)
    picture = layout.grid(np.zeros((most + 3, 3, width, width), np.uint8))
    # whole rows, and about as wide as the column of the report, 840, or more
    assert 800 <= picture.width <= max(1680, columns * (width + 4) + 4)
    assert picture.height <= 1.1 * picture.width
    assert layout.texts in ((), names * (columns // max(1, classes)))


def test_samples_are_written_as_pictures_and_arrays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    flags = ("--device", "cpu", "--seed", "4", "--sampler", "ddpm", "--steps", "4")
    assert call("sample", "plain", "--count", "8", "--out", "all", *flags).exit_code == 0
    result = call("sample", "plain", "--count", "3", "--first", "4", "--batch-size", "2", *flags)
    assert "3 images are in plain/generated/001" in result.output
    some = folder / "plain" / "generated" / "001"
    everything, part = np.load("all/samples.npz"), np.load(some / "samples.npz")
    assert everything["images"].shape == (8, 1, 8, 8)
    assert part["labels"].tolist() == [4, 5, 6]
    # in single-image batches sums may round differently, by far less than a grey level, which may tip one over
    difference = everything["images"][4:7].astype(int) - part["images"].astype(int)
    assert np.abs(difference).max() <= 1
    assert sorted(path.name for path in (some / "images").iterdir()) == [f"{k:06d}.png" for k in (4, 5, 6)]
    with Image.open(some / "images" / "000005.png") as image:
        np.testing.assert_array_equal(np.asarray(image), part["images"][1, 0])
    assert {path.name for path in some.iterdir()} == {
        "images",
        "samples.png",
        "samples.npz",
        "reverse_strip.png",
        "denoising.gif",
        "sampling.json",
    }
    assert json.loads((some / "sampling.json").read_text())["first"] == 4
    assert "plain/generated/002" in call("sample", "plain", "--count", "1", "--steps", "1").output


def test_an_image_is_edited(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    image = np.asarray(Image.open("small.png"))
    flags = ("--device", "cpu", "--count", "3", "--steps", "6", "--image", "small.png")
    result = call("sample", "run", "--mask", "left.png", "--resample", "2", "--jump", "2", "--out", "inpainted", *flags)
    assert result.exit_code == 0, result.output
    made = np.load("inpainted/samples.npz")["images"][:, 0]
    assert np.array_equal(made[:, :, 4:], image[None, :, 4:].repeat(3, axis=0))
    assert not np.array_equal(made[0, :, :4], image[:, :4])
    # original, mask and three results, each 8×8 drawn as 192×192 with 4 pixels around it
    with Image.open("inpainted/edit.png") as picture:
        assert picture.size == (5 * 196 + 4, 200)
        assert np.array_equal(np.asarray(picture)[4:196:24, 4:196:24], image)
        assert np.array_equal(np.asarray(picture)[4:196:24, 200:392:24], np.asarray(Image.open("left.png")))
    settings = json.loads(Path("inpainted/sampling.json").read_text())
    assert settings["edit"] == {"image": "small.png", "strength": None, "mask": "left.png", "resample": 2, "jump": 2}
    result = call("sample", "run", "--strength", "0.5", "--out", "varied", *flags)
    assert result.exit_code == 0, result.output
    # from step 3 of 6: where it starts, and three steps
    with Image.open("varied/denoising.gif") as animation:
        assert getattr(animation, "n_frames", 1) == 4
    assert Path("varied/edit.png").exists()
    shutil.rmtree("inpainted")
    shutil.rmtree("varied")


def test_the_ends_of_an_interpolation_are_its_two_samples(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    flags = ("--device", "cpu", "--eta", "0", "--labels", "3")
    for name, more in (("between", ("--interpolate", "2", "5", "--count", "4")), ("ends", ("--count", "6"))):
        assert call("sample", "run", "--out", name, *more, *flags).exit_code == 0
    between, samples = (np.load(f"{name}/samples.npz")["images"].astype(int) for name in ("between", "ends"))
    # sums may round differently in another batch
    assert np.abs(between[[0, 3]] - samples[[2, 5]]).max() <= 1
    shutil.rmtree("between")
    shutil.rmtree("ends")


def test_samplers_are_compared_from_the_same_noise(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    shutil.copytree("plain", "compared")
    flags = ("--device", "cpu", "--seed", "3", "--count", "8")
    result = call("evaluate", "compared", "--samplers", "ddim,heun", "--calls", "3,4", "--seeds", "2", *flags)
    assert result.exit_code == 0, result.output
    assert "comparing samplers: 4 combinations, 200 samples of 2 seeds each" in result.output
    compared = json.loads(Path("compared/comparison.json").read_text())
    assert compared["seeds"] == [3, 4]
    places = [(cell["sampler"], cell["calls"]) for cell in compared["cells"]]
    assert places == [("ddim", 3), ("heun", 3), ("ddim", 4), ("heun", 4)]
    assert all(len(set(cell["distances"])) == 2 for cell in compared["cells"])
    # heun makes three calls in both
    assert compared["cells"][1]["distances"] == compared["cells"][3]["distances"]
    for words in ("\nddim ", " 3 calls ", f"{np.mean(compared['cells'][0]['distances']) / compared['real']:.2f} ± "):
        assert words in result.output
    # a row is what `sample` draws, at temperature 1 and with the sampler's own settings
    tile = 192 // 8
    with Image.open("compared/comparison_samples.png") as picture:
        rows = np.asarray(picture).astype(int)
    left = rows.shape[1] - (8 * (192 + 4) + 4)
    for row, (sampler, steps) in enumerate((("ddim", 3), ("heun", 2), ("ddim", 4), ("heun", 2))):
        own = ("--eta", "0") if sampler == "ddim" else ()
        more = ("--steps", steps, "--sampler", sampler, "--temperature", "1", *own, "--out", f"row{row}")
        assert call("sample", "compared", *flags, *more).exit_code == 0
        drawn = np.load(f"row{row}/samples.npz")["images"][:, 0].astype(int)
        shutil.rmtree(f"row{row}")
        for column, image in enumerate(drawn):
            corner = 4 + row * 196, left + 4 + column * 196
            shown = rows[corner[0] : corner[0] + 192 : tile, corner[1] : corner[1] + 192 : tile]
            # sums may round differently in a batch of another size
            assert np.abs(shown - image).max() <= 1
    report = Path("compared/report.html").read_text()
    assert "heun" in report
    shutil.rmtree("compared")


def test_labels_go_by_name_or_number_in_turn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    result = call("sample", "run", "--count", "5", "--labels", "3, 7", "--steps", "1", "--out", "labelled")
    assert result.exit_code == 0, result.output
    assert np.load("labelled/samples.npz")["labels"].tolist() == [3, 7, 3, 7, 3]
    shutil.rmtree("labelled")


def test_a_whole_run_in_processes_of_its_own(folder: Path) -> None:
    said = run("train", "--config", "tiny.json", "--steps", "4", "--warmup", "1", cwd=folder)
    for line in ("reading images: digits", "the run folder is runs/digits-001", "step 4/4  loss ", "Label accuracy"):
        assert line in said
    assert "open runs/digits-001/report.html" in said
    assert "3 images are in out" in run("sample", "runs/digits-001", "--count", "3", "--out", "out", cwd=folder)
    before = json.loads((folder / "runs/digits-001/metrics.json").read_text())
    flags = ["--likelihood", "--likelihood-images", "5", "--likelihood-steps", "4", "--seed", "3"]
    said = run("evaluate", "runs/digits-001", "--sampler", "ddpm", "--count", "30", *flags, cwd=folder)
    for words in (
        "Fréchet distance",
        "likelihood of 5 of 899 ",
        "bound, σ² = beta",
        "5 of 899 held out",
    ):
        assert words in said
    likelihood = json.loads((folder / "runs/digits-001/likelihood.json").read_text())
    assert (likelihood["images"], likelihood["seed"], likelihood["clip_x0"]) == (5, 3, True)
    assert (likelihood["ode"]["probes"], likelihood["ode"]["dequantisation"]) == (1, "truncated_normal")
    assert (likelihood["grid"][0], likelihood["grid"][-1], len(likelihood["grid"])) == (1, 20, 5)
    with Image.open(folder / "runs/digits-001/likelihood.png") as picture:
        assert picture.size == (1320, 1200)
    assert f"{likelihood['ode']['total']:.3f}" in (folder / "runs/digits-001/report.html").read_text()
    after = json.loads((folder / "runs/digits-001/metrics.json").read_text())
    assert after["counts"]["samples"] == 30 != before["counts"]["samples"]
    (folder / "runs/digits-001/report.html").unlink()
    (folder / "runs/digits-001/loss.png").unlink()
    run("report", "runs/digits-001", cwd=folder)
    assert "loss.png is missing" in (folder / "runs/digits-001/report.html").read_text()
    shutil.rmtree(folder / "runs")
    shutil.rmtree(folder / "out")


def test_a_finished_run_is_evaluated_again_when_resumed_and_can_be_made_longer(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    shutil.copytree("run", "again")
    (folder / "again" / "metrics.json").unlink()
    for name in ("likelihood.json", "likelihood.png"):
        (folder / "again" / name).write_text("of the weights before")
    assert call("train", "--resume", "again").exit_code == 0
    assert (folder / "again" / "metrics.json").read_bytes() == (folder / "run" / "metrics.json").read_bytes()
    result = call("train", "--resume", "again", "--steps", "15")
    assert "going on after step 10 of 15" in result.output
    assert json.loads((folder / "again" / "config.json").read_text())["steps"] == 15
    assert (folder / "again" / "checkpoints" / "step_000000015.safetensors").exists()
    assert not [*(folder / "again").glob("likelihood.*")]
    shutil.rmtree("again")


def test_one_command_begins_continues_and_repeats(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    command = ("train", "--config", "tiny.json", "--device", "cpu", "--continue", "--out", "often")
    # stopped before the first checkpoint
    (folder / "often").mkdir()
    (folder / "often" / "config.json").write_text("{}")
    (folder / "often" / ".config.json.0123abcd.partial").write_text("{")
    result = call(*command, "--steps", "5")
    assert result.exit_code == 0, result.output
    grid = folder / "often" / "samples" / "step_000005.png"
    before = grid.read_bytes()
    # ended after its checkpoint and before its grid
    grid.unlink()
    result = call(*command)
    assert "going on after step 5 of 10" in result.output
    assert grid.read_bytes() == before
    assert "going on after step 10 of 10" in call(*command).output
    for name in ("metrics.json", "samples.png", "samples/step_000010.png"):
        # the number of steps is a part of the learning rate's schedule, and so the weights are others than those of run
        assert (folder / "often" / name).exists()
    assert [
        path for path in (folder / "often").rglob("*") if path.name in ("training.lock",) or path.suffix == ".partial"
    ] == []
    result = call("verify", "often")
    assert result.exit_code == 0, result.output
    shutil.rmtree("often")


@pytest.mark.parametrize(
    "name", ["config.json", "metrics.json", "samples.npz", "samples.png", "denoising.gif", "log.csv"]
)
@pytest.mark.parametrize("how", ["cut", "other"])
def test_verify_names_the_file_that_is_not_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, how: str
) -> None:
    monkeypatch.chdir(folder)
    path = folder / "plain" / name
    content = path.read_bytes()
    path.write_bytes(content[:-3] if how == "cut" else b"\x00" * len(content))
    result = call("verify", "plain")
    path.write_bytes(content)
    if name == "config.json":
        assert result.exit_code == 2
        assert "plain/config.json: not JSON" in result.output or "codec can't decode" in result.output
    else:
        assert result.exit_code == 1
        assert [line.split(":")[0] for line in result.output.splitlines() if line.startswith("NOT")] == [
            f"NOT WHOLE  {name}"
        ]
    assert call("verify", "plain").exit_code == 0


def test_verify_looks_at_every_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    lines = call("verify", "run").output.splitlines()
    files = {str(path.relative_to("run")) for path in Path("run").rglob("*") if path.is_file()}
    assert {line.removeprefix("whole      ") for line in lines} == files
    (events,) = Path("run/tensorboard").iterdir()
    content = events.read_bytes()
    for damaged in (content[:-3], content[:40] + b"?" + content[41:], content[:3] + b"?" + content[4:]):
        events.write_bytes(damaged)
        result = call("verify", "run")
        assert f"NOT WHOLE  tensorboard/{events.name}: " in result.output
    events.write_bytes(content)
    (folder / "run" / "notes.txt").write_text("mine")
    (folder / "run" / "checkpoints" / ".step_000000020.safetensors.0.partial").write_text("")
    result = call("verify", "run")
    assert "NOT WHOLE  notes.txt: not a file of a run" in result.output
    assert "step_000000020.safetensors.0.partial: unfinished: a process is writing it, or was ended" in result.output
    (folder / "run" / "notes.txt").unlink()
    (folder / "run" / "checkpoints" / ".step_000000020.safetensors.0.partial").unlink()


def test_a_torn_newest_checkpoint_is_reported_and_the_one_before_is_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    shutil.copytree("run", "half")
    newest = folder / "half" / "checkpoints" / "step_000000010.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    result = call("verify", "half")
    assert "NOT WHOLE  checkpoints/step_000000010.safetensors: not what was written" in result.output
    result = call("train", "--resume", "half")
    assert "skipping a damaged checkpoint: half/checkpoints/step_000000010.safetensors" in result.output
    assert (
        "half/checkpoints/step_000000010.safetensors is now called step_000000010.safetensors.set-asi" in result.output
    )
    assert "going on after step 5 of 10" in result.output
    result = call("verify", "half")
    assert "set aside  checkpoints/step_000000010.safetensors.set-aside-1" in result.output
    assert result.exit_code == 0, result.output
    assert (folder / "half" / "metrics.json").read_bytes() == (folder / "run" / "metrics.json").read_bytes()
    shutil.rmtree("half")


def test_images_without_labels_are_trained_on_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    result = call(
        *("train", "--data", "odd.npy", "--held-out", "0.5", "--steps", "2", "--timesteps", "4", "--out", "unlabelled"),
        *("--sample-count", "8", "--batch-size", "2"),
    )
    assert result.exit_code == 0, result.output
    assert "10 images to train on and 10 held out: 7×7, 1 channel, no labels" in result.output
    assert json.loads((folder / "unlabelled" / "metrics.json").read_text())["label_accuracy"] is None
    flags = ("--count", "8", "--likelihood", "--likelihood-images", "all", "--likelihood-steps", "2")
    result = call("evaluate", "unlabelled", *flags)
    assert "measuring the likelihood of 10 of 10 held-out images" in result.output
    assert json.loads((folder / "unlabelled" / "likelihood.json").read_text())["images"] == 10
    result = call("sample", "unlabelled", "--labels", "1")
    assert "--labels is '1', but this run was trained without labels" in result.output
    shutil.rmtree("unlabelled")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "run/log.csv"), "Error: run/log.csv: No space left on device"),
        (MemoryError(), "Error: out of memory; a smaller batch size needs less (MemoryError)"),
        (
            RuntimeError("CUDA out of memory. Tried\nmore"),
            "Error: out of memory; a smaller batch size needs less (CUDA",
        ),
    ],
)
def test_what_the_machine_refuses_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.chdir(folder)
    monkeypatch.setattr(sampling, "sample_run", refuse)
    result = call("sample", "run")
    assert result.exit_code == 1
    first, last = result.output.splitlines()
    assert first.endswith("loading PyTorch")
    assert last.startswith(said)


def test_a_bug_keeps_its_traceback(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("a defect")

    monkeypatch.chdir(folder)
    monkeypatch.setattr(sampling, "sample_run", fail)
    assert isinstance(call("sample", "run").exception, RuntimeError)


def test_the_help_names_every_flag_with_its_range_and_defaults() -> None:
    output = " ".join(call("train", "--help").output.split())
    for flag, path in TRAIN_FLAGS.items():
        assert f"{flag} " in output or f"{flag} / --no-{flag[2:]} " in output
        assert field_at(path).metadata["help"] in output
    assert f"[1..2^28-1; default {default_of('steps', 'digits')} for the digits, 20000 for other images]" in output
    assert "[above 0..below 1; default" in output
    for command in ("sample", "evaluate"):
        output = call(command, "--help").output
        # several seeds are for the evaluation
        assert all((flag in output) == (command == "evaluate" or flag != "--seeds") for flag in SAMPLE_FLAGS)
        # evaluation is of what a model makes by itself
        assert all((flag in output) == (command == "sample") for flag in EDIT_FLAGS)
    for name in ("train", "sample", "evaluate"):
        assert f"noisestep {name} " in call(name, "--help").output, "an example"
    assert call("--version").output.startswith("noisestep, version ")


@pytest.mark.parametrize("command", cli.main.commands.values(), ids=lambda command: command.name)
def test_every_flag_has_a_help_text(command: click.Command) -> None:
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
            assert re.sub(r"\[.*\]$", "", parameter.help).strip(), f"{parameter.name}: no more than a range"


def test_flags_of_sampling_begin_with_sample_in_train_and_are_short_elsewhere() -> None:
    for name in (item.name for item in fields(SECTIONS["sample"])):
        short = name.replace("_", "-")
        assert TRAIN_FLAGS[f"--sample-{short}"] == SAMPLE_FLAGS[f"--{short}"] == f"sample.{name}"
    others = {flag for flag, path in TRAIN_FLAGS.items() if not path.startswith("sample.")}
    assert {flag for flag in others if flag.startswith("--sample-")} == {"--sample-every"}
    assert len(set(TRAIN_FLAGS.values())) == len(TRAIN_FLAGS)


def values(kind: Kind) -> st.SearchStrategy[Any]:
    """Everything that a field of this kind takes."""
    match kind:
        case Range(kind=number) if number is int:
            return st.integers(int(kind.low), int(kind.high))
        case Range():
            high = None if math.isinf(kind.high) else kind.high
            return st.floats(kind.low, high, exclude_min=kind.open_low, exclude_max=kind.open_high, allow_nan=False)
        case Choice():
            return st.sampled_from(kind.values)
        case Switch():
            return st.booleans()
        case Interval():
            return st.tuples(st.floats(0), st.floats(0)).map(lambda ends: (min(ends), max(ends)))
        case Size():
            side = values(kind.side)
            return st.tuples(side, side)
    return st.text(st.characters(exclude_characters="\0"), min_size=1)


@st.composite
def configurations(draw: st.DrawFn) -> TrainConfig:
    """Any valid configuration of which every field has a flag."""
    plain: dict[str, Any] = {section: {} for section in SECTIONS}
    for path in TRAIN_FLAGS.values():
        section, _, name = path.rpartition(".")
        item = field_at(path)
        value = draw(
            st.none() | values(item.metadata["kind"]) if item.default is None else values(item.metadata["kind"])
        )
        (plain[section] if section else plain)[name] = value
    # tables of a million steps take a while
    schedule, sample = plain["schedule"], plain["sample"]
    schedule["T"] = draw(st.integers(2 if schedule["zero_terminal_snr"] else 1, 300))
    sample["steps"] = draw(st.integers(1, schedule["T"]))
    plain["warmup"] = draw(st.integers(0, plain["steps"] - 1))
    # what excludes another setting; rejecting these draws would reject most of them
    if ScheduleConfig(**schedule).build().zero_terminal_snr:
        plain["prediction"] = draw(st.sampled_from(["x_0", "v", "flow"]))
        sample["sampler"] = draw(st.sampled_from(sorted(SAMPLERS.keys() - {"deis"})))
    sample["s_min"], sample["s_max"] = sorted((sample["s_min"], sample["s_max"]))
    if plain["cuda_graph"]:
        plain["micro_batch"] = 0
    if not (plain["conditional"] and plain["label_dropout"] > 0):
        sample["guidance"] = 1.0
    if sample["guidance"] == 1.0:
        sample |= {name: getattr(SampleConfig, name) for name in ("guidance_interval", "guidance_rescale")}
    return from_dict(plain)


def flags_of(config: TrainConfig) -> list[str]:
    """The command line that says a whole configuration; None is not giving the flag."""
    line = []
    for flag, path in TRAIN_FLAGS.items():
        value: Any = config
        for name in path.split("."):
            value = getattr(value, name)
        if isinstance(value, bool):
            line.append(flag if value else f"--no-{flag[2:]}")
        elif value is not None:
            between = "," if isinstance(field_at(path).metadata["kind"], Interval) else "x"
            line.append(f"{flag}={between.join(map(str, value)) if isinstance(value, tuple) else value}")
    return line


@given(configurations())
def test_flags_say_every_configuration(config: TrainConfig) -> None:
    with cli.train.make_context("train", flags_of(config)) as context:
        assert train_config(given_flags(context.params, TRAIN_FLAGS)) == config


def test_every_setting_of_a_recipe_has_a_flag() -> None:
    def paths(content: dict[str, Any], prefix: str = "") -> list[str]:
        return [
            path
            for name, value in content.items()
            for path in (paths(value, f"{name}.") if isinstance(value, dict) else [prefix + name])
        ]

    unflagged = {path for recipe in RECIPES.values() for path in paths(recipe)} - set(TRAIN_FLAGS.values())
    assert not unflagged
    assert set(RESUME_FLAGS) <= set(TRAIN_FLAGS)
    assert isinstance(cli.main, click.Group)


def test_python_m_noisestep_is_the_command_line() -> None:
    for program in ("noisestep", "noisestep.accelerated.cli"):
        said = subprocess.run([sys.executable, "-m", program, "--help"], capture_output=True, text=True, check=True)
        assert said.stdout.startswith("Usage: noisestep [OPTIONS] COMMAND")
