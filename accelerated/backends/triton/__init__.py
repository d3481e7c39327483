"""The Triton kernels' common parts: device functions, tiling, launch."""
