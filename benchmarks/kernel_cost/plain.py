"""The same functions in plain PyTorch, as people write them: what `torch.compile` and eager PyTorch are given."""

from collections.abc import Callable

import torch
from torch import Tensor

_T = 1000


def _rows(table: Tensor, t: Tensor) -> Tensor:
    # `table[t]` asks for a real device while Inductor traces
    return torch.ops.aten.index.Tensor(table, [t]).view(-1, 1, 1, 1)


def noise(x: Tensor) -> Tensor:
    """Standard normal noise like x."""
    return torch.randn_like(x)


def q_sample(x_0: Tensor, signal: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """x_t and the noise, which the loss needs again."""
    eps = torch.randn_like(x_0)
    return (_rows(signal, t) * x_0 + _rows(noise, t) * eps).to(x_0.dtype), eps


def reverse_step(x: Tensor, eps: Tensor, c_x: Tensor, c_eps: Tensor, sigma: Tensor, t: Tensor) -> Tensor:
    """x_{t-1} from a prediction of the noise, with folded coefficients."""
    z = torch.randn_like(x)
    return (_rows(c_x, t) * x + _rows(c_eps, t) * eps + _rows(sigma, t) * z).to(x.dtype)


def reverse_step_clipped(
    x: Tensor, eps: Tensor, c_0: Tensor, c_1: Tensor, c_2: Tensor, c_3: Tensor, sigma: Tensor, t: Tensor
) -> Tensor:
    """x_{t-1} by way of a predicted x_0 in [-1, 1]."""
    z = torch.randn_like(x)
    x_0 = (_rows(c_0, t) * x + _rows(c_1, t) * eps).clamp(-1, 1)
    return (_rows(c_2, t) * x_0 + _rows(c_3, t) * x + _rows(sigma, t) * z).to(x.dtype)


def loss_and_gradient(output: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """The mean square and its gradient, in one graph: what autograd's two graphs can at best be fused to."""
    difference = output.float() - eps.float()
    return (difference * difference).mean(), (difference * (2.0 / difference.numel())).to(output.dtype)


Make = Callable[[tuple[int, ...], torch.dtype], tuple[Tensor, ...]]


def _arguments(batches: int, tables: int) -> Make:
    def make(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
        images = [torch.zeros(shape, dtype=dtype) for _ in range(batches)]
        t = [torch.zeros(shape[0], dtype=torch.long)] if tables else []
        return (*images, *(torch.zeros(_T + 1) for _ in range(tables)), *t)

    return make


# by the name of the case that computes the same
FUNCTIONS: dict[str, tuple[Callable[..., object], Make]] = {
    "noise": (noise, _arguments(1, 0)),
    "q_sample": (q_sample, _arguments(1, 2)),
    "reverse_step, β variance": (reverse_step, _arguments(2, 3)),
    "reverse_step, clipped, posterior variance": (reverse_step_clipped, _arguments(2, 5)),
    "loss_and_gradient": (loss_and_gradient, _arguments(2, 0)),
}
