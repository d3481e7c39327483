"""pairwise_sum: the sum of each sample in an order fixed for good, beside sums in whatever order is fast."""

import numpy as np
import pytest
from bounds import Exact, depth, gamma
from cases import PLAIN, Case
from noisestep.accelerated.ops import pairwise_sum
from providers import Op, compiled, plan, run


def inputs(case: Case) -> dict:
    return dict(values=case.normal(1).flatten(1))


def exact(x) -> Exact:
    size = np.abs(x.values).sum(axis=1)
    return Exact(x.values.sum(axis=1), bound=gamma(depth(x.values.shape[1])) * size, size=size)


def gradients(x, grad: np.ndarray, case: Case) -> list[Exact]:
    value = np.broadcast_to(grad[:, None], x.values.shape)
    return [Exact(value, bound=0, size=np.abs(value))]


def formula(values):
    return values.sum(dim=1)


compiled_formula = compiled(formula)

OP = Op(
    name="pairwise_sum",
    inputs=inputs,
    forward=exact,
    providers={
        "numpy": lambda x, _: x.values.sum(axis=1),
        "torch": lambda x, _: formula(x.values),
        "torch.compile": lambda x, _: compiled_formula(x.values),
        "noisestep": lambda x, _: pairwise_sum(x.values),
    },
    # the values; the gradient is a view
    tensors=dict(forward=1, backward=0, both=1),
    leaves=("values",),
    gradients=gradients,
)


# in float32, whatever the images are
@pytest.mark.parametrize(("case", "direction", "provider"), plan(OP, PLAIN))
def test_fixed_sum(benchmark, case, direction, provider):
    run(benchmark, OP, case, direction, provider)
