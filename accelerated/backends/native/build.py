"""`ops.cpp` and what it includes: compiled by the machine's own C++ compiler when it is first wanted, kept, and called.

With no compiler the ops run on PyTorch's eager operations: the same bits, at a small part of the speed, and a warning.
`NOISESTEP_NATIVE=0` asks for that, without the warning. The library is kept in `NOISESTEP_CACHE`, or in `noisestep`
below `XDG_CACHE_HOME` or `~/.cache`; to compile it takes a few seconds.
"""

import atexit
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import struct
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from noisestep.reference import noise as reference

from ...schedule import MOST_HISTORY, ReverseRow, StepRow
from ..eager import CHUNK

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
        functions = _load(_compiled())
        _check(functions)
    except (OSError, RuntimeError) as problem:
        warnings.warn(
            f"the ops on a CPU run eagerly, with the same bits and many times slower: {problem}. A C++ compiler (g++, "
            "clang++, or the one that CXX names) makes them fast; NOISESTEP_NATIVE=0 is for doing without",
            NativeUnavailable,
            stacklevel=2,
        )
        return None
    return functions


def _compiled() -> Path:
    """The library's file, compiled if it is not there for this source, compiler and processor."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        raise RuntimeError("no C++ compiler was found")
    command = [*compiler.split(), *_FLAGS, *_constants()]
    sources = sorted([*_SOURCES.glob("*.cpp"), *_SOURCES.glob("*.h")])
    identity = "\n".join((*(path.read_text() for path in sources), *command, _said_by(compiler), _processor()))
    path = _folder() / f"native-{hashlib.sha256(identity.encode()).hexdigest()[:32]}.so"
    if not path.exists():
        # under a name of its own until it is whole: other processes may compile it, too
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            done = subprocess.run(
                [*command, str(_SOURCES / "ops.cpp"), "-o", str(made)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise RuntimeError(f"{compiler} failed: {(done.stderr.strip().splitlines() or ['no message'])[0]}")
            made.replace(path)
    return path


def _folder() -> Path:
    """Where libraries are kept; one that goes with the process where nothing can be."""
    given = os.environ.get("NOISESTEP_CACHE")
    folder = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "noisestep"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    folder = Path(tempfile.mkdtemp(prefix="noisestep-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


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


def _load(path: Path) -> Functions:
    code = ctypes.CDLL(str(path))
    return {name: _function(code[f"noisestep_{name}"], "".join(parts)) for name, parts in _STRUCTURES.items()}


def _function(function: Any, words: str) -> Callable[..., int]:
    function.argtypes, function.restype = (ctypes.c_char_p,), ctypes.c_int64
    # one argument: ctypes takes a third of a microsecond for each
    pack = struct.Struct(f"={words}").pack
    return lambda *given: function(pack(*given))


def _check(functions: Functions) -> None:
    """The first thing that is computed is compared with the reference: a compiler may be wrong."""
    rows, n = 2, 5 * 64 + 3
    eps = np.full((rows, n), np.nan, np.float32)
    # as a signed number, 2^64 - 59 is -59
    functions["noise"](rows, n, 1, -59, reference.FORWARD, 7, 0, 2**32 - 1, 0, eps.ctypes.data, 0)
    expected = reference.normal(2**64 - 59, reference.FORWARD, 7, [2**32 - 1, 2**32], (n,))
    if not np.array_equal(eps.view(np.uint32), expected.view(np.uint32)):
        raise RuntimeError("what the C++ compiler made gives wrong bits")
