"""Ops in the place of methods of an object that a training script made, for as long as a `with` lasts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any, ClassVar, cast

import numpy as np
import torch
from noisestep.reference.schedule import Schedule
from torch import Tensor

from ..address import NoiseAddress
from ..ops import q_sample, reverse_step, simple_loss
from ..schedule import Prediction
from .improved_diffusion.kinds import PREDICTIONS, VARIANCES
from .improved_diffusion.step import sample_and_x_0
from .zero_based import ZeroBased


@contextmanager
def patched(target: Any) -> Iterator[Any]:
    """The ops in an object of another library, until the `with` ends, by an exception or not.

        with patched(diffusion):
            trainer.train()

    =====================================================  ====================================================
    target                                                 what is in its place meanwhile
    =====================================================  ====================================================
    denoising-diffusion-pytorch's ``GaussianDiffusion``    ``q_sample``, ``p_losses``, ``p_sample``
    improved-diffusion's ``GaussianDiffusion``             ``q_sample``, ``p_sample``, ``ddim_sample``
    a diffusers pipeline                                   its DDPM or DDIM ``scheduler``
    =====================================================  ====================================================

    Noise is drawn where and as the library draws it, so that a seed gives the loss and the images that it gave,
    up to rounding. What a method does not cover (immiscible noise, offset noise, `denoised_fn`, predicted x_{t-1} ...)
    the library's own method still does.

    Parameters
    ----------
    target : object
        Itself is changed, not its class; a copy made meanwhile keeps the ops.

    Yields
    ------
    object
        `target`.

    Raises
    ------
    TypeError
        For an object that is none of those above.
    """
    if hasattr(target, "scheduler") and hasattr(target, "register_modules"):
        replacements = _for_pipeline(target)
    elif all(hasattr(target, name) for name in ("betas", "objective", "p_losses", "p_sample")):
        replacements = _bound(target, _DenoisingDiffusion(target), ("q_sample", "p_losses", "p_sample"))
    elif all(hasattr(target, name) for name in ("betas", "model_mean_type", "training_losses", "p_sample")):
        replacements = _bound(target, _ImprovedDiffusion(target), ("q_sample", "p_sample", "ddim_sample"))
    else:
        raise TypeError(
            "patched takes a GaussianDiffusion of denoising-diffusion-pytorch or improved-diffusion, or a diffusers "
            f"pipeline with a DDPM or DDIM scheduler, got {type(target).__name__}"
        )
    before = {name: vars(target)[name] for name in replacements if name in vars(target)}
    for name, replacement in replacements.items():
        setattr(target, name, replacement)
    try:
        yield target
    finally:
        for name in replacements:
            if name in before:
                setattr(target, name, before[name])
            else:
                delattr(target, name)


def _for_pipeline(pipe: Any) -> dict[str, Any]:
    from diffusers import DDIMScheduler, DDPMScheduler

    from .diffusers import FusedDDIMScheduler, FusedDDPMScheduler

    scheduler: Any = pipe.scheduler
    for theirs, ours in ((DDIMScheduler, FusedDDIMScheduler), (DDPMScheduler, FusedDDPMScheduler)):
        if isinstance(scheduler, theirs):
            return {"scheduler": ours.from_config(cast(Any, scheduler).config)}
    raise TypeError(f"the pipeline's scheduler must be a DDPM or DDIM scheduler, got {type(scheduler).__name__}")


def _bound(target: Any, methods: Any, names: tuple[str, ...]) -> dict[str, Any]:
    # bound methods, so that a deep copy of the target is bound to the copy, as an average of the weights needs it
    return {name: MethodType(_Method(getattr(type(target), name), getattr(methods, name)), target) for name in names}


class _Method:
    """A function of the target, of the library's own, and of what it was called with."""

    def __init__(self, original: Callable[..., Any], replacement: Callable[..., Any]) -> None:
        self.original, self.replacement = original, replacement

    def __call__(self, target: Any, *arguments: Any, **options: Any) -> Any:
        return self.replacement(self.original, target, *arguments, **options)


class _Tables:
    """The zero-based tables of a target's betas, on each device that it is used on."""

    def __init__(self, target: Any) -> None:
        betas = target.betas
        self.schedule = Schedule(np.asarray(betas.detach().cpu() if isinstance(betas, Tensor) else betas, np.float64))
        self._on: dict[torch.device, ZeroBased] = {}

    def tables(self, x: Tensor) -> ZeroBased:
        if x.device not in self._on:
            self._on[x.device] = ZeroBased(self.schedule, x.device)
        return self._on[x.device]


