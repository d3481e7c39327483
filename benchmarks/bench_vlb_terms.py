"""vlb_terms: a term of the variational bound for each sample, in float64 here and in float32 by the plain formula."""

import math

import numpy as np
import pytest
import torch
from bounds import Exact, wide
from cases import DEVICE, ON_DEVICE, SCHEDULE, SHAPES, Case
from noisestep.accelerated.address import FORWARD
from noisestep.accelerated.ops import q_sample, vlb_terms
from noisestep.reference import bound, posterior, reverse
from providers import Op, compiled, plan, run
from scipy.stats import norm

LOG_VARIANCE = torch.tensor(SCHEDULE.posterior_log_variance, dtype=torch.float32, device=DEVICE)


def inputs(case: Case) -> dict:
    """Images noised, and a prediction that is nearly right."""
    x_0, t, eps = case.image(), case.timesteps(), case.eps(FORWARD)
    return dict(x_0=x_0, x_t=q_sample(ON_DEVICE, x_0, t, eps), output=eps + 0.05 * case.normal(3), t=t)


def exact(x) -> Exact:
    value = bound.vlb_terms(SCHEDULE, x.x_0, x.x_t, x.output, x.t)
    return within(value, np.abs(value))


def gradients(x, grad: np.ndarray, case: Case) -> list[Exact]:
    """The chain rule through the mean of p_theta: of the divergence, and at t = 1 of the decoder."""
    mean = reverse.reverse_mean(SCHEDULE, x.x_t, x.output, x.t)
    variance = wide(np.exp(SCHEDULE.posterior_log_variance[x.t]), mean)
    by_mean = (mean - posterior.posterior_mean(SCHEDULE, x.x_0, x.x_t, x.t)) / variance
    sigma, first = np.sqrt(variance), x.t == 1
    upper = np.where(x.x_0 > 0.999, np.inf, (x.x_0 + 1 / 255 - mean) / sigma)[first]
    lower = np.where(x.x_0 < -0.999, -np.inf, (x.x_0 - 1 / 255 - mean) / sigma)[first]
    by_mean[first] = (norm.pdf(upper) - norm.pdf(lower)) / (norm.cdf(upper) - norm.cdf(lower)) / sigma[first]
    c = reverse.reverse_coefficients(SCHEDULE)[x.t]
    value = wide(grad * c[:, 2] * c[:, 1], mean) * by_mean / (mean[0].size * math.log(2))
    return [within(value, np.abs(value).max(axis=(1, 2, 3), keepdims=True))]


def within(value: np.ndarray, size: np.ndarray) -> Exact:
    # the tests hold the bound of docs/ops.md element by element; float32 leaves little of the difference of two means
    return Exact(value, bound=1e-9 * size, size=size, peers=1e-2 * size)


def formula(x_0, x_t, output, t, table, log_variance):
    """As improved-diffusion's `_vb_terms_bpd` has it, with the error function for the normal distribution's."""
    x_0, x_t, output = x_0.float(), x_t.float(), output.float()
    c_0, c_1, c_2, c_3 = table[t][:, :4, None, None, None].unbind(1)
    log_variance = log_variance[t][:, None, None, None]
    true, mean = c_2 * x_0 + c_3 * x_t, c_2 * (c_0 * x_t + c_1 * output) + c_3 * x_t
    divergence = 0.5 * (true - mean) ** 2 * torch.exp(-log_variance)
    centred, inverse = x_0 - mean, torch.exp(-0.5 * log_variance)
    below_upper = 0.5 * (1 + torch.erf((centred + 1 / 255) * inverse * 0.5**0.5))
    below_lower = 0.5 * (1 + torch.erf((centred - 1 / 255) * inverse * 0.5**0.5))
    inside = torch.where(x_0 < -0.999, below_upper, below_upper - below_lower)
    inside = torch.where(x_0 > 0.999, 1 - below_lower, inside)
    nats = torch.where(t[:, None, None, None] == 1, -inside.clamp(min=1e-12).log(), divergence)
    return nats.mean(dim=(1, 2, 3)) / math.log(2)


compiled_formula = compiled(formula)

OP = Op(
    name="vlb_terms",
    inputs=inputs,
    forward=exact,
    providers={
        "numpy": lambda x, _: bound.vlb_terms(SCHEDULE, x.x_0, x.x_t, x.output, x.t),
        "torch": lambda x, _: formula(x.x_0, x.x_t, x.output, x.t, ON_DEVICE.reverse_table(), LOG_VARIANCE),
        "torch.compile": lambda x, _: compiled_formula(
            x.x_0, x.x_t, x.output, x.t, ON_DEVICE.reverse_table(), LOG_VARIANCE
        ),
        "noisestep": lambda x, _: vlb_terms(ON_DEVICE, x.x_0, x.x_t, x.output, x.t),
    },
    # x_0, x_t and the output; these and the gradient; both
    tensors=dict(forward=3, backward=4, both=7),
    leaves=("output",),
    gradients=gradients,
)


@pytest.mark.parametrize(("case", "direction", "provider"), plan(OP))
def test_vlb_terms(benchmark, case, direction, provider):
    if DEVICE == "cpu" and case.shape == SHAPES[-1]:
        pytest.skip("seconds a call in float64 on a CPU: for a GPU")
    run(benchmark, OP, case, direction, provider)
