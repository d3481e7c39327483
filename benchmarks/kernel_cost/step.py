"""What share of a whole training or sampling step the diffusion ops are, from counts and a few stated assumptions."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from .cost import KernelCost
from .devices import Device
from .traffic import Traffic

BATCH = 64
DTYPE = "bfloat16"
# float32 weights, gradients and two moments: all read, all but the gradients written
OPTIMIZER_BYTES = 4 * 4 + 3 * 4
# the ops of a step, by case
PHASES = {
    "training": ("q_sample", "simple_loss with gradient"),
    "sampling": ("reverse_step, clipped, posterior variance",),
}


@dataclass(frozen=True)
class Assumptions:
    """What is not counted.

    Parameters
    ----------
    utilisation : float
        The share of the tensor cores' peak that the network reaches.
    launch : float
        Seconds that a launch takes on the device besides its work: start and tail.
    read : float
        Seconds that the device idles when the host waits for a value and has to fill the queue again.
    """

    utilisation: float = 0.4
    launch: float = 2.5e-6
    read: float = 10e-6


@dataclass(frozen=True)
class Network:
    """A network and its work for one sample.

    Parameters
    ----------
    name : str
    shape : tuple of int
        (C, H, W) of a sample.
    parameters : int
    forward, backward : float
        Floating-point operations a sample; backward alone.
    """

    name: str
    shape: tuple[int, ...]
    parameters: int
    forward: float
    backward: float


def _ddpm_cifar() -> Any:
    from diffusers.models.unets.unet_2d import UNet2DModel

    # the network of Ho et al. 2020, appendix B, as google/ddpm-cifar10-32 is configured
    return UNet2DModel(
        sample_size=32,
        block_out_channels=(128, 256, 256, 256),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        attention_head_dim=None,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
    )


def _stable_diffusion() -> Any:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    # Stable Diffusion 1.5
    return UNet2DConditionModel(
        sample_size=64,
        in_channels=4,
        out_channels=4,
        block_out_channels=(320, 640, 1280, 1280),
        layers_per_block=2,
        cross_attention_dim=768,
        attention_head_dim=8,
    )


@cache
def networks() -> tuple[Network, ...]:
    """DDPM's U-Net for CIFAR-10 and Stable Diffusion's for latents of 512 x 512 images, counted on the meta device."""
    # 77 text tokens condition the second
    return (
        _counted("DDPM, CIFAR-10", _ddpm_cifar, (3, 32, 32)),
        _counted("Stable Diffusion 1.5", _stable_diffusion, (4, 64, 64), encoder_hidden_states=(1, 77, 768)),
    )


def _counted(name: str, build: Any, shape: tuple[int, ...], **conditions: tuple[int, ...]) -> Network:
    with torch.device("meta"):
        model = build()
        inputs = {key: torch.empty(size) for key, size in conditions.items()}
        x, t = torch.empty(1, *shape), torch.zeros(1, dtype=torch.long)
    counter = FlopCounterMode(display=False)
    with counter:
        output = model(x, t, **inputs).sample
        forward = counter.get_total_flops()
        output.pow(2).mean().backward()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Network(name, shape, parameters, forward, counter.get_total_flops() - forward)


@dataclass(frozen=True)
class Share:
    """One step on one device.

    Parameters
    ----------
    network, phase, device, provider : str
    network_seconds, ops_seconds : float
    launches, reads : int
        Of the ops.
    """

    network: str
    phase: str
    device: str
    provider: str
    network_seconds: float
    ops_seconds: float
    launches: int
    reads: int

    @property
    def share(self) -> float:
        """The ops' part of the step."""
        return self.ops_seconds / (self.ops_seconds + self.network_seconds)

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self) | {"share": self.share}


def shares(
    gpu: Device, costs: Iterable[KernelCost], traffic: Iterable[Traffic], assumptions: Assumptions
) -> Iterator[Share]:
    """The shares on a device, for each network, phase and provider that was counted.

    The network takes its operations / (utilisation x peak), and while training the optimizer's bytes / bandwidth. An op
    takes its launches and reads at what each costs, plus the longer of its bytes / bandwidth and its kernels' bound.
    """
    kernels = [cost for cost in costs if (cost.capability, cost.dtype) == (gpu.capability, DTYPE)]
    moved = {(t.provider, t.case): t for t in traffic if t.dtype == DTYPE}
    for network in networks():
        for phase, cases in PHASES.items():
            operations = network.forward + (network.backward if phase == "training" else 0)
            seconds = BATCH * operations / (assumptions.utilisation * gpu.tensor_flops)
            if phase == "training":
                seconds += OPTIMIZER_BYTES * network.parameters / gpu.bandwidth
            for provider in ("diffusers", "eager PyTorch", "torch.compile", "noisestep"):
                found = [moved.get((provider, case)) for case in cases]
                # training scripts on diffusers take PyTorch's own loss
                found = [t or moved.get(("eager PyTorch", case)) for t, case in zip(found, cases, strict=True)]
                if provider == "torch.compile" and not any(k.provider == provider for k in kernels):
                    continue
                known = [t for t in found if t is not None]
                elements = BATCH * prod(network.shape)
                ops = sum(_seconds(gpu, t, elements, kernels, assumptions) for t in known)
                launches, reads = sum(t.launches for t in known), sum(t.reads for t in known)
                yield Share(network.name, phase, gpu.name, provider, seconds, ops, launches, reads)


def _seconds(
    gpu: Device, traffic: Traffic, elements: int, kernels: list[KernelCost], assumptions: Assumptions
) -> float:
    own = [
        cost
        for cost in kernels
        if (cost.provider, cost.case, cost.shape, cost.layout)
        == (traffic.provider, traffic.case, "latents", "contiguous")
    ]
    work = max(elements * traffic.bytes_an_element / gpu.bandwidth, sum(elements / cost.bound.rate for cost in own))
    return traffic.launches * assumptions.launch + traffic.reads * assumptions.read + work
