"""The names of a run's checkpoints, without looking at what is in them. Nothing here imports torch."""

import os
import re
from collections.abc import Callable
from pathlib import Path

_SET_ASIDE = ".set-aside"


def steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, the latest first; what is in the files is not looked at."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    found = (int(match[1]) for name in names if (match := re.fullmatch(r"step_([0-9]+)\.safetensors", name)))
    return sorted((step for step in found if path_of(folder, step).name in names), reverse=True)


def path_of(folder: Path, step: int) -> Path:
    """The file of the checkpoint of a step."""
    return folder / f"step_{step:09d}.safetensors"


def set_aside_after(folder: Path, step: int, report: Callable[[str], object]) -> None:
    """Rename the checkpoints of steps after this one, so that none of them is taken for the newest of the run."""
    for later in steps(folder):
        if later > step:
            path = path_of(folder, later)
            number = 1
            while (target := path.with_name(f"{path.name}{_SET_ASIDE}-{number}")).exists():
                number += 1
            path.rename(target)
            report(f"the run goes on after step {step}: {path} is now called {target.name}")


def files_set_aside(folder: Path) -> list[Path]:
    """What `set_aside_after` renamed."""
    return sorted(folder.glob(f"*{_SET_ASIDE}-*"))
