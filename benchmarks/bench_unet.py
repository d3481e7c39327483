"""Training throughput of the digits' U-Net beside that of diffusers' UNet2DModel, 8 x 8 x 1, batch 128, on a CPU.

Both networks make the same optimizer step (forward, mean squared error, backward, fused AdamW) in turn in one
process, so that whatever else the machine does falls on both; the ratio is the median over the pairs.

    OMP_WAIT_POLICY=passive pytest benchmarks/bench_unet.py -s
"""

import statistics
import time
from collections.abc import Callable

import pytest
import torch
from noisestep.accelerated.models import UNet, UNetConfig
from torch import Tensor, nn

diffusers = pytest.importorskip("diffusers", reason="the peer: pip install 'noisestep[bench]'")

BATCH, CLASSES, THREADS, PAIRS, WARMUP = 128, 10, 2, 30, 3
TARGET = 1.5


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


def trainer(make: Callable[[], tuple[nn.Module, Callable[..., Tensor]]]) -> tuple[int, Callable[[], float]]:
    """The network's number of parameters, and a function that makes one optimizer step and returns its seconds."""
    torch.manual_seed(0)
    network, predict = make()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    x, eps = torch.randn(2, BATCH, 1, 8, 8)
    t, label = torch.randint(1, 1000, (BATCH,)), torch.randint(0, CLASSES, (BATCH,))

    def step() -> float:
        start = time.perf_counter()
        nn.functional.mse_loss(predict(x, t, label), eps).backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - start

    return sum(parameter.numel() for parameter in network.parameters()), step


def test_unet_trains_faster_than_diffusers(benchmark):
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        our_parameters, ours = trainer(make_ours)
        their_parameters, theirs = trainer(make_theirs)
        for _ in range(WARMUP):
            ours(), theirs()
        pairs = []
        benchmark.pedantic(lambda: pairs.append((ours(), theirs())), rounds=PAIRS)
    finally:
        torch.set_num_threads(before)
    ratio = statistics.median(theirs / ours for ours, theirs in pairs)
    for name, parameters, seconds in (
        ("noisestep", our_parameters, statistics.median(pair[0] for pair in pairs)),
        ("diffusers", their_parameters, statistics.median(pair[1] for pair in pairs)),
    ):
        benchmark.extra_info[f"{name} images/s"] = round(BATCH / seconds)
        benchmark.extra_info[f"{name} parameters"] = parameters
        print(f"\n{name}: {parameters:,} parameters, {BATCH / seconds:.0f} images/s", end="")
    benchmark.extra_info["ratio"] = round(ratio, 2)
    print(f"\nratio: {ratio:.2f}")
    assert our_parameters >= their_parameters
    assert ratio >= TARGET
