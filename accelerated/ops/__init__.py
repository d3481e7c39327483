"""The fused operations, one a module: plain functions over tensors, the schedule and the address being values."""

from .advance import advance
from .noise import noise
from .pairwise_sum import fixed_sum
from .q_sample import q_sample
from .reverse_step import reverse_step
from .simple_loss import simple_loss
from .vlb_terms import vlb_terms

__all__ = ["advance", "fixed_sum", "noise", "q_sample", "reverse_step", "simple_loss", "vlb_terms"]
