"""vlb_terms: the kernel and the PyTorch path keep their distance from the float64 reference, each by its own route."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from interpreter import DEVICE, assert_same_bits, kernels, run_kernel
from laws import NAMED, log_alpha_bar
from noisestep.accelerated.ops import q_sample, vlb_terms
from noisestep.accelerated.schedule import DeviceSchedule
from noisestep.reference import Schedule, posterior, prediction, reverse
from noisestep.reference import bound as reference
from op_cases import (
    FLOATS,
    LAYOUTS,
    PREDICTIONS,
    UNIT,
    Case,
    arranged,
    assert_registered,
    assert_within,
    cases,
    compiled,
    device_schedule,
    float64,
    gamma,
)
from test_reverse_step import wide
from torch import Tensor

D = device_schedule("cosine", 50)
VARIANCES = ("posterior", "beta", "learned_range")
CLIPS = (None, (-1, 1), (-0.3, 0.7))
EXACT = UNIT[torch.float64]


def arguments(case: Case, t: Tensor, predicted: str, variance: str, levels: int, *, wrong: float = 0.05) -> tuple:
    """(schedule, x_0, x_t, output): an image of so many levels, and a prediction that is nearly right."""
    schedule = case.device_schedule
    generator = torch.Generator().manual_seed(5)
    level = torch.randint(0, levels, case.shape, generator=generator)
    x_0 = arranged((2 * level / (levels - 1) - 1).to(case.torch_dtype), case.layout)
    eps = case.tensor(2, dtype=torch.float64)
    x_t = q_sample(schedule, x_0, t, eps, dtype=torch.float64)
    signal, sigma = (
        column.reshape(-1, *(1,) * (x_0.ndim - 1)) for column in schedule.forward_table(torch.float64)[t].T
    )
    output = {"eps": eps, "x_0": x_0.double(), "v": signal * eps - sigma * x_0.double()}[predicted]
    output = output + wrong * case.tensor(3, dtype=torch.float64)
    if variance == "learned_range":
        output = torch.cat([output, case.tensor(4, dtype=torch.float64).clamp(-2, 2)], dim=1)
    return schedule, x_0, *(arranged(part.to(case.torch_dtype), case.layout) for part in (x_t, output))


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
    return t


options_of_a_term = st.fixed_dictionaries(
    dict(
        prediction=st.sampled_from(PREDICTIONS),
        variance=st.sampled_from(VARIANCES),
        clip=st.sampled_from(CLIPS),
        levels=st.sampled_from((2, 16, 256, 65536)),
    )
)


def fitting(case: Case, options: dict) -> dict:
    """v where eps says nothing of x_0, and channels for a learned variance."""
    options = dict(options)
    if options["prediction"] == "eps" and not case.sees_signal:
        options["prediction"] = "v"
    if len(case.shape) < 2 and options["variance"] == "learned_range":
        options["variance"] = "beta"
    return options


def option(prediction="eps", variance="posterior", clip=None, levels=256) -> dict:
    return dict(prediction=prediction, variance=variance, clip=clip, levels=levels)


@settings(max_examples=60)
@given(cases(), options_of_a_term, st.sampled_from((0.0, 0.05, 3.0)))
def test_within_its_bound_of_the_reference(case, options, wrong):
    options, t = fitting(case, options), timesteps(case)
    inputs = arguments(case, t, options["prediction"], options["variance"], options["levels"], wrong=wrong)
    if inputs[1].numel():
        assert_near_the_reference(vlb_terms(*inputs, t, **options), inputs, t, options)


@settings(max_examples=10)
@given(cases(), options_of_a_term, st.sampled_from((0.0, 0.05, 3.0)))
@example(Case((2, 3, 5, 7), "bfloat16", "channels_last"), option("v", "learned_range", (-1, 1)), 0.05)
@example(Case((3, 2, 3, 2, 3), "float64", "channels_last"), option("x_0", "learned_range"), 0.05)
@example(Case((2, 1300), "float32", "sliced"), option("eps", "beta", (-0.3, 0.7)), 0.05)
@example(Case((3, 37), "float16", "transposed"), option("eps", "posterior", None, 16), 3.0)
@example(Case((3, 21), "float64"), option("v", "beta", None, 2), 0.0)
@example(Case((2, 0)), option(), 0.05)
@example(Case((0, 3)), option(), 0.05)
def test_the_kernel_is_within_its_bound_of_the_reference(case, options, wrong):
    options, t = fitting(case, options), timesteps(case)
    inputs = arguments(case, t, options["prediction"], options["variance"], options["levels"], wrong=wrong)
    actual = run_kernel(vlb_terms, *inputs, t, **options)
    if inputs[1].numel():
        assert_near_the_reference(actual, inputs, t, options)
    else:
        assert_same_bits(actual=actual, expected=torch.zeros(case.shape[0], dtype=torch.float64))


@pytest.mark.parametrize(("name", "zero"), NAMED)
@pytest.mark.parametrize("variance", VARIANCES)
def test_within_its_bound_of_the_reference_at_every_t(name, zero, variance):
    T = 1000
    case = Case((T, 2, 3), "float64", schedule=name, zero_terminal_snr=zero, T=T)
    t = torch.arange(1, T + 1)
    for predicted, clip in zip(PREDICTIONS, CLIPS, strict=True):
        options = fitting(case, option(predicted, variance, clip))
        inputs = arguments(case, t, options["prediction"], variance, 256)
        assert_near_the_reference(vlb_terms(*inputs, t, **options), inputs, t, options)


def test_the_decoder_is_exact_far_from_the_mean():
    # sigma is 0.0007 here: the mean is 2800 of them away from the outermost level
    schedule = DeviceSchedule(Schedule([1e-6] * 3))
    x_0 = torch.tensor([[1.0], [-1.0], [0.25]], dtype=torch.float64)
    t = torch.tensor([1, 1, 1])
    (x,) = float64(x_0)
    options = option("x_0")
    inputs = schedule, x_0, x_0, -x_0
    expected = reference.vlb_terms(schedule.schedule, x, x, -x, t.numpy(), prediction="x_0")
    assert (expected > 1e5).all()
    for actual in (vlb_terms(*inputs, t, **options), run_kernel(vlb_terms, *inputs, t, **options)):
        # half the square of the distance in sigmas: sigma is the exponential of a logarithm near -14, rounded often
        np.testing.assert_allclose(actual.numpy(), expected, rtol=256 * EXACT, atol=0)


@settings(max_examples=40)
@given(cases(), options_of_a_term)
def test_the_memory_layout_changes_no_bit(case, options):
    options, t = fitting(case, options), timesteps(case)
    inputs = arguments(case, t, options["prediction"], options["variance"], options["levels"])
    expected = vlb_terms(*inputs, t, **options)
    for layout in LAYOUTS:
        others = [arranged(part, layout) for part in inputs[1:]]
        assert_same_bits(actual=vlb_terms(inputs[0], *others, t, **options), expected=expected)


@settings(max_examples=40)
@given(cases(), options_of_a_term)
def test_a_sample_is_the_same_alone_and_in_any_batch(case, options):
    options, t = fitting(case, options), timesteps(case)
    schedule, *parts = arguments(case, t, options["prediction"], options["variance"], options["levels"])
    whole = vlb_terms(schedule, *parts, t, **options)
    for i in range(case.shape[0]):
        alone = vlb_terms(schedule, *(part[i : i + 1] for part in parts), int(t[i]), **options)
        assert_same_bits(actual=alone, expected=whole[i : i + 1])


def test_a_right_prediction_costs_nothing_after_the_decoder():
    case, t = Case((3, 5), "float64"), torch.tensor([2, 5, 10])
    schedule, x_0, x_t, output = arguments(case, t, "x_0", "posterior", 256, wrong=0.0)
    assert vlb_terms(schedule, x_0, x_t, output, t, prediction="x_0").tolist() == [0, 0, 0]


def test_t_out_of_range_is_refused_on_a_cpu_and_takes_the_nearest_row_in_a_kernel():
    x_0 = torch.rand(3, 5)
    t = torch.tensor([-7, 51, 2**40])
    for bad in (t, -1, D.T + 1):
        with pytest.raises(ValueError, match=r"t must lie in 0\.\.50, got values from"):
            vlb_terms(D, x_0, x_0, x_0, bad)
    nearest = run_kernel(vlb_terms, D, x_0, x_0, x_0, t.clamp(0, D.T))
    assert_same_bits(actual=run_kernel(vlb_terms, D, x_0, x_0, x_0, t), expected=nearest)


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("predicted", PREDICTIONS)
def test_gradients(variance, clip, predicted):
    t = torch.tensor([1, 2, 10])
    case = Case((3, 2, 3), "float64")
    schedule, x_0, x_t, output = arguments(case, t, predicted, variance, 16)
    output.requires_grad_()

    def terms(output):
        return vlb_terms(schedule, x_0, x_t, output, t, prediction=predicted, variance=variance, clip=clip, levels=16)

    # the terms reach 1e2 and their third derivatives more, so that a central difference has eight digits
    assert torch.autograd.gradcheck(terms, output, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_kernels_gradient_is_the_torch_paths(dtype):
    t = torch.tensor([1, 2, 10])
    schedule, x_0, x_t, output = arguments(Case((3, 2, 3), dtype), t, "eps", "learned_range", 16)

    def gradient(schedule, x_0, x_t, output, t):
        output = output.detach().requires_grad_()
        terms = vlb_terms(schedule, x_0, x_t, output, t, variance="learned_range")
        return torch.autograd.grad(terms.sum(), output)[0]

    expected = gradient(schedule, x_0, x_t, output, t)
    actual = run_kernel(gradient, schedule, x_0, x_t, output, t)
    if DEVICE.type == "cpu" or dtype != "float64":
        assert_same_bits(actual=actual, expected=expected)
    else:
        # PyTorch's exp and log_ndtr on a GPU are a unit or two off those on a CPU. A gradient is a sum of three parts
        # with two such factors each, and no part is larger than the largest gradient here
        assert (actual - expected).abs().max() <= 3 * 2 * 2 * 2.0**-52 * expected.abs().max()


def test_a_second_derivative_is_refused():
    output = torch.randn(2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(vlb_terms(D, *torch.rand(2, 2, 3), output, 4).sum(), output, create_graph=True)
    with pytest.raises(RuntimeError, match=r"vlb_terms_backward\.default but no autograd formula was registered"):
        gradient.square().sum().backward()


def test_gradients_of_what_the_terms_take_as_constant_are_refused():
    x, wants = torch.randn(2, 3), torch.randn(2, 3, requires_grad=True)
    with pytest.raises(ValueError, match=r"x_t requires a gradient, .* pass x_t\.detach\(\)"):
        vlb_terms(D, x, wants, x, 4)
    with pytest.raises(ValueError, match=r"x_0 requires a gradient, .* pass x_0\.detach\(\)"):
        vlb_terms(D, wants, x, x, 4)


REGISTERED = {
    "posterior": lambda: vlb_terms(D, *torch.rand(3, 2, 3), 4),
    "gradient": lambda: vlb_terms(D, *torch.rand(2, 2, 3), torch.rand(2, 3).requires_grad_(), torch.tensor([1, 4])),
    "learned": lambda: vlb_terms(
        D, *torch.rand(2, 2, 3, 2, 2), torch.rand(2, 6, 2, 2), 4, variance="learned_range", clip=(-1, 1)
    ),
}


@pytest.mark.parametrize("call", REGISTERED.values(), ids=REGISTERED)
def test_registration(call):
    assert_registered(call, "vlb_terms")


@pytest.mark.parametrize("name", ["gradient", "learned"])
def test_registration_of_the_kernel(name):
    with kernels():
        assert_registered(REGISTERED[name], "vlb_terms")


def test_registration_of_the_gradient():
    output = torch.rand(2, 3, requires_grad=True)
    terms = vlb_terms(D, *torch.rand(2, 2, 3), output, torch.tensor([1, 4])).sum()
    assert_registered(lambda: torch.autograd.grad(terms, output), "vlb_terms_backward")


def test_one_graph_for_every_timestep_and_batch():
    def function(x_0, x_t, output, t):
        return vlb_terms(D, x_0, x_t, output, t)

    # the update's table is made by the first call, which a compiled one would notice
    function(*torch.rand(3, 2, 3), torch.tensor([1, 2]))
    traced = compiled(function)
    for i in range(1, 4):
        inputs = *torch.rand(3, 2, 3), torch.tensor([i, 50 - i])
        assert_same_bits(actual=traced(*inputs), expected=function(*inputs))


def test_vmap_is_a_loop():
    x_0, x_t, output = torch.rand(3, 4, 2, 3)
    together = torch.vmap(lambda x_0, x_t, output: vlb_terms(D, x_0, x_t, output, 9))(x_0, x_t, output)
    one_by_one = [vlb_terms(D, *each, 9) for each in zip(x_0, x_t, output, strict=True)]
    assert_same_bits(actual=together, expected=torch.stack(one_by_one))


def test_autocast_changes_nothing():
    parts = torch.rand(3, 2, 3)
    expected = vlb_terms(D, *parts, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same_bits(actual=vlb_terms(D, *parts, 9), expected=expected)
