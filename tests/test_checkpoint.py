"""Checkpoints: whole or not there, whatever happens while or after they are written."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from noisestep.accelerated import NOISE_VERSION
from noisestep.accelerated.errors import CheckpointError, DamagedCheckpoint
from noisestep.accelerated.training import checkpoint as checkpoints
from noisestep.accelerated.training.checkpoint import Checkpoint, Unlogged, latest, load, newest_path, save
from noisestep.accelerated.training.data import DataRecord
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
    for given_path in (path, path.with_suffix(".json")):
        assert_equal(actual=load(given_path), expected=example(step))
    assert_equal(actual=latest(folder), expected=example(step))


def test_the_json_holds_the_whole_configuration(tmp_path: Path) -> None:
    record = json.loads(save(tmp_path, example(3), keep=1).with_suffix(".json").read_text())
    assert record["config"] == json.loads(json.dumps(dataclasses.asdict(tiny_config())))
    assert record["data"] == {"fingerprint": "f" * 64, "shape": [1, 8, 8], "class_names": ["zero", "one"]}
    assert (record["format"], record["noise"]) == (checkpoints.FORMAT, NOISE_VERSION)
    assert (record["step"], record["seconds"]) == (3, 4.5)


def test_the_last_few_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        save(tmp_path, example(step), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"step_{step:09d}.{suffix}" for step in (15, 20) for suffix in ("json", "safetensors")
    ]


def test_going_back_to_an_earlier_step_drops_the_later_ones(tmp_path: Path) -> None:
    for step in (10, 20):
        save(tmp_path, example(step), keep=2)
    save(tmp_path, example(15), keep=1)
    assert [path.name for path in sorted(tmp_path.glob("*.json"))] == ["step_000000015.json"]


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
@settings(max_examples=25)
@given(place=st.floats(0, 1, exclude_max=True), cut=st.booleans())
def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_is_used(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, place: float, cut: bool
) -> None:
    folder = tmp_path_factory.mktemp("run")
    save(folder, example(10), keep=2)
    path = save(folder, example(20), keep=2).with_suffix(suffix)
    content = path.read_bytes()
    at = int(place * len(content))
    # cut short, or one byte made unreadable as text and different as a number
    path.write_bytes(content[:at] if cut else content[:at] + bytes([content[at] ^ 0x80]) + content[at + 1 :])
    messages: list[str] = []
    assert_equal(actual=latest(folder, report=messages.append), expected=example(10))
    assert len(messages) == 1
    assert messages[0].startswith("skipping a damaged checkpoint: ")
    assert str(path.with_suffix("")) in messages[0]
    assert "\n" not in messages[0]


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_half_of_a_pair_is_no_checkpoint(tmp_path: Path, suffix: str) -> None:
    save(tmp_path, example(10), keep=2)
    save(tmp_path, example(20), keep=2).with_suffix(suffix).unlink()
    messages: list[str] = []
    assert latest(tmp_path, report=messages.append).step == 10
    assert "No such file" in messages[0]


@pytest.mark.parametrize("renames", range(2))
def test_a_crash_while_writing_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    save(tmp_path, example(10), keep=1)
    made = []
    replace = os.replace

    def crash(source: Path, target: Path) -> None:
        if len(made) == renames:
            raise KeyboardInterrupt
        made.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, example(20), keep=1)
    monkeypatch.undo()
    assert_equal(actual=latest(tmp_path), expected=example(10))
    assert newest_path(tmp_path) == tmp_path / "step_000000010.safetensors"
    save(tmp_path, example(20), keep=1)
    assert len(list(tmp_path.iterdir())) == 2
    assert_equal(actual=latest(tmp_path), expected=example(20))


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".step_000000010.safetensors.123.partial").write_bytes(b"half")
    assert newest_path(tmp_path) is None
    save(tmp_path, example(10), keep=1)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]


def rewrite(path: Path, **changes: object) -> None:
    record = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in (record | changes).items() if value is not None}))


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"format": 3}, CheckpointError, "format 3; this noisestep reads format 2"),
        ({"noise": 2}, CheckpointError, "noise of version 2; this noisestep makes version 1"),
        ({"noise": None}, CheckpointError, "noise of version None; this noisestep makes version 1"),
        ({"config": {"stepz": 3}}, CheckpointError, "unknown name 'stepz'"),
        ({"config": {"steps": -3}}, CheckpointError, "steps is -3; allowed"),
        ({"data": None}, DamagedCheckpoint, "incomplete: 'data'"),
        ({"unlogged": {"loss": 1.0, "moments": 2}}, DamagedCheckpoint, "incomplete: .+'moments'"),
        ({"data": [1]}, DamagedCheckpoint, "incomplete: "),
        ({"sha256": "0" * 64}, DamagedCheckpoint, "not what was written"),
    ],
)
def test_a_record_that_cannot_be_used_says_why(
    tmp_path: Path, changes: dict[str, object], kind: type[Exception], message: str
) -> None:
    path = save(tmp_path, example(10), keep=1).with_suffix(".json")
    rewrite(path, **changes)
    with pytest.raises(kind, match=message) as caught:
        load(path)
    assert type(caught.value) is kind
    assert str(tmp_path) in str(caught.value)


def test_another_format_is_not_passed_over(tmp_path: Path) -> None:
    save(tmp_path, example(10), keep=2)
    rewrite(save(tmp_path, example(20), keep=2).with_suffix(".json"), format=3)
    with pytest.raises(CheckpointError, match="format 3"):
        latest(tmp_path)


def test_no_checkpoint_at_all_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint that can be read; there is none"):
        latest(tmp_path / "nowhere")
    save(tmp_path, example(10), keep=1).write_bytes(b"")
    with pytest.raises(CheckpointError, match="no checkpoint that can be read; all 1 are damaged"):
        latest(tmp_path)
