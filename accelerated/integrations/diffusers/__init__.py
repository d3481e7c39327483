"""Schedulers for diffusers: subclasses of its own whose noising and reverse step are the ops."""

from .ddim import FusedDDIMScheduler
from .ddpm import FusedDDPMScheduler

__all__ = ["FusedDDIMScheduler", "FusedDDPMScheduler"]

for _class in (FusedDDPMScheduler, FusedDDIMScheduler):
    # configs and pipelines save the name of a scheduler's class: diffusers' own, which loads everywhere
    _class.__name__ = _class.__qualname__.removeprefix("Fused")
    _class.__module__ = __name__
