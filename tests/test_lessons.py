"""Lessons are scripts: what a cell may say, what its notebook holds, and `noisestep learn`, which needs no PyTorch."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from noisestep.accelerated.cli import main
from noisestep.lessons import script

ROOT = Path(__file__).parents[1]
LESSONS = sorted((ROOT / "docs" / "lessons").glob("[0-9]*.py"))
SMALL = """\
# %% [markdown]
# # 1. A title
#
# Text with [another](02_other.py), [a page](../derivation.md) and a function:
#
# ```{source} reference.forward.q_step
# ```

# %% alt="A line."
import matplotlib.pyplot as plt

plt.plot([0, 1])
print("drawn")

# %% [markdown] tags=["answer"]
# Because.

# %% tags=["answer"]
x = 1
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "01_small.py"
    path.write_text(text)
    return path


def test_a_script_is_cells_of_text_and_of_code(tmp_path: Path) -> None:
    text, code, answer, last = script.run(written(tmp_path, SMALL))
    assert text.is_text
    assert text.source.startswith("# 1. A title\n\nText")
    assert (code.printed, code.alt, len(code.pictures)) == ("drawn\n", "A line.", 1)
    for picture in (code.pictures[0].light, code.pictures[0].dark):
        assert picture.startswith(b"\x89PNG")
    assert code.pictures[0].light != code.pictures[0].dark
    assert [cell.is_answer for cell in (text, code, answer, last)] == [False, False, True, True]


def test_a_notebook_holds_sources_outputs_and_folded_answers(tmp_path: Path) -> None:
    path = tmp_path / "01_small.ipynb"
    script.write_notebook(path, script.run(written(tmp_path, SMALL)), ROOT)
    text, code, answer, last = json.loads(path.read_text())["cells"]
    assert re.search(r"`reference/forward.py`, line \d+:\n\n```python\ndef q_step\(", text["source"])
    assert '"""' not in text["source"]
    assert "[another](02_other.ipynb), a page and" in text["source"]
    assert [output["output_type"] for output in code["outputs"]] == ["stream", "display_data"]
    assert answer["source"].startswith("<details>")
    assert last["metadata"]["jupyter"] == {"source_hidden": True, "outputs_hidden": True}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '# %% alt="A line." slider="t"\nimport matplotlib.pyplot as plt\n\nplt.plot([0, 1])\n',
            "line 1: a slider moves",
        ),
        ("x = 1\n# %%\n", "must begin with a cell"),
        ('# %% atl="A line."\nx = 1\n', "line 1: a cell takes alt="),
        ("# %% [markdown]\nx = 1\n", "line 1: text is in comments, got 'x = 1'"),
        ("# %%\nimport matplotlib.pyplot as plt\n\nplt.plot([0, 1])\n", "line 1: a cell that draws says what is seen"),
    ],
)
def test_what_a_script_may_not_say(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        script.run(written(tmp_path, text))


def test_the_frames_of_a_strip_are_equally_wide_and_have_names(tmp_path: Path) -> None:
    cell = """\
# %% slider="t" alt="Squares."
import numpy as np
from noisestep.lessons.script import strip

axes = strip(["t = 1", "t = 2", "t = 3"], rows=2)
assert axes.shape == (2, 3)
for axis in axes.flat:
    axis.imshow(np.zeros((2, 2)))
axes[0, 0].figure.draw_without_rendering()
for row in axes:
    for number, axis in enumerate(row):
        place = axis.get_position()
        # in the middle of its third, and a square
        np.testing.assert_allclose((place.x0 + place.x1) / 2, (number + 0.5) / 3)
        width, height = axis.figure.get_size_inches() * (place.width, place.height)
        np.testing.assert_allclose([width, height], 1.6)
"""
    (cell,) = script.run(written(tmp_path, cell))
    assert (cell.slider, cell.frames) == ("t", ["t = 1", "t = 2", "t = 3"])


def test_an_error_names_its_line(tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as raised:
        script.run(written(tmp_path, "# %%\nx = 1\n\n# %%\nx = 2\nassert x == 1\n"))
    assert raised.traceback[-1].lineno == 5  # counted from 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("reference.forward.q_stepp", "reference/forward.py defines no q_stepp"),
        ("reference.fourward.q_step", "'reference.fourward.q_step' names no module below noisestep"),
        ("q_step", "names no module below noisestep"),
    ],
)
def test_a_source_that_does_not_exist_is_named(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        script.find_source(name, ROOT)


def test_a_method_and_a_kernel_are_found() -> None:
    file, line, text = script.find_source("reference.schedule.Schedule.posterior_variance", ROOT)
    assert (ROOT / file).read_text().splitlines()[line - 1].strip() == "@cached_property"
    assert text.startswith("@cached_property\ndef posterior_variance")
    assert "tl.load" in script.find_source("accelerated.ops.q_sample._kernel", ROOT)[2]


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_has_its_parts(path: Path) -> None:
    cells = script.read(path)
    text = "\n\n".join(cell.source for cell in cells if cell.is_text)
    assert re.match(rf"# {int(path.stem[:2])}\. \S", text)
    assert "$" in text
    assert script.SOURCE.search(text)
    for name, _ in script.SOURCE.findall(text):
        script.find_source(name, ROOT)
    assert any(cell.alt for cell in cells)
    assert re.search(r"\n## (Exercise|Puzzle)", text)
    assert any(cell.is_answer for cell in cells)


def test_learn_writes_notebooks_and_pictures_once(tmp_path: Path) -> None:
    number = LESSONS[-1].stem[:2]
    out = tmp_path / "out"
    done = CliRunner().invoke(main, ["learn", "5", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert {path.name for path in out.iterdir()} == {"05_the_posterior.ipynb", "pictures"}
    assert len(list((out / "pictures").glob("05_*.png"))) == 2
    assert f"open {out / '05_the_posterior.ipynb'}" in done.output
    again = CliRunner().invoke(main, ["learn", number, "5", "--out", str(out)])
    assert (again.exit_code, again.output.count("\n")) == (1, 1)
    assert "is not written over" in again.output
    unknown = CliRunner().invoke(main, ["learn", "99", "--out", str(out)])
    assert unknown.output.startswith("Error: there is no lesson 99; the lessons are ")


# what `pip install .` brings and the README's line for the NumPy half does not
WITHOUT = """
import sys


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"jinja2", "prdc", "safetensors", "tensorboard", "torch", "triton"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Missing())
import noisestep.reference
from noisestep.accelerated.cli import main

for arguments in (["learn", "5", "--out", sys.argv[1]], ["train", "--out", sys.argv[1] + "/run"]):
    try:
        main(arguments)
    except SystemExit as end:
        print("exit status", end.code)
"""


def test_without_pytorch_lessons_are_written_and_training_says_what_is_missing(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", WITHOUT, str(tmp_path / "out")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("exit status 0\nexit status 1\n"), done.stderr
    assert (tmp_path / "out" / "05_the_posterior.ipynb").is_file()
    assert done.stderr.splitlines()[-1] == "Error: this command needs torch, which is not installed: pip install torch"


def test_a_lesson_that_needs_more_is_written_without_its_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(path: Path) -> list[script.Cell]:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(script, "run", run)
    done = CliRunner().invoke(main, ["learn", "2", "--out", str(tmp_path)])
    assert (done.exit_code, "not run: it needs torch" in done.output) == (0, True)
    assert (tmp_path / "02_one_step_of_q.ipynb").is_file()
