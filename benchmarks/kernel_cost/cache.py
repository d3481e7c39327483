"""What was counted before, by everything that it depends on: a file for each kernel, below `.benchmarks/`."""

import hashlib
import json
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import triton
from noisestep.accelerated.backends import Launch

_HERE = Path(__file__).parent
FOLDER = _HERE.parents[1] / ".benchmarks" / "kernel_cost"


class Cache:
    """Results as JSON by key.

    Parameters
    ----------
    folder : Path
        Made when something is first kept.

    Attributes
    ----------
    found, made : int
        How often a result was there, and how often it had to be made.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self.folder = folder
        self.found = self.made = 0

    def get(self, key: str, make: Callable[[], Any]) -> Any:
        """The result that is kept by this key, or what `make` returns, which is kept then."""
        path = self.folder / f"{key}.json"
        if path.exists():
            self.found += 1
            return json.loads(path.read_text())
        result = make()
        self.made += 1
        self.folder.mkdir(parents=True, exist_ok=True)
        # whole or not at all: another process may look
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(result))
        unfinished.replace(path)
        return result


def key_of(launch: Launch, capability: int) -> str:
    """The key of a launch's machine code: the source of the kernel and of what it calls, and how it is specialised."""
    arguments = {name: _specialised(value) for name, value in launch.arguments.items()}
    return _hash(
        launch.kernel.cache_key,
        capability,
        arguments,
        launch.options,
        triton.__version__,
        _source("sass", "bound", "cost"),
    )


def _specialised(value: Any) -> str:
    """What Triton may compile another kernel for; of a number that is its value, which is more than Triton asks."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype}, aligned: {value.data_ptr() % 16 == 0}"
    # a function's repr has an address
    return getattr(value, "cache_key", None) or repr(value)


def key_of_generated(capabilities: tuple[int, ...]) -> str:
    """The key of what torch.compile generates for the functions of `plain`."""
    sources = _source("inductor", "plain", "cases", "sass", "bound", "cost")
    return _hash(capabilities, torch.__version__, triton.__version__, sources)


@lru_cache
def _source(*modules: str) -> str:
    return "".join((_HERE / f"{module}.py").read_text() for module in modules)


def _hash(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
