"""What each op is compared with: the plain formula as a user would write it, and diffusers' own code.

Keyed by the op's name in `tests/descriptions`. Formulas take tensors alone, so that torch.compile can have them,
and the noise: given where the result is checked, None where it is timed, and then drawn as users do.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any
from unittest import mock

import torch
from noisestep.accelerated.address import NoiseAddress
from torch import Tensor
from torch.nn.functional import mse_loss

Given = Tensor | None
T, CLIP = 1000, (-1.0, 1.0)


@dataclass(frozen=True)
class Baseline:
    """The competitors of one op.

    Parameters
    ----------
    formula : function
        ``formula(*tensors, eps)`` in plain PyTorch.
    tensors : function
        What the formula takes besides the noise, from the arguments of the op's call; the batch is the first of it.
    moved : int
        Tensors of the batch's size that the function reads and writes at the least.
    random : bool
        Whether the numbers are a generator's own: their shape and type alone can be compared.
    differentiated : bool
        Whether the formula gives a loss, of which autograd gives the gradient in the first of the tensors.
    in_diffusers : function, optional
        ``in_diffusers(*arguments)`` makes a function of the noise.
    roundings : float
        How many roundings, in the batch's type, of the largest number of the result the formula may be off.
    """

    formula: Callable[..., Any]
    tensors: Callable[..., tuple[Any, ...]]
    moved: int
    random: bool = False
    differentiated: bool = False
    in_diffusers: Callable[..., Callable[[Given], Any]] | None = None
    roundings: float = 16


def _columns(values: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    # one for each sample, or one for all
    return values.reshape(-1, values.shape[-1], *(1,) * (x.ndim - 1)).unbind(1)


def _q_sample(x_0: Tensor, t: Tensor, table: Tensor, eps: Given) -> Tensor:
    signal, sigma = _columns(table[t], x_0)
    return signal * x_0 + sigma * (torch.randn_like(x_0) if eps is None else eps)


def _reverse_step(x_t: Tensor, output: Tensor, t: Tensor, table: Tensor, eps: Given) -> Tensor:
    # the fifth column is of DDIM's own eps: 0
    c_0, c_1, c_2, c_3, _, sigma = _columns(table[t], x_t)
    x_0 = (c_0 * x_t + c_1 * output).clamp(*CLIP)
    return c_2 * x_0 + c_3 * x_t + sigma * (torch.randn_like(x_t) if eps is None else eps)


def _multistep(x_t: Tensor, output: Tensor, t: Tensor, table: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """As a solver of diffusers has it: the new x_0 and those of the history, each with its number, in float32."""
    # what there is of the history, and the noise, which this call adds none of
    *history, _ = rest
    # as `schedule.StepRow` has the columns
    c_0, c_1, _, _, _, _, from_x, from_x_0, *weights = _columns(table[t], x_t)
    x = x_t.float()
    x_0 = (c_0 * x + c_1 * output).clamp(*CLIP)
    x_s = from_x * x + from_x_0 * x_0
    for weight, term in zip(weights, history, strict=False):
        x_s = x_s + weight * term
    return x_s.to(x_t.dtype), x_0.to(x_t.dtype)


def _of_multistep(table: Any, x_t: Tensor, output: Tensor, history: Any, t: Tensor, noise: Any, **_: Any) -> Any:
    return x_t, output, t.reshape(-1), table.table(), *history


def _loss(output: Tensor, kept: Tensor, eps: Given) -> Tensor:
    # the noise is the one that noised the batch, and was kept; a loss is not for 8 bits of a number
    return mse_loss(output.float(), (kept if eps is None else eps).float())


def _vlb_terms(
    x_0: Tensor, x_t: Tensor, output: Tensor, t: Tensor, table: Tensor, log_variance: Tensor, _: Given
) -> Any:
    """As improved-diffusion's `_vb_terms_bpd` has it, with the error function for the normal distribution's."""
    x_0, x_t, output = x_0.float(), x_t.float(), output.float()
    c_0, c_1, c_2, c_3 = _columns(table[t], x_t)
    (log_variance,) = _columns(log_variance[t], x_t)
    true, mean = c_2 * x_0 + c_3 * x_t, c_2 * (c_0 * x_t + c_1 * output) + c_3 * x_t
    divergence = 0.5 * (true - mean) ** 2 * torch.exp(-log_variance)
    centred, inverse = x_0 - mean, torch.exp(-0.5 * log_variance)
    below_upper = 0.5 * (1 + torch.erf((centred + 1 / 255) * inverse * 0.5**0.5))
    below_lower = 0.5 * (1 + torch.erf((centred - 1 / 255) * inverse * 0.5**0.5))
    inside = torch.where(x_0 < -0.999, below_upper, below_upper - below_lower)
    inside = torch.where(x_0 > 0.999, 1 - below_lower, inside)
    nats = torch.where(t.reshape(-1, 1, 1, 1) == 1, -inside.clamp(min=1e-12).log(), divergence)
    return nats.mean(dim=(1, 2, 3)) / math.log(2)


def _of_vlb_terms(schedule: Any, x_0: Tensor, x_t: Tensor, output: Tensor, t: Tensor, **_: Any) -> tuple[Any, ...]:
    log_variance = torch.tensor(schedule.schedule.posterior_log_variance[:, None], dtype=torch.float32)
    return x_0, x_t, output, t, schedule.reverse_table()[:, :4], log_variance.to(x_t.device)


def _of_reverse_step(schedule: Any, x_t: Tensor, output: Tensor, t: Tensor, noise: Any, **_: Any) -> tuple[Any, ...]:
    # a row by a tensor of one element: `table[t]` with a 0-dim t waits for the device
    return x_t, output, t.reshape(-1), schedule.reverse_table()[:, :6].to(x_t.dtype)


@cache
def _scheduler() -> Any:
    import diffusers

    return diffusers.DDPMScheduler()


@cache
def _sampling(device: torch.device) -> tuple[Any, torch.Generator]:
    import diffusers

    made = diffusers.DDPMScheduler()
    made.set_timesteps(T, device=device)
    return made, torch.Generator(device).manual_seed(0)


def _add_noise(schedule: Any, x_0: Tensor, t: Tensor, noise: Any, **_: Any) -> Callable[[Given], Any]:
    # diffusers counts from 0
    return lambda eps: _scheduler().add_noise(x_0, torch.randn_like(x_0) if eps is None else eps, t - 1)


def _step(schedule: Any, x_t: Tensor, output: Tensor, t: Tensor, noise: Any, **_: Any) -> Callable[[Given], Any]:
    scheduler, generator = _sampling(x_t.device)
    at = scheduler.timesteps[T - int(t)]

    def call(eps: Given) -> Any:
        if eps is None:
            return scheduler.step(output, at, x_t, generator=generator).prev_sample
        with mock.patch("diffusers.schedulers.scheduling_ddpm.randn_tensor", return_value=eps):
            return scheduler.step(output, at, x_t).prev_sample

    return call


def _like(noise: NoiseAddress, shape: tuple[int, ...], **how: Any) -> tuple[Tensor]:
    return (torch.empty(shape, **how),)


BASELINES = {
    "noise": Baseline(lambda like, _: torch.randn_like(like), _like, moved=1, random=True),
    "q_sample": Baseline(
        _q_sample,
        lambda schedule, x_0, t, noise, **_: (x_0, t, schedule.forward_table().to(x_0.dtype)),
        # x_0 and x_t
        moved=2,
        in_diffusers=_add_noise,
    ),
    # x_t, the output and x_{t-1}
    "reverse_step": Baseline(_reverse_step, _of_reverse_step, moved=3, in_diffusers=_step),
    # x_t, the output, two of the history, x_s and the new x_0
    "multistep": Baseline(_multistep, _of_multistep, moved=6),
    # the output and its gradient
    "simple_loss": Baseline(
        _loss, lambda output, noise, **_: (output, torch.randn_like(output)), moved=2, differentiated=True
    ),
    "loss_and_gradient": Baseline(
        _loss, lambda output, noise, **_: (output, torch.randn_like(output)), moved=2, differentiated=True
    ),
    # a sum of n is about sqrt(n), and each of its up to 18 additions may round one of n
    "pairwise_sum": Baseline(
        lambda values, _: values.sum(dim=1), lambda values: (values,), moved=1, roundings=18 * 2**9
    ),
    # x_0, x_t and the output; float32 leaves two digits of the difference of two means
    "vlb_terms": Baseline(_vlb_terms, _of_vlb_terms, moved=3, roundings=2.0**24 / 100),
    "words": Baseline(
        lambda like, _: torch.randint_like(like, 1 << 32),
        lambda noise, batch, count, device: (torch.empty(batch, count, dtype=torch.int64, device=device),),
        moved=1,
        random=True,
    ),
    "uniform": Baseline(
        lambda like, _: torch.rand_like(like),
        lambda noise, batch, device: (torch.empty(batch, device=device),),
        moved=1,
        random=True,
    ),
    "integers": Baseline(
        lambda like, _: torch.randint_like(like, 1, 1001),
        lambda noise, batch, low, high, device: (torch.empty(batch, dtype=torch.int64, device=device),),
        moved=1,
        random=True,
    ),
    "advance": Baseline(lambda start, _: start.add_(1), lambda start, by: (start,), moved=2),
}
