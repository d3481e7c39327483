"""DEIS: `noisestep.reference.samplers.deis`, as its table."""

from noisestep.reference.samplers.deis import deis_coefficients

from .sampler import Sampler

SAMPLER = Sampler(
    name="deis",
    title="DEIS",
    order=3,
    source="Zhang & Chen 2023, arXiv:2204.13902, ρAB",
    tables=deis_coefficients,
    elsewhere={"lms": "", "ipndm": ""},
    memory=2,
    remembers="eps",
)
