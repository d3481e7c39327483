"""NVIDIA's PTX, interpreted: what Triton compiles for sm_80 and later, but for tensor cores and asynchronous copies.

Names and meanings are those of the PTX ISA, chapter "Instruction Set".
"""

from .launch import launch

__all__ = ["launch"]
