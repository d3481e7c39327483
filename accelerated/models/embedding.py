"""What the networks are told about the timestep."""

import math

import torch
from torch import Tensor


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    r"""Sinusoidal embedding of the timestep t (Vaswani et al. 2017, section 3.5, as used by Ho et al. 2020).

    .. math::
        e(t) = (\cos \omega_0 t, \dots, \cos \omega_{h-1} t, \sin \omega_0 t, \dots, \sin \omega_{h-1} t),
        \quad \omega_i = 10000^{-i/h}, \quad h = \text{width} / 2

    Parameters
    ----------
    t : Tensor, shape (B,), int64 or float
        Timestep numbers, 1..T of the original chain.
    width : int
        Number of features, even and positive.

    Returns
    -------
    Tensor, shape (B, width), float32
        Values in [-1, 1].

    Raises
    ------
    ValueError
        If `width` is odd or less than 2, or `t` is not a vector.
    """
    if width < 2 or width % 2:
        raise ValueError(f"width={width}: the embedding needs an even number of features, at least 2")
    if t.ndim != 1:
        raise ValueError(f"t has shape {tuple(t.shape)}: expected (B,), one timestep for each sample")
    half = width // 2
    index = torch.arange(half, dtype=torch.float32, device=t.device)
    angle = t.float()[:, None] * torch.exp(index * (-math.log(10000.0) / half))  # (B, half)
    return torch.cat([angle.cos(), angle.sin()], dim=1)  # (B, width)
