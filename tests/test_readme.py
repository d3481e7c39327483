"""The Python of the README and of the page on training loops runs as it stands; what the README links to is there."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = README + (ROOT / "docs" / "own-loop.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", PAGES, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_snippet_runs_in_an_empty_file(number: int) -> None:
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    exec(SNIPPETS[number], names)
    if "network" in names:
        assert names["loss"].isfinite()
        assert all(weight.grad.abs().sum() > 0 for weight in names["network"].parameters())
        assert names["x"].shape == (16, 3, 32, 32)
        assert names["x"].isfinite().all()
    else:
        assert names["x_t"].shape == names["x_0"].shape
        assert not np.allclose(names["x_t"], names["x_0"])


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_every_link_leads_to_a_file(target: str) -> None:
    assert (ROOT / target).exists()


CLAIM = re.compile(r"times as (fast|many images)|times faster|× faster|\| \d+\.\d ×")
SAID = {
    "where: threads or the GPU": r"thread|H200|H100",
    "a size": r"\(\d+(, \d+)+\)",
    "a type": r"float32|bfloat16",
}


def test_a_gain_is_claimed_with_where_it_was_measured() -> None:
    """A sentence of the README with how much faster something is, or a section of docs/, has what the figure is of."""
    parts = [
        ("README.md", sentence) for sentence in re.split(r"(?<=[a-z0-9)])\. |^- |\n\n", README, flags=re.MULTILINE)
    ]
    for page in (ROOT / "docs").rglob("*.md"):
        sections = re.split(r"^#+ ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
        parts += [(page.name, section) for section in sections]
    claims = [(page, part) for page, part in parts if CLAIM.search(part)]
    assert {"README.md", "speed.md", "integrations.md", "gpu.md"} <= {page for page, _ in claims}
    missing = [(page, what, part[:60]) for page, part in claims for what, it in SAID.items() if not re.search(it, part)]
    assert not missing
