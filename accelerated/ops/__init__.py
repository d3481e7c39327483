"""The fused operations, one a module: plain functions over tensors, the schedule and the address being values."""

from .advance import advance
from .multistep import multistep
from .noise import noise
from .pairwise_sum import pairwise_sum
from .q_sample import q_sample
from .random import integers, uniform, words
from .reverse_step import reverse_step
from .simple_loss import loss_and_gradient, simple_loss
from .vlb_terms import vlb_terms

__all__ = [
    "advance",
    "integers",
    "loss_and_gradient",
    "multistep",
    "noise",
    "pairwise_sum",
    "q_sample",
    "reverse_step",
    "simple_loss",
    "uniform",
    "vlb_terms",
    "words",
]
