"""Heun's method: `noisestep.reference.samplers.heun`, as DDIM's fused update and what the second call adds to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noisestep.reference.samplers.heun import heun_weights

from .sampler import Sampler

if TYPE_CHECKING:
    from .loop import Chain


def predict(chain: Chain) -> None:
    """Euler's step, which is DDIM's; the predicted x_0 is remembered."""
    x_s, x_0 = chain.reverse_step(eta=0.0, return_x_0=True)
    chain.x.copy_(x_s)
    chain.memory[0].copy_(x_0)


def correct(chain: Chain) -> None:
    """x_s + w_s (x_0(x_s, s) − x_0(x_t, t))."""
    _, x_0 = chain.reverse_step(eta=0.0, return_x_0=True)
    chain.x.add_(chain.weight() * (x_0 - chain.memory[0]))


SAMPLER = Sampler(
    name="heun",
    title="Heun's method",
    order=2,
    source="Karras et al. 2022, algorithm 1, with s(k) = k and σ(k) = 1/k",
    predict=predict,
    correct=correct,
    weights=heun_weights,
    memory=1,
)
