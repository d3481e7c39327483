"""UniPC: `noisestep.reference.samplers.unipc`, the corrector and the predictor as a table each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noisestep.reference.samplers.unipc import unipc_coefficients

from .sampler import Sampler

if TYPE_CHECKING:
    from .loop import Chain


def predict(chain: Chain) -> None:
    """Correct x_t by what the network says there, keep it, and step from it to x_{t-1}."""
    corrected = chain.multistep(0, [chain.kept, *chain.memory], remember=True)
    chain.multistep(1, [corrected, chain.memory[0]], in_place=True)
    chain.keep(corrected)


SAMPLER = Sampler(
    name="unipc",
    title="UniPC of order 2, B(h) = e^h − 1",
    order=3,
    source="Zhao et al. 2023, arXiv:2302.04867, algorithms 1 and 2",
    predict=predict,
    tables=unipc_coefficients,
    memory=2,
    keeps_state=True,
    elsewhere={"uni_pc": "", "uni_pc_bh2": ""},
)
