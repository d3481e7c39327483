"""Denoising diffusion twice: `noisestep.reference` in NumPy, `noisestep.accelerated` in PyTorch and Triton."""
