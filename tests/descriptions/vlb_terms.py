"""vlb_terms: within the bound of the float64 reference; the gradient is the eager backend's own."""

import math
from typing import Any

import numpy as np
import torch
from interpreter import assert_same_bits
from laws import log_alpha_bar
from noisestep.accelerated.backends import backend
from noisestep.accelerated.ops import q_sample, vlb_terms
from noisestep.reference import bound as reference
from noisestep.reference import posterior, prediction, reverse
from op_cases import FLOATS, UNIT, Case, assert_within, float64, gamma
from torch import Tensor

from .description import BOTH, LAYOUTS, PLACE, PREDICTION, Description
from .reverse_step import wide

EXACT = UNIT[torch.float64]
VARIANCES = ("posterior", "learned_range", "beta")
CLIPS = (None, (-1, 1), (-0.3, 0.7))
LEVELS = (256, 2, 16, 65536)


def arguments(case: Case, t: Tensor, predicted: str, variance: str, levels: int, *, wrong: float = 0.05) -> tuple:
    """(schedule, x_0, x_t, output): an image of so many levels, and a prediction that is nearly right."""
    schedule = case.device_schedule
    generator = torch.Generator(case.device).manual_seed(5)
    level = torch.randint(0, levels, case.shape, generator=generator, device=case.device)
    x_0 = case.arranged((2 * level / (levels - 1) - 1).to(case.torch_dtype))
    eps = case.tensor(2, dtype=torch.float64)
    x_t = q_sample(schedule, x_0, t, eps, dtype=torch.float64)
    signal, sigma = (
        column.reshape(-1, *(1,) * (x_0.ndim - 1)) for column in schedule.forward_table(torch.float64)[t].T
    )
    output = {"eps": eps, "x_0": x_0.double(), "v": signal * eps - sigma * x_0.double()}
    output["flow"] = eps - x_0.double()
    output = output[predicted]
    output = output + wrong * case.tensor(3, dtype=torch.float64)
    if variance == "learned_range":
        output = torch.cat([output, case.tensor(4, dtype=torch.float64).clamp(-2, 2)], dim=1)
    return schedule, x_0, *(case.arranged(part.to(case.torch_dtype)) for part in (x_t, output))


def assert_near_the_reference(actual: Tensor, inputs: tuple, t: Tensor, options: dict) -> None:
    """The terms are within the bound of docs/ops.md, in which most is what the reference itself may be off."""
    table, steps = inputs[0].schedule, t.numpy()
    x_0, x, out = float64(*inputs[1:])
    variance = options["variance"]
    half_beta, half_posterior = wide(np.log(table.beta[steps]) / 2, x), wide(table.posterior_log_variance[steps] / 2, x)
    share, given = float(variance == "beta"), variance
    if variance == "learned_range":
        channels = x.shape[1]
        out, share = out[:, :channels], (out[:, channels:] + 1) / 2
        given = reverse.learned_range_variance(table, share, steps)
    rest = dict(prediction=options["prediction"], clip=options["clip"])
    expected = reference.vlb_terms(table, x_0, x, out, steps, variance=given, levels=options["levels"], **rest)
    log_variance = 2 * (share * half_beta + (1 - share) * half_posterior)
    # the logarithms, their share, and the logarithm of the exponential that the reference is given
    log_error = 16 * EXACT * (1 + np.abs(share * half_beta) + np.abs((1 - share) * half_posterior))
    c = [wide(column, x) for column in reverse.reverse_coefficients(table, prediction=options["prediction"])[steps].T]
    # how far alpha_bar_t, a sum of T logarithms, is from alpha_t alpha_bar_{t-1}, in whatever the means are made of
    own = gamma((32 + 8 * table.T) * (1 + log_alpha_bar(table).max()), EXACT)
    reach = max(map(abs, options["clip"])) if options["clip"] else 0
    mean_error = own * (np.abs(c[2]) * (np.abs(x_0) + np.abs(c[0] * x) + np.abs(c[1] * out) + reach) + np.abs(c[3] * x))
    x_0_hat = prediction.predict_x_0(table, x, out, steps, **rest)
    off = np.abs(c[2] * (x_0 - x_0_hat))
    square = off**2 * np.exp(-log_variance)
    log_ratio = 2 * half_posterior - log_variance
    kl_error = (2 * off + mean_error) * mean_error * np.exp(-log_variance) + square * (log_error + 16 * EXACT)
    kl_error += (log_error + 16 * EXACT) * (np.exp(log_ratio) + 1) + 4 * EXACT * np.abs(log_ratio)
    # the decoder: the edges of the level, in units of sigma
    half_bin, sigma = 1 / (options["levels"] - 1), np.exp(log_variance / 2)
    mean = posterior.posterior_mean(table, x_0_hat, x, steps)
    near = np.maximum(np.abs(x_0 - mean) - half_bin, 0) / sigma
    z, width = near + 2 * half_bin / sigma, np.minimum(2 * half_bin / sigma, 1)
    edge = mean_error / sigma + z * (log_error + 8 * EXACT)
    likelihood = reference.discretised_normal_log_likelihood(x_0, mean, log_variance, levels=options["levels"])
    # a shift of an edge against the width of the level; what the difference of two error functions leaves
    decoder_error = (1 + near) * (1 + 1 / width) * edge + 32 * EXACT * (1 + z**2) / width
    decoder_error += 8 * EXACT * np.exp(-likelihood, where=near < 5, out=np.zeros_like(near))
    error = np.where(wide(steps, x) == 1, decoder_error, kl_error) + np.zeros_like(x)
    n = max(1, x[0].size) if len(x) else 1
    error = error.reshape(len(x), -1).sum(axis=1) / (n * math.log(2)) if x.size else np.zeros(len(x))
    assert_within(actual=actual, expected=expected, error=error + gamma(16 + n, EXACT) * np.abs(expected))


