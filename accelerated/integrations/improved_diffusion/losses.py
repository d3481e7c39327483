"""`GaussianDiffusion`: the process, and the losses that a network is trained and judged by."""

import math
from typing import Any

import torch
from torch import Tensor

from ...address import NoiseAddress
from ...ops import simple_loss, vlb_terms
from .kinds import LossType
from .process import Model, Process
from .step import mean_and_x_0


class GaussianDiffusion(Process):
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
        output = model(x_t, self._model_t(t), **(model_kwargs or {}))
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
        clip = (-1.0, 1.0) if clip_denoised else None
        columns: dict[str, list[Tensor]] = {"vb": [], "xstart_mse": [], "mse": []}
        for step in range(self.num_timesteps - 1, -1, -1):
            t = torch.full((len(x_start),), step, device=x_start.device)
            noise = torch.randn_like(x_start)
            x_t = self.q_sample(x_start, t, noise)
            output = model(x_t, self._model_t(t), **(model_kwargs or {}))
            prediction, _ = self._split(output, x_t)
            tables = self._tables(x_t.device)
            _, x_0 = mean_and_x_0(tables, prediction, x_t, t, kind=self._prediction, clip=clip, denoised_fn=None)
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
