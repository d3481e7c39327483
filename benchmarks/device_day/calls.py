"""What is timed: each op as this package has it, beside eager PyTorch, torch.compile, diffusers, and a copy."""

import functools
import importlib.util
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from noisestep.accelerated import ops
from noisestep.accelerated.address import FORWARD, REVERSE, NoiseAddress
from noisestep.accelerated.schedule import DeviceSchedule
from noisestep.reference import Schedule
from torch import Tensor

from . import gpu

OURS = "noisestep"
# tensors of the batch's size that a function reads and writes at the least
TENSORS = {"noise": 1, "q_sample": 2, "reverse_step": 3, "loss and gradient": 2, "copy": 2, "multiply": 2}
T = 500


@dataclass(frozen=True)
class Call:
    """A function of no arguments, who provides it, and whether it needs autograd or waits for the device."""

    op: str
    provider: str
    run: Callable[[], Any]
    grad: bool = False
    waits: bool = False


@functools.cache
def schedule(device: torch.device) -> DeviceSchedule:
    """The linear schedule of 1000 steps on a device."""
    return DeviceSchedule(Schedule.from_name("linear", 1000), device)


# formulas as a user would write them. A row by a tensor of one element: `table[t]` with a 0-dim t waits for the device
def _q_sample(x_0: Tensor, t: Tensor, table: Tensor) -> Tensor:
    signal, noise = table[t].reshape(len(x_0), 2, *(1,) * (x_0.ndim - 1)).unbind(1)
    return signal * x_0 + noise * torch.randn_like(x_0)


def _reverse_step(x_t: Tensor, output: Tensor, t: Tensor, table: Tensor) -> Tensor:
    c = table[t].squeeze(0)
    x_0 = (c[0] * x_t + c[1] * output).clamp(-1, 1)
    return c[2] * x_0 + c[3] * x_t + c[5] * torch.randn_like(x_t)


def _loss(output: Tensor, eps: Tensor) -> Tensor:
    return torch.nn.functional.mse_loss(output.float(), eps.float())


def calls(shape: tuple[int, ...], dtype: torch.dtype, *, compiled: bool) -> list[Call]:
    """Every provider of every op on one batch.

    Parameters
    ----------
    shape : tuple of int
    dtype : torch.dtype
    compiled : bool
        Also torch.compile, which takes seconds for each op.
    """
    device = gpu.DEVICE
    tables = schedule(device)
    x = torch.randn(shape, device=device).to(dtype)
    output, eps = torch.randn_like(x), torch.randn_like(x)
    t, one_t = torch.randint(1, 1001, (shape[0],), device=device), torch.tensor(T, device=device)
    forward, reverse = tables.forward_table().to(dtype), tables.reverse_table(clip=(-1.0, 1.0)).to(dtype)
    steps = itertools.count(1)
    at, backwards = NoiseAddress(0, FORWARD, 3), NoiseAddress(0, REVERSE, 3)

    def gradient(loss: Callable[[Tensor], Tensor]) -> Callable[[], Any]:
        def call() -> Any:
            # a leaf of this call, on whatever stream it runs
            leaf = output.detach().requires_grad_()
            return torch.autograd.grad(loss(leaf), leaf)

        return call

    found = [
        # one pass over memory: by the driver's copy, and by a kernel
        Call("copy", "torch", lambda: x.clone()),
        Call("multiply", "torch", lambda: torch.mul(x, 2.0)),
        Call(
            "noise", OURS, lambda: ops.noise(NoiseAddress(0, FORWARD, next(steps)), shape, dtype=dtype, device=device)
        ),
        Call("noise", "eager", lambda: torch.randn_like(x)),
        Call("q_sample", OURS, lambda: ops.q_sample(tables, x, t, NoiseAddress(0, FORWARD, next(steps)))),
        Call("q_sample", "eager", lambda: _q_sample(x, t, forward)),
        Call("reverse_step", OURS, lambda: ops.reverse_step(tables, x, output, one_t, backwards, clip=(-1, 1))),
        Call("reverse_step", f"{OURS}, int t", lambda: ops.reverse_step(tables, x, output, T, backwards, clip=(-1, 1))),
        Call("reverse_step", "eager", lambda: _reverse_step(x, output, one_t[None], reverse)),
        Call("loss and gradient", OURS, gradient(lambda leaf: ops.simple_loss(leaf, at)), grad=True),
        Call("loss and gradient", f"{OURS}, without autograd", lambda: ops.loss_and_gradient(output, at)),
        Call("loss and gradient", "eager", gradient(lambda leaf: _loss(leaf, eps)), grad=True),
    ]
    if compiled:
        q, r, loss = (torch.compile(f, dynamic=False) for f in (_q_sample, _reverse_step, _loss))
        found += [
            Call("q_sample", "torch.compile", lambda: q(x, t, forward)),
            Call("reverse_step", "torch.compile", lambda: r(x, output, one_t[None], reverse)),
            Call("loss and gradient", "torch.compile", gradient(lambda leaf: loss(leaf, eps)), grad=True),
        ]
    if importlib.util.find_spec("diffusers"):
        found += _in_diffusers(x, output, t)
    return found


def _in_diffusers(x: Tensor, output: Tensor, t: Tensor) -> list[Call]:
    import diffusers

    # one scheduler an op: add_noise moves the tables of its own to the device
    forward, reverse = diffusers.DDPMScheduler(), diffusers.DDPMScheduler()
    reverse.set_timesteps(1000, device=x.device)
    one_t, generator = reverse.timesteps[T], torch.Generator(x.device).manual_seed(0)
    return [
        Call("q_sample", "diffusers", lambda: forward.add_noise(x, torch.randn_like(x), t - 1)),
        # compares timesteps on the host
        Call(
            "reverse_step",
            "diffusers",
            lambda: reverse.step(output, one_t, x, generator=generator).prev_sample,
            waits=True,
        ),
    ]
