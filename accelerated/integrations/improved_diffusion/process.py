"""The forward process and the reverse steps, as improved-diffusion's scripts call them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from noisestep.reference.schedule import Schedule
from numpy.typing import ArrayLike
from torch import Tensor

from ...address import NoiseAddress
from ...backends.eager import per_sample
from ...ops import q_sample, reverse_step
from ...schedule import DeviceSchedule
from ..zero_based import ZeroBased
from .kinds import PREDICTIONS, VARIANCES, LossType, ModelMeanType, ModelVarType, member
from .step import mean_and_x_0, sample_and_x_0

Model = Callable[..., Tensor]


class Process:
    """The tables, the forward process and the reverse steps of a `GaussianDiffusion`, which has the parameters."""

    def __init__(
        self,
        *,
        betas: ArrayLike,
        model_mean_type: Any,
        model_var_type: Any,
        loss_type: Any,
        rescale_timesteps: bool = False,
    ) -> None:
        self.model_mean_type = member("model_mean_type", model_mean_type, ModelMeanType)
        self.model_var_type = member("model_var_type", model_var_type, ModelVarType)
        self.loss_type = member("loss_type", loss_type, LossType)
        self.rescale_timesteps = rescale_timesteps
        self.schedule = schedule = Schedule(betas)
        self.num_timesteps = schedule.T
        self.betas = schedule.beta[1:]
        self.alphas_cumprod, self.alphas_cumprod_prev = schedule.alpha_bar[1:], schedule.alpha_bar[:-1]
        self.sqrt_alphas_cumprod = schedule.sqrt_alpha_bar[1:]
        self.sqrt_one_minus_alphas_cumprod = schedule.sqrt_one_minus_alpha_bar[1:]
        self.posterior_variance = schedule.posterior_variance[1:]
        self.posterior_log_variance_clipped = schedule.posterior_log_variance[1:]
        self.posterior_mean_coef1 = schedule.posterior_mean_coef_x_0[1:]
        self.posterior_mean_coef2 = schedule.posterior_mean_coef_x_t[1:]
        self._prediction = PREDICTIONS[self.model_mean_type.name]
        self._variance = VARIANCES[self.model_var_type.name]
        self._learned = self._variance == "learned_range"
        # of FIXED_LARGE, whose first step has the variance of FIXED_SMALL, for the likelihood's sake
        self._log_large = np.concatenate([schedule.posterior_log_variance[1:2], np.log(schedule.beta[2:])])
        self._log_betas = np.log(self.betas)
        self._on: dict[tuple[object, torch.device], Any] = {}

    def _tables(self, device: torch.device) -> ZeroBased:
        return cast(ZeroBased, self._kept(ZeroBased, device, lambda: ZeroBased(self.schedule, device)))

    def _counted_from_1(self, device: torch.device) -> DeviceSchedule:
        return cast(DeviceSchedule, self._kept(DeviceSchedule, device, lambda: DeviceSchedule(self.schedule, device)))

    def _rows(self, name: str, t: Tensor, x: Tensor) -> Tensor:
        """Rows t of one of the float64 tables, in the shape of x."""
        table = self._kept(name, x.device, lambda: torch.from_numpy(getattr(self, name).copy()).float().to(x.device))
        return per_sample(table[t], x).expand(x.shape)

    def _kept(self, key: object, device: torch.device, make: Callable[[], Any]) -> Any:
        if (key, device) not in self._on:
            self._on[key, device] = make()
        return self._on[key, device]

    def _model_t(self, t: Tensor) -> Tensor:
        """What the network is told at t."""
        return t.float() * (1000.0 / self.num_timesteps) if self.rescale_timesteps else t

    def q_mean_variance(self, x_start: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and log-variance of q(x_t | x_0); Ho et al. 2020, eq. 4.

        Parameters
        ----------
        x_start : Tensor, shape (B, ...)
            x_0, floating.
        t : Tensor of int64, shape (B,)
            In 0..T - 1.

        Returns
        -------
        tuple of three Tensors, shape (B, ...)
        """
        mean = self._rows("sqrt_alphas_cumprod", t, x_start) * x_start
        variance = self._rows("sqrt_one_minus_alphas_cumprod", t, x_start) ** 2
        return mean, variance, variance.log()

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor | NoiseAddress | None = None) -> Tensor:
        """x_t ~ q(x_t | x_0); Ho et al. 2020, eq. 4.

        Parameters
        ----------
        x_start : Tensor, shape (B, ...)
            x_0; floating, or uint8 levels.
        t : Tensor of int64, shape (B,)
            In 0..T - 1.
        noise : Tensor, shape (B, ...), or NoiseAddress, optional
            Given, made from its address, or drawn by `randn_like`.

        Returns
        -------
        Tensor, shape (B, ...)
        """
        noise = torch.randn_like(x_start) if noise is None else noise
        return q_sample(self._tables(x_start.device), x_start, t, noise)

    def q_posterior_mean_variance(self, x_start: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and clipped log-variance of q(x_{t-1} | x_t, x_0); Ho et al. 2020, eq. 7.

        Parameters
        ----------
        x_start, x_t : Tensor, shape (B, ...)
            Floating.
        t : Tensor of int64, shape (B,)
            In 0..T - 1.

        Returns
        -------
        tuple of three Tensors, shape (B, ...)
        """
        mean = reverse_step(self._tables(x_t.device), x_t, x_start, t, None, prediction="x_0", variance="zero")
        return (
            mean,
            self._rows("posterior_variance", t, x_t),
            self._rows("posterior_log_variance_clipped", t, x_t),
        )

    def p_mean_variance(
        self,
        model: Model,
        x: Tensor,
        t: Tensor,
        clip_denoised: bool = True,
        denoised_fn: Callable[[Tensor], Tensor] | None = None,
        model_kwargs: dict[str, Any] | None = None,
    ) -> dict[str, Tensor]:
        """p(x_{t-1} | x_t) and the predicted x_0, which a derivative does not reach.

        Parameters
        ----------
        model : callable
            ``model(x, t, **model_kwargs)``, which puts out (B, C, ...), or (B, 2 C, ...) with LEARNED_RANGE.
        x : Tensor, shape (B, C, ...)
            x_t.
        t : Tensor of int64, shape (B,)
            In 0..T - 1.
        clip_denoised : bool
            Clip the predicted x_0 to [-1, 1].
        denoised_fn : callable, optional
            What the predicted x_0 goes through before the clip.
        model_kwargs : dict, optional
            Of the model.

        Returns
        -------
        dict of Tensors, shape (B, C, ...)
            "mean", "variance", "log_variance", "pred_xstart".
        """
        output = model(x, self._model_t(t), **(model_kwargs or {}))
        prediction, fraction = self._split(output, x)
        clip = (-1.0, 1.0) if clip_denoised else None
        tables = self._tables(x.device)
        mean, x_0 = mean_and_x_0(tables, prediction, x, t, kind=self._prediction, clip=clip, denoised_fn=denoised_fn)
        if fraction is not None:
            share = (fraction + 1) / 2
            smallest = self._rows("posterior_log_variance_clipped", t, x)
            log_variance = share * self._rows("_log_betas", t, x) + (1 - share) * smallest
        else:
            small = self._variance == "posterior"
            log_variance = self._rows("posterior_log_variance_clipped" if small else "_log_large", t, x)
        variance = self._rows("posterior_variance", t, x) if self._variance == "posterior" else log_variance.exp()
        return {"mean": mean, "variance": variance, "log_variance": log_variance, "pred_xstart": x_0}

    def _split(self, output: Tensor, x: Tensor) -> tuple[Tensor, Tensor | None]:
        if not self._learned:
            return output, None
        if output.shape != (x.shape[0], 2 * x.shape[1], *x.shape[2:]):
            raise ValueError(
                f"LEARNED_RANGE needs an output with twice the channels of x, got {tuple(output.shape)} "
                f"for {tuple(x.shape)}"
            )
        prediction, fraction = output.chunk(2, dim=1)
        return prediction, fraction

    def p_sample(
        self,
        model: Model,
        x: Tensor,
        t: Tensor,
        clip_denoised: bool = True,
        denoised_fn: Callable[[Tensor], Tensor] | None = None,
        model_kwargs: dict[str, Any] | None = None,
        noise: Tensor | NoiseAddress | None = None,
    ) -> dict[str, Tensor]:
        """x_{t-1} ~ p(x_{t-1} | x_t); Ho et al. 2020, algorithm 2.

        Parameters
        ----------
        model, x, t, clip_denoised, denoised_fn, model_kwargs
            As for `p_mean_variance`.
        noise : Tensor, shape (B, C, ...), or NoiseAddress, optional
            Drawn by `randn_like` if left out, at t = 0 too, where it is not added.

        Returns
        -------
        dict of Tensors, shape (B, C, ...)
            "sample" and "pred_xstart".
        """
        return self._step(model, x, t, clip_denoised, denoised_fn, model_kwargs, noise, eta=None)

    def ddim_sample(
        self,
        model: Model,
        x: Tensor,
        t: Tensor,
        clip_denoised: bool = True,
        denoised_fn: Callable[[Tensor], Tensor] | None = None,
        model_kwargs: dict[str, Any] | None = None,
        eta: float = 0.0,
        noise: Tensor | NoiseAddress | None = None,
    ) -> dict[str, Tensor]:
        """x_{t-1} by DDIM, eps following from the clipped x_0; Song et al. 2021, eq. 12.

        Parameters
        ----------
        model, x, t, clip_denoised, denoised_fn, model_kwargs, noise
            As for `p_sample`.
        eta : float
            In [0, 1].

        Returns
        -------
        dict of Tensors, shape (B, C, ...)
            "sample" and "pred_xstart".
        """
        return self._step(model, x, t, clip_denoised, denoised_fn, model_kwargs, noise, eta=eta)

    def _step(
        self,
        model: Model,
        x: Tensor,
        t: Tensor,
        clip_denoised: bool,
        denoised_fn: Callable[[Tensor], Tensor] | None,
        model_kwargs: dict[str, Any] | None,
        noise: Tensor | NoiseAddress | None,
        eta: float | None,
    ) -> dict[str, Tensor]:
        output = model(x, self._model_t(t), **(model_kwargs or {}))
        if self._learned:
            self._split(output, x)
        return sample_and_x_0(
            self._tables(x.device),
            output,
            x,
            t,
            noise,
            kind=self._prediction,
            variance=self._variance,
            eta=eta,
            clip=(-1.0, 1.0) if clip_denoised else None,
            denoised_fn=denoised_fn,
        )

    def p_sample_loop(self, model: Model, shape: Sequence[int], **options: Any) -> Tensor:
        """x_0, shape `shape`, by `p_sample` from x_T; options as for `p_sample_loop_progressive`."""
        return _last(self.p_sample_loop_progressive(model, shape, **options))

    def ddim_sample_loop(self, model: Model, shape: Sequence[int], **options: Any) -> Tensor:
        """x_0, shape `shape`, by `ddim_sample` from x_T; options as for `ddim_sample_loop_progressive`."""
        return _last(self.ddim_sample_loop_progressive(model, shape, **options))

    def p_sample_loop_progressive(
        self,
        model: Model,
        shape: Sequence[int],
        noise: Tensor | None = None,
        device: torch.device | str | None = None,
        progress: bool = False,
        **options: Any,
    ) -> Iterator[dict[str, Tensor]]:
        """What `p_sample` returns at each of T - 1, ..., 0.

        Parameters
        ----------
        model : callable
        shape : sequence of int
        noise : Tensor, optional
            x_T; drawn if left out.
        device : torch.device or str, optional
            That of the model's parameters if left out.
        progress : bool
            Show a bar.
        **options
            Of `p_sample`.
        """
        return self._loop(self.p_sample, model, shape, noise, device, progress, options)

    def ddim_sample_loop_progressive(
        self,
        model: Model,
        shape: Sequence[int],
        noise: Tensor | None = None,
        device: torch.device | str | None = None,
        progress: bool = False,
        **options: Any,
    ) -> Iterator[dict[str, Tensor]]:
        """What `ddim_sample` returns at each of T - 1, ..., 0; parameters as for `p_sample_loop_progressive`."""
        return self._loop(self.ddim_sample, model, shape, noise, device, progress, options)

    def _loop(
        self,
        step: Callable[..., dict[str, Tensor]],
        model: Model,
        shape: Sequence[int],
        x: Tensor | None,
        device: torch.device | str | None,
        progress: bool,
        options: dict[str, Any],
    ) -> Iterator[dict[str, Tensor]]:
        if device is None:
            device = next(cast(torch.nn.Module, model).parameters()).device if x is None else x.device
        x = torch.randn(*shape, device=device) if x is None else x
        steps: Any = range(self.num_timesteps - 1, -1, -1)
        if progress:
            from tqdm.auto import tqdm

            steps = tqdm(steps)
        for t in steps:
            with torch.no_grad():
                result = step(model, x, torch.full((shape[0],), t, device=device), **options)
            yield result
            x = result["sample"]


def _last(steps: Iterator[dict[str, Tensor]]) -> Tensor:
    for result in steps:
        final = result["sample"]
    return final
