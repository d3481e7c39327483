"""Methods of improved-diffusion's `GaussianDiffusion`, and of guided-diffusion's and DiT's, on the ops."""

import functools
import inspect
from typing import Any

import torch
from torch import Tensor

from ...ops import q_sample
from ..methods import DDIM, FORWARD, POSTERIOR, X_0_FROM_EPS, Method, Tables, plain
from .kinds import PREDICTIONS, VARIANCES
from .step import sample_and_x_0

SIGNS = ("model_mean_type", "training_losses")


def _q_sample(tables: Tables, target: Any, x_start: Tensor, t: Tensor, noise: Tensor | None = None) -> Any:
    given = () if noise is None else (noise,)
    if not plain(x_start, t, *given):
        return NotImplemented
    return q_sample(tables.on(x_start.device), x_start, t, torch.randn_like(x_start) if noise is None else noise)


# the libraries differ in where cond_fn stands among the arguments
_signature = functools.cache(inspect.signature)


def _step(
    tables: Tables,
    target: Any,
    model: Any,
    x: Tensor,
    t: Tensor,
    clip_denoised: bool,
    denoised_fn: Any,
    model_kwargs: dict[str, Any] | None,
    cond_fn: Any = None,
    eta: float | None = None,
) -> Any:
    prediction = PREDICTIONS.get(target.model_mean_type.name)
    variance = VARIANCES.get(target.model_var_type.name)
    if (
        prediction is None
        or variance is None
        or denoised_fn is not None
        or cond_fn is not None
        # what the library's own gives a gradient to, the ops do not
        or torch.is_grad_enabled()
        or not plain(x, t)
    ):
        return NotImplemented
    # a respaced chain tells the model its own numbers by wrapping it; DiT rescales none
    model = target._wrap_model(model) if hasattr(target, "_wrap_model") else model
    told = target._scale_timesteps(t) if hasattr(target, "_scale_timesteps") else t
    output = model(x, told, **(model_kwargs or {}))
    return sample_and_x_0(
        tables.on(x.device),
        # DiT's models may put out something beside it
        output[0] if isinstance(output, tuple) else output,
        x,
        t,
        None,
        kind=prediction,
        variance=variance,
        eta=eta,
        clip=(-1.0, 1.0) if clip_denoised else None,
    )


def _p_sample(tables: Tables, target: Any, *arguments: Any, **options: Any) -> Any:
    return _bound(type(target).p_sample, tables, target, arguments, options)


def _ddim_sample(tables: Tables, target: Any, *arguments: Any, **options: Any) -> Any:
    return _bound(type(target).ddim_sample, tables, target, arguments, options)


def _bound(theirs: Any, tables: Tables, target: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    call = _signature(theirs).bind(target, *arguments, **options)
    call.apply_defaults()
    _, *names = call.arguments
    return _step(tables, target, **{name: call.arguments[name] for name in names})


_PREDICTED = (
    "p_mean_variance",
    "_predict_xstart_from_eps",
    "q_posterior_mean_variance",
    "_scale_timesteps",
    "_wrap_model",
)

METHODS = {
    "q_sample": Method(_q_sample, (), FORWARD),
    "p_sample": Method(_p_sample, _PREDICTED, (*X_0_FROM_EPS, *POSTERIOR)),
    "ddim_sample": Method(_ddim_sample, (*_PREDICTED, "_predict_eps_from_xstart"), (*X_0_FROM_EPS, *POSTERIOR, *DDIM)),
}

# of improved-diffusion 1bc7bbb, guided-diffusion 22e0df8 and DiT ed81ce2, each with a `SpacedDiffusion`
KNOWN = {
    name: frozenset(digests.split())
    for name, digests in {
        "q_sample": "2d2161171a059517 94c80a2ccdcec281",
        "p_sample": "9dc157568da78c4f 45b1f8652383e8bf",
        "ddim_sample": "6141595eee021252 7ffcbd75a30d287e eaba4737eb70b1e2",
        "p_mean_variance": "8006ce73461e35cb c6094b6d1340443f 5b3c718760553d04",
        "q_posterior_mean_variance": "9f6a627cca46f59e 772513ed3719625d",
        "_predict_xstart_from_eps": "9c3b4dd1fe9951ef 7ce6c479d13f6209",
        "_predict_eps_from_xstart": "892edd3516e6b120 4fa55cbef6356155",
        "_scale_timesteps": "8c5dde171549f6d1 f6bf4e76509c5edd",
        "_wrap_model": "58e0e2982ab67311 570a558d96ce949e",
    }.items()
}
