"""The fused operations, one a module: plain functions over tensors, the schedule and the address being values."""

from .noise import noise
from .q_sample import q_sample
from .reverse_step import reverse_step
from .simple_loss import simple_loss

__all__ = ["noise", "q_sample", "reverse_step", "simple_loss"]
