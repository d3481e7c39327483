"""Several processes train and sample as one does, and none waits for ever for another that is lost."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import distributed_worker
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from distributed_worker import CPU, MODES, STEPS, Outcome, trained
from hypothesis import given, settings
from hypothesis import strategies as st
from noisestep.accelerated.cli import main
from noisestep.accelerated.cli.run_folder import RunFolder
from noisestep.accelerated.cli.runtime import Runtime, find_device
from noisestep.accelerated.cli.train import train_new
from noisestep.accelerated.data import ImageSet, load_images
from noisestep.accelerated.errors import RunError
from noisestep.accelerated.evaluation.likelihood import measure
from noisestep.accelerated.schedule import DeviceSchedule
from noisestep.accelerated.training import checkpoint as checkpoints
from noisestep.accelerated.training.batches import Batches
from noisestep.accelerated.training.data import Split
from noisestep.accelerated.training.distributed import SINGLE_PROCESS, World, micro_batch_rows, process_group
from noisestep.accelerated.training.loop import Step
from noisestep.accelerated.training.trained import TrainedModel
from safetensors.torch import load_file
from tiny_run import SETTINGS, tiny_config

TESTS = Path(__file__).parent


def torchrun(
    processes: int, *arguments: str, cwd: Path, program: str | None = None, options: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    """A command line in several processes that find each other on a free port."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *options]
    path = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    program_given = ["-m", "noisestep.accelerated.cli"] if program is None else [program]
    return subprocess.Popen(
        [*launch, *program_given, *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(TESTS), *path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def one(folder: Path, *arguments: str) -> None:
    """A command line in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = CliRunner().invoke(main, [*arguments, "--device", "cpu"])
    assert result.exit_code == 0, result.output


def said(process: subprocess.Popen[str], *, status: int = 0) -> str:
    """All that a command said; one that does not end within two minutes hangs."""
    try:
        output, _ = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == status, output
    return output


# which rows


@settings(max_examples=200)
@given(batch=st.integers(1, 300), size=st.integers(1, 9), micro_batch=st.integers(0, 40))
def test_every_row_is_computed_once_and_every_process_has_as_many_micro_batches(
    batch: int, size: int, micro_batch: int
) -> None:
    if batch < size or (micro_batch == 1 and batch % size):
        with pytest.raises(RunError, match=f"--batch-size {batch} on {size} processes"):
            micro_batch_rows(batch, rank=0, size=size, micro_batch=micro_batch)
        return
    processes = [micro_batch_rows(batch, rank=rank, size=size, micro_batch=micro_batch) for rank in range(size)]
    assert [row for process in processes for rows in process for row in rows] == list(range(batch))
    assert len({len(process) for process in processes}) == 1
    sizes = [len(rows) for process in processes for rows in process]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1 + (micro_batch > 0)
    assert not micro_batch or max(sizes) <= micro_batch


def test_one_process_without_micro_batches_has_all_rows() -> None:
    assert micro_batch_rows(128, rank=0, size=1) == [range(128)]


# alone


def test_alone_nothing_is_sharded_wrapped_or_sent() -> None:
    model, x = torch.nn.Linear(2, 2), torch.ones(3)
    assert SINGLE_PROCESS.is_rank0
    assert SINGLE_PROCESS.replicate(model) is model
    assert SINGLE_PROCESS.gather(x) is x
    assert SINGLE_PROCESS.signal(None) is None
    assert SINGLE_PROCESS.signal(15) == 15
    assert SINGLE_PROCESS.sum(0.1) == 0.1
    assert not SINGLE_PROCESS.all(False)
    with process_group(CPU) as world:
        assert world is SINGLE_PROCESS


def test_sharded_weights_need_other_processes() -> None:
    with pytest.raises(RunError, match=r"--parallel fsdp shards the weights over processes, but there is one"):
        process_group(CPU, parallel="fsdp").__enter__()


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device("cuda") == torch.device("cuda:1")
    assert find_device("cpu") == CPU
    with pytest.raises(RunError, match="--device is 'cuda:0', one GPU for 8 processes"):
        find_device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(RunError, match="'cuda:2', but this machine has 2 GPUs"):
        find_device("cuda")


# the promise: 1, 2 and 4 processes


@pytest.fixture(scope="module")
def alone() -> Outcome:
    return trained()


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process saw, by mode."""
    folder = tmp_path_factory.mktemp("together")
    said(torchrun(request.param, str(folder), cwd=folder, program=str(TESTS / "distributed_worker.py")))
    return [
        {name: torch.load(folder / f"{name}-{rank}.pt", weights_only=False) for name in (*MODES, "restored")}
        for rank in range(request.param)
    ]


def steps(outcome: Outcome) -> list[tuple[torch.Tensor, ...]]:
    """The inputs of each training step, its micro-batches joined."""
    count = len(outcome.seen) // STEPS
    grouped = [outcome.seen[i * count : (i + 1) * count] for i in range(STEPS)]
    return [tuple(map(torch.cat, zip(*group, strict=True))) for group in grouped]


@pytest.mark.parametrize("mode", MODES)
def test_noise_timesteps_labels_and_data_order_are_the_same_to_the_bit(
    alone: Outcome, together: list[dict[str, Any]], mode: str
) -> None:
    shared = [steps(process[mode]) for process in together]
    assert {len(process) for process in shared} == {STEPS}
    for step, expected in enumerate(steps(alone)):
        actual = [torch.cat(parts) for parts in zip(*(process[step] for process in shared), strict=True)]
        for name, a, e in zip(("x_t", "t", "label"), actual, expected, strict=True):
            assert a.numpy().tobytes() == e.numpy().tobytes(), (step, name)


def test_micro_batches_change_no_bit_of_what_the_network_sees(alone: Outcome) -> None:
    for actual, expected in zip(steps(trained(micro_batch=4)), steps(alone), strict=True):
        assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


def rounding_of_the_losses() -> list[float]:
    """Bound on what another order of addition changes, to first order, in the loss of each step of the worker's run.

    A gradient is a sum over 14 images of sums over at most 64 pixels, in which every order of addition is off by at
    most n = 78 roundings of 2^-24 of the sum of magnitudes A. AdamW moves an element by lr m / sqrt(v), of which m and
    sqrt(v) follow the gradient's relative error A n 2^-24 / |g|, so by lr 2 A n 2^-24 / |g|; the loss follows by |g|
    times that. Two orders differ by twice as much. The loss itself is a mean over 14 · 64 terms, off by as many
    roundings at most.
    """
    config, state, step = distributed_worker.begin(SINGLE_PROCESS)
    batches = Batches(config, load_images("digits"), 10, CPU)
    unit, lr_magnitudes, bounds = 2.0**-24, 0.0, []
    for number in range(STEPS):
        bounds.append(2 * 14 * 64 * unit + 2 * 2 * 78 * unit * lr_magnitudes)
        magnitudes = 0.0
        for row in range(14):
            rows = range(row, row + 1)
            state.optimizer.zero_grad()
            # of the row's part in the mean over all 14
            step.add_gradient(*batches(number, rows), number, rows)
            magnitudes += sum(x.grad.abs().sum().item() for x in state.model.parameters() if x.grad is not None)
        lr_magnitudes += step.learning_rate(number) * magnitudes
        step()
    return bounds


@pytest.fixture(scope="module")
def bounds() -> list[float]:
    return rounding_of_the_losses()


@pytest.mark.parametrize("mode", MODES)
def test_the_loss_curve_is_the_same_to_rounding(
    alone: Outcome, together: list[dict[str, Any]], bounds: list[float], mode: str
) -> None:
    for process in together:
        assert process[mode].losses == together[0][mode].losses, "every process knows the loss of all"
    for actual, expected, bound in zip(together[0][mode].losses, alone.losses, bounds, strict=True):
        assert abs(actual - expected) <= bound
    assert max(bounds) < 0.1 * (max(alone.losses) - min(alone.losses)), "a bound that any curve would keep says nothing"


@pytest.mark.parametrize("mode", ["ddp", "ddp-3"])
def test_replicated_weights_stay_equal_to_the_bit(together: list[dict[str, Any]], mode: str) -> None:
    for process in together[1:]:
        for a, b in zip(process[mode].weights, together[0][mode].weights, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("mode", MODES)
def test_rank_0_has_every_sample_in_order(alone: Outcome, together: list[dict[str, Any]], mode: str) -> None:
    rank_0 = together[0][mode]
    assert rank_0.images.shape == alone.images.shape
    assert rank_0.trajectory.shape == alone.trajectory.shape
    # x_T is noise alone
    assert torch.equal(rank_0.trajectory[0], alone.trajectory[0])
    # the EMA differs by less than 1e-5 of their size, and three steps in [-1, 1] carry that on
    torch.testing.assert_close(rank_0.images, alone.images, rtol=0, atol=1e-3)
    torch.testing.assert_close(rank_0.trajectory, alone.trajectory, rtol=0, atol=1e-3)


def test_a_checkpoint_is_whole_wherever_its_weights_were(alone: Outcome, together: list[dict[str, Any]]) -> None:
    for mode in MODES:
        tensors = together[0][mode].tensors
        assert tensors.keys() == alone.tensors.keys()
        assert all(tensors[name].shape == x.shape for name, x in alone.tensors.items())
    back = together[0]["restored"]
    for name, x in back["whole"].items():
        assert torch.equal(back["here"][name], x), name


# faults


def test_processes_with_the_same_rows_are_noticed(alone: Outcome, bounds: list[float]) -> None:
    """The curve's bound is narrow enough to see a batch whose second half is its first half again."""

    class Twice(Batches):
        def __call__(self, step: int, rows: range | None = None) -> Any:
            return super().__call__(step, None if rows is None else range(rows.start % 7, rows.start % 7 + len(rows)))

    config, state, _ = distributed_worker.begin(SINGLE_PROCESS, 7)
    step = Step(config, state, Twice(config, load_images("digits"), 10, CPU), CPU)
    losses = [step().item() for _ in range(STEPS)]
    assert any(abs(a - e) > bound for a, e, bound in zip(losses, alone.losses, bounds, strict=True))


# the command line: a process lost, a signal, another number of processes

# strikes one of the processes with a signal at the end of a step, in its first life
STRUCK = """
import os, sys
from noisestep.accelerated.training import loop as training
from noisestep.accelerated.cli import main

rank, number, last = sys.argv.pop(1), int(sys.argv.pop(1)), int(sys.argv.pop(1))
update_ema = training.update_ema

def strike(ema, model, step, decay):
    update_ema(ema, model, step, decay)
    if step == last and (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]) == (rank, "0"):
        os.kill(os.getpid(), number)

training.update_ema = strike
main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a whole run of one process, and what is needed for others."""
    folder = tmp_path_factory.mktemp("torchrun")
    (folder / "tiny.json").write_text(json.dumps({**SETTINGS, "dropout": 0.0, "steps": 20}))
    (folder / "struck.py").write_text(STRUCK)
    one(folder, "train", "--config", "tiny.json", "--out", "alone")
    return folder


def curve(run: Path) -> dict[int, float]:
    rows = list(csv.DictReader((run / "log.csv").open()))
    return {int(row["step"]): float(row["loss"]) for row in rows}


def same_curve(actual: Path, expected: Path) -> None:
    # log.csv has six digits of a mean of five losses, each of which differs in its seventh
    assert curve(actual).keys() == curve(expected).keys()
    for step, loss in curve(expected).items():
        assert curve(actual)[step] == pytest.approx(loss, rel=2e-5), step


@pytest.mark.slow
def test_torchrun_restarts_what_it_lost_and_the_run_goes_on(folder: Path) -> None:
    arguments = ("1", "9", "12", "train", "--config", "tiny.json", "--out", "again", "--parallel", "fsdp")
    # drawing in between, the weights are whole for a while in every process
    output = said(
        torchrun(2, *arguments, "--sample-every", "5", cwd=folder, program="struck.py", options=("--max-restarts=1",))
    )
    assert "going on after step 10 of 20" in output
    assert output.count("step 20: samples in") == 1
    same_curve(folder / "again", folder / "alone")
    again, alone = (
        load_file(folder / name / "checkpoints" / "step_000000020.safetensors") for name in ("again", "alone")
    )
    for name, x in alone.items():
        if name.startswith(("model.", "ema.")):
            # twenty steps of at most 2e-3 each, whose rounding is some 1e-4 of a step
            torch.testing.assert_close(again[name], x, rtol=0, atol=5e-6)


@pytest.mark.slow
def test_a_signal_to_one_stops_all_after_the_same_step(folder: Path) -> None:
    number = str(int(signal.SIGTERM))
    output = said(
        torchrun(
            2, "1", number, "6", "train", "--config", "tiny.json", "--out", "asked", cwd=folder, program="struck.py"
        ),
        status=1,
    )
    assert output.count("stopped by SIGTERM after step 7 of 20; go on with: torchrun ") == 1
    saved = sorted(path.name for path in (folder / "asked" / "checkpoints").iterdir())
    assert saved == [f"step_00000000{step}.safetensors" for step in (5, 7)]


@pytest.mark.slow
def test_a_silent_process_is_not_waited_for_for_ever(folder: Path) -> None:
    number = str(int(signal.SIGSTOP))
    arguments = ("train", "--config", "tiny.json", "--out", "silent", "--timeout", "3")
    process = torchrun(2, "1", number, "8", *arguments, cwd=folder, program="struck.py")
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if "rank 0 stops: another process ended or does not answer (Timed out waiting 3000ms" in line:
            break
    else:
        pytest.fail("".join(lines))
    # torchrun gives the stopped process half a minute before it kills it: no need to sit through that
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
    for child in map(int, children.stdout.split()):
        os.kill(child, signal.SIGKILL)
    said(process, status=1)
    assert checkpoints.latest(folder / "silent" / "checkpoints").step == 5


@pytest.mark.slow
def test_several_processes_draw_and_evaluate_the_same_images(folder: Path) -> None:
    sample = ("sample", "alone", "--count", "7", "--steps", "3", "--first", "100")
    one(folder, *sample, "--out", "by-one")
    output = said(torchrun(2, *sample, "--out", "by-two", "--parallel", "fsdp", cwd=folder))
    assert output.count("7 images are in by-two") == 1
    by_one, by_two = (np.load(folder / name / "samples.npz") for name in ("by-one", "by-two"))
    np.testing.assert_array_equal(by_two["labels"], by_one["labels"])
    # bytes of numbers that differ by some 1e-6: at most one of two neighbours
    assert np.abs(by_two["images"].astype(int) - by_one["images"]).max() <= 1
    assert np.mean(by_two["images"] != by_one["images"]) < 1e-3
    names = sorted(path.name for path in (folder / "by-two" / "images").iterdir())
    assert names == [f"{number:06d}.png" for number in range(100, 107)]
    before = json.loads((folder / "alone" / "metrics.json").read_text())
    flags = ("--likelihood", "--likelihood-images", "5", "--likelihood-steps", "4", "--parallel", "fsdp")
    output = said(torchrun(2, "evaluate", "alone", *flags, cwd=folder))
    assert output.count("open alone/report.html") == 1
    after = json.loads((folder / "alone" / "metrics.json").read_text())
    assert after["frechet_distance"]["samples"] == pytest.approx(before["frechet_distance"]["samples"], rel=1e-3)
    # the five images by one process, with the labels of their own
    model = TrainedModel.load(folder / "alone" / "checkpoints", CPU)
    images = Split.load(model.config.data).held_out
    assert isinstance(images, ImageSet)
    assert images.labels is not None
    pixels, labels, numbers = torch.from_numpy(images.images[:5]), torch.from_numpy(images.labels[:5]), torch.arange(5)
    result = json.loads((folder / "alone" / "likelihood.json").read_text())
    rows = measure(
        *(model.model, DeviceSchedule(model.config.schedule.build()), pixels, labels, numbers, result["grid"]),
        seed=result["seed"],
        clip=(-1.0, 1.0),
    )
    assert result["images"] == 5
    assert result["bound"]["posterior"]["decoder"] == pytest.approx(float(rows[:, 1].mean()), rel=1e-4)
    assert result["ode"]["total"] == pytest.approx(float(rows[:, -2].mean()), rel=1e-4)


def test_a_batch_too_small_for_all_is_refused_before_any_work(tmp_path: Path) -> None:
    runtime = Runtime(CPU, World(1, 2), print)
    with pytest.raises(RunError, match="--batch-size 1 on 2 processes: some would have no image"):
        train_new(tiny_config(batch_size=1), RunFolder(tmp_path / "run"), runtime, features="pixels", command="")
    assert not (tmp_path / "run").exists()


# the page


def test_the_loop_of_the_page_trains_alone_as_in_one_micro_batch() -> None:
    page = (TESTS.parent / "docs" / "many-machines.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    weights = []
    for count in (1, 2):
        torch.manual_seed(0)
        images = torch.randint(0, 256, (30, 3, 8, 8), dtype=torch.uint8)
        micro_batch = f"batch_size, {10 // count}"
        names: dict[str, Any] = {"images": images, "batch_size": 10}
        exec(example.replace("world.micro_batches(batch_size)", f"world.micro_batches({micro_batch})"), names)
        weights.append(names["network"].weight.detach())
    assert (weights[0] != torch.nn.Conv2d(3, 3, 3).weight).any()
    # three steps of 1e-3 each, whose rounding is some 1e-5 of a step
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=1e-6)
