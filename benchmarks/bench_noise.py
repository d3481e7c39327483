"""noise: standard normal numbers at an address, beside a generator's."""

import numpy as np
import pytest
import torch
from bounds import Exact, assert_near
from cases import DEVICE, HALF, PLAIN, Case, address, numpy_eps
from noisestep.accelerated.address import FORWARD
from noisestep.accelerated.ops import noise
from providers import Op, compiled, plan, run
from torch import Tensor


def inputs(case: Case) -> dict:
    # the shape and type of what is wanted
    return dict(like=torch.empty(case.shape, dtype=case.torch_dtype, device=DEVICE))


def exact(x) -> Exact:
    value = numpy_eps(address(FORWARD, 0), x.like.shape)
    return Exact(value, bound=0, size=np.abs(value))


def compare(provider: str, actual: Tensor, exact: Exact, case: Case) -> None:
    """A generator's numbers are its own: their mean and variance are within five standard errors of 0 and 1."""
    if provider.startswith(("numpy", "noisestep")):
        assert_near(provider, actual, exact, case)
        return
    numbers, error = actual.double(), actual.numel() ** -0.5
    assert actual.shape == case.shape
    assert actual.dtype == case.torch_dtype
    assert abs(numbers.mean()) < 5 * error
    # the variance of a square is 2
    assert abs(numbers.square().mean() - 1) < 5 * 2**0.5 * error


def formula(like):
    return torch.randn_like(like)


compiled_formula = compiled(formula)


def ours(x, at) -> Tensor:
    return noise(at, x.like.shape, dtype=x.like.dtype, device=DEVICE)


OP = Op(
    name="noise",
    inputs=inputs,
    forward=exact,
    providers={
        "numpy": lambda x, at: numpy_eps(at, x.like.shape),
        "torch": lambda x, _: formula(x.like),
        "torch.compile": lambda x, _: compiled_formula(x.like),
        "noisestep eager": ours,
        "noisestep": ours,
    },
    tensors=dict(forward=1),
    stream=FORWARD,
    compare=compare,
)


# noise has one layout
@pytest.mark.parametrize(("case", "direction", "provider"), plan(OP, PLAIN + HALF))
def test_noise(benchmark, case, direction, provider):
    run(benchmark, OP, case, direction, provider)
