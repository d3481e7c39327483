"""The kernels of every op compile to machine code, with every option; no GPU is needed for that.

For one GPU by default, for three with ``--emulation=each`` or ``all``.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    every = metafunc.config.getoption("emulation") != "quick"
    metafunc.parametrize("target", ["sm_90", "sm_80", "gfx942"] if every else ["sm_90"])


@pytest.mark.slow
@pytest.mark.emulation
def test_every_kernel_compiles(target: str, tmp_path: Path) -> None:
    script = Path(__file__).with_name("compile_kernels.py")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    # a cache of its own: what an earlier run compiled proves nothing
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, str(script), target], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    *compiled, last = done.stdout.splitlines()
    assert last == f"{len(compiled)} kernels"
    assert len(compiled) > 50
