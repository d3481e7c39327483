"""How the site is built: sphinx-build -W -j auto docs build/site"""

import os
import sys
from pathlib import Path
from typing import Any

# lesson 14 interprets kernels, which Triton decides when they are defined: before the API's pages import them
os.environ["TRITON_INTERPRET"] = "1"
# pages are made in several processes, and the matrices of the lessons are too small to share among threads
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

from api import linkcode_resolve  # noqa: F401

project = "noisestep"
author = "The noisestep developers"
copyright = "the noisestep developers, MIT license"
extensions = ["myst_parser", "formulas", "equation_table", "sources", "lesson_pages", "api", "sphinx_copybutton"]
exclude_patterns = ["conf.py", "_extensions", "lessons/__init__.py", "lessons/script.py"]
nitpicky = True
# types are said in the docstrings, in words: those that happen to be names are no links
suppress_warnings = ["ref.python"]
nitpick_ignore_regex = [("py:.*", ".*")]
autodoc_typehints = "none"
autodoc_inherit_docstrings = False
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_param = False
napoleon_use_ivar = True
default_role = "code"

# what GitHub shows of these pages is shown here too: formulas in dollars and in ```math
myst_enable_extensions = ["dollarmath", "deflist"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 4
# "source:" marks what leads to a file of the repository (sources.py)
myst_url_schemes = {"https": None, "http": None, "mailto": None, "source": None}

html_theme = "furo"
html_title = "noisestep"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = [("slider.js", {"defer": "defer"})]
html_math_renderer = "katex"
html_show_sphinx = False
html_copy_source = False
templates_path: list[str] = []
# the arrows of a prompt are not copied
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .gp, .go"


def open_to_keyboards(_: Any, __: str, ___: str, context: dict[str, Any], ____: Any) -> None:
    """What can be scrolled can be reached by the keyboard, and the headings of the sidebar have a level."""
    if body := context.get("body"):
        body = body.replace("<pre>", '<pre tabindex="0">')
        context["body"] = body.replace('<div class="table-wrapper', '<div tabindex="0" class="table-wrapper')
    if tree := context.get("furo_navigation_tree"):
        context["furo_navigation_tree"] = tree.replace('role="heading"', 'role="heading" aria-level="2"')


def setup(app: Any) -> None:
    # after the theme
    app.connect("html-page-context", open_to_keyboards, priority=900)
