"""`GaussianDiffusion` as improved-diffusion's training and sampling scripts call it."""

import math
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any, TypeVar, cast

import numpy as np
import torch
from noisestep.reference.schedule import Schedule
from numpy.typing import ArrayLike
from torch import Tensor

from ...arithmetic import per_sample
from ...noise import Noise
from ...ops import q_sample, reverse_step, simple_loss, vlb_terms
from ...schedule import DeviceSchedule, Prediction, Variance
from ..zero_based import ZeroBased

Model = Callable[..., Tensor]
ModelMeanType = Enum("ModelMeanType", ["START_X", "EPSILON"])
ModelVarType = Enum("ModelVarType", ["FIXED_SMALL", "FIXED_LARGE", "LEARNED_RANGE"])
LossType = Enum("LossType", ["MSE", "RESCALED_MSE", "KL", "RESCALED_KL"])
Kind = TypeVar("Kind", bound=Enum)


class GaussianDiffusion:
    """A diffusion process with improved-diffusion's interface; t counts 0..T - 1, as there.

    Parameters
    ----------
    betas : array_like, shape (T,)
        Each in (0, 1).
    model_mean_type : {"START_X", "EPSILON"}
        What the network predicts: a member of `ModelMeanType`, its name, or improved-diffusion's own member.
    model_var_type : {"FIXED_SMALL", "FIXED_LARGE", "LEARNED_RANGE"}
    loss_type : {"MSE", "RESCALED_MSE", "KL", "RESCALED_KL"}
    rescale_timesteps : bool
        Tell the network t 1000 / T, a float.

    Attributes
    ----------
    betas, alphas_cumprod, alphas_cumprod_prev, sqrt_alphas_cumprod, sqrt_one_minus_alphas_cumprod, \
posterior_variance, posterior_log_variance_clipped, posterior_mean_coef1, posterior_mean_coef2 : ndarray, shape (T,)
        float64.
    num_timesteps : int
        T.

    Raises
    ------
    ValueError
        For betas that are none, or a kind that is not among those above (improved-diffusion's PREVIOUS_X and
        LEARNED are not).
    """

    def __init__(
        self,
        *,
        betas: ArrayLike,
        model_mean_type: Any,
        model_var_type: Any,
        loss_type: Any,
        rescale_timesteps: bool = False,
    ) -> None:
        self.model_mean_type = _member("model_mean_type", model_mean_type, ModelMeanType)
        self.model_var_type = _member("model_var_type", model_var_type, ModelVarType)
        self.loss_type = _member("loss_type", loss_type, LossType)
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
        self._prediction: Prediction = "eps" if self.model_mean_type is ModelMeanType.EPSILON else "x_0"
        variances: dict[Enum, Variance] = {
            ModelVarType.FIXED_SMALL: "posterior",
            ModelVarType.FIXED_LARGE: "beta",
            ModelVarType.LEARNED_RANGE: "learned_range",
        }
        self._variance = variances[self.model_var_type]
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

    def _told(self, t: Tensor) -> Tensor:
        """What the network is told at t."""
        return t.float() * (1000.0 / self.num_timesteps) if self.rescale_timesteps else t

    def q_mean_variance(self, x_start: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and log-variance of q(x_t | x_0), each of the shape of x_start, (B, ...)."""
        mean = self._rows("sqrt_alphas_cumprod", t, x_start) * x_start
        variance = self._rows("sqrt_one_minus_alphas_cumprod", t, x_start) ** 2
        return mean, variance, variance.log()

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor | Noise | None = None) -> Tensor:
        """x_t ~ q(x_t | x_0), shape (B, ...); the noise given, from an address, or drawn by `randn_like`."""
        noise = torch.randn_like(x_start) if noise is None else noise
        return q_sample(self._tables(x_start.device), x_start, t, noise)

    def q_posterior_mean_variance(self, x_start: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and clipped log-variance of q(x_{t-1} | x_t, x_0), each of the shape of x_t, (B, ...)."""
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
        """Mean, variance and log-variance of p(x_{t-1} | x_t), and the predicted x_0: a dict, each (B, C, ...).

        The clip to [-1, 1] comes after `denoised_fn`, which is given the predicted x_0.
        """
        output = model(x, self._told(t), **(model_kwargs or {}))
        prediction, place = self._split(output, x)
        clip = (-1.0, 1.0) if clip_denoised else None
        mean, x_0 = self._mean(prediction, x, t, clip, denoised_fn)
        if place is not None:
            share = (place + 1) / 2
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
        prediction, place = output.chunk(2, dim=1)
        return prediction, place

    def _mean(
        self,
        prediction: Tensor,
        x: Tensor,
        t: Tensor,
        clip: tuple[float, float] | None,
        denoised_fn: Callable[[Tensor], Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        tables, kind = self._tables(x.device), self._prediction
        if denoised_fn is None:
            return reverse_step(
                tables, x, prediction, t, None, prediction=kind, variance="zero", clip=clip, return_x_0=True
            )
        _, x_0 = reverse_step(tables, x, prediction, t, None, prediction=kind, variance="zero", return_x_0=True)
        x_0 = denoised_fn(x_0)
        x_0 = x_0 if clip is None else x_0.clamp(*clip)
        return reverse_step(tables, x, x_0, t, None, prediction="x_0", variance="zero"), x_0

    def p_sample(
        self,
        model: Model,
        x: Tensor,
        t: Tensor,
        clip_denoised: bool = True,
        denoised_fn: Callable[[Tensor], Tensor] | None = None,
        model_kwargs: dict[str, Any] | None = None,
        noise: Tensor | Noise | None = None,
    ) -> dict[str, Tensor]:
        """x_{t-1} ~ p(x_{t-1} | x_t) and the predicted x_0: a dict of "sample" and "pred_xstart", each (B, C, ...).

        Without `noise` it is drawn by `randn_like`, at t = 0 too, where it is not added.
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
        noise: Tensor | Noise | None = None,
    ) -> dict[str, Tensor]:
        """As `p_sample`, by DDIM with `eta` in [0, 1]; eps follows from the clipped x_0."""
        return self._step(model, x, t, clip_denoised, denoised_fn, model_kwargs, noise, eta=eta)

    def _step(
        self,
        model: Model,
        x: Tensor,
        t: Tensor,
        clip_denoised: bool,
        denoised_fn: Callable[[Tensor], Tensor] | None,
        model_kwargs: dict[str, Any] | None,
        noise: Tensor | Noise | None,
        eta: float | None,
    ) -> dict[str, Tensor]:
        output = model(x, self._told(t), **(model_kwargs or {}))
        noise = torch.randn_like(x) if noise is None else noise
        clip, prediction, kind = (-1.0, 1.0) if clip_denoised else None, output, self._prediction
        if self._learned and (eta is not None or denoised_fn is not None):
            prediction, place = self._split(output, x)
        if denoised_fn is not None:
            _, prediction = self._mean(prediction, x, t, clip, denoised_fn)
            kind, clip = "x_0", None
            if self._learned and eta is None and place is not None:
                prediction = torch.cat([prediction, place], dim=1)
        sample, x_0 = reverse_step(
            self._tables(x.device),
            x,
            prediction,
            t,
            noise,
            prediction=kind,
            clip=clip,
            variance=self._variance,
            eta=eta,
            return_x_0=True,
        )
        return {"sample": sample, "pred_xstart": x_0}

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

    def training_losses(
        self,
        model: Model,
        x_start: Tensor,
        t: Tensor,
        model_kwargs: dict[str, Any] | None = None,
        noise: Tensor | Noise | None = None,
    ) -> dict[str, Tensor]:
        """The losses of a batch: "loss", and "mse" and "vb" where it is made of them; each (B,).

        With an address as `noise`, eps is made where it is wanted and never stored.
        """
        noise = torch.randn_like(x_start) if noise is None else noise
        x_t = self.q_sample(x_start, t, noise)
        output = model(x_t, self._told(t), **(model_kwargs or {}))
        if self.loss_type in (LossType.KL, LossType.RESCALED_KL):
            loss = self._bound(x_start, x_t, output, t)
            return {"loss": loss * self.num_timesteps if self.loss_type is LossType.RESCALED_KL else loss}
        terms = {}
        prediction, place = self._split(output, x_t)
        if place is not None:
            # the bound teaches the variance alone
            terms["vb"] = self._bound(x_start, x_t, torch.cat([prediction.detach(), place], dim=1), t)
            if self.loss_type is LossType.RESCALED_MSE:
                terms["vb"] = terms["vb"] * (self.num_timesteps / 1000)
        terms["mse"] = simple_loss(prediction, noise, prediction=self._prediction, x_0=x_start, reduction="none")
        return {**terms, "loss": sum(terms.values(), torch.zeros_like(terms["mse"]))}

    def _bound(
        self, x_0: Tensor, x_t: Tensor, output: Tensor, t: Tensor, clip: tuple[float, float] | None = None
    ) -> Tensor:
        """The bound's terms at t in bits per dimension, float32, shape (B,)."""
        schedule, arguments = self._counted_from_1(x_t.device), (x_0, x_t, output, t + 1)
        terms = vlb_terms(schedule, *arguments, prediction=self._prediction, clip=clip, variance=self._variance)
        if self._variance == "beta":
            first = vlb_terms(schedule, *arguments, prediction=self._prediction, clip=clip, variance="posterior")
            terms = torch.where(t == 0, first, terms)
        return terms.float()

    @torch.no_grad()
    def calc_bpd_loop(
        self,
        model: Model,
        x_start: Tensor,
        clip_denoised: bool = True,
        model_kwargs: dict[str, Any] | None = None,
    ) -> dict[str, Tensor]:
        """The whole bound in bits per dimension: "total_bpd" and "prior_bpd" (B,), and of each t, T - 1 first, (B, T).

        Those are "vb", the bound's terms, "xstart_mse" and "mse", that of eps.
        """
        clip = (-1.0, 1.0) if clip_denoised else None
        columns: dict[str, list[Tensor]] = {"vb": [], "xstart_mse": [], "mse": []}
        for step in range(self.num_timesteps - 1, -1, -1):
            t = torch.full((len(x_start),), step, device=x_start.device)
            noise = torch.randn_like(x_start)
            x_t = self.q_sample(x_start, t, noise)
            output = model(x_t, self._told(t), **(model_kwargs or {}))
            _, x_0 = self._mean(self._split(output, x_t)[0], x_t, t, clip, None)
            signal, sigma = (
                self._rows(f"sqrt_{name}", t, x_t) for name in ("alphas_cumprod", "one_minus_alphas_cumprod")
            )
            columns["vb"].append(self._bound(x_start, x_t, output, t, clip))
            columns["xstart_mse"].append((x_0 - x_start).square().flatten(1).mean(1))
            columns["mse"].append(((x_t - signal * x_0) / sigma - noise).square().flatten(1).mean(1))
        stacked = {name: torch.stack(column, dim=1) for name, column in columns.items()}
        alpha_bar = float(self.alphas_cumprod[-1])
        squares = x_start.double().square().flatten(1).mean(1)
        prior = ((alpha_bar * squares - alpha_bar - math.log1p(-alpha_bar)) / (2 * math.log(2))).float()
        return {"total_bpd": stacked["vb"].sum(dim=1) + prior, "prior_bpd": prior, **stacked}


def _last(steps: Iterator[dict[str, Tensor]]) -> Tensor:
    for result in steps:
        final = result["sample"]
    return final


def _member(name: str, kind: Any, kinds: type[Kind]) -> Kind:
    """The member of that name, which may be given by name or be a member of another enumeration."""
    called = getattr(kind, "name", kind)
    if called not in kinds.__members__:
        raise ValueError(f"{name} must be one of {', '.join(kinds.__members__)}, got {called}")
    return kinds[called]
