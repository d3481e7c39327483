"""The equations of docs/equations.md as one table: ``<!-- equations -->`` on a page stands for it."""

import re
from typing import Any

from sources import ROOT, locate
from sphinx.application import Sphinx

MARK = "<!-- equations -->"


def named(kind: str, text: str) -> list[str]:
    """What the lists of one kind ("reference", "accelerated", "tests") name."""
    entries = re.findall(rf"^- {kind}:((?:.*\n)(?:  .*\n)*)", text, flags=re.MULTILINE)
    return [name for entry in entries for name in re.findall(r"`([^`]+)`", entry)]


def kernels(ops: list[str]) -> list[str]:
    """The kernels of ops that have a file of their own."""
    return [f"{op}._kernel" for op in ops if op.startswith("ops.") and locate(f"{op}._kernel")]


def table() -> str:
    page = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
    lines = ["| equation | reference | op | kernel | tests |", "| --- | --- | --- | --- | --- |"]
    for title, text in re.findall(r"^### (.+?)\n(.*?)(?=^##|\Z)", page, flags=re.MULTILINE | re.DOTALL):
        anchor = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        ops = named("accelerated", text)
        # the reference has samplers of the same names
        paths = [op if op.startswith("ops.") else f"accelerated.{op}" for op in ops]
        columns = (named("reference", text), paths, kernels(ops), named("tests", text))
        cells = [" ".join(f"`{name}`" for name in names) for names in columns]
        lines.append(f"| [{title}](equations.md#{anchor}) | {' | '.join(cells)} |")
    return "\n".join(lines)


def expand(app: Sphinx, docname: str, content: list[str]) -> None:
    if MARK in content[0]:
        app.env.note_dependency(str(ROOT / "docs" / "equations.md"), docname=docname)
        content[0] = content[0].replace(MARK, table())


def setup(app: Sphinx) -> dict[str, Any]:
    # before names become links
    app.connect("source-read", expand)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
