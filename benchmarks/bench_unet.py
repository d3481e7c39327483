"""Training throughput of the digits' U-Net beside that of diffusers' UNet2DModel, 8 x 8 x 1, batch 128, on a CPU.

Both networks make the same optimizer step (forward, mean squared error, backward, fused AdamW) in turn in one
process, so that whatever else the machine does falls on both; the ratio is the median over the pairs.

    pytest benchmarks/bench_unet.py
"""

from collections.abc import Callable

import pytest
import torch
from noisestep.accelerated.models import UNet, UNetConfig
from torch import Tensor, nn

from benchmarks.timing import measure_pairs, surroundings

diffusers = pytest.importorskip("diffusers", reason="the peer: pip install 'noisestep[bench]'")

BATCH, CLASSES, PAIRS, WARMUP = 128, 10, 30, 3


def make_ours() -> tuple[nn.Module, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """Our network, told the class as well."""
    network = UNet(UNetConfig.for_image(1, 8, 8, CLASSES))
    return network, network


def make_theirs() -> tuple[nn.Module, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """The peer of 0.70 M parameters, without its classes: that is the less work for it."""
    network = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    return network, lambda x, t, label: network(x, t).sample


def trainer(make: Callable[[], tuple[nn.Module, Callable[..., Tensor]]]) -> tuple[int, Callable[[], None]]:
    """The network's number of parameters, and a function that makes one optimizer step."""
    torch.manual_seed(0)
    network, predict = make()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    x, eps = torch.randn(2, BATCH, 1, 8, 8)
    t, label = torch.randint(1, 1000, (BATCH,)), torch.randint(0, CLASSES, (BATCH,))

    def step() -> None:
        nn.functional.mse_loss(predict(x, t, label), eps).backward()
        optimizer.step()
        optimizer.zero_grad()

    return sum(parameter.numel() for parameter in network.parameters()), step


def test_training_the_unet_beside_diffusers(benchmark, say):
    our_parameters, ours = trainer(make_ours)
    their_parameters, theirs = trainer(make_theirs)
    pairs = measure_pairs(benchmark, ours, theirs, rounds=PAIRS, warmup=WARMUP)
    rates = []
    for name, parameters, seconds in (
        ("noisestep", our_parameters, pairs.ours),
        ("diffusers", their_parameters, pairs.theirs),
    ):
        benchmark.extra_info[f"{name} images/s"] = round(BATCH / seconds)
        benchmark.extra_info[f"{name} parameters"] = parameters
        rates.append(f"{BATCH / seconds:.0f} images/s with {parameters:,} parameters")
    benchmark.extra_info |= surroundings("cpu")
    say(f"noisestep against diffusers, training the digits' U-Net: {pairs.ratio:.2f} x ({' against '.join(rates)})")
    assert our_parameters >= their_parameters
