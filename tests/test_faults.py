"""Nothing that was saved is lost, and nothing wrong is loaded, whatever happens to a training process.

Each fault is followed by the same command, `noisestep train --out run --continue`, until the run is done: its weights,
moments and EMA must then be those of a run that nothing happened to, bit for bit. `pytest -m faults` tries hundreds of
faults and prints how many; without it, a few of each kind.
"""

import contextlib
import csv
import errno
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import faults
import numpy as np
import pytest
import torch
from faults import PLACES, STEPS, finish, said, start, write_config
from noisestep.accelerated.cli.run_folder import RunFolder, SampleFolder
from noisestep.accelerated.cli.verify import verify_run
from noisestep.accelerated.errors import CheckpointError, DamagedCheckpoint, RunError
from noisestep.accelerated.training import checkpoint as checkpoints
from noisestep.accelerated.training.checkpoint_files import path_of, steps
from noisestep.accelerated.training.config import CHANGEABLE, difference, from_dict
from PIL import Image

pytestmark = pytest.mark.faults
LONG = pytest.mark.faults(long=True)
COMMAND = ["train", "--config", "tiny.json", "--out", "run", "--continue"]
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


@pytest.fixture(scope="module")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether `-m faults` asks for the long form."""
    return request.config.option.markexpr == "faults"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_config(tmp_path)
    return tmp_path


Weights = dict[str, bytes]
# what the summary of pytest prints as done
Did = Callable[[str, object], None]


def weights(run: Path, step: int = STEPS) -> Weights:
    checkpoint = checkpoints.load(path_of(run / "checkpoints", step))
    return {name: x.numpy().tobytes() for name, x in checkpoint.tensors.items()}


def rows(run: Path) -> list[list[str]]:
    """The log without its times."""
    return [row[:3] for row in csv.reader((run / "log.csv").open())]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole")
    write_config(folder)
    assert finish(start(folder, COMMAND)) == 0, said(folder)
    return folder / "run"


def require_same(run: Path, whole: Path) -> None:
    """A finished run is what it is without faults, to the bit, and nothing is left behind."""
    actual, expected = weights(run), weights(whole)
    assert actual.keys() == expected.keys()
    assert [name for name in expected if actual[name] != expected[name]] == []
    assert rows(run) == rows(whole)
    for path in (whole / "samples").iterdir():
        assert (run / "samples" / path.name).read_bytes() == path.read_bytes()
    lines: list[str] = []
    assert verify_run(RunFolder(run), lines.append), lines
    assert not RunFolder(run).lock.exists()
    assert not RunFolder(run).partial_files()


def go_on(folder: Path, whole: Path, arguments: list[str] | None = None) -> str:
    """Let a run be finished, and check it; what it said."""
    assert finish(start(folder, arguments or COMMAND)) == 0, said(folder)
    require_same(folder / "run", whole)
    return said(folder)


def newest(folder: Path) -> int:
    """The step of the newest checkpoint, which must be good; −1 if there is none."""
    found = steps(folder / "run" / "checkpoints")
    return checkpoints.load(path_of(folder / "run" / "checkpoints", found[0])).step if found else -1


# killed


def test_killed_at_random_moments(folder: Path, whole: Path, full: bool, record_property: Did) -> None:
    """SIGKILL, and now and then another signal, after a random time; and so on until the run is done."""
    chance = random.Random(0)
    wanted, kills, others, runs, longest = (200 if full else 2), 0, 0, 0, 1.0
    while kills < wanted:
        acknowledged = newest(folder)
        number = signal.SIGKILL if chance.random() < 0.8 else chance.choice(SIGNALS)
        begun = time.monotonic()
        process = start(folder, COMMAND)
        process.join(chance.uniform(0, longest))
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
        status = finish(process)
        if status == 0:
            require_same(folder / "run", whole)
            shutil.rmtree(folder / "run")
            # as long as a run takes on this machine, and it is not quicker to the end than to a kill
            longest, runs = max(longest, time.monotonic() - begun), runs + 1
            continue
        # a signal before the first step or after the last ends the process as it does any other
        assert status in (-number, 128 + number, 1 if number == signal.SIGINT else -number), said(folder)
        assert newest(folder) >= acknowledged, "what was saved is lost"
        kills, others = kills + (number == signal.SIGKILL), others + (number != signal.SIGKILL)
    go_on(folder, whole)
    record_property(
        "did", f"{kills} kills and {others} other signals at random moments, {runs + 1} runs ended: same bits"
    )


@pytest.mark.parametrize(
    "place",
    [pytest.param(place, marks=LONG if name != "written" else [], id=name) for place, name in enumerate(PLACES)],
)
def test_killed_within_a_checkpoint(folder: Path, whole: Path, full: bool, place: int, record_property: Did) -> None:
    # the first that removes an old one is the third
    kills = 0
    for save in range(STEPS // 3 + 1) if full else (2,):
        if PLACES[place] == "old removed" and save < 2:
            continue
        shutil.rmtree(folder / "run", ignore_errors=True)
        assert finish(start(folder, COMMAND, f"write:{save}:{place}")) == -signal.SIGKILL
        # it is there as soon as it is renamed
        assert newest(folder) == 3 * (save - (place < PLACES.index("renamed"))) if save or place > 3 else True
        assert bool(RunFolder(folder / "run").partial_files()) == (place < PLACES.index("renamed"))
        go_on(folder, whole)
        kills += 1
    record_property("did", f"{kills} kills within a checkpoint's write, at: {PLACES[place]}")


@pytest.mark.parametrize(
    "number",
    [pytest.param(number, marks=LONG if number != signal.SIGTERM else [], id=number.name) for number in SIGNALS],
)
def test_a_signal_leaves_with_the_state(folder: Path, whole: Path, number: signal.Signals) -> None:
    assert finish(start(folder, COMMAND, f"strike:5:{number.value}")) == 128 + number
    assert said(folder).endswith(
        f"stopped by {number.name} after step 5 of {STEPS}; go on with: noisestep train --resume run\n"
    )
    assert newest(folder) == 5
    assert "going on after step 5" in go_on(folder, whole, ["train", "--resume", "run"])


# what fails in the process


@LONG
@pytest.mark.parametrize(
    ("fault", "line", "kept"),
    [
        (
            "memory:8",
            "Error: out of memory; a smaller batch .*; the state after step 7 is saved; go on with: noises",
            7,
        ),
        ("bug:8", "the state after step 7 is saved\ngo on with: noisestep train --resume run", 7),
        (
            "nan:8",
            r"Error: the loss or a weight is no longer finite \(steps 7 to 8\); the last good state is .*6.saf",
            6,
        ),
        ("infinite:8", r"Error: the loss or a weight is no longer finite \(steps 7 to 8\); the last good state is", 6),
        (
            "full:2",
            r"Error: run/checkpoints/step_000000006.safetensors: No space left on device; "
            r"the state after step 3 is saved; go on with: noisestep train --resume run\n$",
            3,
        ),
        (f"unwritable:{errno.EROFS}", "Error: run/checkpoints/step_000000003.safetensors: Read-only file system; ", 0),
        (f"unwritable:{errno.EIO}", "Error: run/checkpoints/step_000000003.safetensors: Input/output error; ", 0),
    ],
)
def test_an_error_leaves_one_line_and_the_last_sound_state(
    folder: Path, whole: Path, fault: str, line: str, kept: int
) -> None:
    assert finish(start(folder, COMMAND, fault)) == 1
    assert re.search(line, said(folder)), said(folder)
    assert ("Traceback" in said(folder)) == fault.startswith("bug")
    assert newest(folder) == kept
    assert not RunFolder(folder / "run").partial_files()
    go_on(folder, whole)


@LONG
def test_a_clock_that_goes_back_changes_nothing(folder: Path, whole: Path) -> None:
    assert finish(start(folder, COMMAND, "clock")) == 0, said(folder)
    require_same(folder / "run", whole)


@LONG
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.EMFILE])
def test_a_read_error_costs_nothing(folder: Path, whole: Path, number: int) -> None:
    assert finish(start(folder, COMMAND, f"strike:8:{signal.SIGKILL.value}")) == -signal.SIGKILL
    assert finish(start(folder, COMMAND, f"read:{number}")) == 1
    assert said(folder).endswith(f"Error: run/checkpoints/step_000000006.safetensors: {os.strerror(number)}\n")
    assert "going on after step 6" in go_on(folder, whole)


# sampling


def test_sampling_that_is_killed(folder: Path, whole: Path, full: bool, record_property: Did) -> None:
    """Before each of its files, and at random moments: what is there is whole, and the next folder has all of it."""
    shutil.copytree(whole, folder / "run")
    run = RunFolder(folder / "run")
    command = ["sample", "run", "--count", "4", "--steps", "3"]
    assert finish(start(folder, command)) == 0, said(folder)
    first = run.path / "generated" / "001"
    expected = {path.relative_to(first): path.read_bytes() for path in first.rglob("*") if path.is_file()}

    def require_whole() -> bool:
        """Compare the newest folder, and return whether it is complete."""
        newest = SampleFolder(max((run.path / "generated").iterdir()))
        paths = {path.relative_to(newest.path): path for path in newest.path.rglob("[!.]*") if path.is_file()}
        for name, path in paths.items():
            assert path.read_bytes() == expected[name], path
        complete = newest.settings.exists()
        assert complete == (paths.keys() == expected.keys())
        lines: list[str] = []
        assert verify_run(run, lines.append) == complete, lines
        if not complete:
            assert f"NOT WHOLE  generated/{newest.path.name}: " in "\n".join(lines)
            shutil.rmtree(newest.path)
        return complete

    kills = 0
    for number in range(len(expected)) if full else (len(expected) - 1,):
        assert finish(start(folder, command, f"file:{number}")) == -signal.SIGKILL
        assert not require_whole()
        kills += 1
    chance = random.Random(3)
    for _ in range(20 if full else 0):
        process = start(folder, command)
        process.join(chance.uniform(0, 1))
        process.kill()
        kills += finish(process) != 0
        require_whole()
    assert finish(start(folder, command)) == 0, said(folder)
    assert require_whole()
    record_property("did", f"{kills} kills of sampling: no file of another content")


# the folder


@LONG
def test_two_runs_in_one_folder(folder: Path, whole: Path) -> None:
    processes = [start(folder, COMMAND) for _ in range(3)]
    statuses = [finish(process) for process in processes]
    # one of them trains; the others are refused, or come when it is done
    assert 0 in statuses
    assert set(statuses) <= {0, 1}
    go_on(folder, whole)


@LONG
def test_a_folder_that_is_renamed(folder: Path, whole: Path) -> None:
    process = start(folder, COMMAND)
    while not steps(folder / "run" / "checkpoints"):
        time.sleep(0.01)
    (folder / "run").rename(folder / "moved")
    assert finish(process) == 1
    assert f"run was renamed to {folder / 'moved'} while it trained" in said(folder)
    assert not (folder / "run").exists()
    (folder / "moved").rename(folder / "run")
    go_on(folder, whole)


@LONG
def test_swapped_checkpoints(folder: Path, whole: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert finish(start(folder, COMMAND, f"strike:8:{signal.SIGKILL.value}")) == -signal.SIGKILL
    found = folder / "run" / "checkpoints"
    paths = [path_of(found, step) for step in (3, 6)]
    # each under the name of the other, beside a good one
    for source, target in zip(paths, [found / "a", found / "b"], strict=True):
        source.rename(target)
    (found / "a").rename(paths[1])
    (found / "b").rename(paths[0])
    assert finish(start(folder, COMMAND)) == 1
    assert "none of the 2 can be used" in said(folder)
    paths[0].rename(found / "a")
    paths[1].rename(paths[0])
    (found / "a").rename(paths[1])
    # the newest of a run with another seed
    other = tmp_path_factory.mktemp("other")
    write_config(other, seed=1)
    assert finish(start(other, COMMAND, f"strike:8:{signal.SIGTERM.value}")) == 128 + signal.SIGTERM
    shutil.copy(path_of(other / "run" / "checkpoints", 8), found)
    assert finish(start(folder, ["train", "--resume", "run"])) == 0
    assert "step_000000008.safetensors: of another run than this one: seed is 1, not 0" in said(folder)
    require_same(folder / "run", whole)


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A file system of its own in a folder."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@LONG
def test_a_disk_that_is_full(folder: Path, whole: Path) -> None:
    run = folder / "run"
    run.mkdir()
    # a checkpoint is of some 250 kB, and a third one does not fit
    size = path_of(whole / "checkpoints", STEPS).stat().st_size
    with small_disk(run, str(int(2.6 * size))):
        assert finish(start(folder, COMMAND)) == 1
        assert re.search(r"^Error: run/\S+: No space left on device; .*go on with: ", said(folder), re.M), said(folder)
        assert "Traceback" not in said(folder)
        assert newest(folder) >= 0
        subprocess.run(["mount", "-o", "remount,ro", str(run)], check=True)
        assert finish(start(folder, COMMAND)) == 1
        assert said(folder).endswith("Error: run/training.lock: Read-only file system\n")
        subprocess.run(["mount", "-o", "remount,rw,size=100m", str(run)], check=True)
        assert finish(start(folder, COMMAND)) == 0, said(folder)
        require_same(run, whole)


# damage


def places(content: bytes) -> dict[str, range]:
    """The bytes of a checkpoint by what they are."""
    start = 8 + int.from_bytes(content[:8], "little")
    record = content.index(b'"record"')
    found = {"length": range(8), "digest": range(8, record)}
    found["record"] = range(record, content.index(b'"},"', record))
    entries = json.loads(content[8:start])
    del entries["__metadata__"]
    found["entries"] = range(found["record"].stop, start)
    return found | {name: range(*(start + at for at in x["data_offsets"])) for name, x in entries.items()}


def test_flipped_and_cut(folder: Path, whole: Path, full: bool, record_property: Did) -> None:
    """One bit, or the end, of every place of a checkpoint; the older one beside it is used."""
    chance = random.Random(1)
    shutil.copytree(whole, folder / "run")
    found = folder / "run" / "checkpoints"
    path = path_of(found, STEPS)
    content = path.read_bytes()
    classes = places(content)
    flips = cuts = 0
    with path.open("r+b", buffering=0) as file:
        for name, place in classes.items():
            # all of what is short in the long form, and some of each tensor
            bits = range(8 * place.start, 8 * place.stop)
            wanted = (100 if name.startswith(("model", "ema", "optimizer")) else len(bits)) if full else 8
            for bit in chance.sample(bits, min(len(bits), wanted)):
                os.pwrite(file.fileno(), bytes([content[bit // 8] ^ 1 << bit % 8]), bit // 8)
                with pytest.raises(DamagedCheckpoint):
                    checkpoints.load(path)
                os.pwrite(file.fileno(), content[bit // 8 : bit // 8 + 1], bit // 8)
                flips += 1
            os.truncate(path, chance.choice(place))
            with pytest.raises(DamagedCheckpoint):
                checkpoints.load(path)
            cuts += 1
            assert checkpoints.latest(found).step == STEPS - 3
            os.pwrite(file.fileno(), content, 0)
    assert checkpoints.latest(found).step == STEPS
    path.write_bytes(content[: len(content) // 2])
    assert f"skipping a damaged checkpoint: run/checkpoints/{path.name}" in go_on(folder, whole)
    record_property(
        "did", f"{flips} bits flipped and {cuts} ends cut off in {len(classes)} places of a checkpoint: none was loaded"
    )


def test_flipped_bits_of_the_configuration(folder: Path, whole: Path, full: bool, record_property: Did) -> None:
    """What is not refused is what does not change the result of a step, and the checkpoint's own is used."""
    shutil.copytree(whole, folder / "run")
    run = RunFolder(folder / "run")
    content = run.config.read_bytes()
    bits = random.Random(2).sample(range(8 * len(content)), 8 * len(content) if full else 300)
    unlike = 0
    for bit in bits:
        run.config.write_bytes(
            content[: bit // 8] + bytes([content[bit // 8] ^ 1 << bit % 8]) + content[bit // 8 + 1 :]
        )
        try:
            found = checkpoints.latest(run.checkpoints, config=run.read_config())
        except (RunError, CheckpointError):
            continue
        assert found.config == from_dict(json.loads(content))
        assert difference(run.read_config(), found.config) is None
        unlike += run.read_config() != found.config
    record_property(
        "did", f"{len(bits)} bits flipped in config.json: {unlike} change {', '.join(CHANGEABLE)}; none a result"
    )


# streamed images


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a folder of images, which two processes decode."""
    folder = tmp_path_factory.mktemp("streamed")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)
    for number, image in enumerate(pixels):
        path = folder / "photos" / str(number % 10) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    write_config(
        folder,
        data={"source": "photos", "stream": True, "workers": 2, "held_out": 0.5},
        sample={"steps": 3, "count": 20},
    )
    assert finish(start(folder, COMMAND)) == 0, said(folder)
    return folder


@LONG
@pytest.mark.parametrize(
    ("fault", "status", "line"),
    [
        ("image:5:0", 1, r"Error: .*photos/.*\.png: expected .*; the state after step \d is saved; go on with: "),
        (
            "image:5:1",
            1,
            r"Error: .*photos/.*\.png: expected the file as it was .*; the state after step \d is saved; ",
        ),
        ("image:5:2", 1, r"Error: .*photos/.*\.png: no such file or folder; the state after step \d is saved; "),
        (
            f"workers:5:{signal.SIGKILL.value}",
            1,
            "Error: a process that decodes images was ended; .*; the state after step",
        ),
        (
            f"workers:5:{signal.SIGSTOP.value}",
            128 + signal.SIGTERM,
            r"^stopped by SIGTERM after step \d of 12; go on with",
        ),
    ],
)
def test_images_that_do_not_come(streamed: Path, tmp_path: Path, fault: str, status: int, line: str) -> None:
    folder, whole = tmp_path, streamed / "run"
    shutil.copytree(streamed / "photos", folder / "photos")
    shutil.copy(streamed / "tiny.json", folder)
    process = start(folder, COMMAND, fault)
    if status > 128:
        while not (folder / "struck").exists():
            time.sleep(0.05)
        # what was decoded before is trained on; then it waits
        time.sleep(2)
        os.kill(process.pid, signal.SIGTERM)
    assert finish(process) == status, said(folder)
    assert re.search(line, said(folder), re.M), said(folder)
    assert "Traceback" not in said(folder)
    assert newest(folder) >= 4
    shutil.rmtree(folder / "photos")
    shutil.copytree(streamed / "photos", folder / "photos")
    assert finish(start(folder, COMMAND)) == 0, said(folder)
    assert weights(folder / "run") == weights(whole)


# several processes


def together(folder: Path, fault: str = "", rank: int = 0) -> list[int]:
    """Exit statuses of a run on two processes, of which one has a fault."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        start(folder, COMMAND, fault if r == rank else "", {**shared, "RANK": str(r), "LOCAL_RANK": str(r)})
        for r in range(2)
    ]
    return [finish(process) for process in processes]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two processes that nothing happens to; without dropout, whose masks depend on their number."""
    folder = tmp_path_factory.mktemp("pair")
    write_config(folder, dropout=0.0)
    assert together(folder) == [0, 0], said(folder)
    return folder / "run"


@LONG
@pytest.mark.parametrize("rank", [0, 1])
def test_one_of_two_processes_killed_at_each_step(tmp_path: Path, pair: Path, rank: int, record_property: Did) -> None:
    folder = tmp_path
    write_config(folder, dropout=0.0)
    for step in range(1, STEPS + 1):
        shutil.rmtree(folder / "run", ignore_errors=True)
        statuses = together(folder, f"strike:{step}:{signal.SIGKILL.value}", rank)
        assert statuses[rank] == -signal.SIGKILL
        # the other may have made the last step, and have nobody to tell
        assert statuses[1 - rank] != 0 or step == STEPS
        if rank == 1 and step < STEPS:
            assert re.search(
                r"Error: rank 0 stops: another process ended or does not answer \(.+\); go on from the last checkpoint "
                r"with: torchrun --nproc-per-node=N .* train --resume run\n$",
                said(folder),
            )
        kept = newest(folder)
        assert kept in (3 * ((step - 1) // 3), 3 * (step // 3))
        shutil.copytree(folder / "run", folder / "alone" / "run")
        shutil.copy(folder / "tiny.json", folder / "alone")
        assert together(folder) == [0, 0], said(folder)
        require_same(folder / "run", pair)
        # on one process sums are added up in another order
        assert finish(start(folder / "alone", COMMAND)) == 0, said(folder / "alone")
        ended = [checkpoints.load(path_of(run / "checkpoints", STEPS)) for run in (folder / "alone" / "run", pair)]
        for name, x in ended[1].tensors.items():
            if name.startswith(("model.", "ema.")):
                # twelve steps of at most 2e-3 each, whose rounding is some 1e-4 of a step
                torch.testing.assert_close(ended[0].tensors[name], x, rtol=0, atol=5e-6)
        shutil.rmtree(folder / "alone")
    record_property(
        "did", f"{STEPS} kills of rank {rank} of two, one after each step, resumed on two processes and on one"
    )


def test_every_fault_is_tried() -> None:
    tried = set(re.findall(r"[\"'(](\w+):[\d{]", Path(__file__).read_text())) | {"clock"}
    assert tried >= faults.FAULTS.keys()
