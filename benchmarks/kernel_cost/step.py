"""What share of a whole training or sampling step the diffusion ops are, from counts and a few stated assumptions."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod

from .cost import KernelCost
from .devices import Device
from .traffic import Traffic

BATCH = 64
DTYPE = "bfloat16"
# float32 weights, gradients and two moments: all read, all but the gradients written
OPTIMIZER_BYTES = 4 * 4 + 3 * 4
# assumed, not counted: the share of the tensor cores' peak that a network reaches, seconds of a launch besides its
# work, and seconds that the device idles when the host waits for a value and has to fill the queue again
UTILISATION, LAUNCH, READ = 0.4, 2.5e-6, 10e-6
# the ops of a step, by case
PHASES = {
    "training": ("q_sample", "loss_and_gradient"),
    "sampling": ("reverse_step, clipped, posterior variance",),
}


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


# the U-Net of Ho et al. 2020, appendix B, as google/ddpm-cifar10-32 is configured, and that of Stable Diffusion 1.5 for
# latents of 512 x 512 images, with 77 text tokens; tests/test_kernel_cost.py counts them in diffusers
NETWORKS = (
    Network("DDPM, CIFAR-10", (3, 32, 32), 35_746_307, 12_443_713_536, 24_880_218_112),
    Network("Stable Diffusion 1.5", (4, 64, 64), 859_520_964, 803_273_441_280, 1_603_499_622_400),
)


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


def shares(gpu: Device, costs: Iterable[KernelCost], traffic: Iterable[Traffic]) -> Iterator[Share]:
    """The shares on a device, for each network, phase and provider that was counted.

    The network takes its operations / (UTILISATION x peak), and while training the optimizer's bytes / bandwidth. An op
    takes its launches and reads at what each costs, plus the longer of its bytes / bandwidth and its kernels' bound.
    """
    kernels = [cost for cost in costs if (cost.capability, cost.dtype) == (gpu.capability, DTYPE)]
    moved = {(t.provider, t.case): t for t in traffic if t.dtype == DTYPE}
    for network in NETWORKS:
        for phase, cases in PHASES.items():
            operations = network.forward + (network.backward if phase == "training" else 0)
            seconds = BATCH * operations / (UTILISATION * gpu.tensor_flops)
            if phase == "training":
                seconds += OPTIMIZER_BYTES * network.parameters / gpu.bandwidth
            for provider in dict.fromkeys(name for name, _ in moved):
                found = [moved.get((provider, case)) for case in cases]
                # training scripts on diffusers take PyTorch's own loss
                found = [t or moved.get(("eager PyTorch", case)) for t, case in zip(found, cases, strict=True)]
                known = [t for t in found if t is not None]
                elements = BATCH * prod(network.shape)
                ops = sum(_seconds(gpu, t, elements, kernels) for t in known)
                launches, reads = sum(t.launches for t in known), sum(t.reads for t in known)
                yield Share(network.name, phase, gpu.name, provider, seconds, ops, launches, reads)


def _seconds(gpu: Device, traffic: Traffic, elements: int, kernels: list[KernelCost]) -> float:
    own = [
        cost
        for cost in kernels
        if (cost.provider, cost.case, cost.shape, cost.layout)
        == (traffic.provider, traffic.case, "latents", "contiguous")
    ]
    work = max(elements * traffic.bytes_an_element / gpu.bandwidth, sum(elements / cost.bound.rate for cost in own))
    return traffic.launches * LAUNCH + traffic.reads * READ + work
