"""The interface of openai/improved-diffusion's `GaussianDiffusion` on the ops; nothing of that project is needed."""

from .kinds import LossType, ModelMeanType, ModelVarType
from .losses import GaussianDiffusion
from .spaced import SpacedDiffusion, space_timesteps

__all__ = [
    "GaussianDiffusion",
    "LossType",
    "ModelMeanType",
    "ModelVarType",
    "SpacedDiffusion",
    "space_timesteps",
]
