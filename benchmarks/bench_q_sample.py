"""q_sample: noising with fresh noise, its gradients in x_0 and in a given eps, and its ratio to diffusers' on a CPU."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from bounds import Exact, gamma, wide
from cases import ON_DEVICE, SCHEDULE, Case, address, numpy_eps
from noisestep.accelerated.address import FORWARD
from noisestep.accelerated.ops import q_sample
from noisestep.reference import forward
from providers import Op, compiled, plan, run, versus


def inputs(case: Case) -> dict:
    return dict(x_0=case.image(), t=case.timesteps(), eps=case.eps(FORWARD))


def exact(x) -> Exact:
    signal, sigma = (wide(table[x.t], x.x_0) for table in (SCHEDULE.sqrt_alpha_bar, SCHEDULE.sqrt_one_minus_alpha_bar))
    eps = numpy_eps(address(FORWARD, 0), x.x_0.shape)
    return Exact(
        value=forward.q_sample(SCHEDULE, x.x_0, x.t, eps),
        # the table, the product, the sum
        bound=gamma(3) * (np.abs(signal * x.x_0) + np.abs(sigma * eps)),
        size=np.abs(x.x_0) + np.abs(eps),
    )


def gradients(x, grad: np.ndarray, case: Case) -> list[Exact]:
    tables = (SCHEDULE.sqrt_alpha_bar, SCHEDULE.sqrt_one_minus_alpha_bar)
    values = [wide(table[x.t], grad) * grad for table in tables]
    return [Exact(value, bound=gamma(2) * np.abs(value), size=np.abs(grad)) for value in values]


def in_numpy(x, noise) -> np.ndarray:
    return forward.q_sample(SCHEDULE, x.x_0, x.t, numpy_eps(noise, x.x_0.shape))


def formula(x_0, t, eps, table):
    eps = torch.randn_like(x_0) if eps is None else eps
    signal, sigma = table[t].to(x_0.dtype)[:, :, None, None, None].unbind(1)
    return signal * x_0 + sigma * eps


compiled_formula = compiled(formula)


@cache
def scheduler():
    import diffusers

    return diffusers.DDPMScheduler()


def in_diffusers(x, eps):
    # diffusers counts from 0
    return scheduler().add_noise(x.x_0, torch.randn_like(x.x_0) if eps is None else eps, x.t - 1)


def ours(x, noise):
    return q_sample(ON_DEVICE, x.x_0, x.t, noise)


OP = Op(
    name="q_sample",
    inputs=inputs,
    forward=exact,
    providers={
        "numpy": in_numpy,
        "torch": lambda x, eps: formula(x.x_0, x.t, eps, ON_DEVICE.forward_table()),
        "torch.compile": lambda x, eps: compiled_formula(x.x_0, x.t, eps, ON_DEVICE.forward_table()),
        "diffusers": in_diffusers,
        "noisestep eager": ours,
        "noisestep": ours,
    },
    # x_0 and x_t; the gradient and two of its multiples; these, x_0, eps and x_t
    tensors=dict(forward=2, backward=3, both=6),
    leaves=("x_0", "eps"),
    gradients=gradients,
    stream=FORWARD,
)


@pytest.mark.parametrize(("case", "direction", "provider"), plan(OP))
def test_q_sample(benchmark, case, direction, provider):
    run(benchmark, OP, case, direction, provider)


@pytest.mark.parametrize("return_eps", [True, False])
@pytest.mark.parametrize("shape", [(16, 3, 32, 32), (64, 3, 64, 64)], ids=str)
def test_noising_is_never_slower_than_diffusers(benchmark, say, shape, return_eps):
    what = "noising and its noise" if return_eps else "noising"

    def noised(x, noise):
        return q_sample(ON_DEVICE, x.x_0, x.t, noise, return_eps=return_eps)

    assert (
        versus(benchmark, say, replace(OP, providers=OP.providers | {"noisestep": noised}), Case(shape), what) >= 1.0
        or benchmark.disabled
    )
