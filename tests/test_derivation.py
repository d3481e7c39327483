"""docs/derivation.md runs as it stands, each of its snippets checks something, and the functions it names exist."""

import re
from pathlib import Path

import noisestep.reference
import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "derivation.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


def test_both_sides_of_every_equation_agree():
    names: dict[str, object] = {}
    for number, snippet in enumerate(SNIPPETS):
        exec(compile(snippet, f"snippet {number}", "exec"), names)


def test_every_snippet_checks_something():
    assert len(SNIPPETS) > 10
    for snippet in SNIPPETS:
        assert re.search(r"^ *(assert |np\.testing\.)", snippet, re.MULTILINE), snippet


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([a-z_0-9]+)`", PAGE)) - {"weight"}))
def test_every_function_on_the_page_exists(name):
    assert name in noisestep.reference.__all__
