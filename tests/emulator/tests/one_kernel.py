"""A kernel emulated and compiled in one process: `python -m emulator.tests.one_kernel`, which prints JSON.

A process of its own, for a kernel that was defined for Triton's interpreter cannot be compiled.
"""

import json
import os
from unittest import mock

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget

from ..driver import cache_folder, on

SIZE = 100


@triton.jit
def _double(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + i, 2 * tl.load(x_ptr + i, mask=i < n), mask=i < n)


class _H100:
    """A Triton driver that names a GPU and runs nothing."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def emulated(target: str) -> bool:
    """Whether the kernel doubles numbers in the emulator."""
    x, y = torch.arange(SIZE, dtype=torch.float32), torch.full((SIZE,), torch.nan)
    with on(target):
        _double[(4,)](x, y, SIZE, BLOCK=32, enable_fp_fusion=False)
    return torch.equal(y, 2 * x)


def compiled() -> str:
    """The first bytes of what a GPU would be given."""
    x = torch.zeros(SIZE)
    with mock.patch.object(triton.runtime.driver, "_active", _H100()):
        kernel = _double.warmup(x, x, SIZE, BLOCK=32, enable_fp_fusion=False, grid=(4,))
    return kernel.asm["cubin"][:4].decode("latin-1")


if __name__ == "__main__":
    before = dict(os.environ)
    found = {
        "emulated": [emulated("sm_90"), emulated("gfx942")],
        "cached by the emulator": len(list(cache_folder().iterdir())),
        "cached by Triton": os.path.exists(triton.knobs.cache.dir) and len(os.listdir(triton.knobs.cache.dir)),
        "environment": dict(os.environ) == before,
        "compiled": compiled(),
    }
    print(json.dumps(found))
