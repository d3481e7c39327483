"""Kernels launched on CPU tensors and a libcuda that runs nothing: all that a launch costs the host is real.

Compilation, the binder, the launcher in C are Triton's own; `cuda_stub.c` is what they call.
"""

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from noisestep.accelerated.backends import backend
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import driver as nvidia

_SOURCE = Path(__file__).with_name("cuda_stub.c")
# an H100
_CAPABILITY = 90


@functools.cache
def _library() -> tuple[Any, ctypes.CDLL]:
    """The stub, built and loaded so that Triton's extensions link against it; its folder lives as long as the process.

    Raises
    ------
    RuntimeError
        Without a C compiler.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise RuntimeError("the stub of libcuda needs a C compiler: cc, gcc or clang")
    folder = tempfile.TemporaryDirectory()
    library = Path(folder.name, "libcuda.so.1")
    command = [compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", str(library), str(_SOURCE)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    library.with_suffix("").symlink_to(library.name)
    os.environ["TRITON_LIBCUDA_PATH"] = folder.name
    return folder, ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


class _StubDriver(nvidia.CudaDriver):  # type: ignore[misc]
    def __init__(self) -> None:
        self.utils = nvidia.CudaUtils()
        self.launcher_cls = nvidia.CudaLauncher
        self.get_current_stream = lambda device: 0
        self.get_current_device = lambda: 0
        self.get_device_capability = lambda device=None: divmod(_CAPABILITY, 10)

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", _CAPABILITY, 32)

    def allocate_default_profile_scratch(self, size: int, alignment: int, stream: int) -> None:
        return None


def launches() -> int:
    """Launches that the stub has been asked for."""
    return int(_library()[1].stub_launches())


@contextmanager
def installed() -> Iterator[None]:
    """Meanwhile, ops on CPU tensors launch their kernels on the stub. Their results are memory that nothing wrote.

    Raises
    ------
    RuntimeError
        With a GPU, whose library is loaded already, or without a C compiler.
    """
    if torch.cuda.is_available():
        raise RuntimeError("the stub of libcuda is for machines without a GPU, and there is one")
    _library()
    with mock.patch.object(triton.runtime.driver, "_active", _StubDriver()), backend("triton"):
        yield
