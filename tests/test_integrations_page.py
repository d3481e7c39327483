"""The examples of docs/integrations.md run as they stand, and each does what the page says of it."""

import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

PAGE = (Path(__file__).parents[1] / "docs" / "integrations.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^<!-- example: (.+?) -->\n```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL))


class Network(nn.Module):
    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, outputs, 3, padding=1)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.convolution(x)


def run(name: str, **names: Any) -> dict[str, Any]:
    names = {"torch": torch, "device": "cpu", **names}
    exec(EXAMPLES[name], names)
    return names


def images(count: int = 8, size: int = 8) -> torch.Tensor:
    return torch.rand((count, 3, size, size), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def pipe():
    diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install 'noisestep[diffusers]'")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    pipe = diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_every_block_of_python_is_an_example():
    assert len(EXAMPLES) == PAGE.count("```python") >= 8


def test_plain_pytorch_learns_and_its_compiled_step_has_the_same_gradient(inductor):
    model = Network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    names = run("plain", model=model, optimizer=optimizer, batches=[images() * 2 - 1 for _ in range(20)])
    assert names["loss"] < 0.9
    x_0, t, k = images() * 2 - 1, torch.full((8,), 500), 3
    names["NoiseAddress"](0, 0, k)
    loss = names["simple_loss"](
        model(names["q_sample"](names["schedule"], x_0, t, names["NoiseAddress"](0, 0, k)), t),
        names["NoiseAddress"](0, 0, k),
    )
    (expected,) = torch.autograd.grad(loss, [model.convolution.weight])
    run(
        "compiled",
        **{name: names[name] for name in ("NoiseAddress", "FORWARD", "q_sample", "simple_loss", "schedule")},
        model=model,
        x_0=x_0,
        t=t,
        k=k,
    )
    # a convolution in bfloat16, of 27 products each
    torch.testing.assert_close(
        model.convolution.weight.grad, expected, rtol=0, atol=2**-7 * float(expected.abs().max())
    )


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_saved_pipeline_gets_our_scheduler_back(pipe, tmp_path):
    names = run("loading", pipe=pipe, folder=tmp_path)
    assert type(names["pipe"].scheduler) is names["FusedDDPMScheduler"]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_pipeline_of_diffusers(pipe):
    names = run("scheduler", pipe=pipe)
    assert len(names["images"]) == 2
    assert type(pipe.scheduler) is names["FusedDDPMScheduler"]
    x_0 = images() * 2 - 1
    names = run("training", unet=pipe.unet, scheduler=pipe.scheduler, x_0=x_0)
    assert 0.5 < float(names["loss"].detach()) < 2
    with torch.no_grad():
        names = run("address", unet=pipe.unet, scheduler=pipe.scheduler)
    assert names["scheduler"].timesteps.tolist() == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]
    assert names["x"].isfinite().all()


def test_denoising_diffusion_pytorch():
    pytest.importorskip(
        "denoising_diffusion_pytorch",
        reason="needs denoising-diffusion-pytorch: pip install 'noisestep[integrations]'",
    )
    names = run("denoising-diffusion-pytorch", images=images(2, 16))
    assert names["samples"].shape == (2, 3, 16, 16)
    assert all(parameter.grad is not None for parameter in names["diffusion"].parameters() if parameter.requires_grad)


def test_improved_diffusion():
    names = run("improved-diffusion", model=Network(6), x_0=images() * 2 - 1)
    assert names["losses"].shape == (8,)
    assert names["samples"].shape == (8, 3, 8, 8)
    assert names["samples"].isfinite().all()


def test_k_diffusion(monkeypatch):
    # its evaluation wants CLIP, which wants a setuptools of another time; none of that is used here
    monkeypatch.setitem(sys.modules, "clip", types.ModuleType("clip"))
    pytest.importorskip("k_diffusion", reason="needs k-diffusion: see docs/integrations.md")
    with torch.no_grad():
        assert run("k-diffusion", model=Network())["x_0"].shape == (2, 3, 8, 8)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`tests/(\w+\.py)`", PAGE))))
def test_the_tests_that_the_page_names_are_there(name):
    assert (Path(__file__).parent / name).exists()
