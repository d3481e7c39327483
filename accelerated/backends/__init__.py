"""Where an op runs: PyTorch's own operations, native C++ on a CPU, Triton kernels on a GPU."""
