"""`noisestep learn`: the lessons as notebooks, with what they print and the pictures that they draw."""

import time
from pathlib import Path

import click
import noisestep.lessons
import noisestep.reference
from noisestep.lessons import script

from ..errors import RunError


def write_lessons(folder: Path, numbers: tuple[int, ...]) -> None:
    """Run lessons and write each as NN_name.ipynb into `folder`, and its pictures into `folder`/pictures.

    A lesson that needs a package which is not installed is written without its outputs, and a line says so.

    Parameters
    ----------
    folder : Path
        Made if it does not exist; a notebook that is there may have been worked on, and is refused.
    numbers : tuple of int
        The lessons, all if there are none.

    Raises
    ------
    RunError
        There is no such lesson, or its notebook exists.
    """
    scripts = {int(path.stem[:2]): path for path in Path(noisestep.lessons.__file__).parent.glob("[0-9]*.py")}
    if unknown := set(numbers) - set(scripts):
        raise RunError(f"there is no lesson {min(unknown)}; the lessons are {', '.join(map(str, sorted(scripts)))}")
    chosen = [scripts[number] for number in sorted(numbers or scripts)]
    for path in chosen:
        if (folder / f"{path.stem}.ipynb").exists():
            raise RunError(f"{folder / path.stem}.ipynb exists, and is not written over; --out names another folder")
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for path in chosen:
        start, note = time.monotonic(), ""
        try:
            cells = script.run(path)
        except ModuleNotFoundError as missing:
            cells, note = script.read(path), f", not run: it needs {missing.name}, which is not installed"
        script.write_notebook(folder / f"{path.stem}.ipynb", cells, Path(noisestep.reference.__file__).parents[1])
        for number, picture in enumerate(picture for cell in cells for picture in cell.pictures):
            (folder / "pictures" / f"{path.stem}-{number}.png").write_bytes(picture.light)
        click.echo(f"{folder / path.stem}.ipynb, {time.monotonic() - start:.0f} s{note}")
    click.echo(
        f"open {folder / chosen[0].stem}.ipynb in VS Code, or in Jupyter: pip install notebook && jupyter notebook"
    )
