"""Checkpoints: whole or not there, whatever happens while or after they are written."""

import dataclasses
import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from noisestep.accelerated import NOISE_VERSION
from noisestep.accelerated.errors import CheckpointError, DamagedCheckpoint
from noisestep.accelerated.training import checkpoint as checkpoints
from noisestep.accelerated.training import tensor_file
from noisestep.accelerated.training.atomic import write_json
from noisestep.accelerated.training.checkpoint import Checkpoint, Unlogged, latest, load, save
from noisestep.accelerated.training.checkpoint_files import files_set_aside
from noisestep.accelerated.training.data import DataRecord
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_run import tiny_config

RECORD = DataRecord("f" * 64, (1, 8, 8), ("zero", "one"))


def example(step: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    # both memory orders, a scalar, an integer and values that only their bits tell apart
    tensors = {
        "model.weight": torch.randn(3, 2, 4, 4, generator=generator).to(memory_format=torch.channels_last),
        "ema.weight": torch.tensor([0.0, -0.0, float("inf"), 1e-45]),
        "optimizer.step.weight": torch.tensor(float(step)),
        "model.count": torch.arange(step % 7 + 1),
    }
    return Checkpoint(step, 1.5 * step, tiny_config(), RECORD, tensors, Unlogged(step % 5, 0.1 * step, 0.7))


def assert_equal(*, actual: Checkpoint, expected: Checkpoint) -> None:
    rest = {"tensors": {}}
    assert dataclasses.replace(actual, **rest) == dataclasses.replace(expected, **rest)
    assert actual.tensors.keys() == expected.tensors.keys()
    for name, x in expected.tensors.items():
        assert actual.tensors[name].dtype == x.dtype
        assert actual.tensors[name].numpy().tobytes() == x.contiguous().numpy().tobytes(), name


@settings(max_examples=25)
@given(st.integers(0, 2**28))
def test_what_was_saved_is_loaded_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, step: int) -> None:
    folder = tmp_path_factory.mktemp("run")
    path = save(folder, example(step), keep=1)
    assert path.name == f"step_{step:09d}.safetensors"
    assert_equal(actual=load(path), expected=example(step))
    assert_equal(actual=latest(folder), expected=example(step))


def test_any_reader_of_safetensors_reads_the_tensors_and_the_whole_configuration(tmp_path: Path) -> None:
    path = save(tmp_path, example(3), keep=1)
    tensors, (record, _) = load_file(path), tensor_file.read(path)
    assert tensors.keys() == example(3).tensors.keys()
    for name, x in example(3).tensors.items():
        assert tensors[name].numpy().tobytes() == x.contiguous().numpy().tobytes(), name
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["record"]) == record
    assert record["config"] == json.loads(json.dumps(dataclasses.asdict(tiny_config())))
    assert record["data"] == {"fingerprint": "f" * 64, "shape": [1, 8, 8], "class_names": ["zero", "one"]}
    assert (record["format"], record["noise"]) == (checkpoints.FORMAT, NOISE_VERSION)
    assert (record["step"], record["seconds"]) == (3, 4.5)


