"""The source code as pages: where a page names a function, a test or a file, the name leads to its line.

- ``[text](../reference/forward.py)``, a link that works where the repository is browsed, leads to the file's page.
- A name in backticks leads to the line that defines it: ``forward.q_step`` (below ``reference`` or ``accelerated``),
  ``test_forward.py::test_one_jump`` (below ``tests``), ``reference/forward.py``.
- The directive ``{source} reference.forward.q_step`` shows a function without its docstring.

Only files that a page leads to get a page.
"""

import ast
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from noisestep.lessons.script import find_source
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_for_filename
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]
# what a link may lead to: text that is read as such (data are downloaded instead)
SUFFIXES = {".py", ".h", ".cpp", ".md", ".toml", ".mplstyle"}
LINK = re.compile(r"(?<=\]\()(\.\./[^)\s#]+)(#[^)\s]*)?(?=\))")


@cache
def definitions(path: Path) -> dict[str, int]:
    """The lines of what a Python file defines, by name: functions, classes and their members, variables."""
    found: dict[str, int] = {}

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                # the last: those before are its overloads
                found[prefix + node.name] = node.lineno
                if isinstance(node, ast.ClassDef):
                    visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    if isinstance(target, ast.Name):
                        found.setdefault(prefix + target.id, node.lineno)

    visit(ast.parse(path.read_text(encoding="utf-8")).body, "")
    return found


@cache
def locate(name: str) -> tuple[str, int] | None:
    """The file below the repository and the line that a name in backticks stands for, if any."""
    if match := re.fullmatch(r"(?:tests/)?(test_\w+\.py)(?:::(\w+))?", name):
        path = ROOT / "tests" / match[1]
        line = definitions(path).get(match[2] or "", 1) if path.is_file() else None
        return None if line is None else (f"tests/{match[1]}", line)
    if re.fullmatch(r"[\w./]+", name) and "/" in name and Path(name).suffix in SUFFIXES and (ROOT / name).is_file():
        return name, 1
    if re.fullmatch(r"\w+(\.\w+)+", name):
        parts = name.removeprefix("noisestep.").split(".")
        for base in ([], ["reference"], ["accelerated"]):
            for count in range(len(parts) - 1, 0, -1):
                path = ROOT.joinpath(*base, *parts[:count]).with_suffix(".py")
                for file in (path, *sorted(path.with_suffix("").glob("*.py"))):
                    if base + parts[:1] in (["tests"], ["docs"]) or not file.is_file():
                        continue
                    if (line := definitions(file).get(".".join(parts[count:]))) is not None:
                        return file.relative_to(ROOT).as_posix(), line
    return None


def page(file: str) -> str:
    return f"source/{file}"


def uri(env: BuildEnvironment, docname: str, file: str, line: int) -> str:
    """The link from a page to a line, whose file gets a page by it."""
    env.noisestep_sources.setdefault(docname, set()).add(file)  # type: ignore[attr-defined]
    return env.app.builder.get_relative_uri(docname, page(file)) + (f"#L-{line}" if line > 1 else "")


class Source(SphinxDirective):
    """``{source} reference.forward.q_step``: a function as it stands, with a link to its line."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        try:
            file, line, text = find_source(self.arguments[0], ROOT)
        except ValueError as error:
            raise self.error(str(error)) from None
        self.env.note_dependency(str(ROOT / file))
        block = nodes.literal_block(text, text, language="python")
        link = nodes.reference(refuri=uri(self.env, self.env.docname, file, line), internal=True)
        link += nodes.Text(f"{file}, line {line}")
        caption = nodes.paragraph("", "", link, classes=["source-caption"])
        return [nodes.container("", caption, block, classes=["source"])]


def link_names(app: Sphinx, document: nodes.document) -> None:
    """What was marked as a source becomes a link to its page, and a name in backticks too."""
    env, docname = app.env, app.env.current_document.docname
    for link in document.findall(nodes.reference):
        if link.get("refuri", "").startswith("source:"):
            file, _, line = link["refuri"].removeprefix("source:").partition("#L-")
            link["refuri"], link["internal"] = uri(env, docname, file, int(line or 1)), True
    for literal in list(document.findall(nodes.literal)):
        if isinstance(literal.parent, nodes.reference):
            continue
        name = literal.astext()
        # the page of the equations says which of two files of one name is meant
        accelerated = literal.parent.astext().startswith("accelerated:") and locate(f"accelerated.{name}")
        if not (found := accelerated or locate(name)):
            continue
        link = nodes.reference(refuri=uri(env, docname, *found), internal=True)
        literal.replace_self(link)
        link += literal


def rewrite_links(_: Sphinx, docname: str, content: list[str]) -> None:
    """Links out of ``docs/`` are marked, so that they do not become downloads."""

    def marked(match: re.Match[str]) -> str:
        path = (ROOT / "docs" / Path(docname).parent / match[1]).resolve()
        file = path.relative_to(ROOT)
        if file.name == "README.md" and len(file.parts) == 1:
            # what it says to a newcomer is said on the first page
            return os.path.relpath(ROOT / "docs" / "index.md", ROOT / "docs" / Path(docname).parent)
        if file.parts[0] == "docs" or path.suffix not in SUFFIXES or not path.is_file():
            return match[0]
        return f"source:{file.as_posix()}"

    content[0] = LINK.sub(marked, content[0])


def source_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    files = set[str]().union(*app.env.noisestep_sources.values())  # type: ignore[attr-defined]
    formatter = HtmlFormatter(linenos="inline", lineanchors="L", anchorlinenos=False)
    for file in sorted(files):
        text = (ROOT / file).read_text(encoding="utf-8")
        body = highlight(text, get_lexer_for_filename(file), formatter)
        yield page(file), {"title": file, "body": f"<h1>{file}</h1>{body}"}, "page.html"


def prepare(_: Sphinx, env: BuildEnvironment, __: list[str]) -> None:
    if not hasattr(env, "noisestep_sources"):
        env.noisestep_sources = {}  # type: ignore[attr-defined]


def purge(_: Sphinx, env: BuildEnvironment, docname: str) -> None:
    getattr(env, "noisestep_sources", {}).pop(docname, None)


def merge(_: Sphinx, env: BuildEnvironment, docnames: set[str], other: Any) -> None:
    env.noisestep_sources |= {name: files for name, files in other.noisestep_sources.items() if name in docnames}  # type: ignore[attr-defined]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("source", Source)
    app.connect("env-before-read-docs", prepare)
    app.connect("source-read", rewrite_links)
    # after the links to the source of documented names are there
    app.connect("doctree-read", link_names, priority=900)
    app.connect("env-purge-doc", purge)
    app.connect("env-merge-info", merge)
    app.connect("html-collect-pages", source_pages)
    return {"env_version": 1, "parallel_read_safe": True, "parallel_write_safe": True}