class _DenoisingDiffusion(_Tables):
    """Methods of denoising-diffusion-pytorch's GaussianDiffusion."""

    PREDICTIONS: ClassVar[dict[str, Prediction]] = {"pred_noise": "eps", "pred_x0": "x_0", "pred_v": "v"}

    def q_sample(
        self, original: Callable[..., Tensor], target: Any, x_start: Tensor, t: Tensor, noise: Tensor | None = None
    ) -> Tensor:
        if target.immiscible:
            return original(target, x_start, t, noise)
        return q_sample(self.tables(x_start), x_start, t, torch.randn_like(x_start) if noise is None else noise)

    def p_losses(
        self,
        original: Callable[..., Tensor],
        target: Any,
        x_start: Tensor,
        t: Tensor,
        noise: Tensor | NoiseAddress | None = None,
        offset_noise_strength: float | None = None,
        loss_reduction: str = "mean",
    ) -> Tensor:
        strength = target.offset_noise_strength if offset_noise_strength is None else offset_noise_strength
        if target.immiscible or target.self_condition or strength > 0:
            return original(target, x_start, t, noise, offset_noise_strength, loss_reduction)
        noise = torch.randn_like(x_start) if noise is None else noise
        output = target.model(q_sample(self.tables(x_start), x_start, t, noise), t, None)
        return simple_loss(
            output,
            noise,
            prediction=self.PREDICTIONS[target.objective],
            schedule=self.tables(x_start),
            t=t,
            x_0=x_start,
            weight=target.loss_weight[t],
            reduction=loss_reduction,
        )

    def p_sample(
        self, original: Callable[..., Any], target: Any, x: Tensor, t: int, x_self_cond: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            output = target.model(x, torch.full((len(x),), t, device=x.device), x_self_cond)
            return reverse_step(
                self.tables(x),
                x,
                output,
                t,
                torch.randn_like(x) if t > 0 else None,
                prediction=self.PREDICTIONS[target.objective],
                variance="posterior" if t > 0 else "zero",
                clip=(-1.0, 1.0),
                return_x_0=True,
            )


class _ImprovedDiffusion(_Tables):
    """Methods of improved-diffusion's GaussianDiffusion."""

    def q_sample(
        self, original: Callable[..., Tensor], target: Any, x_start: Tensor, t: Tensor, noise: Tensor | None = None
    ) -> Tensor:
        return q_sample(self.tables(x_start), x_start, t, torch.randn_like(x_start) if noise is None else noise)

    def p_sample(
        self,
        original: Callable[..., Any],
        target: Any,
        model: Callable[..., Tensor],
        x: Tensor,
        t: Tensor,
        **options: Any,
    ) -> dict[str, Tensor]:
        return self._step(original, target, model, x, t, None, options)

    def ddim_sample(
        self,
        original: Callable[..., Any],
        target: Any,
        model: Callable[..., Tensor],
        x: Tensor,
        t: Tensor,
        **options: Any,
    ) -> dict[str, Tensor]:
        return self._step(original, target, model, x, t, options.get("eta", 0.0), options)

    def _step(
        self,
        original: Callable[..., Any],
        target: Any,
        model: Callable[..., Tensor],
        x: Tensor,
        t: Tensor,
        eta: float | None,
        options: dict[str, Any],
    ) -> dict[str, Tensor]:
        prediction = PREDICTIONS.get(target.model_mean_type.name)
        variance = VARIANCES.get(target.model_var_type.name)
        known = {"clip_denoised", "denoised_fn", "model_kwargs", "eta"}
        # what is not None besides, such as guided-diffusion's cond_fn, is the library's affair
        asked = {name for name, value in options.items() if value is not None}
        covered = asked <= known - {"denoised_fn"}
        if prediction is None or variance is None or not covered:
            return original(target, model, x, t, **options)  # type: ignore[no-any-return]
        # a chain of fewer steps tells the model its own numbers, by wrapping it
        wrap = getattr(target, "_wrap_model", lambda model: model)
        output = wrap(model)(x, target._scale_timesteps(t), **(options.get("model_kwargs") or {}))
        return sample_and_x_0(
            self.tables(x),
            output,
            x,
            t,
            None,
            kind=prediction,
            variance=variance,
            eta=eta,
            clip=(-1.0, 1.0) if options.get("clip_denoised", True) else None,
        )
