"""The fused operations, one a module."""
