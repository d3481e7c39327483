"""The emulator as a package: what it imports, and that Triton's own cache is left alone."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import emulator

FOLDER = Path(emulator.__file__).parent
IMPORTED = {"hypothesis", "mpmath", "numpy", "pytest", "torch", "triton"}


def test_the_emulator_imports_nothing_of_the_package_whose_kernels_it_runs():
    files = list(FOLDER.rglob("*.py"))
    assert len(files) > 30
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            others = {name.split(".")[0] for name in names} - sys.stdlib_module_names - IMPORTED - {"emulator"}
            assert not others, f"{path} imports {others}"


def run_one_kernel(cache: Path) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(cache), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "emulator.tests.one_kernel"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_triton_s_own_cache_is_untouched(tmp_path: Path) -> None:
    for cached in (False, True):
        found = run_one_kernel(tmp_path / "cache")
        assert found["emulated"] == [True, True]
        # nothing at first; then the kernel that was compiled for a GPU, and nothing more
        assert bool(found["cached by Triton"]) == cached
        assert found["cached by the emulator"]
        assert found["environment"]
        # machine code, and no text
        assert found["compiled"] == "\x7fELF"