@pytest.mark.parametrize("dtype", tensor_file._TYPES.values(), ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (1, 3, 5)])
def test_every_type_and_shape_is_read_back(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    # one byte more in front, so that nothing is aligned by chance
    tensors = {"first": torch.ones(1, dtype=torch.uint8), "x": (torch.arange(15)[: math.prod(shape)] - 7).to(dtype)}
    tensors["x"] = tensors["x"].reshape(shape)
    with (tmp_path / "file").open("xb") as file:
        tensor_file.write(file, {}, tensors)
    for found in (tensor_file.read(tmp_path / "file")[1], load_file(tmp_path / "file")):
        assert found["x"].dtype == dtype
        assert torch.equal(found["x"], tensors["x"])


def test_the_mode_of_a_checkpoint_is_what_the_umask_leaves(tmp_path: Path) -> None:
    for umask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        before = os.umask(umask)
        try:
            paths = save(tmp_path, example(umask), keep=9), write_json(tmp_path / f"{umask}.json", {})
        finally:
            os.umask(before)
        assert {path.stat().st_mode & 0o777 for path in paths} == {mode}


def test_the_last_few_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        save(tmp_path, example(step), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step_{step:09d}.safetensors" for step in (15, 20)]


def test_going_back_to_an_earlier_step_sets_the_later_ones_aside(tmp_path: Path) -> None:
    contents = []
    for _ in range(2):
        messages: list[str] = []
        path = save(tmp_path, example(20), keep=2)
        contents.append(path.read_bytes())
        save(tmp_path, example(15), keep=2, report=messages.append)
        assert latest(tmp_path).step == 15
        aside = path.with_name(f"{path.name}.set-aside-{len(contents)}")
        assert messages == [f"the run goes on after step 15: {path} is now called {aside.name}"]
    assert [path.read_bytes() for path in files_set_aside(tmp_path)] == contents


@settings(max_examples=50)
@given(place=st.floats(0, 1, exclude_max=True), cut=st.booleans())
def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_is_used(
    tmp_path_factory: pytest.TempPathFactory, place: float, cut: bool
) -> None:
    folder = tmp_path_factory.mktemp("run")
    save(folder, example(10), keep=2)
    path = save(folder, example(20), keep=2)
    content = path.read_bytes()
    at = int(place * len(content))
    path.write_bytes(content[:at] if cut else content[:at] + bytes([content[at] ^ 0x80]) + content[at + 1 :])
    messages: list[str] = []
    assert_equal(actual=latest(folder, report=messages.append), expected=example(10))
    (message,) = messages
    assert message.startswith(f"skipping a damaged checkpoint: {path}: not what was written")
    assert "\n" not in message


@pytest.mark.slow
def test_every_bit_of_the_header_is_covered(tmp_path: Path) -> None:
    """`test_faults.py` flips bits of the rest."""
    path = save(tmp_path, example(20), keep=2)
    content = bytearray(path.read_bytes())
    for bit in range(8 * (8 + int.from_bytes(content[:8], "little"))):
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        content[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedCheckpoint):
            load(path)


@pytest.mark.parametrize("kind", ["renamed", "folder", "pipe", "empty", "tensors"])
def test_what_is_no_checkpoint_of_its_name_is_passed_over(tmp_path: Path, kind: str) -> None:
    save(tmp_path, example(10), keep=2)
    path = tmp_path / "step_000000020.safetensors"
    if kind == "renamed":
        (tmp_path / "step_000000010.safetensors").rename(path)
        save(tmp_path / "again", example(10), keep=2).rename(tmp_path / "step_000000010.safetensors")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "empty":
        path.touch()
    else:
        save_file({"x": torch.ones(3)}, path)
    messages: list[str] = []
    assert latest(tmp_path, report=messages.append).step == 10
    assert messages[0].startswith(f"skipping a damaged checkpoint: {path}: ")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.EMFILE])
def test_a_checkpoint_that_cannot_be_read_at_the_moment_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    for step in (10, 20):
        save(tmp_path, example(step), keep=2)

    def fail(path: Path, mode: str) -> None:
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fail)
        with pytest.raises(OSError, match="step_000000020") as caught:
            latest(tmp_path)
    assert caught.value.errno == number
    assert latest(tmp_path).step == 20


def test_a_checkpoint_that_is_removed_while_it_is_looked_for_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, example(10), keep=1)
    stat = Path.stat

    def slow(path: Path, **options: Any) -> os.stat_result:
        if path.name == "step_000000010.safetensors":
            save(tmp_path, example(20), keep=1)
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", slow)
    messages: list[str] = []
    assert latest(tmp_path, report=messages.append).step == 20
    assert not messages


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_crash_while_writing_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    save(tmp_path, example(10), keep=1)

    def crash(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, call, crash)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, example(20), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000010.safetensors"]
    assert_equal(actual=latest(tmp_path), expected=example(10))
    save(tmp_path, example(20), keep=1)
    assert_equal(actual=latest(tmp_path), expected=example(20))


def rewrite(path: Path, **changes: object) -> None:
    """Change the record and the digest with it."""
    record, tensors = tensor_file.read(path)
    path.unlink()
    with path.open("xb") as file:
        tensor_file.write(
            file, {name: value for name, value in (record | changes).items() if value is not None}, tensors
        )


