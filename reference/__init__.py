"""Denoising diffusion in NumPy, float64, as the equations are written."""
