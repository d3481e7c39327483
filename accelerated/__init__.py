"""Denoising diffusion in PyTorch: the arithmetic of `noisestep.reference`, fused.

The public names are imported at first use, so that the command line can answer `--help` without loading torch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .address import (
        AUGMENTATION,
        DROPOUT,
        FORWARD,
        INITIAL,
        LABEL_DROPOUT,
        PERMUTATION,
        REVERSE,
        TIMESTEP,
        NoiseAddress,
    )
    from .ops import advance, fixed_sum, noise, q_sample, reverse_step, simple_loss, vlb_terms
    from .samplers import Samples, sample
    from .schedule import DeviceSchedule

__all__ = [
    "AUGMENTATION",
    "DROPOUT",
    "FORWARD",
    "INITIAL",
    "LABEL_DROPOUT",
    "PERMUTATION",
    "REVERSE",
    "TIMESTEP",
    "DeviceSchedule",
    "NoiseAddress",
    "Samples",
    "advance",
    "fixed_sum",
    "noise",
    "q_sample",
    "reverse_step",
    "sample",
    "simple_loss",
    "vlb_terms",
]


_MODULES = {
    ".address": (
        "NoiseAddress",
        "AUGMENTATION",
        "DROPOUT",
        "FORWARD",
        "INITIAL",
        "LABEL_DROPOUT",
        "PERMUTATION",
        "REVERSE",
        "TIMESTEP",
    ),
    ".ops": ("advance", "fixed_sum", "noise", "q_sample", "reverse_step", "simple_loss", "vlb_terms"),
    ".samplers": ("Samples", "sample"),
    ".schedule": ("DeviceSchedule",),
}


class _LazyPackage(ModuleType):
    def __getattr__(self, name: str) -> Any:
        for module, names in _MODULES.items():
            if name in names:
                value = self.__dict__[name] = getattr(import_module(module, __name__), name)
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        # the import system sets a submodule as an attribute of its package: noise.py would hide the op `noise`
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *__all__})


sys.modules[__name__].__class__ = _LazyPackage
