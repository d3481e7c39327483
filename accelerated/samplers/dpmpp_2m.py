"""DPM-Solver++ 2M: `noisestep.reference.samplers.dpmpp_2m`, as its table."""

from noisestep.reference.samplers.dpmpp_2m import dpmpp_2m_coefficients

from .sampler import Sampler

SAMPLER = Sampler(
    name="dpmpp_2m",
    title="DPM-Solver++ 2M",
    order=2,
    source="Lu et al. 2022, arXiv:2211.01095, algorithm 2",
    tables=dpmpp_2m_coefficients,
    memory=1,
)
