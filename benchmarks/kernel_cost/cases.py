"""The calls whose kernels are counted: every op, with the options that change its code."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import torch
from noisestep.accelerated.address import FORWARD, REVERSE, NoiseAddress
from noisestep.accelerated.ops import (
    loss_and_gradient,
    noise,
    pairwise_sum,
    q_sample,
    reverse_step,
    simple_loss,
    vlb_terms,
)
from noisestep.accelerated.schedule import DeviceSchedule
from noisestep.reference import Schedule
from torch import Tensor

from .specialise import layouts

# a training batch of CIFAR-10 images, and latents of 512 x 512 images, so many that a GPU is full: a small batch takes
# smaller programs, whose start counts for more
SHAPES = {"images": (64, 3, 32, 32), "latents": (128, 4, 64, 64)}
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
LAYOUTS = ("contiguous", "channels_last")


Call: TypeAlias = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """A call of an op on a batch x.

    Parameters
    ----------
    name : str
        As the tables show it.
    prepare : function
        Takes x, in the layout and dtype that are asked for, makes what else is needed, and returns the call.
    elementwise : bool
        Whether nothing is summed: no shared memory is due then.
    dtypes, layouts : tuple of str
        Those that make a kernel of their own.
    """

    name: str
    prepare: Callable[[Tensor], Call]
    elementwise: bool = True
    dtypes: tuple[str, ...] = tuple(DTYPES)
    layouts: tuple[str, ...] = LAYOUTS


@cache
def _schedule() -> DeviceSchedule:
    return DeviceSchedule(Schedule.from_name("linear", 1000))


def _t(x: Tensor) -> Tensor:
    return torch.arange(1, len(x) + 1)


def _forward() -> NoiseAddress:
    return NoiseAddress(seed=0, stream=FORWARD, step=17)


def _noise(x: Tensor) -> Call:
    return lambda: noise(_forward(), x.shape, dtype=x.dtype)


def _q_sample(x: Tensor) -> Call:
    t = _t(x)
    return lambda: q_sample(_schedule(), x, t, _forward())


def _q_sample_uint8(x: Tensor) -> Call:
    t, x_0 = _t(x), x.to(torch.uint8)
    return lambda: q_sample(_schedule(), x_0, t, _forward(), dtype=x.dtype)


def _reverse(**options: Any) -> Callable[[Tensor], Call]:
    def prepare(x: Tensor) -> Call:
        t = _t(x)
        channels = 2 * x.shape[1] if options.get("variance") == "learned_range" else x.shape[1]
        output = torch.zeros(len(x), channels, *x.shape[2:], dtype=x.dtype)
        if not x.is_contiguous():
            output = layouts(output, "channels_last")
        given = (output, output.clone()) if "guidance" in options else output
        return lambda: reverse_step(_schedule(), x, given, t, NoiseAddress(seed=0, stream=REVERSE, step=t), **options)

    return prepare


def _loss(x: Tensor) -> Call:
    output = x.detach().requires_grad_()
    return lambda: simple_loss(output, _forward()).backward()


def _loss_and_gradient(x: Tensor) -> Call:
    return lambda: loss_and_gradient(x, _forward())


def _loss_v(x: Tensor) -> Call:
    output, t, weight = x.detach().requires_grad_(), _t(x), torch.ones(len(x))
    options: dict[str, Any] = dict(prediction="v", schedule=_schedule(), t=t, x_0=x, weight=weight)
    return lambda: simple_loss(output, _forward(), **options).backward()


def _vlb(x: Tensor) -> Call:
    t = _t(x)
    return lambda: vlb_terms(_schedule(), x, x, x, t)


def _sum(x: Tensor) -> Call:
    rows = x.flatten(1)
    return lambda: pairwise_sum(rows)


CASES = (
    Case("noise", _noise, layouts=("contiguous",)),
    Case("q_sample", _q_sample),
    Case("q_sample, uint8 images", _q_sample_uint8),
    Case("reverse_step, β variance", _reverse(variance="beta")),
    Case("reverse_step, clipped, posterior variance", _reverse(clip=(-1.0, 1.0))),
    Case("reverse_step, clipped, guided", _reverse(clip=(-1.0, 1.0), guidance=3.0)),
    Case("reverse_step, clipped, learned variance", _reverse(clip=(-1.0, 1.0), variance="learned_range")),
    Case("simple_loss with gradient", _loss, elementwise=False),
    Case("loss_and_gradient", _loss_and_gradient, elementwise=False),
    Case("simple_loss with gradient, v, weighted", _loss_v, elementwise=False),
    Case("vlb_terms", _vlb, elementwise=False, dtypes=("float32",)),
    Case("pairwise_sum", _sum, elementwise=False, dtypes=("float32",), layouts=("contiguous",)),
)


def batch(shape: tuple[int, ...], dtype: str, layout: str) -> Tensor:
    """A batch to count with. Its values are never read."""
    return layouts(torch.zeros(shape, dtype=DTYPES[dtype]), layout)
