"""Editing on tensors: `noisestep.reference.samplers.editing`, with every sampler that it makes sense with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from noisestep.reference._arguments import MOST_STEPS, integer
from noisestep.reference.samplers.editing import MOST_RESAMPLINGS, repaint_walk, start_step
from noisestep.reference.schedule import Schedule
from torch import Tensor

from ..address import INPAINTING, VISIT, NoiseAddress
from ..ops import noise, q_sample
from ..ops.checks import check_values_of
from ..schedule import DeviceSchedule
from .sampler import Sampler, check_maskable

if TYPE_CHECKING:
    from .loop import Chain


@dataclass(frozen=True, eq=False)
class Edit:
    """What a sample keeps of given images: with a strength, most of it; with a mask, the pixels outside; or both.

    Parameters
    ----------
    images : Tensor, shape (C, H, W) or (count, C, H, W)
        x_0, floating, in [−1, 1]; one for all samples, or one for each.
    strength : float, optional
        In (0, 1]. The chain starts at step t_0 = ceil(strength T) from the images with the noise of t_0 steps, where T
        is the number of sampling steps (`noisestep.reference.start_step`). Left out, it starts at noise.
    mask : Tensor of bool, shape (H, W) or (count, H, W), optional
        True where a pixel is made anew, in all its channels. The others are replaced by those of the images, with the
        noise of their step, after each step.
    resample : int
        With a mask: how often each stretch of `jump` steps is taken (RePaint), in 1..128.
    jump : int
        How many steps RePaint goes back each time.

    Raises
    ------
    TypeError, ValueError
        Images or a mask of another type or rank, a number out of range, neither a strength nor a mask, resampling
        without a mask.
    """

    images: Tensor
    strength: float | None = None
    mask: Tensor | None = None
    resample: int = 1
    jump: int = 10

    def __post_init__(self) -> None:
        if not isinstance(self.images, Tensor) or not isinstance(self.mask, Tensor | None):
            kinds = f"{type(self.images).__name__} and {type(self.mask).__name__}"
            raise TypeError(f"images and mask of an edit must be tensors, or the mask None, got {kinds}")
        for name, pixels in (("images", self.images), ("mask", self.mask)):
            if pixels is not None:
                check_values_of(f"{name} of an edit", pixels)
        if not self.images.is_floating_point():
            raise TypeError(f"images of an edit must be floating, in [-1, 1], got {self.images.dtype}")
        if self.images.ndim not in (3, 4):
            raise ValueError(f"images of an edit must be (C, H, W) or (count, C, H, W), got {tuple(self.images.shape)}")
        if self.strength is None and self.mask is None:
            raise ValueError("an edit needs a strength (how much to noise), a mask (what to make anew) or both")
        if self.strength is not None:
            start_step(1, self.strength)
        if self.mask is not None and self.mask.dtype != torch.bool:
            raise TypeError(f"mask must be bool, True where a pixel is made anew, got {self.mask.dtype}")
        for name, end in (("resample", MOST_RESAMPLINGS + 1), ("jump", MOST_STEPS + 1)):
            object.__setattr__(self, name, integer(name, getattr(self, name), 1, end))
        if self.mask is None and self.resample > 1:
            raise ValueError(f"resample is {self.resample}; without a mask there is nothing to resample")

    def check(self, count: int, shape: tuple[int, int, int], sampler: Sampler) -> None:
        """Raise ValueError where the edit does not fit the samples or their sampler."""
        if tuple(self.images.shape) not in (shape, (count, *shape)):
            raise ValueError(
                f"images of the edit have shape {tuple(self.images.shape)}; {count} samples of shape {shape} need "
                f"{shape} or {(count, *shape)}"
            )
        if self.mask is None:
            return
        plane = shape[1:]
        if tuple(self.mask.shape) not in (plane, (count, *plane)):
            raise ValueError(
                f"mask has shape {tuple(self.mask.shape)}; {count} samples of shape {shape} need {plane} or "
                f"{(count, *plane)}"
            )
        check_maskable(sampler)

    def schedule(self, schedule: Schedule) -> Schedule:
        """The steps of a chain that are taken: 1..t_0."""
        t_0 = schedule.T if self.strength is None else start_step(schedule.T, self.strength)
        return schedule.respace(np.arange(1, t_0 + 1))

    def take(self, rows: Tensor) -> Edit:
        """The edit of some of the samples, by their int64 places in the batch."""
        images, mask = self.images, self.mask
        return replace(
            self,
            images=images[rows] if images.ndim == 4 else images,
            mask=mask[rows] if mask is not None and mask.ndim == 3 else mask,
        )

    def rows(self, first: int, count: int, device: torch.device | str) -> Edit:
        """The edit of samples first .. first + count − 1, on a device, with images and mask ready to be combined."""
        part = self.take(torch.arange(first, first + count))
        images, mask = part.images.to(device, torch.float32), part.mask
        if mask is not None:
            mask = mask.to(device).expand(count, *mask.shape[-2:])[:, None]
        return replace(part, images=images.expand(count, *images.shape[-3:]).contiguous(), mask=mask)

    def start(self, tables: DeviceSchedule, eps: Tensor) -> Tensor:
        """x_{t_0} of the images with this noise; the noise itself where the chain starts at noise."""
        return eps if self.strength is None else q_sample(tables, self.images, tables.T, eps)


def times(schedule: Schedule, edit: Edit | None) -> list[int]:
    """Where a chain is at its start and after each of its `moves`: t of the original chain, 0 last."""
    if edit is not None:
        schedule = edit.schedule(schedule)
    if edit is None or edit.mask is None:
        places = list(range(schedule.T, -1, -1))
    else:
        places = [t for t, _ in repaint_walk(schedule.T, resample=edit.resample, jump=edit.jump)]
    numbers: list[int] = schedule.timesteps[places].tolist()
    return numbers


def moves(chain: Chain, tables: DeviceSchedule, edit: Edit | None, *, seed: int, number: int) -> Iterator[None]:
    """Take a chain from its start to x_0, with a stop after each move.

    Parameters
    ----------
    chain : Chain
        At its start.
    tables : DeviceSchedule
        Of the chain.
    edit : Edit, optional
        That of the chain's rows.
    seed, number : int
        Of the noise; the number of the first row's image.
    """
    if edit is None or edit.mask is None:
        for _ in range(tables.T):
            chain.step()
            yield
        return
    timesteps, beta = tables.schedule.timesteps, tables.schedule.beta
    walk = repaint_walk(tables.T, resample=edit.resample, jump=edit.jump)
    for (t, visit), (to, visit_there) in pairwise(walk):
        address = NoiseAddress(seed, INPAINTING, int(timesteps[to]) + VISIT * visit_there, number)
        if to < t:
            if chain.visit is not None:
                chain.visit.fill_(VISIT * visit)
            chain.step()
            known = q_sample(tables, edit.images, to, address)
            chain.x.copy_(torch.where(edit.mask, chain.x, known))
        else:
            z = noise(address, chain.x.shape, device=chain.x.device)
            chain.x.mul_(math.sqrt(1 - beta[to])).add_(z, alpha=math.sqrt(beta[to]))
            chain.go_to(to)
        yield
