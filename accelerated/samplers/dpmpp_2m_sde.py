"""DPM-Solver++ 2M with fresh noise: `noisestep.reference.samplers.dpmpp_2m_sde`, as its table."""

from noisestep.reference.samplers.dpmpp_2m_sde import dpmpp_2m_sde_coefficients

from .sampler import Sampler

SAMPLER = Sampler(
    name="dpmpp_2m_sde",
    title="DPM-Solver++ 2M SDE",
    order=2,
    source="Lu et al. 2022, arXiv:2211.01095",
    settings={"eta": 1.0},
    tables=dpmpp_2m_sde_coefficients,
    memory=1,
)
