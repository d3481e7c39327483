"""Schedulers for diffusers: subclasses of its own whose noising and reverse step are the ops."""

from diffusers.schedulers.scheduling_utils import SchedulerMixin

from .ddim import FusedDDIMScheduler
from .ddpm import FusedDDPMScheduler

__all__ = ["FusedDDIMScheduler", "FusedDDPMScheduler", "SchedulerMixin"]

# a saved pipeline names a scheduler's module, and diffusers looks there for the mixin that says how to load it
FusedDDIMScheduler.__module__ = FusedDDPMScheduler.__module__ = __name__
