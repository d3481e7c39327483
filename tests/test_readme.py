"""The README's Python runs as it stands, and the files that it links to are there."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def test_the_reference_snippet_noises_images() -> None:
    x_0 = np.linspace(-1, 1, 8 * 64).reshape(8, 1, 8, 8)
    names: dict[str, object] = {"x_0": x_0}
    exec(SNIPPETS[0], names)
    x_t = names["x_t"]
    assert isinstance(x_t, np.ndarray)
    assert x_t.shape == x_0.shape
    assert not np.allclose(x_t, x_0)


def test_the_training_snippet_gives_a_loss_and_samples() -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 3, 3, padding=1)
    names: dict[str, object] = {
        "device": "cpu",
        "k": 7,
        "x_0": torch.rand(4, 3, 32, 32) * 2 - 1,
        "t": torch.tensor([1, 10, 500, 1000]),
        "model": lambda x, t: network(x),
    }
    # a chain of 20 steps takes the loop's path as well as one of 1000
    with torch.no_grad():
        exec(
            SNIPPETS[1].replace('"linear", 1000', '"linear", 20').replace("simple_loss(model", "simple_loss(0 * model"),
            {
                **names,
                "t": torch.tensor([1, 5, 10, 20]),
            },
        )
    exec(SNIPPETS[1].split("# sampling")[0], names)
    loss = names["loss"]
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    assert network.weight.grad is not None
    assert network.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_every_link_leads_to_a_file(target: str) -> None:
    assert (ROOT / target).exists()
