"""reverse_step: one step with fresh noise, x_0 clipped as diffusers clips it, and its ratio to diffusers' on a CPU."""

from functools import cache
from unittest import mock

import numpy as np
import pytest
import torch
from bounds import Exact, gamma
from cases import ON_DEVICE, SCHEDULE, Case, address, numpy_eps
from noisestep.accelerated.address import REVERSE
from noisestep.accelerated.ops import reverse_step
from noisestep.reference import reverse
from providers import Op, compiled, plan, run, versus

# of the whole batch: diffusers has no other
T = 500
CLIP = (-1.0, 1.0)


def inputs(case: Case) -> dict:
    return dict(x_t=case.normal(1), output=case.normal(2), t=torch.tensor(T, device=ON_DEVICE.device))


def exact(x) -> Exact:
    z = numpy_eps(address(REVERSE, 0), x.x_t.shape)
    c = reverse.reverse_coefficients(SCHEDULE)[T]
    of_x_0 = np.abs(c[0] * x.x_t) + np.abs(c[1] * x.output)
    rest = np.abs(c[3] * x.x_t) + np.abs(c[4] * x.output) + np.abs(c[5] * z)
    # x_0: the table, the product, the sum, and no further off than the range is wide; then one sum more for its terms
    clipped = np.minimum(gamma(3) * of_x_0, CLIP[1] - CLIP[0])
    return Exact(
        value=reverse.reverse_step(SCHEDULE, x.x_t, x.output, T, z, clip=CLIP),
        bound=np.abs(c[2]) * clipped + gamma(5) * (np.abs(c[2]) + rest),
        size=np.abs(c[2]) * of_x_0 + rest,
    )


def in_numpy(x, noise) -> np.ndarray:
    z = numpy_eps(noise, x.x_t.shape)
    return reverse.reverse_step(SCHEDULE, x.x_t, x.output, T, z, clip=CLIP)


def formula(x_t, output, t, z, table):
    z = torch.randn_like(x_t) if z is None else z
    c = table[t]
    # c[4], of DDIM's own eps, is 0
    x_0 = (c[0] * x_t + c[1] * output).clamp(*CLIP)
    return c[2] * x_0 + c[3] * x_t + c[5] * z


compiled_formula = compiled(formula)


def table():
    return ON_DEVICE.reverse_table(clip=CLIP)


@cache
def scheduler():
    import diffusers

    made = diffusers.DDPMScheduler()
    made.set_timesteps(SCHEDULE.T)
    return made


def in_diffusers(x, z):
    # diffusers counts from 0, and draws z itself
    if z is None:
        return scheduler().step(x.output, T - 1, x.x_t, generator=generator()).prev_sample
    with mock.patch("diffusers.schedulers.scheduling_ddpm.randn_tensor", return_value=z):
        return scheduler().step(x.output, T - 1, x.x_t).prev_sample


@cache
def generator() -> torch.Generator:
    return torch.Generator(ON_DEVICE.device).manual_seed(0)


def ours(x, noise):
    return reverse_step(ON_DEVICE, x.x_t, x.output, x.t, noise, clip=CLIP)


OP = Op(
    name="reverse_step",
    inputs=inputs,
    forward=exact,
    providers={
        "numpy": in_numpy,
        "torch": lambda x, z: formula(x.x_t, x.output, x.t, z, table()),
        "torch.compile": lambda x, z: compiled_formula(x.x_t, x.output, x.t, z, table()),
        "diffusers": in_diffusers,
        "noisestep eager": ours,
        "noisestep": ours,
    },
    # x_t, the output and x_{t-1}
    tensors=dict(forward=3),
    stream=REVERSE,
)


@pytest.mark.parametrize(("case", "direction", "provider"), plan(OP))
def test_reverse_step(benchmark, case, direction, provider):
    run(benchmark, OP, case, direction, provider)


@pytest.mark.parametrize("shape", [(16, 3, 32, 32), (64, 3, 64, 64)], ids=str)
def test_a_step_is_faster_than_diffusers(benchmark, say, shape):
    assert versus(benchmark, say, OP, Case(shape), "a reverse step") >= 1.3 or benchmark.disabled
