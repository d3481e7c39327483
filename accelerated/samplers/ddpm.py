"""DDPM's ancestral update: `noisestep.reference.samplers.ddpm`, in the fused op."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .sampler import Sampler

if TYPE_CHECKING:
    from .loop import Chain


def predict(chain: Chain) -> None:
    """x_{t-1} ~ p_θ(x_{t-1} | x_t)."""
    chain.reverse_step(variance=chain.settings["variance"])


SAMPLER = Sampler(
    name="ddpm",
    title="DDPM, the ancestral update",
    order=1,
    source="Ho et al. 2020, algorithm 2",
    predict=predict,
    settings={"variance": "posterior"},
)
