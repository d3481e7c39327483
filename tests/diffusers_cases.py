"""What the tests of the diffusers schedulers share: pairs of schedulers, inputs, and diffusers' own dummy loop."""

from typing import Any

import pytest
import torch
from torch import Tensor

diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install 'noisestep[test]'")

from diffusers import DDIMScheduler, DDPMScheduler  # noqa: E402
from noisestep.accelerated.integrations.diffusers import FusedDDIMScheduler, FusedDDPMScheduler  # noqa: E402

PAIRS = [(DDPMScheduler, FusedDDPMScheduler), (DDIMScheduler, FusedDDIMScheduler)]
FUSED = [FusedDDPMScheduler, FusedDDIMScheduler]
# the defaults of Stable Diffusion's config among them
CONFIGS: list[dict[str, Any]] = [
    {},
    {"clip_sample": False, "prediction_type": "v_prediction", "timestep_spacing": "leading", "steps_offset": 1},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False},
    {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample", "clip_sample_range": 0.5},
    {"thresholding": True, "sample_max_value": 1.5, "dynamic_thresholding_ratio": 0.9},
    {"thresholding": True, "prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2"},
    {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"},
    {"trained_betas": [0.01 + 0.002 * i for i in range(100)], "num_train_timesteps": 100},
]


def batch(count: int = 4, channels: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((count, channels, 8, 8), generator=generator, dtype=torch.float64).to(dtype)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ramp(backwards: bool = False) -> Tensor:
    """The sample, or backwards the noise, of diffusers' own tests."""
    numbers = torch.arange(4 * 3 * 8 * 8)
    numbers = numbers.flip(0) if backwards else numbers
    return (numbers.reshape(3, 8, 8, 4) / numbers.numel()).permute(3, 0, 1, 2)


def loop(scheduler: Any, x: Tensor, timesteps: Any, **options: Any) -> Tensor:
    """Diffusers' own dummy model, sampled from."""
    for t in timesteps:
        x = scheduler.step(x * t / (t + 1), t, x, **options).prev_sample
    return x
