"""Formulas are rendered by KaTeX when the site is built: pages need no script for them, and no network."""

from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from py_mini_racer import JSEvalException, MiniRacer
from sphinx.application import Sphinx
from sphinx.util import logging

KATEX = Path(__file__).parent / "katex" / "katex.min.js"


@cache
def _katex() -> MiniRacer:
    engine = MiniRacer()
    engine.eval(KATEX.read_text(encoding="utf-8"))
    return engine


@cache
def render(formula: str, display: bool) -> str:
    """HTML for the eyes and MathML for screen readers."""
    return str(_katex().call("katex.renderToString", formula, {"displayMode": display, "strict": "error"}))


def _html(node: nodes.Element, display: bool) -> str:
    try:
        return render(node.astext(), display)
    except JSEvalException as error:
        logging.getLogger(__name__).warning("KaTeX: %s", str(error).splitlines()[0], location=node)
        return ""


def visit_inline(self: Any, node: nodes.math) -> None:
    self.body.append(f'<span class="math">{_html(node, False)}</span>')
    raise nodes.SkipNode


def visit_block(self: Any, node: nodes.math_block) -> None:
    # a formula that is wider than a phone is scrolled, by keyboard too
    self.body.append(f'<div class="math" tabindex="0">{_html(node, True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("katex", (visit_inline, None), (visit_block, None))
    app.add_css_file("katex/katex.min.css")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
