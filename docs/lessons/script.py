"""A lesson's script: its cells, what they show when they run, and the notebook that is made of them.

A script is Python in the "percent" format, which Jupytext, VS Code, PyCharm and Spyder read: a line that begins with
``# %%`` starts a cell, and ``# %% [markdown]`` a cell of text, whose lines are comments. ``key="value"`` pairs after it
say more:

alt="..."
    What the cell's picture shows, for those who do not see it. A cell that makes a picture must have it.
tags=["answer"]
    The cell belongs to the answer of an exercise, which is folded until it is asked for.
slider="..."
    The cell's picture is a strip of frames (``strip``), of which the page shows one at a time. The slider that chooses
    it is called so.
"""

import ast
import base64
import contextlib
import io
import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SOURCE = re.compile(r"^```\{source\} (\S+)\n((?::\w+:.*\n)*)```$", flags=re.MULTILINE)


@dataclass(frozen=True)
class Picture:
    """A figure as PNG: on white paper, and in light ink on nothing for dark pages."""

    light: bytes
    dark: bytes


@dataclass
class Cell:
    """One cell, and what it printed and drew."""

    is_text: bool
    source: str
    line: int
    alt: str = ""
    slider: str = ""
    is_answer: bool = False
    printed: str = ""
    pictures: list[Picture] = field(default_factory=list)
    # of a strip, what each of its frames is called
    frames: list[str] = field(default_factory=list)


def read(path: Path) -> list[Cell]:
    """The cells of a script."""
    cells: list[Cell] = []
    lines = path.read_text(encoding="utf-8").splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("# %%")]
    if not starts or any(line.strip() for line in lines[: starts[0]]):
        raise ValueError(f"{path} must begin with a cell, # %% or # %% [markdown]")
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        kind, options = re.fullmatch(r"# %%( \[markdown\])?(.*)", lines[start]).groups()  # type: ignore[union-attr]
        told = dict(re.findall(r' (\w+)=("[^"]*"|\[[^\]]*\])', options))
        if re.sub(r' \w+=("[^"]*"|\[[^\]]*\])', "", options).strip() or set(told) - {"alt", "slider", "tags"}:
            raise ValueError(
                f'{path}, line {start + 1}: a cell takes alt="...", slider="..." and tags=["answer"], got {options}'
            )
        body = lines[start + 1 : end]
        if kind:
            if wrong := [line for line in body if line and line != "#" and not line.startswith("# ")]:
                raise ValueError(f"{path}, line {start + 1}: text is in comments, got {wrong[0]!r}")
            body = [line[2:] for line in body]
        cells.append(
            Cell(
                is_text=bool(kind),
                source="\n".join(body).strip("\n"),
                line=start + 1,
                alt=told.get("alt", '""')[1:-1],
                slider=told.get("slider", '""')[1:-1],
                is_answer="answer" in told.get("tags", ""),
            )
        )
    return cells


def run(path: Path) -> list[Cell]:
    """The cells of a script, after they have run one after the other, with what they printed and drew."""
    # the pictures go to files: a window would wait for someone to close it
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names: dict[str, Any] = {"__name__": "__main__"}
    cells = read(path)
    # whatever was drawn before is none of its pictures
    pyplot.close("all")
    with matplotlib.rc_context():
        for cell in cells:
            if cell.is_text:
                continue
            out = io.StringIO()
            # errors name the line of the script
            code = compile("\n" * cell.line + cell.source, path, "exec")
            with contextlib.redirect_stdout(out):
                exec(code, names)
            cell.printed = out.getvalue()
            figures = [pyplot.figure(number) for number in pyplot.get_fignums()]
            if figures and not cell.alt:
                raise ValueError(f'{path}, line {cell.line}: a cell that draws says what is seen, # %% alt="..."')
            if cell.slider:
                cell.frames = [axis.get_title() for figure in figures for axis in figure.axes if axis.get_title()]
                if len(figures) != 1 or len(cell.frames) < 2:
                    raise ValueError(f"{path}, line {cell.line}: a slider moves over the frames of one strip")
            cell.pictures += map(_picture, figures)
            pyplot.close("all")
    return cells