CONFIG = json.loads(json.dumps(dataclasses.asdict(tiny_config())))
DATA = {"fingerprint": "f", "shape": [1, 8, 8], "class_names": []}
UNLOGGED = {"steps": 1, "loss": 1.0, "seconds": 1}


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"format": 2}, CheckpointError, "format 2; this noisestep reads format 3"),
        ({"format": 4}, CheckpointError, "format 4; this noisestep reads format 3"),
        ({"noise": 2}, CheckpointError, "noise of version 2; this noisestep makes version 1"),
        ({"noise": None}, CheckpointError, "noise of version None; this noisestep makes version 1"),
        ({"config": {"stepz": 3}}, CheckpointError, "unknown name 'stepz'"),
        ({"config": {"steps": -3}}, CheckpointError, "steps is -3; allowed"),
        ({"config": CONFIG | {"steps": 3.0}}, CheckpointError, "steps is 3.0; allowed: an integer"),
        ({"config": CONFIG | {"seed": True}}, CheckpointError, "seed is True; allowed: an integer"),
        ({"step": 20}, DamagedCheckpoint, "the checkpoint of step 20, which its name does not say"),
        ({"step": 10.0}, DamagedCheckpoint, "step is 10.0, not a number of steps"),
        ({"step": True}, DamagedCheckpoint, "step is True, not a number of steps"),
        ({"step": "10"}, DamagedCheckpoint, "step is '10', not a number of steps"),
        ({"seconds": "1"}, DamagedCheckpoint, "seconds is '1', not a number"),
        ({"data": None}, DamagedCheckpoint, "incomplete: 'data'"),
        ({"data": [1]}, DamagedCheckpoint, "incomplete: "),
        ({"data": DATA | {"shape": [1, 8.0, 8]}}, DamagedCheckpoint, "shape is .*, not three integers"),
        ({"data": DATA | {"class_names": [3]}}, DamagedCheckpoint, "a class name is not a text"),
        ({"unlogged": {"loss": 1.0, "moments": 2}}, DamagedCheckpoint, "incomplete: 'steps'"),
        ({"unlogged": UNLOGGED | {"steps": -1}}, DamagedCheckpoint, "steps is -1, not a number of steps"),
        ({"unlogged": UNLOGGED | {"loss": None}}, DamagedCheckpoint, "loss is None, not a number"),
    ],
)
def test_a_record_that_cannot_be_used_says_why(
    tmp_path: Path, changes: dict[str, object], kind: type[Exception], message: str
) -> None:
    path = save(tmp_path, example(10), keep=1)
    rewrite(path, **changes)
    with pytest.raises(kind, match=message) as caught:
        load(path)
    assert type(caught.value) is kind
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("[]", "TypeError"),
        ('{"__metadata__":{}}', "KeyError"),
        ('{"__metadata__":{"record":"[]"}}', "its record is no JSON object"),
        ('{"__metadata__":{"record":"' + "[" * 100_000 + '"}}', "RecursionError"),
        ('{"__metadata__":{"record":"{}"},"x":{"dtype":"F128","shape":[],"data_offsets":[0,4]}}', "KeyError"),
        ('{"__metadata__":{"record":"{}"},"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', "at bytes 0 to 4"),
        ('{"__metadata__":{"record":"{}"},"x":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}', "at bytes 0 to 36"),
        ('{"__metadata__":{"record":"{}"},"x":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', "at bytes 0 to 4"),
        ('{"__metadata__":{"record":"{}"},"x":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}', "at bytes -4 to 0"),
        ('{"__metadata__":{"record":"{}"},"x":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}', "TypeError"),
    ],
)
def test_a_file_with_a_good_digest_and_another_header_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: str, reason: str
) -> None:
    path = tmp_path / "step_000000000.safetensors"
    text = header.encode().ljust(200)
    content = len(text).to_bytes(8, "little") + text + bytes(8)
    path.write_bytes(content)
    # the digits would be in the middle of this header
    monkeypatch.setattr(tensor_file, "_digest", lambda *parts: content[tensor_file._DIGITS])
    with pytest.raises(DamagedCheckpoint, match=f"not a checkpoint .*{reason}"):
        load(path)


def test_another_format_is_not_passed_over(tmp_path: Path) -> None:
    save(tmp_path, example(10), keep=2)
    path = save(tmp_path, example(20), keep=2)
    rewrite(path, format=4)
    with pytest.raises(CheckpointError, match="format 4"):
        latest(tmp_path)
    # before format 3 a checkpoint was two files
    save_file({"x": torch.ones(3)}, path)
    path.with_suffix(".json").write_text('{"format": 2}')
    with pytest.raises(CheckpointError, match="format 2 or older; this noisestep reads format 3"):
        latest(tmp_path)


def test_no_checkpoint_at_all_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint that can be read; there is none"):
        latest(tmp_path / "nowhere")
    save(tmp_path, example(10), keep=1).write_bytes(b"")
    with pytest.raises(CheckpointError, match="no checkpoint that can be read; none of the 1 can be used"):
        latest(tmp_path)
