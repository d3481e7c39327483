"""diffusers' DDPMScheduler on the ops."""

from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from torch import Tensor

from ...address import plain_int
from ...ops import reverse_step
from ...ops.checks import compute_dtype
from ...schedule import Variance, outside_of_modes
from .base import FusedScheduler, composed_step, learned_step, operands, wants_gradient
from .chain import Chain

# "learned" takes the rows of the range, whose noise is not scaled: its variance is the network's
VARIANCES: dict[str, Variance] = {
    "fixed_small": "posterior",
    "fixed_small_log": "posterior",
    "fixed_large": "beta",
    "fixed_large_log": "beta",
    "learned": "learned_range",
    "learned_range": "learned_range",
}


class FusedDDPMScheduler(FusedScheduler, DDPMScheduler):
    """`diffusers.DDPMScheduler` whose noising and reverse step are `noisestep`'s ops.

        pipe.scheduler = FusedDDPMScheduler.from_config(pipe.scheduler.config)

    One op for a step; each coefficient computed in float64 and rounded once, each result rounded once. `step`
    takes one timestep or one for each sample, from tensors without waiting for a device, and draws noise from
    the caller's generator as diffusers does, or from an address. docs/integrations.md says where results differ
    from diffusers', and why.

    Parameters
    ----------
    num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, variance_type, clip_sample, \
prediction_type, thresholding, dynamic_thresholding_ratio, clip_sample_range, sample_max_value, timestep_spacing, \
steps_offset, rescale_betas_zero_snr
        As for `diffusers.DDPMScheduler`.
    compatible : bool
        Run diffusers' own code, with its faults: for results of before, bit for bit.

    Raises
    ------
    ValueError
        For an unknown ``prediction_type`` or ``timestep_spacing``, or a ratio of thresholding outside [0, 1].
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: np.ndarray | list[float] | None = None,
        variance_type: str = "fixed_small",
        clip_sample: bool = True,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: str = "leading",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
        compatible: bool = False,
    ) -> None:
        with outside_of_modes():
            super().__init__(
                num_train_timesteps=num_train_timesteps,
                beta_start=beta_start,
                beta_end=beta_end,
                beta_schedule=beta_schedule,
                trained_betas=trained_betas,
                variance_type=variance_type,
                clip_sample=clip_sample,
                prediction_type=prediction_type,
                thresholding=thresholding,
                dynamic_thresholding_ratio=dynamic_thresholding_ratio,
                clip_sample_range=clip_sample_range,
                sample_max_value=sample_max_value,
                timestep_spacing=timestep_spacing,
                steps_offset=steps_offset,
                rescale_betas_zero_snr=rescale_betas_zero_snr,
            )
        self._begin()

    def _prepare(self, chain: Chain, device: torch.device) -> None:
        options: list[Variance] = [VARIANCES.get(self.config.variance_type, "zero"), "zero"]
        if options[0] == "learned_range":
            options.append("beta")
            chain.deviations(device, torch.float32)
        for option in options:
            chain.reverse(device).reverse_table(prediction=chain.prediction, variance=option)

    def previous_timestep(self, timestep: int | Tensor) -> int | Tensor:
        """The next lower timestep of the chain; -1 after the last.

        Parameters
        ----------
        timestep : int or Tensor
            In 0..T - 1, of the chain or between two of its steps.

        Returns
        -------
        int or Tensor
        """
        if self._compatible or not (self.custom_timesteps or self.num_inference_steps):
            return DDPMScheduler.previous_timestep(self, timestep)
        if not isinstance(timestep, Tensor):
            timestep = plain_int("timestep", timestep, "an int or a tensor of integers")
        elif timestep.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"timestep must be an int or a tensor of integers, got a tensor of {timestep.dtype}")
        return self._tables().previous(torch.as_tensor(timestep))

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
        *,
        seed: int | Tensor | None = None,
        sample_ids: int | Tensor | None = None,
    ) -> DDPMSchedulerOutput | tuple[Tensor, Tensor]:
        """x at the next lower step of the chain; Ho et al. 2020, alg. 2; `noisestep.accelerated.ops.reverse_step`.

        Parameters
        ----------
        model_output : Tensor, shape (B, C, ...)
            The network's, with twice the channels where the variance is learned.
        timestep : int or Tensor of int64 or int32, shape (), (1,) or (B,)
            In 0..T - 1, one for all samples or one for each. A t that is not in the chain leads to the next
            lower one that is. On a GPU a tensor is not read: out of range it takes the nearest step.
        sample : Tensor, shape (B, C, ...)
            x_t.
        generator : torch.Generator or list of them, optional
            Draws the noise, one `randn` for each t > 0. For a tensor of timesteps, and for one on a GPU that is
            not part of ``timesteps``, it is drawn at t = 0 too, and not added.
        return_dict : bool
        seed : int or Tensor, optional
            The noise comes from the address (seed, REVERSE, t + 1, sample_ids) in place of a generator.
        sample_ids : int or Tensor of int64, shape (B,), optional
            The number of the first image, 0 by default, or of each.

        Returns
        -------
        DDPMSchedulerOutput or (Tensor, Tensor)
            ``prev_sample`` and ``pred_original_sample``.

        Raises
        ------
        TypeError, ValueError
            For arguments that do not fit together, a timestep out of range, an unknown ``variance_type``, or
            both a generator and a seed.
        """
        if self._compatible:
            self._refuse_address(seed, sample_ids)
            return DDPMScheduler.step(self, model_output, timestep, sample, generator, return_dict)
        chain, x_t = self._tables(), operands(sample, model_output)
        t, known = chain.timestep(timestep, x_t)
        kind, variance = self.config.variance_type, VARIANCES.get(self.config.variance_type)
        learned = variance == "learned_range"
        extra: Any = None
        noise: Any = None
        if known == 0:
            # no noise, so no variance is looked at either
            variance = "zero"
        else:
            if variance is None:
                raise ValueError(f"variance_type must be one of {', '.join(map(repr, VARIANCES))}, got {kind!r}")
            noise = self._noise(model_output, x_t, t, generator, seed, sample_ids)
            if known is not None and chain.leads_to_data(known):
                # drawn as diffusers draws it, and not added
                noise, variance = None, "zero"
        composed = chain.threshold is not None or wants_gradient(x_t, model_output)
        # the op has no variance that the network gives outright, and no native code for its range
        apart = learned and noise is not None and not composed and (kind == "learned" or x_t.is_cpu)
        if learned and (composed or apart or noise is None):
            model_output, extra = halves(model_output, x_t, kind)
        options: dict[str, Any] = dict(prediction=chain.prediction, variance=variance)
        schedule = chain.reverse(x_t.device)
        if apart:
            x_s, x_0 = learned_step(
                chain, x_t, model_output, t, known, noise, extra, learned_range=kind == "learned_range"
            )
        elif composed:
            table = schedule.reverse_table(**options, dtype=compute_dtype(x_t))
            how = {"variance" if kind == "learned" else "learned_range": extra} if noise is not None else {}
            x_s, x_0 = composed_step(
                table, x_t, model_output, t, noise, clip=chain.clip, threshold=chain.threshold, own_eps=False, **how
            )
        else:
            x_s, x_0 = reverse_step(schedule, x_t, model_output, t, noise, clip=chain.clip, **options, return_x_0=True)
        return DDPMSchedulerOutput(prev_sample=x_s, pred_original_sample=x_0) if return_dict else (x_s, x_0)


def halves(model_output: Tensor, x_t: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """The prediction and what belongs to its variance, each with the channels of x_t."""
    if model_output.ndim < 2 or model_output.shape[1] != 2 * x_t.shape[1]:
        raise ValueError(
            f"variance_type={kind!r} needs a model_output with twice the channels of sample, "
            f"got {tuple(model_output.shape)} for {tuple(x_t.shape)}"
        )
    prediction, extra = model_output.chunk(2, dim=1)
    return prediction, extra
