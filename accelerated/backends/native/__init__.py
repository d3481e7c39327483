"""The ops on a CPU as native code, where the machine has a C++ compiler: one pass, and the same bits."""

from .build import NativeUnavailable, library
from .calls import noise, q_sample, simple_loss, simple_loss_backward, takes, update, vlb_terms

__all__ = [
    "NativeUnavailable",
    "library",
    "noise",
    "q_sample",
    "simple_loss",
    "simple_loss_backward",
    "takes",
    "update",
    "vlb_terms",
]
