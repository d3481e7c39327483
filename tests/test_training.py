"""Training: a function of its configuration alone, whatever interrupts it."""

import csv
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from noisestep.accelerated.data import ImageSet, load_images
from noisestep.accelerated.errors import CheckpointError, Interrupted, TrainingError
from noisestep.accelerated.training import checkpoint as checkpoints
from noisestep.accelerated.training import loop as training
from noisestep.accelerated.training.batches import Batches, batch_rows
from noisestep.accelerated.training.config import TrainConfig
from noisestep.accelerated.training.data import DataRecord
from noisestep.accelerated.training.log import COLUMNS, LogPaths, TrainLog, read_log
from noisestep.accelerated.training.loop import Step, Stop, StopSignals, autocast_dtype, train
from noisestep.accelerated.training.optimizer import learning_rate, update_ema
from noisestep.accelerated.training.state import State
from noisestep.reference import noise as reference_noise
from noisestep.reference.forward import q_sample
from noisestep.reference.loss import loss_weights, training_target
from tiny_run import SETTINGS, tiny_config
from torch import nn

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def digits() -> ImageSet:
    return load_images("digits")


def record(images: ImageSet) -> DataRecord:
    return DataRecord(images.fingerprint, images.images.shape[1:], images.class_names)


def log_paths(folder: Path) -> LogPaths:
    return LogPaths(folder / "log.csv", folder / "train.log", folder / "tensorboard")


def train_in(folder: Path, config: TrainConfig, images: ImageSet) -> State:
    return train(
        config,
        images,
        record(images),
        device=CPU,
        checkpoint_folder=folder / "checkpoints",
        log_paths=log_paths(folder),
    )


def weights(state: State) -> dict[str, bytes]:
    return {name: x.numpy().tobytes() for name, x in state.tensors().items()}


# the learning rate and the EMA


