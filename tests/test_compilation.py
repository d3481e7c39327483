"""Every kernel compiles for NVIDIA and AMD GPUs, with every option that changes its code; no GPU is needed for that."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from compile_kernels import cases


@pytest.mark.parametrize("target", [("cuda", "80", "32"), ("cuda", "90", "32"), ("hip", "gfx942", "64")], ids="-".join)
def test_every_kernel_compiles(target: tuple[str, str, str], tmp_path: Path) -> None:
    script = Path(__file__).with_name("compile_kernels.py")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    # a cache of its own: what an earlier run compiled proves nothing
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, str(script), *target], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{len(cases())} kernels"
