"""What `import noisestep.accelerated` gives, and what is packaged."""

import subprocess
import sys
import tomllib
from pathlib import Path

import noisestep.accelerated as ns
import pytest

ROOT = Path(__file__).parents[1]


def test_every_public_name_is_there_whatever_was_imported_before() -> None:
    for first in ("pass", "import noisestep.accelerated.ops.noise", "from noisestep.accelerated.ops import q_sample"):
        program = (
            f"{first}\nimport noisestep.accelerated as ns, types\n"
            "for name in ns.__all__: assert not isinstance(getattr(ns, name), types.ModuleType), name\n"
            "from noisestep.accelerated import *\n"
            "assert noise is ns.ops.noise"
        )
        subprocess.run([sys.executable, "-c", program], check=True)


def test_public_names_are_those_of_their_modules() -> None:
    from noisestep.accelerated import address, ops, samplers, schedule
    from noisestep.accelerated.samplers import inversion, loop

    modules = (ops, address, samplers, inversion, loop, schedule)
    for name in ns.__all__:
        assert any(getattr(module, name, None) is getattr(ns, name) for module in modules)
    assert set(ops.__all__) | set(samplers.__all__) <= set(ns.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'noisestep\.accelerated' has no attribute 'nise'"):
        _ = ns.nise


def test_names_are_imported_at_first_use() -> None:
    program = (
        "import sys, noisestep.accelerated as ns\n"
        "assert set(ns.__all__) <= set(dir(ns)) and 'torch' not in sys.modules\n"
        "ns.q_sample; ns.torch"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert said.stderr.strip().endswith("AttributeError: module 'noisestep.accelerated' has no attribute 'torch'")


def test_every_package_and_data_file_is_packaged() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {name: ROOT / folder for name, folder in setuptools["package-dir"].items()}
    found = {"noisestep"}
    for name in ("noisestep.reference", "noisestep.accelerated"):
        for init in folders[name].rglob("__init__.py"):
            if init.parent != folders["noisestep"]:
                found.add(".".join((name, *init.parent.relative_to(folders[name]).parts)))
    # its scripts are no modules: their names begin with a number
    found.add("noisestep.lessons")
    assert set(setuptools["packages"]) == found