def timesteps(case: Case) -> Tensor:
    """In 1..T, the first of them 1."""
    t = torch.randint(1, case.T + 1, case.shape[:1], generator=torch.Generator().manual_seed(1))
    t[:1] = 1
    return t.to(case.device)


def fitting(case: Case, options: dict) -> dict:
    """v where eps says nothing of x_0, and channels for a learned variance."""
    options = dict(options)
    if options["prediction"] == "eps" and not case.sees_signal:
        options["prediction"] = "v"
    if len(case.shape) < 2 and options["variance"] == "learned_range":
        options["variance"] = "beta"
    return options


def _terms(
    schedule: Any, x_0: Tensor, x_t: Tensor, output: Tensor, t: Any, *, gradient: bool, **options: Any
) -> Tensor | tuple[Tensor, Tensor]:
    """The terms, and the gradient of their sum."""
    if not gradient:
        return vlb_terms(schedule, x_0, x_t, output, t, **options)
    output = output.detach().requires_grad_()
    terms = vlb_terms(schedule, x_0, x_t, output, t, **options)
    return terms.detach(), torch.autograd.grad(terms.sum(), output)[0]


def _inputs(case: Case, options: dict[str, Any]) -> tuple[tuple, Tensor, dict[str, Any]]:
    """(schedule, x_0, x_t, output), t of each sample, and the options of the op."""
    options = fitting(case, options)
    wrong, t = options.pop("wrong"), options.pop("t")
    t = timesteps(case) if t is None else torch.full(case.shape[:1], t, device=case.device)
    return (
        arguments(case, t, *(options[name] for name in ("prediction", "variance", "levels")), wrong=wrong),
        t,
        options,
    )


def _prepare(
    case: Case,
    *,
    prediction: str = "eps",
    variance: str = "posterior",
    clip: tuple[float, float] | None = None,
    levels: int = 256,
    wrong: float = 0.05,
    t: int | None = None,
    gradient: bool = False,
) -> tuple[tuple, dict]:
    given = dict(prediction=prediction, variance=variance, clip=clip, levels=levels, wrong=wrong, t=t)
    inputs, rows, options = _inputs(case, given)
    return (*inputs, rows if t is None else t), {**options, "gradient": gradient}


def _near(actual: Any, case: Case, *, gradient: bool, **given: Any) -> None:
    inputs, t, options = _inputs(case, given)
    if gradient:
        actual, by_output = actual
        with backend("eager"):
            expected = _terms(*inputs, t, gradient=True, **options)[1]
        assert_same_bits(actual=by_output, expected=expected)
    if inputs[1].numel():
        assert_near_the_reference(actual, inputs, t, options)
    else:
        assert_same_bits(actual=actual, expected=torch.zeros(case.shape[0], dtype=torch.float64))


Description(
    "vlb_terms",
    _terms,
    _prepare,
    {
        **PLACE,
        "dtype": FLOATS,
        "layout": LAYOUTS,
        **PREDICTION,
        "variance": VARIANCES,
        "clip": CLIPS,
        "levels": LEVELS,
        # how far the prediction is off, in standard deviations
        "wrong": (0.05, 0.0, 3.0),
        # of each sample its own, among them 1; the decoder's term for all; another one for all
        "t": (None, 1, 17),
        "gradient": BOTH,
    },
    near=_near,
    exact=lambda case, **options: False,
    elementwise=False,
    counted={"vlb_terms": {}},
    count_dtypes=("float32",),
)
