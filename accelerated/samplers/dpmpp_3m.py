"""DPM-Solver++ 3M: `noisestep.reference.samplers.dpmpp_3m`, as its table."""

from noisestep.reference.samplers.dpmpp_3m import dpmpp_3m_coefficients

from .sampler import Sampler

SAMPLER = Sampler(
    name="dpmpp_3m",
    title="DPM-Solver++ 3M",
    order=3,
    source="Lu et al. 2022, arXiv:2211.01095, section 4",
    tables=dpmpp_3m_coefficients,
    memory=2,
)
