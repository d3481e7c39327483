"""AMD's assembly, interpreted: what Triton compiles for gfx942 and gfx1100, but for matrix cores.

Names and meanings are those of AMD's ISA documents (CDNA 3, RDNA 3) and of LLVM's guide for its AMDGPU backend.
Waiting for memory is not modelled: a load's result is there at once.
"""

from .launch import launch

__all__ = ["launch"]
