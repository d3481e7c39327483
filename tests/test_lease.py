"""One process trains in a run folder: the others are told which one, and nothing outlives a process that was killed."""

import json
import multiprocessing
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from click.testing import CliRunner
from noisestep.accelerated.cli import main
from noisestep.accelerated.cli.lease import Lease, holder, owned
from noisestep.accelerated.cli.run_folder import RunFolder
from noisestep.accelerated.errors import RunError
from noisestep.accelerated.training.distributed import SINGLE_PROCESS

FORK = multiprocessing.get_context("fork")


def hold(path: Path, pipe: Connection) -> None:
    lease = Lease(RunFolder(path))
    pipe.send("ready")
    pipe.recv()
    lease.release()


@contextmanager
def held(path: Path) -> Iterator[multiprocessing.process.BaseProcess]:
    """Another process that has the lease of a folder, until it is killed or the block ends."""
    here, there = FORK.Pipe()
    process = FORK.Process(target=hold, args=(path, there))
    process.start()
    assert here.poll(60)
    try:
        yield process
    finally:
        if process.is_alive():
            here.send("end")
        process.join(60)


def test_the_holder_is_named_and_a_free_folder_has_no_lock(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with held(tmp_path) as process:
        named = rf"process {process.pid} on {re.escape(socket.gethostname())}, since [0-9-]+T[0-9:+-]+,"
        with pytest.raises(
            RunError, match=rf"{re.escape(str(tmp_path))}: {named} is training here; wait for it, or stop"
        ):
            Lease(run)
        assert re.fullmatch(named, holder(run) or "")
    assert list(tmp_path.iterdir()) == []
    assert holder(run) is None
    with owned(run, SINGLE_PROCESS) as lease:
        assert lease is not None
        lease.confirm()
        assert [path.name for path in tmp_path.iterdir()] == [run.lock.name]
    assert list(tmp_path.iterdir()) == []


def test_the_lease_of_a_killed_process_is_free_and_its_unfinished_files_go(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.checkpoints.mkdir()
    (run.checkpoints / ".step_000000005.safetensors.0.partial").write_bytes(b"half")
    (tmp_path / ".samples.png.0.partial").write_bytes(b"half")
    with held(tmp_path) as process:
        process.kill()
        process.join()
        assert run.lock.exists()
        with owned(run, SINGLE_PROCESS):
            assert json.loads(run.lock.read_text())["process"] == os.getpid()
            assert not run.partial_files()


@pytest.mark.parametrize("content", ["", "{", "[]", "\0" * 9000])
def test_a_lock_that_names_nobody_is_free(tmp_path: Path, content: str) -> None:
    """As a process leaves it that is killed between the lock and the record."""
    RunFolder(tmp_path).lock.write_text(content)
    Lease(RunFolder(tmp_path)).release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "free"),
    [({"host": "elsewhere"}, True), ({"boot": "before"}, True), ({"host": "elsewhere", "boot": "other"}, False)],
)
def test_a_lease_of_another_machine_is_not_taken_over(tmp_path: Path, changes: dict[str, str], free: bool) -> None:
    """A container has its machine's kernel under another name, and a machine that was started again keeps its name."""
    run = RunFolder(tmp_path)
    lease = Lease(run)
    record = json.loads(run.lock.read_text())
    lease.release()
    run.lock.write_text(json.dumps(record | changes))
    if free:
        Lease(run).release()
        return
    with pytest.raises(
        RunError, match=rf"on elsewhere, since .*, was training here and .* remove {run.lock} and start"
    ):
        Lease(run)
    run.lock.unlink()
    Lease(run).release()


def test_what_became_of_the_folder_is_said(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    lease = Lease(RunFolder(here))
    lease.confirm()
    here.rename(tmp_path / "there")
    with pytest.raises(RunError, match=f"{here} was renamed to {tmp_path / 'there'} while it trained"):
        lease.confirm()
    here.mkdir()
    other = Lease(RunFolder(here))
    with pytest.raises(RunError, match=f"{here} was renamed to {tmp_path / 'there'} while it trained"):
        lease.confirm()
    other.confirm()
    other.release()
    lease.release()
    assert list((tmp_path / "there").iterdir()) == []
    lease = Lease(RunFolder(here))
    RunFolder(here).lock.unlink()
    with pytest.raises(RunError, match=r"training.lock was removed or replaced while this process trained"):
        lease.confirm()
    here.rmdir()
    with pytest.raises(RunError, match=f"{here} was removed while it trained"):
        lease.confirm()
    lease.release()


def test_a_lock_that_points_elsewhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.lock.symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match=re.escape(str(run.lock))):
        Lease(run)
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize("arguments", [("--resume", "run"), ("--out", "run", "--continue")])
def test_a_second_training_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunFolder(Path("run"))
    run.checkpoints.mkdir(parents=True)
    run.config.write_text("{}")
    (run.checkpoints / "step_000000005.safetensors").write_text("")
    with held(run.path) as process:
        result = CliRunner().invoke(main, ["train", *arguments])
    assert result.exit_code == 1
    assert f"run: process {process.pid} on " in result.output
    assert run.config.read_text() == "{}"


def test_a_forked_child_does_not_keep_the_lease(tmp_path: Path) -> None:
    """Processes that decode images may live on for a while when the one that trains was killed."""
    program = (
        "import os, sys, time; from pathlib import Path; from noisestep.accelerated.cli.lease import Lease; "
        "from noisestep.accelerated.cli.run_folder import RunFolder; lease = Lease(RunFolder(Path(sys.argv[1]))); "
        "child = os.fork(); child or time.sleep(60); print(child, flush=True); os.kill(os.getpid(), 9)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.wait()
    try:
        os.kill(child, 0)
        Lease(RunFolder(tmp_path)).release()
    finally:
        os.kill(child, 9)
        process.stdout.close()
