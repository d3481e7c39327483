"""simple_loss: the loss of a prediction of eps, which noisestep makes anew and the others kept, and its gradient."""

import numpy as np
import pytest
from bounds import UNIT, Exact, depth, gamma
from cases import Case, address, numpy_eps
from noisestep.accelerated.address import FORWARD
from noisestep.accelerated.ops import simple_loss
from noisestep.reference import loss
from providers import Op, compiled, plan, run
from torch.nn import functional as F

# of the step's noise
AT = address(FORWARD, 0)


def inputs(case: Case) -> dict:
    return dict(output=case.normal(1), eps=case.eps(FORWARD))


def exact(x) -> Exact:
    eps = numpy_eps(AT, x.output.shape)
    value = np.array(loss.simple_loss(x.output, eps))
    batch, n = len(eps), eps[0].size
    return Exact(
        value,
        # the residual twice, its square, the sum, 1/n and its product; the mean's sum and division
        bound=gamma(6 + depth(n) + depth(batch) + 1) * value,
        size=np.mean((np.abs(x.output) + np.abs(eps)) ** 2),
    )


def gradients(x, grad: np.ndarray, case: Case) -> list[Exact]:
    eps = numpy_eps(AT, x.output.shape)
    scale = 2 / eps.size * grad
    # stored as a residual in the output's type, and scaled
    stored = UNIT[case.torch_dtype]
    return [
        Exact(
            scale * (x.output - eps),
            bound=np.abs(scale * (x.output - eps)) * ((1 + gamma(2)) * (1 + stored) * (1 + gamma(4)) - 1),
            size=np.abs(scale) * (np.abs(x.output) + np.abs(eps)),
        )
    ]


def formula(output, eps):
    # a loss is not for 8 bits of a number: as autocast takes it
    return F.mse_loss(output.float(), eps.float())


compiled_formula = compiled(formula)


def ours(x, _):
    return simple_loss(x.output, AT)


OP = Op(
    name="simple_loss",
    inputs=inputs,
    forward=exact,
    providers={
        "numpy": lambda x, _: loss.simple_loss(x.output, x.eps),
        "torch": lambda x, _: formula(x.output, x.eps),
        "torch.compile": lambda x, _: compiled_formula(x.output, x.eps),
        "noisestep eager": ours,
        "noisestep": ours,
    },
    # the output; the residual and the gradient; these, with the residual written as well
    tensors=dict(forward=1, backward=2, both=4),
    leaves=("output",),
    gradients=gradients,
)


@pytest.mark.parametrize(("case", "direction", "provider"), plan(OP))
def test_simple_loss(benchmark, case, direction, provider):
    run(benchmark, OP, case, direction, provider)
