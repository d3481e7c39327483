"""`ops.cpp` and what it includes: compiled by the machine's own C++ compiler when it is first wanted, kept, and called.

With no compiler the ops run on PyTorch's eager operations: the same bits, at a small part of the speed, and a warning.
`NOISESTEP_NATIVE=0` asks for that, without the warning. The library is kept in `NOISESTEP_CACHE`, or in `noisestep`
below `XDG_CACHE_HOME` or `~/.cache` (`cache.py`); to compile it takes a few seconds.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import struct
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from noisestep.reference import noise as reference

from ...schedule import MOST_HISTORY, ReverseRow, StepRow
from ..eager import CHUNK
from . import cache, check

# read once, when noisestep is imported
WANTED = os.environ.get("NOISESTEP_NATIVE") != "0"
# ops.cpp and the headers that it includes
_SOURCES = Path(__file__).parent
# no contraction: an fma stands only where one is written. -fno-math-errno and -fno-trapping-math let square roots and
# comparisons be vectors. What -O3 has besides -O2 and these three takes as long again to compile, and gains nothing
_FLAGS = (
    "-std=c++17 -O2 -ftree-vectorize -fvect-cost-model=dynamic -fpeel-loops -ffp-contract=off -fno-math-errno "
    "-fno-trapping-math -fPIC -shared -pthread "
    + ("-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native")
).split()


# The arguments of a function are a structure of words of 64 bits, `q` an integer or an address, `d` a float64.
# rows, elements of a row, threads
_BATCH = "3q"
# where it lies in memory, and its type
_TENSOR = "2q"
# seed, stream, step, steps, sample, samples
_ADDRESS = "6q"
# t, whether it is int64, how many, their stride; the table and its rows
_TIMESTEPS = "6q"
# a number, or where it lies in memory and its stride
_SCALAR = "d2q"
_STRUCTURES = {
    "noise": (_BATCH, _ADDRESS, _TENSOR),
    "q_sample": (_BATCH, *(_TENSOR,) * 2, _ADDRESS, _TIMESTEPS, *(_TENSOR,) * 3),
    "simple_loss": (_BATCH, _TENSOR, "q", *(_TENSOR,) * 2, _ADDRESS, _TIMESTEPS, "q", _TENSOR, "qd", "2q"),
    "simple_loss_backward": (_BATCH, "3q", *(_TENSOR,) * 2),
    "update": (_BATCH, *(_TENSOR,) * (4 + MOST_HISTORY), _ADDRESS, _TIMESTEPS, *(_SCALAR,) * 4, "4q", *(_TENSOR,) * 2),
    "vlb_terms": (_BATCH, *(_TENSOR,) * 3, _TIMESTEPS, "3q3dq"),
}

# by name, a function of the library: takes the words of its structure, returns 1 where it refuses them
Functions = dict[str, Callable[..., int]]


def library() -> Functions | None:
    """The functions of the library, compiled now if it never was; None where it cannot be had or is not wanted."""
    return _library() if WANTED else None


def functions() -> Functions:
    """The functions, where `library` has said that there are any."""
    found = _library()
    assert found is not None
    return found


class NativeUnavailable(RuntimeWarning):
    """The ops on a CPU run without native code; the message says why, and what to do about it."""


@functools.cache
def _library() -> Functions | None:
    try:
        functions = _loaded()
        if (name := check.wrong(functions)) is not None:
            raise RuntimeError(f"what the C++ compiler made of {name} gives wrong results")
    except (OSError, RuntimeError) as problem:
        warnings.warn(
            f"the ops on a CPU run eagerly, with the same bits and many times slower: {problem}. A C++ compiler (g++, "
            "clang++, or the one that CXX names) makes them fast; NOISESTEP_NATIVE=0 is for doing without",
            NativeUnavailable,
            stacklevel=2,
        )
        return None
    return functions


def _loaded() -> Functions:
    """The functions of the library for this source, compiler and processor, from the cache or compiled now."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        raise RuntimeError("no C++ compiler was found")
    command = [*compiler.split(), *_FLAGS, *_constants()]
    sources = sorted([*_SOURCES.glob("*.cpp"), *_SOURCES.glob("*.h")])
    identity = "\n".join((*(path.read_text() for path in sources), *command, _said_by(compiler), _processor()))

    def compile_to(path: Path) -> None:
        done = subprocess.run(
            [*command, str(_SOURCES / "ops.cpp"), "-o", str(path)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{compiler} failed: {(done.stderr.strip().splitlines() or ['no message'])[0]}")

    code = cache.load(f"native-{hashlib.sha256(identity.encode()).hexdigest()[:32]}.so", compile_to)
    return {name: _function(code[f"noisestep_{name}"], "".join(parts)) for name, parts in _STRUCTURES.items()}


def _said_by(compiler: str) -> str:
    done = subprocess.run([*compiler.split(), "--version"], capture_output=True, text=True, check=False)
    return done.stdout


def _processor() -> str:
    """What tells processors with other instructions apart: a home folder may be shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    kept = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(kept)}))


def _constants() -> list[str]:
    """What the source takes from the Python code; the noise's in hexadecimal, which loses nothing."""

    def text(values: Any) -> str:
        return ",".join(f"{value.hex()}f" for value in np.atleast_1d(values).astype(np.float64).tolist())

    names = ("LOG", "EVEN", "ODD", "EXPONENT", "TINY")
    columns, step_columns = (",".join(map(str.upper, row._fields)) for row in (ReverseRow, StepRow))
    return [
        f"-DNOISESTEP_CHUNK={CHUNK}",
        f"-DNOISESTEP_COLUMNS={columns}",
        f"-DNOISESTEP_STEP_COLUMNS={step_columns}",
        f"-DNOISESTEP_MOST_HISTORY={MOST_HISTORY}",
        *(f"-DNOISESTEP_{name}={text(getattr(reference, name))}" for name in names),
    ]


def _function(function: Any, words: str) -> Callable[..., int]:
    function.argtypes, function.restype = (ctypes.c_char_p,), ctypes.c_int64
    # one argument: ctypes takes a third of a microsecond for each
    pack = struct.Struct(f"={words}").pack
    return lambda *given: function(pack(*given))
