"""A lesson's page is its script, run: the text, the code, what it prints and the pictures that it draws."""

import json
import os
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from myst_parser.parsers.sphinx_ import MystParser
from noisestep.lessons import script
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]


class LessonParser(MystParser):
    """Runs a script and parses what came of it as Markdown."""

    supported = ("lesson",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        env = document.settings.env
        path = Path(env.doc2path(env.docname))
        for file in (*(ROOT / "reference").rglob("*.py"), *path.parent.glob("*.mplstyle"), Path(script.__file__)):
            env.note_dependency(str(file))
        cells = script.run(path)
        made = Path(env.app.doctreedir) / env.docname
        made.mkdir(parents=True, exist_ok=True)
        script.write_notebook(made / f"{path.stem}.ipynb", cells, ROOT)

        def below_docs(file: Path) -> str:
            return os.path.relpath(file, path.parent)

        parts: list[str] = []
        for number, cell in enumerate(cells):
            before = number and cells[number - 1].is_answer
            if cell.is_answer and not before:
                parts.append('<details class="answer">\n<summary>Answer</summary>')
            if before and not cell.is_answer:
                parts.append("</details>")
            if cell.is_text:
                parts.append(cell.source)
                continue
            parts.append(f"```python\n{cell.source}\n```")
            if cell.printed:
                parts.append(f"```{{code-block}} text\n:class: printed\n\n{cell.printed}```")
            if cell.slider:
                told = escape(json.dumps(cell.frames))
                parts.append(
                    f'<div class="frames" tabindex="0" style="--count: {len(cell.frames)}" '
                    f'data-name="{escape(cell.slider)}" data-frames="{told}">'
                )
            for count, picture in enumerate(cell.pictures):
                for paper in ("light", "dark"):
                    file = made / f"{path.stem}-{number}-{count}-{paper}.png"
                    file.write_bytes(getattr(picture, paper))
                    parts.append(f"```{{image}} {below_docs(file)}\n:alt: {cell.alt}\n:class: only-{paper}\n```")
            if cell.slider:
                parts.append("</div>")
        if cells[-1].is_answer:
            parts.append("</details>")
        title, rest = parts[0].split("\n", 1)
        files = [below_docs(made / f"{path.stem}.ipynb"), path.name]
        links = "This page {{download}}`as a notebook <{}>`, {{download}}`as a script <{}>`.".format(*files)
        super().parse("\n\n".join([title, links, rest, *parts[1:]]), document)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_source_suffix(".py", "lesson")
    app.add_source_parser(LessonParser)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
