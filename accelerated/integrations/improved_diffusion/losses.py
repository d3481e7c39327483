"""`GaussianDiffusion`: the process, and the losses that a network is trained and judged by."""

import math
from typing import Any

import torch
from torch import Tensor

from ...address import NoiseAddress
from ...ops import simple_loss, vlb_terms
from .kinds import VARIANCES, LossType, ModelMeanType, ModelVarType
from .likelihood import term
from .process import Model, Process


class GaussianDiffusion(Process):
    """A diffusion process with improved-diffusion's interface; t counts 0..T - 1, as there.

    Parameters
    ----------
    betas : array_like, shape (T,)
        Each in (0, 1).
    model_mean_type : {"PREVIOUS_X", "START_X", "EPSILON"}
        What the network predicts: a member of `ModelMeanType`, its name, or improved-diffusion's own member.
    model_var_type : {"LEARNED", "FIXED_SMALL", "FIXED_LARGE", "LEARNED_RANGE"}
    loss_type : {"MSE", "RESCALED_MSE", "KL", "RESCALED_KL"}
    rescale_timesteps : bool
        Tell the network t 1000 / T, a float.
    compatible : bool
        Compute the bound's terms as improved-diffusion does: in float32, and the decoder's at t = 0 by an approximation
        that clamps probabilities at 1e-12. Otherwise they are computed in float64, and the decoder's is exact.

    Attributes
    ----------
    betas, alphas_cumprod, alphas_cumprod_prev, alphas_cumprod_next, sqrt_alphas_cumprod, \
sqrt_one_minus_alphas_cumprod, log_one_minus_alphas_cumprod, sqrt_recip_alphas_cumprod, sqrt_recipm1_alphas_cumprod, \
posterior_variance, posterior_log_variance_clipped, posterior_mean_coef1, posterior_mean_coef2 : ndarray, shape (T,)
        float64, and read-only: they follow from the betas.
    num_timesteps : int
        T.

    Raises
    ------
    ValueError
        For betas that are none, or a kind that is not among those above.
    """

    def training_losses(
        self,
        model: Model,
        x_start: Tensor,
        t: Tensor,
        model_kwargs: dict[str, Any] | None = None,
        noise: Tensor | NoiseAddress | None = None,
    ) -> dict[str, Tensor]:
        """The losses of a batch; Nichol & Dhariwal 2021, section 3.1.

        Parameters
        ----------
        model : callable
            ``model(x, t, **model_kwargs)``.
        x_start : Tensor, shape (B, C, ...)
            Clean images in [-1, 1].
        t : Tensor of int64, shape (B,)
            In 0..T - 1.
        model_kwargs : dict, optional
        noise : Tensor, shape (B, C, ...), or NoiseAddress, optional
            Drawn by `randn_like` if left out. From an address it is made where it is wanted, and never stored.

        Returns
        -------
        dict of Tensors of float32, shape (B,)
            "loss", and "mse" and "vb" where it is made of them.
        """
        noise = torch.randn_like(x_start) if noise is None else noise
        x_t = self.q_sample(x_start, t, noise)
        if self.loss_type.is_vb():
            loss = self._vb_terms_bpd(model, x_start, x_t, t, clip_denoised=False, model_kwargs=model_kwargs)["output"]
            return {"loss": loss * self.num_timesteps if self.loss_type is LossType.RESCALED_KL else loss}
        terms = {}
        prediction, values = self._split(self._output(model, x_t, t, model_kwargs), x_t)
        if values is not None:
            # the bound teaches the variance alone
            frozen = torch.cat([prediction.detach(), values], dim=1)
            bound = self._vb_terms_bpd(lambda x, t: frozen, x_start, x_t, t, clip_denoised=False)["output"]
            terms["vb"] = bound * (self.num_timesteps / 1000) if self.loss_type is LossType.RESCALED_MSE else bound
        x_0 = x_start
        if self.model_mean_type is ModelMeanType.PREVIOUS_X:
            x_0, _, _ = self.q_posterior_mean_variance(x_start=x_start, x_t=x_t, t=t)
        kind = self._prediction or "x_0"
        terms["mse"] = simple_loss(prediction, noise, prediction=kind, x_0=x_0, reduction="none")
        return {**terms, "loss": sum(terms.values(), torch.zeros_like(terms["mse"]))}

    def _vb_terms_bpd(
        self,
        model: Model,
        x_start: Tensor,
        x_t: Tensor,
        t: Tensor,
        clip_denoised: bool = True,
        model_kwargs: dict[str, Any] | None = None,
    ) -> dict[str, Tensor]:
        """The bound's terms at t, "output", in bits per dimension, float32, shape (B,); and the "pred_xstart"."""
        own = self._on_the_ops("p_mean_variance", "q_posterior_mean_variance", "_predict_xstart_from_eps")
        if own and not self.compatible and not (x_start.requires_grad or x_t.requires_grad):
            output = self._output(model, x_t, t, model_kwargs)
            x_0 = self._x_0(self._split(output, x_t)[0], x_t, t, clip_denoised)
            clip = (-1.0, 1.0) if clip_denoised else None
            return {"output": self._bound(x_start, x_t, output, t, clip), "pred_xstart": x_0}
        true_mean, _, true_log_variance = self.q_posterior_mean_variance(x_start=x_start, x_t=x_t, t=t)
        out = self.p_mean_variance(model, x_t, t, clip_denoised=clip_denoised, model_kwargs=model_kwargs)
        of_model = out["mean"], out["log_variance"]
        output = term(x_start, true_mean, true_log_variance, *of_model, t, compatible=self.compatible)
        return {"output": output, "pred_xstart": out["pred_xstart"]}

    def _bound(self, x_0: Tensor, x_t: Tensor, output: Tensor, t: Tensor, clip: tuple[float, float] | None) -> Tensor:
        schedule, arguments = self._counted_from_1(x_t.device), (x_0, x_t, output, t + 1)
        options: Any = dict(prediction=self._prediction, clip=clip)
        terms = vlb_terms(schedule, *arguments, **options, variance=VARIANCES[self.model_var_type.name])
        if self.model_var_type is ModelVarType.FIXED_LARGE:
            terms = torch.where(t == 0, vlb_terms(schedule, *arguments, **options, variance="posterior"), terms)
        return terms.float()

    def _prior_bpd(self, x_start: Tensor) -> Tensor:
        """KL(q(x_T | x_0) || N(0, I)) in bits per dimension, float32, shape (B,)."""
        alpha_bar = float(self.alphas_cumprod[-1])
        squares = x_start.double().square().flatten(1).mean(1)
        return ((alpha_bar * squares - alpha_bar - math.log1p(-alpha_bar)) / (2 * math.log(2))).float()

    @torch.no_grad()
    def calc_bpd_loop(
        self,
        model: Model,
        x_start: Tensor,
        clip_denoised: bool = True,
        model_kwargs: dict[str, Any] | None = None,
    ) -> dict[str, Tensor]:
        """The whole variational bound, with one draw of x_t at each t; Ho et al. 2020, eq. 5.

        Parameters
        ----------
        model : callable
            ``model(x, t, **model_kwargs)``.
        x_start : Tensor, shape (B, C, ...)
            Clean images in [-1, 1].
        clip_denoised : bool
            Clip the predicted x_0 to [-1, 1].
        model_kwargs : dict, optional

        Returns
        -------
        dict of Tensors
            In bits per dimension "total_bpd" and "prior_bpd", (B,), and "vb", (B, T), t = T - 1 first; and the mean
            squared errors of x_0 and eps, "xstart_mse" and "mse", (B, T).
        """
        columns: dict[str, list[Tensor]] = {"vb": [], "xstart_mse": [], "mse": []}
        for step in range(self.num_timesteps - 1, -1, -1):
            t = torch.full((len(x_start),), step, device=x_start.device)
            noise = torch.randn_like(x_start)
            x_t = self.q_sample(x_start, t, noise)
            out = self._vb_terms_bpd(model, x_start, x_t, t, clip_denoised=clip_denoised, model_kwargs=model_kwargs)
            eps = self._predict_eps_from_xstart(x_t, t, out["pred_xstart"])
            columns["vb"].append(out["output"])
            columns["xstart_mse"].append((out["pred_xstart"] - x_start).square().flatten(1).mean(1))
            columns["mse"].append((eps - noise).square().flatten(1).mean(1))
        stacked = {name: torch.stack(column, dim=1) for name, column in columns.items()}
        prior = self._prior_bpd(x_start)
        return {"total_bpd": stacked["vb"].sum(dim=1) + prior, "prior_bpd": prior, **stacked}
