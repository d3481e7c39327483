"""Denoising diffusion in PyTorch: the reference's arithmetic, fused."""