@given(steps=st.integers(2, 5000), part=st.floats(0, 0.99), schedule=st.sampled_from(["cosine", "linear", "constant"]))
def test_the_learning_rate_rises_in_a_line_and_falls_to_almost_nothing(steps: int, part: float, schedule: str) -> None:
    warmup = int(part * steps)
    rates = [learning_rate(s, peak=0.5, warmup=warmup, steps=steps, schedule=schedule) for s in range(steps)]
    np.testing.assert_allclose(rates[:warmup], [0.5 * (s + 1) / warmup for s in range(warmup)], rtol=1e-15)
    assert rates[warmup] == 0.5
    assert all(later <= earlier for earlier, later in zip(rates[warmup:], rates[warmup + 1 :], strict=False))
    assert min(rates) > 0
    if schedule == "linear":
        # one more step would be at zero: u of the last one is 1 - 1/(steps - warmup), and 1 - u rounds by an epsilon
        assert rates[-1] == pytest.approx(0.5 / (steps - warmup), abs=2**-52)
    if schedule == "cosine" and (steps - warmup) % 2 == 0:
        assert rates[warmup + (steps - warmup) // 2] == pytest.approx(0.25, abs=2**-52)


@given(decay=st.floats(0, 0.9999), values=st.lists(st.floats(-2, 2), min_size=2, max_size=40))
def test_the_ema_is_the_weighted_sum_that_its_rule_says(decay: float, values: list[float]) -> None:
    model, ema = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    ema.weight.data.fill_(1.0)
    expected = 1.0
    for step, value in enumerate(values):
        model.weight.data.fill_(value)
        update_ema(ema, model, step, decay)
        d = min(decay, (2 + step) / (11 + step)) if decay else 0.0
        expected = d * expected + (1 - d) * float(np.float32(value))
    # each step rounds a sum of magnitude at most 2 three times, and the errors of all steps add up
    assert ema.weight.item() == pytest.approx(expected, abs=3 * len(values) * 2 * 2**-24)


# which images


@settings(max_examples=50)
@given(seed=st.integers(0, 2**64 - 1), n=st.integers(1, 40), batch=st.integers(1, 60), epochs=st.integers(1, 3))
def test_every_image_comes_once_an_epoch(seed: int, n: int, batch: int, epochs: int) -> None:
    rows = np.concatenate([batch_rows(seed, step, batch, n) for step in range(-(-n * epochs // batch))])
    for epoch in range(epochs):
        this = rows[epoch * n : (epoch + 1) * n]
        assert sorted(this) == list(range(n))
        np.testing.assert_array_equal(this, reference_noise.permutation(seed, epoch, n))


def test_a_batch_does_not_depend_on_how_the_positions_are_grouped() -> None:
    whole = batch_rows(3, 1, 60, 25)
    np.testing.assert_array_equal(whole, np.concatenate([batch_rows(3, step, 20, 25) for step in (3, 4, 5)]))


def test_flips_and_dropped_labels_are_those_of_their_addresses(digits: ImageSet) -> None:
    config = tiny_config()
    batches = Batches(config, digits, 10, CPU)
    for step in (0, 1, 200):
        images, labels = batches(step)
        rows = batch_rows(config.seed, step, 16, len(digits))
        sample = np.arange(16)
        flip = reference_noise.uniform(config.seed, reference_noise.AUGMENTATION, step, sample) < 0.5
        drop = reference_noise.uniform(config.seed, reference_noise.LABEL_DROPOUT, step, sample) < 0.2
        plain = digits.images[rows]
        expected = np.where(flip[:, None, None, None], plain[..., ::-1], plain)
        np.testing.assert_array_equal(images.numpy(), expected)
        assert digits.labels is not None
        assert labels is not None
        np.testing.assert_array_equal(labels.numpy(), np.where(drop, 10, digits.labels[rows]))


def test_without_classes_there_are_no_labels(digits: ImageSet) -> None:
    assert Batches(tiny_config(), digits, None, CPU)(0)[1] is None


# one step


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v", "flow"])
@pytest.mark.parametrize("weighting", ["none", "min_snr"])
def test_the_loss_of_a_step_is_the_reference_loss(digits: ImageSet, prediction: str, weighting: str) -> None:
    config = tiny_config(prediction=prediction, weighting=weighting, dropout=0.0)
    state = State.begin(config, CPU)
    # the last layer starts at zero, and a loss that ignores the network would pass
    torch.manual_seed(0)
    for parameter in state.model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    batches = Batches(config, digits, 10, CPU)
    step = state.step = 7
    images, labels = batches(step)
    schedule = config.schedule.build()
    sample = np.arange(16)
    x_0 = images.numpy() / 127.5 - 1
    t = reference_noise.integers(config.seed, reference_noise.TIMESTEP, step, sample, 1, schedule.T)
    eps = reference_noise.normal(config.seed, reference_noise.FORWARD, step, sample, (1, 8, 8)).astype(np.float64)
    x_t = q_sample(schedule, x_0, t, eps)
    with torch.no_grad():
        output = state.model(torch.from_numpy(x_t).float(), torch.from_numpy(t), labels).double().numpy()
    target = training_target(schedule, x_0, eps, t, prediction=prediction)
    w = loss_weights(schedule, weighting, prediction=prediction)[t]
    expected = np.mean(w * np.mean((target - output) ** 2, axis=(1, 2, 3)))
    actual = Step(config, state, batches, CPU)().item()
    # x_t may differ in its last place (2^-24 relative), and the network's dot products, at most 16 x 9 long in
    # each of its layers, carry that on with a growth of their own; 1000 such units is 6e-5
    assert actual == pytest.approx(expected, rel=1000 * 2**-24)


def test_training_lowers_the_loss(digits: ImageSet) -> None:
    config = tiny_config(steps=60, warmup=5, label_dropout=0.0, dropout=0.0)
    state = State.begin(config, CPU)
    step = Step(config, state, Batches(config, digits, 10, CPU), CPU)
    losses = [step().item() for _ in range(60)]
    assert losses[0] > 0.8, "an untrained network predicts zero, and unit noise has a loss of 1"
    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:5])
    assert state.step == 60


def test_the_same_configuration_gives_the_same_weights_and_another_seed_others(digits: ImageSet) -> None:
    def trained(**changes: Any) -> dict[str, bytes]:
        config = tiny_config(**changes)
        state = State.begin(config, CPU)
        step = Step(config, state, Batches(config, digits, 10, CPU), CPU)
        assert state.model.config.dropout > 0, "dropout draws from torch's generator"
        # a caller's own random numbers have no part in it
        torch.rand(int(time.time()) % 7)
        for _ in range(3):
            step()
        return weights(state)

    assert trained() == trained()
    assert trained() != trained(seed=1)


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_restored_state_goes_on_bit_for_bit(digits: ImageSet, tmp_path: Path, channels_last: bool) -> None:
    config = tiny_config(channels_last=channels_last)
    batches = Batches(config, digits, 10, CPU)
    whole = State.begin(config, CPU)
    step = Step(config, whole, batches, CPU)
    for _ in range(4):
        step()
    saved = checkpoints.Checkpoint(4, 1.0, config, record(digits), whole.tensors())
    restored = State.begin(config, CPU)
    restored.restore(checkpoints.load(checkpoints.save(tmp_path, saved, keep=1)))
    assert restored.step == 4
    assert weights(restored) == weights(whole)
    again = Step(config, restored, batches, CPU)
    for _ in range(4):
        step()
        again()
    assert weights(restored) == weights(whole)


def test_a_checkpoint_of_another_network_is_refused(digits: ImageSet) -> None:
    config = tiny_config()
    state = State.begin(config, CPU)
    Step(config, state, Batches(config, digits, 10, CPU), CPU)()
    tensors = state.tensors()
    other = State.begin(tiny_config(model={**SETTINGS["model"], "embedding": 24}), CPU)
    with pytest.raises(CheckpointError, match="the checkpoint of step 1 does not fit its own model"):
        other.restore(checkpoints.Checkpoint(1, 0.0, config, record(digits), tensors))
    del tensors[next(name for name in tensors if name.startswith("optimizer.exp_avg."))]
    with pytest.raises(CheckpointError, match=r"does not fit its own model: 'optimizer\.exp_avg\."):
        state.restore(checkpoints.Checkpoint(1, 0.0, config, record(digits), tensors))


def test_bf16_is_for_those_who_ask_or_have_a_gpu_for_it(digits: ImageSet) -> None:
    assert autocast_dtype("auto", CPU) is None
    assert autocast_dtype("float32", CPU) is None
    assert autocast_dtype("bf16", CPU) is torch.bfloat16
    losses = []
    for precision in ("float32", "bf16"):
        config = tiny_config(precision=precision)
        state = State.begin(config, CPU)
        step = Step(config, state, Batches(config, digits, 10, CPU), CPU)
        losses.append([step().item() for _ in range(3)])
        assert {x.dtype for x in state.model.parameters()} == {torch.float32}
    # the first output is zero in any precision; afterwards bf16, with 8 bits, is near and not equal
    assert losses[0][0] == losses[1][0]
    assert losses[0][2] != losses[1][2]
    assert losses[0][2] == pytest.approx(losses[1][2], rel=2**-6)


def test_compile_runs_the_network_through_torch_compile(digits: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    for compile, times in ((False, 0), (True, 1)):
        config = tiny_config(compile=compile)
        state = State.begin(config, CPU)
        Step(config, state, Batches(config, digits, 10, CPU), CPU)()
        assert compiled == [state.model] * times


# the loop


def test_a_loss_that_is_not_finite_stops_with_the_last_good_state_kept(
    digits: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(steps=20)
    loss_and_gradient = training.loss_and_gradient
    calls = []

    def spoiled(*arguments: Any, **options: Any) -> tuple[torch.Tensor, ...]:
        calls.append(None)
        return tuple(x * (math.nan if len(calls) == 8 else 1.0) for x in loss_and_gradient(*arguments, **options))

    monkeypatch.setattr(training, "loss_and_gradient", spoiled)
    with pytest.raises(TrainingError) as caught:
        train_in(tmp_path, config, digits)
    message = str(caught.value)
    assert "no longer finite (steps 6 to 10)" in message
    assert f"the last good state is {tmp_path / 'checkpoints' / 'step_000000005.safetensors'}" in message
    kept = checkpoints.latest(tmp_path / "checkpoints")
    assert kept.step == 5
    assert all(x.isfinite().all() for x in kept.tensors.values())


def test_a_gradient_that_is_not_finite_is_noticed_at_once(digits: ImageSet) -> None:
    config = tiny_config()
    state = State.begin(config, CPU)
    step = Step(config, state, Batches(config, digits, 10, CPU), CPU)
    assert step().isfinite()
    # the loss is finite, what comes back through the network is not
    next(state.model.parameters()).register_hook(lambda gradient: gradient * math.inf)
    assert step().isnan()


def test_weights_that_are_not_finite_are_not_saved(digits: ImageSet, tmp_path: Path) -> None:
    config = tiny_config(steps=5)
    before = update_ema

    def spoil(ema: nn.Module, model: nn.Module, step: int, decay: float) -> None:
        before(ema, model, step, decay)
        if step == 4:
            next(ema.parameters()).data.fill_(math.inf)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "update_ema", spoil)
        with pytest.raises(TrainingError, match=r"steps 5 to 5.*the last good state is .*step_000000000.safetensors"):
            train_in(tmp_path, config, digits)
    assert [path.name for path in tmp_path.glob("checkpoints/*")] == ["step_000000000.safetensors"]


@pytest.fixture
def heard() -> Iterator[None]:
    """SIGHUP ends the process, also where the tests were started by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT])
def test_signals_are_noted_and_given_back(number: signal.Signals, heard: None, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(number)
    with StopSignals() as stop:
        assert stop.number is None
        # to the group, and on to each of its processes
        for _ in range(2):
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.number == number
        monkeypatch.setattr(training, "_IMPATIENT", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(number) is before


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.number is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_interrupts_the_wait_for_images() -> None:
    with StopSignals(lambda: True) as stop:
        with pytest.raises(Stop):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.number == signal.SIGTERM


def test_a_signal_stops_after_the_step_with_a_checkpoint(
    digits: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(steps=10, checkpoint_every=100)
    step = update_ema

    def interrupt(*arguments: Any) -> None:
        step(*arguments)
        if arguments[2] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(training, "update_ema", interrupt)
    with pytest.raises(Interrupted, match=r"^stopped by SIGINT after step 3 of 10$") as caught:
        train_in(tmp_path, config, digits)
    assert caught.value.signal == signal.SIGINT
    assert checkpoints.latest(tmp_path / "checkpoints").step == 3


def test_the_log_has_its_columns_and_no_row_twice(digits: ImageSet, tmp_path: Path) -> None:
    config = tiny_config(steps=10)
    train_in(tmp_path, config, digits)
    rows = list(csv.reader((tmp_path / "log.csv").open()))
    assert tuple(rows[0]) == COLUMNS
    assert [int(row[0]) for row in rows[1:]] == [5, 10]
    assert all(float(value) > 0 for row in rows[1:] for value in row)


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        (None, []),
        (b"", []),
        (b"\xff\x00 no log at all", []),
        (b"step,loss\r\n5,0.5,0.1,100.0,1.00\r\n10,0.5,0.1,100.0,2.00\r\n", ["5"]),
        (b"step\r\n5,0.5,0.1,100.0,1.00\r\n3,0.5,0.1,100.0,1.00\r\n4,0.5\r\nx,y,z,,\r\n\xff\r\n6,0.", ["5"]),
        (b"step\r\n3,0.5,0.1,100.0,1.00\r\n5,0.5,0.1,100.0,1.00", ["3"]),
    ],
)
def test_a_resumed_run_keeps_every_whole_row_of_its_log(tmp_path: Path, found: bytes | None, kept: list[str]) -> None:
    path = tmp_path / "log.csv"
    if found is not None:
        path.write_bytes(found)
    with TrainLog(log_paths(tmp_path), steps=10, batch_size=16, start=5) as log:
        log.metrics(step=10, loss=0.5, learning_rate=0.1, images_per_second=100.0, seconds=2.0)
    rows = list(csv.reader(path.open()))
    assert tuple(rows[0]) == COLUMNS
    assert [row[0] for row in rows[1:]] == [*kept, "10"]
    assert rows[-1] == ["10", "0.5", "0.1", "100.0", "2.00"]
    assert (
        "step 10/10  loss 0.5000  learning rate 1.00e-01  100 images/s  0:00 left"
        in (tmp_path / "train.log").read_text()
    )


def test_an_entry_of_the_log_is_the_mean_of_exactly_its_steps_after_a_resume_with_other_intervals(
    digits: ImageSet, tmp_path: Path
) -> None:
    def go_on(folder: str, stop: int, checkpoint: checkpoints.Checkpoint | None = None, **intervals: int) -> None:
        def after_saving(state: State) -> None:
            if state.step == stop:
                raise InterruptedError

        config = tiny_config(steps=12, **intervals)
        places = {"checkpoint_folder": tmp_path / folder / "checkpoints", "log_paths": log_paths(tmp_path / folder)}
        options = {"device": CPU, "checkpoint": checkpoint, "after_saving": after_saving}
        train(config, digits, record(digits), **places, **options)

    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    go_on("whole", 0, log_every=1)
    losses = read_log(tmp_path / "whole" / "log.csv")["loss"]
    with pytest.raises(InterruptedError):
        go_on("parts", 7, log_every=5, checkpoint_every=7)
    for stop, intervals in ((9, {"log_every": 8, "checkpoint_every": 3}), (0, {"log_every": 4, "sample_every": 1})):
        saved = checkpoints.latest(tmp_path / "parts" / "checkpoints")
        with suppress(InterruptedError):
            go_on("parts", stop, saved, **intervals)
    log = read_log(tmp_path / "parts" / "log.csv")
    assert log["step"].tolist() == [5, 8, 12]
    for last, first, mean in zip((5, 8, 12), (0, 5, 8), log["loss"], strict=True):
        # a sum in float32
        assert mean == pytest.approx(losses[first:last].mean(), rel=1e-5)


def test_a_log_that_is_whole_is_only_added_to(tmp_path: Path) -> None:
    for start in (0, 5):
        with TrainLog(log_paths(tmp_path), steps=10, batch_size=16, start=start) as log:
            inode = (tmp_path / "log.csv").stat().st_ino
            log.metrics(step=start + 5, loss=0.5, learning_rate=0.1, images_per_second=100.0, seconds=2.0)
            # a row that a reader sees half of is not one yet
            with (tmp_path / "log.csv").open("a") as file:
                file.write(f"{start + 10},0.")
            assert read_log(tmp_path / "log.csv")["step"].tolist() == list(range(5, start + 6, 5))
        (tmp_path / "log.csv").write_bytes((tmp_path / "log.csv").read_bytes().rpartition(b"\n")[0] + b"\n")
    assert (tmp_path / "log.csv").stat().st_ino == inode


def test_tensorboard_gets_loss_and_learning_rate(digits: ImageSet, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train_in(tmp_path, tiny_config(steps=10), digits)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "learning_rate", "images_per_second"}
    assert [event.step for event in events.Scalars("loss")] == [5, 10]
