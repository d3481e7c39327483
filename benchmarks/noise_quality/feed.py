"""Random words in an order of the address, for programs of tests to read from a pipe."""

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# an order, and whether it takes all four words of a block or word 0 of each
ORDERS = {
    "elements": True,
    "samples": False,
    "steps": False,
    "streams": False,
    "seeds": False,
    "interleaved": True,
}
_PIECE = 1 << 18


@cache
def library() -> ctypes.CDLL:
    """`loops.cpp`, compiled."""
    compiler = next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        raise RuntimeError("the quality of the noise is measured by C++ code: it needs c++, g++ or clang++")
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/loops.so"
        flags = ["-std=c++17", "-O3", "-march=native", "-fPIC", "-shared"]
        subprocess.run([compiler, *flags, str(Path(__file__).with_name("loops.cpp")), "-o", path], check=True)
        code = ctypes.CDLL(path)
    code.words.argtypes = ctypes.c_int, ctypes.c_int, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_void_p
    code.census.argtypes = ctypes.c_void_p, ctypes.c_uint64, *(ctypes.c_void_p,) * 3
    code.words.restype = code.census.restype = None
    return code


def words(order: str, first: int, count: int) -> NDArray[np.uint32]:
    """Words `first` and on in an order of the address.

    Parameters
    ----------
    order : str
        One of `ORDERS`; `place` in `loops.cpp` says what it is.
    first, count : int
        Multiples of 64.
    """
    whole = ORDERS[order]
    out = np.empty(count, np.uint32)
    library().words(list(ORDERS).index(order), whole, first // 4 if whole else first, count, out.ctypes.data)
    return out


def write_words(order: str) -> None:
    """Write words to standard output, in the machine's byte order, until nobody reads them."""
    try:
        for first in range(0, 1 << 62, _PIECE):
            sys.stdout.buffer.write(words(order, first, _PIECE).data)
    except BrokenPipeError:
        # else the interpreter tries to flush it when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
