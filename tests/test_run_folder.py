"""Run folders: the next free one, none that is used, and files that appear whole or not at all."""

import ast
import errno
import json
from pathlib import Path
from typing import Any

import pytest
from noisestep.accelerated import cli
from noisestep.accelerated.cli.run_folder import RunFolder, SampleFolder
from noisestep.accelerated.errors import RunError
from noisestep.accelerated.training.atomic import write_atomically, write_json
from noisestep.accelerated.training.config import TrainConfig, to_json

ACCELERATED = Path(cli.__file__).parents[1]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("digits", "digits-001"),
        ("some/photos/", "photos-001"),
        ("train-images-idx3-ubyte.gz", "train-images-idx3-ubyte-001"),
        ("a folder/ümläut.npz", "ml-ut-001"),
        ("...", "images-001"),
        ("shards/{000..099}.tar", "shards-001"),
    ],
)
def test_a_run_is_called_after_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert RunFolder.create_next(source).path == Path("runs") / name


def test_numbers_go_on_after_the_highest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("digits-001", "digits-007", "digits-x", "digitss-099", "1234"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    run = RunFolder.create_next("digits")
    assert run.path == Path("runs/digits-008")
    assert run.create_generated().path == Path("runs/digits-008/generated/001")
    assert run.create_generated().path == Path("runs/digits-008/generated/002")


def test_no_two_processes_get_the_same_numbered_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mkdir = Path.mkdir

    def late(path: Path, **options: Any) -> None:
        if path.name == "digits-001":
            # the other process, between the choice of a name and the folder
            mkdir(path)
        mkdir(path, **options)

    monkeypatch.setattr(Path, "mkdir", late)
    assert RunFolder.create_next("digits").path == Path("runs/digits-002")


def test_a_used_folder_is_refused(tmp_path: Path) -> None:
    SampleFolder(tmp_path / "new").require_new()
    SampleFolder(tmp_path).require_new()
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(RunError, match="exists and is not an empty folder; name a new one"):
            SampleFolder(path).require_new()


def test_the_configuration_is_read_back(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_atomically(run.config, to_json(TrainConfig(steps=321)).encode())
    assert run.read_config() == TrainConfig(steps=321)


def test_no_other_file_of_the_package_spells_the_name_of_a_file_in_a_run() -> None:
    run = RunFolder(Path("run"))
    paths = [*vars(SampleFolder(Path("run"))).values(), *vars(run).values(), *run.log]
    names = {path.name for path in paths if isinstance(path, Path)} - {"run"}
    assert {"config.json", "log.csv", "samples.png", "checkpoints"} < names
    for path in ACCELERATED.rglob("*.py"):
        if path.name != "run_folder.py":
            strings = {x.value for x in ast.walk(ast.parse(path.read_text())) if isinstance(x, ast.Constant)}
            # PyTorch's hub has a folder of that name too
            assert not (names - {"checkpoints"} if path.name == "extractors.py" else names) & strings, path
    assert not any(name in (ACCELERATED / "cli" / "report.html.jinja").read_text() for name in names - {"checkpoints"})


def test_json_is_written_for_people(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", {"a": [1]})
    assert json.loads(path.read_text()) == {"a": [1]}
    assert path.read_text().endswith("]\n}\n")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_atomically(tmp_path / "a", b"old")

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(path, b"new")
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
