"""docs/noise.md is complete and true: its program gives the golden vectors, its tables are those of the code."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from noisestep.reference import noise

HERE = Path(__file__).parent
PAGE = (HERE.parent / "docs" / "noise.md").read_text()
GOLDEN = json.loads((HERE / "golden" / "noise.json").read_text())
# what the program is given for an entry of each group, by the entry's names
ARGUMENTS = {
    "philox": ("counter", "key"),
    "pair": ("u", "v"),
    "normal": ("seed", "stream", "step", "sample", "first"),
    "uniform": ("seed", "stream", "step", "sample"),
    "integers": ("seed", "stream", "step", "sample", "low", "high"),
    "permutation": ("seed", "epoch", "n"),
}
RESULT = {"philox": "block", "uniform": "bits", "integers": "value", "permutation": "order"}


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    """The page's C program, compiled as the page says."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) on this machine")
    (source,) = re.findall(r"^```c\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    (command,) = re.findall(r"`cc (.*?) noise\.c -o noise -lm`", PAGE)
    folder = tmp_path_factory.mktemp("page")
    (folder / "noise.c").write_text(source)
    subprocess.run([compiler, *command.split(), "noise.c", "-o", "noise", "-lm"], cwd=folder, check=True)
    return folder / "noise"


def listed(value: object) -> list:
    return value if isinstance(value, list) else [value]


@pytest.mark.parametrize("group", ARGUMENTS)
def test_the_pages_program_gives_the_golden_vectors(program, group):
    for entry in GOLDEN[group]:
        given = [x for name in ARGUMENTS[group] for x in listed(entry[name])]
        # words are bare hexadecimal in the golden vectors
        given = [f"0x{x}" if re.fullmatch("[0-9a-f]{8}", str(x)) else str(x) for x in given]
        given += ["8"] if group == "normal" else []
        printed = subprocess.run([program, group, *given], capture_output=True, text=True, check=True).stdout.split()
        assert printed == [str(x) for x in listed(entry[RESULT.get(group, "normals")])], entry


def test_the_pages_program_gives_the_references_bits(program):
    given = [str(x) for x in (3, noise.REVERSE, 999, 2**40 + 7, 0, 1 << 16)]
    printed = subprocess.run([program, "normal", *given], capture_output=True, text=True, check=True).stdout.split()
    expected = noise.normal(3, noise.REVERSE, 999, 2**40 + 7, (1 << 16,))[0].view(np.uint32)
    assert printed == [f"{bits:08x}" for bits in expected]


def test_the_pages_constants_are_those_of_the_code():
    constants = {
        **{f"LOG {k}": value for k, value in enumerate(noise.LOG)},
        **{f"EVEN {k}": value for k, value in enumerate(noise.EVEN)},
        **{f"ODD {k}": value for k, value in enumerate(noise.ODD)},
        "EXPONENT": noise.EXPONENT,
        "TINY": noise.TINY,
    }
    for name, value in constants.items():
        (row,) = re.findall(rf"^\| {name} \| (\S+) \| (\S+) \|$", PAGE, re.MULTILINE)
        assert row == (repr(float(value)), f"{int(np.float32(value).view(np.uint32)):08x}")
        # in the program, where one unit in the last place shows in too few numbers to be noticed otherwise
        assert name == "TINY" or f"{float(value)!r}f" in PAGE


def test_the_pages_golden_vectors_are_those_of_the_tests():
    rows = [f"| {' '.join(e['counter'])} | {' '.join(e['key'])} | {' '.join(e['block'])} |" for e in GOLDEN["philox"]]
    rows += [f"| {e['u']} | {e['v']} | {' '.join(e['normals'])} |" for e in GOLDEN["pair"]]
    for e in GOLDEN["normal"]:
        if e["first"] == "0x0":
            words, normals = " ".join(e["words"][:4]), " ".join(e["normals"][:4])
            rows.append(f"| {e['seed']} | {e['stream']} | {e['step']} | {e['sample']} | {words} | {normals} |")
    assert [row for row in rows if row not in PAGE.splitlines()] == []


def test_the_pages_version_and_streams_are_those_of_the_code():
    numbers = re.findall(r"^\| (\d+) \| [^|]+ \| [^|]+ \| [^|]+ \|$", PAGE, re.MULTILINE)
    constants = {name: value for name, value in vars(noise).items() if name.isupper() and isinstance(value, int)}
    assert constants.pop("NOISE_VERSION") == int(re.search(r"^\*\*Version (\d+)\.\*\*", PAGE, re.MULTILINE)[1])
    # the other integers are the sizes of the address's parts
    assert [int(number) for number in numbers] == sorted(x for x in constants.values() if x < noise.STREAMS)
