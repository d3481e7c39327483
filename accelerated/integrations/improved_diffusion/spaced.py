"""Chains of fewer steps, as improved-diffusion names and uses them."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from noisestep.reference._arguments import as_int
from noisestep.reference.grids import sections
from noisestep.reference.schedule import Schedule
from torch import Tensor

from .losses import GaussianDiffusion
from .process import Model


def space_timesteps(num_timesteps: int, section_counts: str | Sequence[int]) -> set[int]:
    """Timesteps of a chain of fewer steps; Nichol & Dhariwal 2021, section 4.

    Parameters
    ----------
    num_timesteps : int
        T.
    section_counts : str or sequence of int
        "ddimN" for N steps with one whole stride, or how many steps, ends included, each of as many equal sections
        of 0..T - 1 has; also as a string, "10,15,20".

    Returns
    -------
    set of int
        In 0..T - 1.

    Raises
    ------
    ValueError
        If the string is no such name, no whole stride gives N steps, or a section is shorter than its count.
    """
    return {t - 1 for t in sections(num_timesteps, section_counts).tolist()}


class SpacedDiffusion(GaussianDiffusion):
    """A `GaussianDiffusion` of some steps of a longer chain; the network is told their numbers in the whole.

    Parameters
    ----------
    use_timesteps : collection of int
        The steps kept, in 0..T - 1.
    **options
        Of `GaussianDiffusion`, `betas` being those of the whole chain.

    Attributes
    ----------
    timestep_map : list of int
        The steps kept, ascending.
    original_num_steps : int
    """

    def __init__(self, use_timesteps: Collection[int], **options: Any) -> None:
        whole = Schedule(options.pop("betas"))
        self.timestep_map = sorted({as_int("each of use_timesteps", t) for t in use_timesteps})
        self.use_timesteps = set(self.timestep_map)
        self.original_num_steps = whole.T
        chain = whole.respace([t + 1 for t in self.timestep_map])
        super().__init__(betas=chain.beta[1:], **options)
        self._table("timestep_map", torch.int64, torch.device("cpu"))

    def _scale_timesteps(self, t: Tensor) -> Tensor:
        return t

    def _wrap_model(self, model: Model) -> Model:
        return model if isinstance(model, _WrappedModel) else _WrappedModel(model, self)

    def _of_the_whole(self, t: Tensor) -> Tensor:
        kept = self._table("timestep_map", torch.int64, t.device)[t]
        return kept.float() * (1000.0 / self.original_num_steps) if self.rescale_timesteps else kept


class _WrappedModel:
    """A model, or a `cond_fn`, that is told the steps of the whole chain."""

    def __init__(self, model: Model, diffusion: SpacedDiffusion) -> None:
        self.model, self.diffusion = model, diffusion

    def __call__(self, x: Tensor, t: Tensor, **options: Any) -> Tensor:
        return self.model(x, self.diffusion._of_the_whole(t), **options)
