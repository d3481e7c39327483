"""DDIM: `noisestep.reference.samplers.ddim`, in the fused op."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .sampler import Sampler

if TYPE_CHECKING:
    from .loop import Chain


def predict(chain: Chain) -> None:
    """x_{t-1} by DDIM."""
    chain.reverse_step(eta=chain.settings["eta"])


SAMPLER = Sampler(
    name="ddim",
    title="DDIM",
    order=1,
    source="Song et al. 2021, eq. 12",
    predict=predict,
    settings={"eta": 0.0},
    elsewhere={
        "euler": "with eta 0",
        "dpmpp_1": "with eta 0",
        "euler_ancestral": "with eta 1",
        "euler_a": "with eta 1",
    },
)
