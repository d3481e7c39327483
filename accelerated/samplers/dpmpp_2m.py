"""DPM-Solver++ 2M: `noisestep.reference.samplers.dpmpp_2m`, as DDIM's fused update and what the memory adds to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noisestep.reference.samplers.dpmpp_2m import dpmpp_2m_weights

from .sampler import Sampler

if TYPE_CHECKING:
    from .loop import Chain


def predict(chain: Chain) -> None:
    """DDIM's x_{t-1} + w_t (x_0(x_t, t) − x_0(x_{t+1}, t+1)); the predicted x_0 is remembered."""
    x_s, x_0 = chain.reverse_step(eta=0.0, return_x_0=True)
    before = chain.memory[0]
    chain.x.copy_(x_s + chain.weight() * (x_0 - before))
    before.copy_(x_0)


SAMPLER = Sampler(
    name="dpmpp_2m",
    title="DPM-Solver++ 2M",
    order=2,
    source="Lu et al. 2022, arXiv:2211.01095, algorithm 2",
    predict=predict,
    weights=dpmpp_2m_weights,
    memory=1,
)
