"""Real training and sampling processes, and what can happen to them: `start(folder, ["train", ...], "nan:7")`.

The processes are forked from a server that has imported everything, so that hundreds of them take minutes. They run the
command line without the evaluation at the end, on one thread.
"""

import errno
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

# what AdamW imports when it is made
import torch._dynamo
from noisestep.accelerated.cli import main
from noisestep.accelerated.cli import train as commands
from noisestep.accelerated.data import load_images
from noisestep.accelerated.training import atomic, tensor_file
from noisestep.accelerated.training import checkpoint as checkpoints
from noisestep.accelerated.training import loop as training
from noisestep.accelerated.training.batches import Decoder
from PIL import Image
from tensorboard.compat.proto import event_pb2
from tensorboard.summary.writer import record_writer
from tiny_run import SETTINGS

# imports what it needs as well
load_images("digits")
assert event_pb2
assert record_writer

STEPS = 12
CONFIG = {**SETTINGS, "steps": STEPS, "log_every": 2, "checkpoint_every": 3, "sample_every": 6}
# the places in a write at which a process can be ended
PLACES = ("begin", "half", "written", "synced", "renamed", "folder synced", "old removed")


def start(folder: Path, arguments: list[str], fault: str = "", environment: dict[str, str] | None = None) -> Any:
    """A process that runs `noisestep ARGUMENTS` in a folder, and says what it says in said.txt there."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["faults"])
    process = context.Process(target=_run, args=(folder, arguments, fault, environment or {}))
    process.start()
    return process


def said(folder: Path) -> str:
    """What the last process in a folder said."""
    return (folder / "said.txt").read_text()


def finish(process: ForkServerProcess, seconds: float = 3600) -> int:
    """The exit status of a process; one that does not end hangs."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        raise AssertionError("the process hangs")
    return process.exitcode


