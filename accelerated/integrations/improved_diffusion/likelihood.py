"""A term of the variational bound from the means and variances of both sides, for what the op `vlb_terms` has not."""

import math

import torch
from torch import Tensor

from ...backends.eager import per_sample

# improved-diffusion's floor under a probability
_CLAMP = 1e-12


def term(
    x_0: Tensor,
    true_mean: Tensor,
    true_log_variance: Tensor,
    mean: Tensor,
    log_variance: Tensor,
    t: Tensor,
    *,
    compatible: bool,
) -> Tensor:
    """KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), at t = 0 -log p(x_0 | x_1), in bits per dimension.

    Parameters
    ----------
    x_0, true_mean, true_log_variance, mean, log_variance : Tensor, shape (B, ...)
    t : Tensor of int64, shape (B,)
        In 0..T - 1.
    compatible : bool
        Compute in the tensors' own type, and the decoder with improved-diffusion's approximation; else in float64.

    Returns
    -------
    Tensor of float32, shape (B,)
    """
    if not compatible:
        x_0, true_mean, true_log_variance = x_0.double(), true_mean.double(), true_log_variance.double()
        mean, log_variance = mean.double(), log_variance.double()
    log_ratio = true_log_variance - log_variance
    divergence = (torch.expm1(log_ratio) - log_ratio + (true_mean - mean) ** 2 * torch.exp(-log_variance)) / 2
    # elsewhere a harmless value, lest the derivative of what is not chosen be NaN
    first = per_sample(t == 0, x_0)
    mean, half_log = torch.where(first, mean, x_0), torch.where(first, log_variance / 2, 0)
    likelihood = (_clamped if compatible else _exact)(x_0, mean, half_log)
    nats = torch.where(first, -likelihood, divergence)
    return (nats.flatten(1).mean(1) / math.log(2)).float()


def _edges(x_0: Tensor, mean: Tensor, half_log: Tensor) -> tuple[Tensor, Tensor]:
    """The edges of a level of x_0, in units of sigma from the mean."""
    return (x_0 - 1 / 255 - mean) * torch.exp(-half_log), (x_0 + 1 / 255 - mean) * torch.exp(-half_log)


def _exact(x_0: Tensor, mean: Tensor, half_log: Tensor) -> Tensor:
    low, high = _edges(x_0, mean, half_log)
    # far enough: float64 holds the square
    low, high = torch.where(x_0 < -1 + 1 / 255, -1e9, low), torch.where(x_0 > 1 - 1 / 255, 1e9, high)
    # an interval on the right is mirrored: the left tail is known to full precision
    mirrored = low + high > 0
    low, high = torch.where(mirrored, -high, low), torch.where(mirrored, -low, high)
    log_high = torch.special.log_ndtr(high)
    return log_high + torch.log(-torch.expm1(torch.special.log_ndtr(low) - log_high))


def _clamped(x_0: Tensor, mean: Tensor, half_log: Tensor) -> Tensor:
    below, above = (_normal_cdf(edge) for edge in _edges(x_0, mean, half_log))
    inside = torch.where(x_0 > 0.999, 1 - below, above - below)
    return torch.where(x_0 < -0.999, above, inside).clamp(min=_CLAMP).log()


def _normal_cdf(z: Tensor) -> Tensor:
    """Page 1977's approximation of Phi, at most 2e-4 off."""
    return (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))) / 2
