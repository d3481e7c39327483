"""AMD's assembly, interpreted: what Triton compiles for gfx942 and gfx1100."""
