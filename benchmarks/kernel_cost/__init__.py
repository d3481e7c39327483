"""What the kernels cost, counted from their machine code: `python -m benchmarks.kernel_cost`. No GPU is needed."""
