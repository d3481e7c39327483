"""Denoising diffusion in PyTorch: the arithmetic of `noisestep.reference`, fused.

The public names are imported at first use, so that the command line can answer `--help` without loading torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .address import (
        AUGMENTATION,
        DEQUANTISATION,
        DROPOUT,
        FORWARD,
        INITIAL,
        INPAINTING,
        LABEL_DROPOUT,
        NOISE_VERSION,
        PERMUTATION,
        PROBE,
        REVERSE,
        TIMESTEP,
        NoiseAddress,
    )
    from .ops.advance import advance
    from .ops.multistep import multistep
    from .ops.noise import noise
    from .ops.pairwise_sum import pairwise_sum
    from .ops.q_sample import q_sample
    from .ops.random import integers, uniform, words
    from .ops.reverse_step import reverse_step
    from .ops.simple_loss import loss_and_gradient, simple_loss
    from .ops.vlb_terms import vlb_terms
    from .samplers import SAMPLERS, Sampler
    from .samplers.editing import Edit
    from .samplers.guidance import Guidance
    from .samplers.inversion import invert
    from .samplers.loop import Samples, sample
    from .schedule import DeviceSchedule

__all__ = [
    "AUGMENTATION",
    "DEQUANTISATION",
    "DROPOUT",
    "FORWARD",
    "INITIAL",
    "INPAINTING",
    "LABEL_DROPOUT",
    "NOISE_VERSION",
    "PERMUTATION",
    "PROBE",
    "REVERSE",
    "SAMPLERS",
    "TIMESTEP",
    "DeviceSchedule",
    "Edit",
    "Guidance",
    "NoiseAddress",
    "Sampler",
    "Samples",
    "advance",
    "integers",
    "invert",
    "loss_and_gradient",
    "multistep",
    "noise",
    "pairwise_sum",
    "q_sample",
    "reverse_step",
    "sample",
    "simple_loss",
    "uniform",
    "vlb_terms",
    "words",
]

# where the public names are defined
_MODULES = (".address", ".ops", ".samplers", ".samplers.inversion", ".samplers.loop", ".schedule")


# a type checker that saw this function would accept any name
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in __all__:
            for module in (import_module(module, __name__) for module in _MODULES):
                if hasattr(module, name):
                    value = globals()[name] = getattr(module, name)
                    return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
