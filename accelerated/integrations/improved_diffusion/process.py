"""The forward process and the reverse steps, as improved-diffusion's scripts call them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import torch
from noisestep.reference.schedule import Schedule
from numpy.typing import ArrayLike
from torch import Tensor

from ...address import NoiseAddress
from ...backends.eager import per_sample
from ...ops import noise as noise_op
from ...ops import q_sample
from ...ops.checks import check_number
from ...schedule import DeviceSchedule, constant
from ..zero_based import ZeroBased
from .kinds import PREDICTIONS, VARIANCES, LossType, ModelMeanType, ModelVarType, member
from .step import sample_and_x_0

Model = Callable[..., Tensor]
Denoised = Callable[[Tensor], Tensor] | None
# what follows from the betas, and cannot be set
_TABLES = frozenset(
    {
        "alphas_cumprod",
        "alphas_cumprod_next",
        "alphas_cumprod_prev",
        "betas",
        "log_one_minus_alphas_cumprod",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
        "posterior_variance",
        "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod",
    }
)
# what a reverse step calls of an object: where a subclass has its own, the ops would bypass it
_PREDICTED = ("p_mean_variance", "q_posterior_mean_variance", "_predict_xstart_from_eps")

_Schedule = TypeVar("_Schedule", bound=DeviceSchedule)


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
        compatible: bool = False,
    ) -> None:
        self.model_mean_type = member("model_mean_type", model_mean_type, ModelMeanType)
        self.model_var_type = member("model_var_type", model_var_type, ModelVarType)
        self.loss_type = member("loss_type", loss_type, LossType)
        self.rescale_timesteps, self.compatible = rescale_timesteps, compatible
        self.schedule = schedule = Schedule(betas)
        self.num_timesteps = schedule.T
        self.betas = schedule.beta[1:]
        self.alphas_cumprod, self.alphas_cumprod_prev = schedule.alpha_bar[1:], schedule.alpha_bar[:-1]
        self.alphas_cumprod_next = np.append(schedule.alpha_bar[2:], 0.0)
        self.sqrt_alphas_cumprod = schedule.sqrt_alpha_bar[1:]
        self.sqrt_one_minus_alphas_cumprod = schedule.sqrt_one_minus_alpha_bar[1:]
        self.log_one_minus_alphas_cumprod = np.log(schedule.one_minus_alpha_bar[1:])
        self.sqrt_recip_alphas_cumprod = np.sqrt(1 / self.alphas_cumprod)
        self.sqrt_recipm1_alphas_cumprod = np.sqrt(schedule.one_minus_alpha_bar[1:] / self.alphas_cumprod)
        self.posterior_variance = schedule.posterior_variance[1:]
        self.posterior_log_variance_clipped = schedule.posterior_log_variance[1:]
        self.posterior_mean_coef1 = schedule.posterior_mean_coef_x_0[1:]
        self.posterior_mean_coef2 = schedule.posterior_mean_coef_x_t[1:]
        for name in _TABLES:
            getattr(self, name).flags.writeable = False
        # None where the ops have no such kind
        self._prediction = PREDICTIONS.get(self.model_mean_type.name)
        self._variance = VARIANCES.get(self.model_var_type.name)
        self._learned = self.model_var_type in (ModelVarType.LEARNED, ModelVarType.LEARNED_RANGE)
        # of FIXED_LARGE, whose first step has the variance of FIXED_SMALL, for the likelihood's sake
        self._log_large = np.concatenate([schedule.posterior_log_variance[1:2], np.log(schedule.beta[2:])])
        self._log_betas = np.log(self.betas)
        # of DDIM with eta = 1, which is the posterior's
        self._ddim_sigma = np.sqrt(self.posterior_variance)
        self._schedules: dict[tuple[type, torch.device], DeviceSchedule] = {}
        self._on: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}
        # made now, so that a compiled graph finds them
        cpu = torch.device("cpu")
        self._tables(cpu), self._counted_from_1(cpu)
        for name in (*_TABLES, "_log_large", "_log_betas", "_ddim_sigma"):
            self._table(name, torch.float32, cpu)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _TABLES and name in vars(self):
            raise AttributeError(f"{name} follows from betas; make another {type(self).__name__} from other betas")
        super().__setattr__(name, value)

    def _tables(self, device: torch.device) -> ZeroBased:
        return self._schedule_on(device, ZeroBased)

    def _counted_from_1(self, device: torch.device) -> DeviceSchedule:
        return self._schedule_on(device, DeviceSchedule)

    def _schedule_on(self, device: torch.device, kind: type[_Schedule]) -> _Schedule:
        if (kind, device) not in self._schedules:
            self._schedules[kind, device] = kind(self.schedule, device)
        return cast(_Schedule, self._schedules[kind, device])

    def _rows(self, name: str, t: Tensor, x: Tensor) -> Tensor:
        """Rows t of one of the float64 tables, in the shape of x: float32, or float64 where x is float64."""
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        return per_sample(self._table(name, dtype, x.device)[t], x).expand(x.shape)

    def _table(self, name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
        if (name, dtype, device) not in self._on:
            self._make_table(name, dtype, device)
        return self._on[name, dtype, device]

    @torch.compiler.disable
    def _make_table(self, name: str, dtype: torch.dtype, device: torch.device) -> None:
        self._on[name, dtype, device] = constant(np.array(getattr(self, name)), dtype, device)

    def _scale_timesteps(self, t: Tensor) -> Tensor:
        """What a wrapped model is called with at t."""
        return t.float() * (1000.0 / self.num_timesteps) if self.rescale_timesteps else t

    def _wrap_model(self, model: Model) -> Model:
        """A model, or a `cond_fn`, that is told the steps it was trained on."""
        return model

    def _output(self, model: Model, x: Tensor, t: Tensor, model_kwargs: dict[str, Any] | None) -> Tensor:
        return self._wrap_model(model)(x, self._scale_timesteps(t), **(model_kwargs or {}))

    def _on_the_ops(self, *names: str) -> bool:
        """Whether the ops have the kinds, and nothing that they would bypass is changed."""
        return (
            self._prediction is not None
            and self._variance is not None
            and all(name not in vars(self) and getattr(type(self), name) is getattr(Process, name) for name in names)
        )

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
        return mean, variance, self._rows("log_one_minus_alphas_cumprod", t, x_start)

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
        mean = self._rows("posterior_mean_coef1", t, x_t) * x_start + self._rows("posterior_mean_coef2", t, x_t) * x_t
        return (
            mean.to(x_t.dtype),
            self._rows("posterior_variance", t, x_t),
            self._rows("posterior_log_variance_clipped", t, x_t),
        )

    def _predict_xstart_from_eps(self, x_t: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        of_x, of_eps = (self._rows(f"sqrt_{name}_alphas_cumprod", t, x_t) for name in ("recip", "recipm1"))
        return (of_x * x_t - of_eps * eps).to(x_t.dtype)

    def _predict_xstart_from_xprev(self, x_t: Tensor, t: Tensor, xprev: Tensor) -> Tensor:
        of_x_0, of_x = (self._rows(f"posterior_mean_coef{number}", t, x_t) for number in (1, 2))
        return ((xprev - of_x * x_t) / of_x_0).to(x_t.dtype)

    def _predict_eps_from_xstart(self, x_t: Tensor, t: Tensor, pred_xstart: Tensor) -> Tensor:
        of_x, of_eps = (self._rows(f"sqrt_{name}_alphas_cumprod", t, x_t) for name in ("recip", "recipm1"))
        return ((of_x * x_t - pred_xstart) / of_eps).to(x_t.dtype)

    def p_mean_variance(
        self,
        model: Model,
        x: Tensor,
        t: Tensor,
        clip_denoised: bool = True,
        denoised_fn: Denoised = None,
        model_kwargs: dict[str, Any] | None = None,
    ) -> dict[str, Tensor]:
        """p(x_{t-1} | x_t) and the predicted x_0, all of them differentiable.

        Parameters
        ----------
        model : callable
            ``model(x, t, **model_kwargs)``, which puts out (B, C, ...), or (B, 2 C, ...) with LEARNED or LEARNED_RANGE.
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
        prediction, values = self._split(self._output(model, x, t, model_kwargs), x)
        x_0 = self._x_0(prediction, x, t, clip_denoised, denoised_fn)
        if self.model_mean_type is ModelMeanType.PREVIOUS_X:
            mean = prediction
        else:
            mean, _, _ = self.q_posterior_mean_variance(x_start=x_0, x_t=x, t=t)
        if self.model_var_type is ModelVarType.FIXED_SMALL:
            log_variance = self._rows("posterior_log_variance_clipped", t, x)
            variance = self._rows("posterior_variance", t, x)
        else:
            log_variance = self._log_variance(values, t, x)
            variance = log_variance.exp()
        return {"mean": mean, "variance": variance, "log_variance": log_variance, "pred_xstart": x_0}

    def _log_variance(self, values: Tensor | None, t: Tensor, x: Tensor) -> Tensor:
        if values is None:
            return self._rows("_log_large", t, x)
        if self.model_var_type is ModelVarType.LEARNED:
            return values
        fraction, smallest = (values + 1) / 2, self._rows("posterior_log_variance_clipped", t, x)
        return fraction * self._rows("_log_betas", t, x) + (1 - fraction) * smallest

    def _x_0(
        self, prediction: Tensor, x: Tensor, t: Tensor, clip_denoised: bool, denoised_fn: Denoised = None
    ) -> Tensor:
        if self.model_mean_type is ModelMeanType.EPSILON:
            prediction = self._predict_xstart_from_eps(x_t=x, t=t, eps=prediction)
        elif self.model_mean_type is ModelMeanType.PREVIOUS_X:
            prediction = self._predict_xstart_from_xprev(x_t=x, t=t, xprev=prediction)
        x_0 = prediction if denoised_fn is None else denoised_fn(prediction)
        return x_0.clamp(-1, 1) if clip_denoised else x_0

    def _split(self, output: Tensor, x: Tensor) -> tuple[Tensor, Tensor | None]:
        if not self._learned:
            return output, None
        if output.shape != (x.shape[0], 2 * x.shape[1], *x.shape[2:]):
            raise ValueError(
                f"{self.model_var_type.name} needs an output with twice the channels of x, got {tuple(output.shape)} "
                f"for {tuple(x.shape)}"
            )
        prediction, values = output.chunk(2, dim=1)
        return prediction, values

    def condition_mean(
        self,
        cond_fn: Model,
        p_mean_var: dict[str, Tensor],
        x: Tensor,
        t: Tensor,
        model_kwargs: dict[str, Any] | None = None,
    ) -> Tensor:
        """The mean moved by the gradient that `cond_fn` gives; Dhariwal & Nichol 2021, algorithm 1.

        Parameters
        ----------
        cond_fn : callable
            ``cond_fn(x, t, **model_kwargs)``, the gradient of log p(y | x_t) by x_t, shape (B, C, ...).
        p_mean_var : dict of Tensors
            From `p_mean_variance`.
        x, t, model_kwargs
            As for `p_mean_variance`.

        Returns
        -------
        Tensor, shape (B, C, ...)
        """
        return p_mean_var["mean"] + p_mean_var["variance"] * self._output(cond_fn, x, t, model_kwargs)

    def condition_score(
        self,
        cond_fn: Model,
        p_mean_var: dict[str, Tensor],
        x: Tensor,
        t: Tensor,
        model_kwargs: dict[str, Any] | None = None,
    ) -> dict[str, Tensor]:
        """What `p_mean_variance` returns once eps is moved by `cond_fn`; Dhariwal & Nichol 2021, algorithm 2.

        Parameters
        ----------
        cond_fn, p_mean_var, x, t, model_kwargs
            As for `condition_mean`.

        Returns
        -------
        dict of Tensors, shape (B, C, ...)
        """
        eps = self._predict_eps_from_xstart(x, t, p_mean_var["pred_xstart"])
        eps = eps - self._rows("sqrt_one_minus_alphas_cumprod", t, x) * self._output(cond_fn, x, t, model_kwargs)
        x_0 = self._predict_xstart_from_eps(x, t, eps)
        mean, _, _ = self.q_posterior_mean_variance(x_start=x_0, x_t=x, t=t)
        return {**p_mean_var, "mean": mean, "pred_xstart": x_0}

    def p_sample(
        self,
        model: Model,
        x: Tensor,
        t: Tensor,
        clip_denoised: bool = True,
        denoised_fn: Denoised = None,
        model_kwargs: dict[str, Any] | None = None,
        noise: Tensor | NoiseAddress | None = None,
        *,
        cond_fn: Model | None = None,
    ) -> dict[str, Tensor]:
        """x_{t-1} ~ p(x_{t-1} | x_t); Ho et al. 2020, algorithm 2.

        Differentiable where gradients are enabled; one op where they are not.

        Parameters
        ----------
        model, x, t, clip_denoised, denoised_fn, model_kwargs
            As for `p_mean_variance`.
        noise : Tensor, shape (B, C, ...), or NoiseAddress, optional
            Drawn by `randn_like` if left out, at t = 0 too, where it is not added.
        cond_fn : callable, optional
            As for `condition_mean`.

        Returns
        -------
        dict of Tensors, shape (B, C, ...)
            "sample" and "pred_xstart".
        """
        if cond_fn is None and not torch.is_grad_enabled() and self._on_the_ops(*_PREDICTED):
            return self._step(model, x, t, clip_denoised, denoised_fn, model_kwargs, noise, eta=None)
        out = self.p_mean_variance(model, x, t, clip_denoised, denoised_fn, model_kwargs)
        if cond_fn is not None:
            out["mean"] = self.condition_mean(cond_fn, out, x, t, model_kwargs)
        drawn = _noise(noise, x) * per_sample(t != 0, x)
        sample = out["mean"] + (out["log_variance"] / 2).exp() * drawn
        return {"sample": sample.to(x.dtype), "pred_xstart": out["pred_xstart"]}

    def ddim_sample(
        self,
        model: Model,
        x: Tensor,
        t: Tensor,
        clip_denoised: bool = True,
        denoised_fn: Denoised = None,
        model_kwargs: dict[str, Any] | None = None,
        eta: float = 0.0,
        noise: Tensor | NoiseAddress | None = None,
        *,
        cond_fn: Model | None = None,
    ) -> dict[str, Tensor]:
        """x_{t-1} by DDIM, eps following from the clipped x_0; Song et al. 2021, eq. 12.

        Differentiable where gradients are enabled; one op where they are not.

        Parameters
        ----------
        model, x, t, clip_denoised, denoised_fn, model_kwargs, noise
            As for `p_sample`.
        eta : float
            In [0, 1].
        cond_fn : callable, optional
            As for `condition_score`.

        Returns
        -------
        dict of Tensors, shape (B, C, ...)
            "sample" and "pred_xstart".
        """
        own = self._on_the_ops(*_PREDICTED, "_predict_eps_from_xstart")
        if cond_fn is None and not torch.is_grad_enabled() and own:
            return self._step(model, x, t, clip_denoised, denoised_fn, model_kwargs, noise, eta=eta)
        eta = check_number("eta", eta, 0, 1)
        out = self._conditioned(model, x, t, clip_denoised, denoised_fn, model_kwargs, cond_fn)
        eps = self._predict_eps_from_xstart(x, t, out["pred_xstart"])
        drawn, before = _noise(noise, x), self._rows("alphas_cumprod_prev", t, x)
        sigma = eta * self._rows("_ddim_sigma", t, x)
        sample = before.sqrt() * out["pred_xstart"] + (1 - before - sigma**2).clamp(min=0).sqrt() * eps
        sample = sample + per_sample(t != 0, x) * sigma * drawn
        return {"sample": sample.to(x.dtype), "pred_xstart": out["pred_xstart"]}

    def ddim_reverse_sample(
        self,
        model: Model,
        x: Tensor,
        t: Tensor,
        clip_denoised: bool = True,
        denoised_fn: Denoised = None,
        model_kwargs: dict[str, Any] | None = None,
        eta: float = 0.0,
        *,
        cond_fn: Model | None = None,
    ) -> dict[str, Tensor]:
        """x_{t+1} by DDIM's ODE the other way round, from an image to its noise; Song et al. 2021, section 4.3.

        Differentiable.

        Parameters
        ----------
        model, x, t, clip_denoised, denoised_fn, model_kwargs, cond_fn
            As for `ddim_sample`.
        eta : float
            0, since the way is deterministic.

        Returns
        -------
        dict of Tensors, shape (B, C, ...)
            "sample" and "pred_xstart".
        """
        if eta != 0:
            raise ValueError(f"eta must be 0 in ddim_reverse_sample, which is deterministic, got {eta}")
        out = self._conditioned(model, x, t, clip_denoised, denoised_fn, model_kwargs, cond_fn)
        # improved-diffusion does not call its own method here, and so none of a subclass
        eps = Process._predict_eps_from_xstart(self, x, t, out["pred_xstart"])
        after = self._rows("alphas_cumprod_next", t, x)
        sample = after.sqrt() * out["pred_xstart"] + (1 - after).sqrt() * eps
        return {"sample": sample.to(x.dtype), "pred_xstart": out["pred_xstart"]}

    def _conditioned(
        self,
        model: Model,
        x: Tensor,
        t: Tensor,
        clip_denoised: bool,
        denoised_fn: Denoised,
        model_kwargs: dict[str, Any] | None,
        cond_fn: Model | None,
    ) -> dict[str, Tensor]:
        out = self.p_mean_variance(model, x, t, clip_denoised, denoised_fn, model_kwargs)
        return out if cond_fn is None else self.condition_score(cond_fn, out, x, t, model_kwargs)

    def _step(
        self,
        model: Model,
        x: Tensor,
        t: Tensor,
        clip_denoised: bool,
        denoised_fn: Denoised,
        model_kwargs: dict[str, Any] | None,
        noise: Tensor | NoiseAddress | None,
        eta: float | None,
    ) -> dict[str, Tensor]:
        output = self._output(model, x, t, model_kwargs)
        self._split(output, x)
        return sample_and_x_0(
            self._tables(x.device),
            output,
            x,
            t,
            noise,
            kind=PREDICTIONS[self.model_mean_type.name],
            variance=VARIANCES[self.model_var_type.name],
            eta=eta,
            clip=(-1.0, 1.0) if clip_denoised else None,
            denoised_fn=denoised_fn,
        )

    def p_sample_loop(
        self,
        model: Model,
        shape: Sequence[int],
        noise: Tensor | None = None,
        clip_denoised: bool = True,
        denoised_fn: Denoised = None,
        model_kwargs: dict[str, Any] | None = None,
        device: torch.device | str | None = None,
        progress: bool = False,
        *,
        cond_fn: Model | None = None,
    ) -> Tensor:
        """x_0, shape `shape`, by `p_sample` from x_T; parameters as for `p_sample_loop_progressive`."""
        steps = self.p_sample_loop_progressive(
            model, shape, noise, clip_denoised, denoised_fn, model_kwargs, device, progress, cond_fn=cond_fn
        )
        return _last(steps)

    def ddim_sample_loop(
        self,
        model: Model,
        shape: Sequence[int],
        noise: Tensor | None = None,
        clip_denoised: bool = True,
        denoised_fn: Denoised = None,
        model_kwargs: dict[str, Any] | None = None,
        device: torch.device | str | None = None,
        progress: bool = False,
        eta: float = 0.0,
        *,
        cond_fn: Model | None = None,
    ) -> Tensor:
        """x_0, shape `shape`, by `ddim_sample` from x_T; parameters as for `ddim_sample_loop_progressive`."""
        steps = self.ddim_sample_loop_progressive(
            model, shape, noise, clip_denoised, denoised_fn, model_kwargs, device, progress, eta, cond_fn=cond_fn
        )
        return _last(steps)

    def p_sample_loop_progressive(
        self,
        model: Model,
        shape: Sequence[int],
        noise: Tensor | None = None,
        clip_denoised: bool = True,
        denoised_fn: Denoised = None,
        model_kwargs: dict[str, Any] | None = None,
        device: torch.device | str | None = None,
        progress: bool = False,
        *,
        cond_fn: Model | None = None,
    ) -> Iterator[dict[str, Tensor]]:
        """What `p_sample` returns at each of T - 1, ..., 0.

        Parameters
        ----------
        model : callable
        shape : sequence of int
        noise : Tensor, optional
            x_T; drawn if left out.
        clip_denoised, denoised_fn, model_kwargs, cond_fn
            As for `p_sample`.
        device : torch.device or str, optional
            If left out, that of `noise`, or of the model's parameters.
        progress : bool
            Show a bar.
        """
        options = dict(clip_denoised=clip_denoised, denoised_fn=denoised_fn, model_kwargs=model_kwargs, cond_fn=cond_fn)
        return self._loop(self.p_sample, model, shape, noise, device, progress, options)

    def ddim_sample_loop_progressive(
        self,
        model: Model,
        shape: Sequence[int],
        noise: Tensor | None = None,
        clip_denoised: bool = True,
        denoised_fn: Denoised = None,
        model_kwargs: dict[str, Any] | None = None,
        device: torch.device | str | None = None,
        progress: bool = False,
        eta: float = 0.0,
        *,
        cond_fn: Model | None = None,
    ) -> Iterator[dict[str, Tensor]]:
        """What `ddim_sample` returns at each of T - 1, ..., 0; parameters as for `p_sample_loop_progressive`."""
        options = dict(
            clip_denoised=clip_denoised, denoised_fn=denoised_fn, model_kwargs=model_kwargs, eta=eta, cond_fn=cond_fn
        )
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
        # a subclass's step need not know what is not asked for
        options = {name: value for name, value in options.items() if name != "cond_fn" or value is not None}
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


def _noise(noise: Tensor | NoiseAddress | None, x: Tensor) -> Tensor:
    if isinstance(noise, NoiseAddress):
        return noise_op(noise, x.shape, dtype=x.dtype, device=x.device)
    return torch.randn_like(x) if noise is None else noise


def _last(steps: Iterator[dict[str, Tensor]]) -> Tensor:
    for result in steps:
        final = result["sample"]
    return final
