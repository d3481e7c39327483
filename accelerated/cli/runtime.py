"""Where a command runs: its device, its processes, and which of them prints."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import click
import torch

from ..errors import RunError
from ..files import printable
from ..training.distributed import World, process_group, torchrun


@dataclass(frozen=True)
class Runtime:
    """Device and processes of a command; `say` prints a line on rank 0."""

    device: torch.device
    world: World
    say: Callable[[str], object]


@contextmanager
def start(device: str, parallel: str, timeout: float) -> Iterator[Runtime]:
    """The runtime that the flags --device, --parallel and --timeout ask for.

    Raises
    ------
    RunError
        No such device, or no such processes.
    LostRank
        Another process ended, or did not answer in time.
    """
    found = find_device(device)
    with process_group(found, parallel=parallel, timeout=timeout) as world:
        yield Runtime(found, world, _say if world.is_rank0 else lambda text: None)
    if not world.is_rank0:
        # rank 0 is still evaluating and writing; a native thread that is alive while the interpreter shuts down aborts
        # the process now and then, and torchrun would then end rank 0
        sys.stderr.flush()
        os._exit(0)


def _say(text: str) -> None:
    """Print lines, in which names of files and classes may stand."""
    click.echo("\n".join(map(printable, text.split("\n"))))


def find_device(name: str) -> torch.device:
    """The device called `name`; "auto" is a GPU if there is one, and under torchrun each process has its own GPU.

    Raises
    ------
    RunError
        No such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if re.fullmatch(r"cpu|cuda(:\d+)?", name) is None:
        raise RunError(f"--device is {name!r}; allowed: auto, cpu, cuda, cuda:N")
    device = torch.device(name)
    _, size, local_rank = torchrun()
    if device.type == "cuda" and size > 1:
        if device.index is not None:
            raise RunError(f"--device is {name!r}, one GPU for {size} processes; allowed: auto, cpu, cuda")
        name = f"cuda:{local_rank}"
        device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RunError(f"--device is {name!r}, but this machine has {torch.cuda.device_count()} GPUs for torch")
    return device