def strip(titles: Sequence[str], rows: int = 1, size: float = 1.6) -> Any:
    """The axes of a strip of frames, equally wide and side by side: shape (rows, frames), without ticks.

    Parameters
    ----------
    titles : sequence of str
        What each frame is called; stands above it.
    rows : int
        Axes in a frame, one below the other.
    size : float
        Of an axes, in inches.
    """
    from matplotlib import pyplot

    gap, head = 0.08 * size, 0.3
    width, height = len(titles) * (size + gap), rows * (size + gap) + head
    figure, axes = pyplot.subplots(rows, len(titles), figsize=(width, height), squeeze=False, layout="none")
    figure.subplots_adjust(
        left=gap / 2 / width,
        right=1 - gap / 2 / width,
        bottom=gap / 2 / height,
        top=1 - (head + gap / 2) / height,
        wspace=gap / size,
        hspace=gap / size,
    )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(True)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)
    return axes


def _picture(figure: Any) -> Picture:
    import matplotlib
    from matplotlib.colors import to_rgba

    light = io.BytesIO()
    figure.savefig(light, facecolor="white", transparent=False)
    # everything stays where it is, and is not arranged a second time
    figure.set_layout_engine("none")
    ink, paper = to_rgba(matplotlib.rcParams["text.color"]), "#e6e6e6"
    # lines, letters and edges in the colour of the text are what has to change
    for artist in figure.findobj():
        for part in ("color", "edgecolor", "facecolor"):
            get, put = getattr(artist, f"get_{part}", None), getattr(artist, f"set_{part}", None)
            with contextlib.suppress(TypeError, ValueError):
                if get and put and to_rgba(get()) == ink:
                    put(paper)
    dark = io.BytesIO()
    figure.savefig(dark, transparent=True)
    return Picture(light.getvalue(), dark.getvalue())


def find_source(name: str, root: Path) -> tuple[str, int, str]:
    """Where a function or class is defined: its file below the repository, its first line, and its text.

    ``name`` is dotted below ``noisestep``: ``reference.forward.q_step``. ``root`` is the folder in which ``reference``
    and ``accelerated`` lie: the repository, or the installed package. The file is read, not imported, so that a kernel
    is found where its GPU's packages are missing. The docstring is left out.
    """
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        path = root.joinpath(*parts[:count]).with_suffix(".py")
        if path.is_file():
            break
    else:
        raise ValueError(f"{name!r} names no module below noisestep: write it like reference.forward.q_step")
    text = path.read_text(encoding="utf-8")
    body: Any = ast.parse(text)
    for part in parts[count:]:
        found = [node for node in body.body if getattr(node, "name", None) == part]
        if not found:
            raise ValueError(f"{path.relative_to(root)} defines no {'.'.join(parts[count:])}")
        body = found[0]
    first = min([body.lineno, *(decorator.lineno for decorator in body.decorator_list)])
    lines = text.splitlines()[: body.end_lineno]
    if ast.get_docstring(body) is not None:
        del lines[body.body[0].lineno - 1 : body.body[0].end_lineno]
    return path.relative_to(root).as_posix(), first, textwrap.dedent("\n".join(lines[first - 1 :]))


def notebook(cells: list[Cell], root: Path) -> dict[str, Any]:
    """A Jupyter notebook (nbformat 4.5) of cells that have run."""

    def with_sources(match: re.Match[str]) -> str:
        file, line, text = find_source(match[1], root)
        return f"`{file}`, line {line}:\n\n```python\n{text}\n```"

    made = []
    for number, cell in enumerate(cells):
        source = cell.source
        if cell.is_text:
            source = SOURCE.sub(with_sources, source)
            # the other lessons lie beside the notebook; the pages of the site do not
            source = re.sub(r"\]\((\w+)\.py(#\S+)?\)", r"](\1.ipynb)", source)
            source = re.sub(r"\[([^\]]*)\]\(\.\./[^)]*\)", r"\1", source)
        if cell.is_text and cell.is_answer:
            source = f"<details>\n<summary>Answer</summary>\n\n{source}\n\n</details>"
        entry: dict[str, Any] = {
            "id": f"cell-{number}",
            "cell_type": "markdown" if cell.is_text else "code",
            "metadata": {},
            "source": source,
        }
        if not cell.is_text:
            entry |= {"execution_count": None, "outputs": list(_outputs(cell))}
            if cell.is_answer:
                entry["metadata"] = {"jupyter": {"source_hidden": True, "outputs_hidden": True}, "tags": ["answer"]}
        made.append(entry)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def _outputs(cell: Cell) -> Iterator[dict[str, Any]]:
    if cell.printed:
        yield {"output_type": "stream", "name": "stdout", "text": cell.printed}
    for picture in cell.pictures:
        data = {"image/png": base64.b64encode(picture.light).decode(), "text/plain": cell.alt}
        yield {"output_type": "display_data", "data": data, "metadata": {}}


def write_notebook(path: Path, cells: list[Cell], root: Path) -> None:
    path.write_text(json.dumps(notebook(cells, root), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
