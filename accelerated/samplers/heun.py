"""Heun's method: `noisestep.reference.samplers.heun`, Euler's step and what the second call makes of it.

The third table adds the noise of EDM's stochastic sampler.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from noisestep.reference.samplers.heun import heun_coefficients, raised_steps

from .sampler import Sampler

if TYPE_CHECKING:
    from .loop import Chain


def predict(chain: Chain) -> None:
    """Euler's step, which is DDIM's; the predicted x_0 is remembered."""
    chain.multistep(0, [], in_place=True, remember=True)


def correct(chain: Chain) -> None:
    """x_s from x'_s, the x_0 that is predicted there, and the one before."""
    chain.multistep(1, chain.memory, in_place=True)


SAMPLER = Sampler(
    name="heun",
    title="Heun's method",
    order=2,
    source="Karras et al. 2022, algorithms 1 and 2, with s(k) = k and σ(k) = 1/k",
    predict=predict,
    correct=correct,
    settings={"churn": 0.0, "s_min": 0.0, "s_max": inf, "s_noise": 1.0},
    tables=heun_coefficients,
    memory=1,
    raised=raised_steps,
    elsewhere={"edm": "with a churn", "dpmpp_2s": ""},
)