def _run(folder: Path, arguments: list[str], fault: str, environment: dict[str, str]) -> None:
    os.chdir(folder)
    os.environ |= environment
    rank = environment.get("RANK", "0")
    descriptor = os.open(f"said{rank if rank != '0' else ''}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    # what pytest, or a shell that started it in the background, may have ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    torch.set_num_threads(1)
    commands.evaluate_trained = lambda *arguments: None
    commands.loss_curve = lambda path: Image.new("L", (1, 1))
    if fault:
        name, *values = fault.split(":")
        FAULTS[name](*map(int, values))
    sys.argv = ["noisestep", *arguments]
    main([*arguments, "--device", "cpu"], prog_name="noisestep")


# faults: each takes numbers, and changes what the process does from then on


def _at_step(step: int, change: Callable[..., Any]) -> None:
    """Let `change` see what the loss and its gradient are in one step."""
    loss_and_gradient, calls = training.loss_and_gradient, [0]

    def spoiled(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        result = loss_and_gradient(*arguments, **options)
        return change(*result) if calls[0] == step else result

    training.loss_and_gradient = spoiled


def _fail(error: BaseException) -> Callable[..., Any]:
    def fail(*arguments: Any) -> Any:
        raise error

    return fail


def _strike(step: int, number: int) -> None:
    """A signal at the end of a step."""
    update_ema = training.update_ema

    def struck(ema: Any, model: Any, at: int, decay: float) -> None:
        update_ema(ema, model, at, decay)
        if at + 1 == step:
            os.kill(os.getpid(), number)

    training.update_ema = struck


def _kill_in_write(save: int, place: int) -> None:
    """SIGKILL at a place in a checkpoint's write; saves are counted from 0."""
    write, save_checkpoint, fsync, replace, unlink = (
        tensor_file.write,
        checkpoints.save,
        os.fsync,
        os.replace,
        Path.unlink,
    )
    count, inside, synced = [-1], [False], [0]

    def at(name: str) -> None:
        if inside[0] and count[0] == save and PLACES[place] == name:
            os.kill(os.getpid(), signal.SIGKILL)

    def saved(*arguments: Any, **options: Any) -> Path:
        count[0] += 1
        inside[0], synced[0] = True, 0
        path = save_checkpoint(*arguments, **options)
        inside[0] = False
        return path

    def written(file: Any, *arguments: Any) -> None:
        at("begin")
        write(file, *arguments)
        if inside[0] and count[0] == save and PLACES[place] == "half":
            file.flush()
            os.ftruncate(file.fileno(), file.tell() // 2)
            at("half")
        at("written")

    def fsynced(descriptor: int) -> None:
        fsync(descriptor)
        synced[0] += 1
        at(("", "synced", "folder synced")[min(synced[0], 2)])

    def replaced(*arguments: Any) -> None:
        replace(*arguments)
        at("renamed")

    def unlinked(path: Path, **options: Any) -> None:
        unlink(path, **options)
        at("old removed")

    checkpoints.save, tensor_file.write, os.fsync, os.replace, Path.unlink = (  # type: ignore[method-assign,assignment]
        saved,
        written,
        fsynced,
        replaced,
        unlinked,
    )


def _kill_before_file(number: int) -> None:
    """SIGKILL before a whole file gets its name; files are counted from 0."""
    replace, count = os.replace, [0]

    def replaced(*arguments: Any) -> None:
        if count[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        count[0] += 1
        replace(*arguments)

    os.replace = replaced  # type: ignore[assignment]


def _full_disk(save: int) -> None:
    """No space for a checkpoint, of which half is written."""
    write, count = tensor_file.write, [-1]

    def written(file: Any, *arguments: Any) -> None:
        count[0] += 1
        write(file, *arguments)
        if count[0] >= save:
            os.ftruncate(file.fileno(), file.tell() // 2)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    tensor_file.write = written


def _clock_back() -> None:
    """A clock that goes back by an hour at every look."""
    begun, looks = time.time(), [0]

    def now() -> float:
        looks[0] += 1
        return begun - 3600 * looks[0]

    time.time = now


def _read_error(number: int) -> None:
    """A checkpoint that cannot be read at the moment."""
    path_open = Path.open

    def opened(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.suffix == ".safetensors":
            raise OSError(number, os.strerror(number), str(path))
        return path_open(path, *arguments, **options)

    Path.open = opened  # type: ignore[method-assign]


def _unwritable(number: int) -> None:
    """A folder in which nothing can be written any more, from the second checkpoint on."""
    replacing, count = atomic.replacing, [0]

    def refused(path: Path) -> Any:
        count[0] += path.suffix == ".safetensors"
        if count[0] > 1:
            raise OSError(number, os.strerror(number), str(path))
        return replacing(path)

    checkpoints.replacing = refused


def _workers(step: int, number: int) -> None:
    """A signal to the processes that decode, before a step's images are asked for."""
    wait, calls = Decoder._wait, [0]

    def waited(decoder: Decoder) -> Any:
        calls[0] += 1
        if calls[0] == step:
            for worker in decoder._workers:
                os.kill(worker.pid or 0, number)
            # what is decoded already comes first
            Path("struck").touch()
        return wait(decoder)

    Decoder._wait = waited  # type: ignore[method-assign]


def _bad_images(step: int, how: int) -> None:
    """What becomes of all image files before a step's images are asked for: `BAD_IMAGES[how]`."""
    wait, calls = Decoder._wait, [0]

    def waited(decoder: Decoder) -> Any:
        calls[0] += 1
        if calls[0] == step:
            for path in Path("photos").rglob("*.png"):
                BAD_IMAGES[how](path)
        return wait(decoder)

    Decoder._wait = waited  # type: ignore[method-assign]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def _exchange(path: Path) -> None:
    # another picture of the same size
    Image.new("L", (8, 8), 7).save(path)


BAD_IMAGES: tuple[Callable[[Path], None], ...] = (_cut, _exchange, Path.unlink)

FAULTS: dict[str, Callable[..., None]] = {
    "strike": _strike,
    "write": _kill_in_write,
    "nan": lambda step: _at_step(step, lambda loss, gradient: (loss * float("nan"), gradient)),
    "infinite": lambda step: _at_step(step, lambda loss, gradient: (loss, gradient * float("inf"))),
    "memory": lambda step: _at_step(step, _fail(RuntimeError("can't allocate memory: you tried 1 TB"))),
    "bug": lambda step: _at_step(step, _fail(KeyError("a defect"))),
    "file": _kill_before_file,
    "full": _full_disk,
    "clock": _clock_back,
    "read": _read_error,
    "unwritable": _unwritable,
    "workers": _workers,
    "image": _bad_images,
}


def write_config(folder: Path, **changes: Any) -> None:
    """The configuration of the runs, as tiny.json."""
    (folder / "tiny.json").write_text(json.dumps({**CONFIG, **changes}))
