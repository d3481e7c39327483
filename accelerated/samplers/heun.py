"""Heun's method: `noisestep.reference.samplers.heun`, Euler's step and what the second call makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noisestep.reference.samplers.heun import heun_coefficients

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
    source="Karras et al. 2022, algorithm 1, with s(k) = k and σ(k) = 1/k",
    predict=predict,
    correct=correct,
    tables=heun_coefficients,
    memory=1,
)
