"""The batches that are timed, and what every provider is given: the schedule, the tensors and the noise."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from noisestep.accelerated.address import NoiseAddress
from noisestep.accelerated.schedule import DeviceSchedule
from noisestep.reference import Schedule, noise
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SCHEDULE = Schedule.from_name("linear", 1000)
ON_DEVICE = DeviceSchedule(SCHEDULE, DEVICE)
_SEED = 2026


@dataclass(frozen=True)
class Case:
    """A batch of images or latents."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    layout: str = "contiguous"

    def __str__(self) -> str:
        words = "x".join(map(str, self.shape)), self.dtype, self.layout
        return "-".join(word for word in words if word != "contiguous")

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    @property
    def bytes(self) -> int:
        """Of one tensor."""
        return int(np.prod(self.shape)) * self.torch_dtype.itemsize

    def laid_out(self, x: Tensor) -> Tensor:
        """x on the device, in the case's type and memory layout."""
        layout = torch.channels_last if self.layout == "channels_last" else torch.contiguous_format
        return x.to(DEVICE, self.torch_dtype).contiguous(memory_format=layout)

    def normal(self, number: int) -> Tensor:
        """Tensor `number` of the case, standard normal."""
        return self.laid_out(torch.randn(self.shape, generator=torch.Generator().manual_seed(number)))

    def image(self) -> Tensor:
        """Images of 256 levels in [-1, 1]."""
        levels = torch.randint(0, 256, self.shape, generator=torch.Generator().manual_seed(0))
        return self.laid_out(2 * levels / 255 - 1)

    def timesteps(self) -> Tensor:
        """One a sample, spread over 1..T."""
        batch = self.shape[0]
        return torch.linspace(1 if batch > 1 else SCHEDULE.T // 2, SCHEDULE.T, batch).long().to(DEVICE)

    def eps(self, stream: int) -> Tensor:
        """The noise at `address(stream, 0)`, as the reference makes it."""
        return self.laid_out(torch.from_numpy(_eps_at_step_0(self.shape, stream)))


SHAPES = ((1, 1, 8, 8), (16, 3, 32, 32), (64, 3, 64, 64), (64, 4, 64, 64), (16, 3, 256, 256))
LATENTS = (64, 4, 64, 64)
PLAIN = tuple(Case(shape) for shape in SHAPES)
HALF = (Case(LATENTS, "bfloat16"), Case(LATENTS, "float16"))
CHANNELS_LAST = (Case(LATENTS, layout="channels_last"),)
CASES = PLAIN + HALF + CHANNELS_LAST
# where gradients are timed, and where torch.compile is, which takes seconds for each
GRADIENT_CASES = (Case((16, 3, 32, 32)), Case(LATENTS), Case(LATENTS, "bfloat16"))
COMPILED = (Case(LATENTS),)


def address(stream: int, step: int) -> NoiseAddress:
    """Where the noise of a step is."""
    return NoiseAddress(_SEED, stream, step)


def numpy_eps(at: NoiseAddress, shape: tuple[int, ...]) -> np.ndarray:
    """The reference's noise at an address."""
    if at.step == 0:
        return _eps_at_step_0(shape, at.stream)
    return noise.normal(_SEED, at.stream, at.step, np.arange(shape[0]), shape[1:])


@cache
def _eps_at_step_0(shape: tuple[int, ...], stream: int) -> np.ndarray:
    return noise.normal(_SEED, stream, 0, np.arange(shape[0]), shape[1:])
