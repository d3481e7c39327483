"""Schedulers for diffusers: subclasses of its own whose noising and reverse step are the ops."""

from diffusers.schedulers.scheduling_utils import SchedulerMixin

from .ddim import FusedDDIMScheduler
from .ddpm import FusedDDPMScheduler

# a saved pipeline names this package, and diffusers looks in it for the class that says how to load its parts
__all__ = ["FusedDDIMScheduler", "FusedDDPMScheduler", "SchedulerMixin"]
