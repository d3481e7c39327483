"""diffusers' DDIMScheduler on the ops."""

from typing import Any, Literal

import numpy as np
import torch
from diffusers import DDIMScheduler
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from torch import Tensor

from ...address import NoiseAddress
from ...ops import reverse_step
from ...ops.checks import check_number, compute_dtype
from ...schedule import outside_of_modes
from .base import FusedScheduler, composed_step, operands, wants_gradient
from .chain import Chain


class FusedDDIMScheduler(FusedScheduler, DDIMScheduler):
    """`diffusers.DDIMScheduler` whose noising and reverse step are `noisestep`'s ops.

        pipe.scheduler = FusedDDIMScheduler.from_config(pipe.scheduler.config)

    See `FusedDDPMScheduler` for what the two have in common, and docs/integrations.md for where results differ from
    diffusers', and why: above all, a step leads to the next timestep of the chain, whatever its spacing.

    Parameters
    ----------
    num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, clip_sample, set_alpha_to_one, \
steps_offset, prediction_type, thresholding, dynamic_thresholding_ratio, clip_sample_range, sample_max_value, \
timestep_spacing, rescale_betas_zero_snr
        As for `diffusers.DDIMScheduler`.
    compatible : bool
        Run diffusers' own code, with its faults: for results of before, bit for bit.

    Raises
    ------
    ValueError
        For an unknown ``prediction_type`` or ``timestep_spacing``, or a ratio of thresholding outside [0, 1].
    """

    alphas_cumprod: Tensor
    final_alpha_cumprod: Tensor

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: np.ndarray | list[float] | None = None,
        clip_sample: bool = True,
        set_alpha_to_one: bool = True,
        steps_offset: int = 0,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: str = "leading",
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
                clip_sample=clip_sample,
                set_alpha_to_one=set_alpha_to_one,
                steps_offset=steps_offset,
                prediction_type=prediction_type,
                thresholding=thresholding,
                dynamic_thresholding_ratio=dynamic_thresholding_ratio,
                clip_sample_range=clip_sample_range,
                sample_max_value=sample_max_value,
                timestep_spacing=timestep_spacing,
                rescale_betas_zero_snr=rescale_betas_zero_snr,
            )
            self._final_at_first = float(self.final_alpha_cumprod)
        self._begin()

    def _final(self) -> Literal[0, 1]:
        final, first = float(self.final_alpha_cumprod), float(self.alphas_cumprod[0])
        # a script may put another schedule in place, and leave it
        if final == self._final_at_first:
            return 0 if self.config.set_alpha_to_one else 1
        if final not in (1, first):
            raise ValueError(f"final_alpha_cumprod must be 1 or alphas_cumprod[0], {first}, got {final}")
        return 0 if final == 1 else 1

    def _prepare(self, chain: Chain, device: torch.device) -> None:
        chain.reverse(device).reverse_table(prediction=chain.prediction, eta=0.0, rederive_eps=False)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
        *,
        seed: int | Tensor | None = None,
        sample_ids: int | Tensor | None = None,
    ) -> DDIMSchedulerOutput | tuple[Tensor, Tensor]:
        """x at the next lower step of the chain; Song et al. 2021, eq. 12; `noisestep.accelerated.ops.reverse_step`.

        Parameters
        ----------
        model_output : Tensor, shape (B, ...)
            The network's.
        timestep : int or Tensor of int64 or int32, shape (), (1,) or (B,)
            In 0..T - 1, one for all samples or one for each. A t that is not in the chain leads to the next
            lower one that is. On a GPU a tensor is not read: out of range it takes the nearest step.
        sample : Tensor, shape (B, ...)
            x_t.
        eta : float
            In [0, 1]: 0 for no noise, 1 for the posterior's.
        use_clipped_model_output : bool
            Whether eps follows from the clipped x_0, or stays as predicted.
        generator : torch.Generator or list of them, optional
            Draws the noise where eta > 0, one `randn` a step.
        variance_noise : Tensor, shape (B, ...), optional
            The noise itself.
        return_dict : bool
        seed : int or Tensor, optional
            The noise comes from the address (seed, REVERSE, t + 1, sample_ids).
        sample_ids : int or Tensor of int64, shape (B,), optional
            The number of the first image, 0 by default, or of each.

        Returns
        -------
        DDIMSchedulerOutput or (Tensor, Tensor)
            ``prev_sample`` and ``pred_original_sample``.

        Raises
        ------
        TypeError, ValueError
            Before `set_timesteps`, for arguments that do not fit together, a timestep or eta out of range, or
            noise from two places.
        """
        if self._compatible:
            self._refuse_address(seed, sample_ids)
            return DDIMScheduler.step(
                self,
                model_output,
                timestep,
                sample,
                eta=eta,
                use_clipped_model_output=use_clipped_model_output,
                generator=generator,
                variance_noise=variance_noise,
                return_dict=return_dict,
            )
        if self.num_inference_steps is None:
            raise ValueError("the chain has no steps yet: call set_timesteps before step")
        chain, x_t = self._tables(), operands(sample, model_output)
        t, _ = chain.timestep(timestep, x_t)
        eta = check_number("eta", eta.item() if isinstance(eta, Tensor) else eta, 0, 1)
        noise: Tensor | NoiseAddress | None = variance_noise if eta > 0 else None
        if eta > 0:
            if variance_noise is not None and (generator is not None or seed is not None):
                other = "generator" if generator is not None else "seed"
                raise ValueError(f"the noise of a step comes from {other} or from variance_noise, got both")
            if noise is None:
                noise = self._noise(model_output, x_t, t, generator, seed, sample_ids)
        schedule = chain.reverse(x_t.device)
        options: dict[str, Any] = dict(prediction=chain.prediction, eta=eta, rederive_eps=use_clipped_model_output)
        if chain.threshold is not None or wants_gradient(x_t, model_output):
            table = schedule.reverse_table(**options, dtype=compute_dtype(x_t))
            x_s, x_0 = composed_step(
                table,
                x_t,
                model_output,
                t,
                noise,
                clip=chain.clip,
                threshold=chain.threshold,
                own_eps=not use_clipped_model_output,
            )
        else:
            x_s, x_0 = reverse_step(schedule, x_t, model_output, t, noise, clip=chain.clip, **options, return_x_0=True)
        return DDIMSchedulerOutput(prev_sample=x_s, pred_original_sample=x_0) if return_dict else (x_s, x_0)
