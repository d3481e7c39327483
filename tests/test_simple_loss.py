"""simple_loss: the eager backend, whose bits the kernels have (test_ops.py), is within its bound of the reference."""

import numpy as np
import pytest
import torch
from descriptions.description import INPUTS
from descriptions.simple_loss import loss_with_gradient, prepare
from hypothesis import example, given, settings
from hypothesis import strategies as st
from interpreter import assert_same_bits, run_kernel
from laws import NAMED
from noisestep.accelerated.address import FORWARD, NoiseAddress
from noisestep.accelerated.backends import backend
from noisestep.accelerated.integrations.zero_based import ZeroBased
from noisestep.accelerated.ops import loss_and_gradient, pairwise_sum, q_sample, simple_loss
from noisestep.accelerated.ops import noise as noise_op
from noisestep.accelerated.ops.checks import compute_dtype
from noisestep.reference import loss as reference
from op_cases import (
    FLOATS,
    LAYOUTS,
    PREDICTIONS,
    SMALLEST_NORMAL,
    UNIT,
    Case,
    assert_registered,
    assert_within,
    cases,
    compiled,
    device_schedule,
    float64,
    gamma,
)
from test_pairwise_sum import depth
from torch import Tensor

D = device_schedule("cosine", 50)
predictions = st.sampled_from(PREDICTIONS)


def assert_near_the_reference(output, eps, x_0, t, schedule, prediction, weight):
    """Losses, their mean and the gradient of the mean are within the bounds of docs/ops.md."""
    unit, unit_out = UNIT[compute_dtype(output)], UNIT[output.dtype]
    batch, n = len(output), output[0].numel()
    address = dict(prediction=prediction, schedule=schedule, t=t, x_0=x_0, weight=weight)
    leaf = output.detach().requires_grad_()
    losses = simple_loss(leaf, eps, reduction="none", **address)
    mean = simple_loss(leaf, eps, **address)
    (gradient,) = torch.autograd.grad(mean, leaf)
    out, noise = float64(output, eps if isinstance(eps, Tensor) else noise_op(eps, output.shape))
    clean, levels = (out, 0) if x_0 is None else (float64(x_0)[0], 2 * (x_0.dtype == torch.uint8))
    if levels:
        clean = (2 * clean - 255) / 255
    # what the target is off: a level of uint8 was multiplied by a rounded 1/255, and float64 beside a narrower output
    # was rounded to float32
    narrowed = [isinstance(x, Tensor) and x.dtype == torch.float64 != compute_dtype(output) for x in (eps, x_0)]
    levels += narrowed[1]
    if prediction in ("v", "flow"):
        target = reference.training_target(schedule.schedule, clean, noise, t.numpy(), prediction=prediction)
        column = (-1, *(1,) * (out.ndim - 1))
        signal, sigma = 1.0, 1.0
        if prediction == "v":
            signal = schedule.schedule.sqrt_alpha_bar[t.numpy()].reshape(column)
            sigma = schedule.schedule.sqrt_one_minus_alpha_bar[t.numpy()].reshape(column)
        off = gamma(3 + levels + narrowed[0], unit) * (np.abs(signal * noise) + np.abs(sigma * clean))
    else:
        target = noise if prediction == "eps" else clean
        off = gamma(narrowed[0] if prediction == "eps" else levels, unit) * np.abs(target)
    w = np.ones(batch) if weight is None else float64(weight)[0]
    size = np.abs(out - target)
    # the residual twice, its square, the sum, 1/n, its product, and the weight's
    computed = (size + off).reshape(batch, n) ** 2 * (1 + gamma(6 + depth(n), unit))
    error = w * (computed.mean(axis=1) - (size**2).reshape(batch, n).mean(axis=1))
    # in float64 the reference rounds about as often, n times at the most
    exact = reference.squared_error(out, target)
    error += gamma(3 + n, 2.0**-53) * exact
    assert_within(actual=losses, expected=w * exact, error=error)
    expected = reference.simple_loss(out, target, weight=w)
    of_mean = (
        gamma(depth(batch) + 1, unit) * (w * exact + error).mean() + error.mean() + gamma(batch, 2.0**-53) * expected
    )
    assert_within(actual=mean, expected=np.array(expected), error=of_mean)
    # the residual and its weight, rounded to the output's type; 2/n, 1/batch, their product, and the product with it
    w = w.reshape(-1, *(1,) * (out.ndim - 1))
    stored = w * (size + off) * (1 + gamma(2, unit)) * (1 + unit_out)
    stored += unit_out * SMALLEST_NORMAL[output.dtype]
    assert_within(
        actual=gradient,
        expected=2 / (n * batch) * w * (out - target),
        error=2 / (n * batch) * (stored * (1 + gamma(4, unit)) - w * size + gamma(4, 2.0**-53) * w * size),
    )


@pytest.mark.parametrize(("name", "zero"), NAMED)
@pytest.mark.parametrize("dtype", FLOATS)
def test_v_within_its_bound_of_the_reference_at_every_t(name, zero, dtype):
    T = 1000
    schedule, t = device_schedule(name, T, zero), torch.arange(1, T + 1)
    case = Case((T, 2, 9), dtype)
    x_0 = case.tensor(3, dtype=torch.uint8 if dtype == "float32" else torch.float32)
    weight = torch.from_numpy(reference.loss_weights(schedule.schedule, "min_snr", prediction="v")[1:]).float()
    assert_near_the_reference(case.tensor(1), NoiseAddress(5, FORWARD, 3), x_0, t, schedule, "v", weight)


@pytest.mark.property
@settings(max_examples=40)
@given(cases(), predictions, st.sampled_from(INPUTS), st.booleans(), st.none() | st.sampled_from(FLOATS))
@example(Case((3, 3, 8), schedule="linear", T=21), "eps", "float32", False, "float64")
def test_within_its_bound_of_the_reference(case, prediction, x_0_dtype, weighted, eps_dtype):
    given = dict(prediction=prediction, x_0_dtype=x_0_dtype, weighted=weighted, eps_dtype=eps_dtype)
    (output, eps), options = prepare(case, **given)
    if not output.numel():
        return
    t = torch.randint(1, case.T + 1, case.shape[:1], generator=torch.Generator().manual_seed(1))
    schedule, weight = case.device_schedule, options.get("weight")
    assert_near_the_reference(output, eps, options.get("x_0"), t, schedule, prediction, weight)


@pytest.mark.property
@settings(max_examples=40)
@given(cases(), predictions)
def test_the_memory_layout_changes_no_bit(case, prediction):
    (output, eps), options = prepare(case, prediction=prediction, weighted=True, reduction="none")
    expected = loss_with_gradient(output, eps, **options)
    for layout in LAYOUTS:
        other = Case(case.shape, case.dtype, layout).tensor(1)
        losses, gradient = loss_with_gradient(other, eps, **options)
        assert_same_bits(actual=(losses, gradient), expected=expected, strides=False)
        assert gradient.stride() == torch.empty_like(other).stride()


@pytest.mark.property
@settings(max_examples=40)
@given(cases())
def test_a_sample_is_the_same_alone_and_in_any_batch(case):
    output = case.tensor(1)
    whole = simple_loss(output, NoiseAddress(case.seed, 0, case.step, case.sample), reduction="none")
    for i in range(case.shape[0]):
        alone = simple_loss(output[i : i + 1], NoiseAddress(case.seed, 0, case.step, case.sample + i), reduction="none")
        assert_same_bits(actual=alone, expected=whole[i : i + 1])


@pytest.mark.property
@pytest.mark.kernel(op="loss_and_gradient")
@settings(max_examples=30)
@given(cases(), predictions, st.booleans(), st.sampled_from((1.0, 0.3, -1024.0)))
@example(Case((3, 7)), "v", True, 0.3)
@example(Case((3, 7), "float64"), "eps", False, 0.3)
@example(Case((2, 7), "float16"), "eps", False, -1024.0)
def test_loss_and_gradient_is_the_loss_and_its_gradient(case, prediction, weighted, scale):
    (output, eps), options = prepare(case, prediction=prediction, weighted=weighted)
    output.requires_grad_()
    loss = simple_loss(output, eps, **options)
    (gradient,) = torch.autograd.grad(loss * scale, output)
    both = loss_and_gradient(output, eps, scale=scale, **options)
    assert_same_bits(actual=both, expected=(loss.detach(), gradient))


def test_the_loss_is_of_the_noise_that_q_sample_added():
    x_0, address = torch.rand(3, 2, 5), NoiseAddress(3, FORWARD, 7, 11)
    _, eps = q_sample(D, x_0, torch.tensor([1, 20, 50]), address, return_eps=True)
    assert simple_loss(eps, address) == 0
    other = torch.randn(3, 2, 5)
    assert_same_bits(actual=simple_loss(other, address), expected=simple_loss(other, eps))


def test_an_address_of_tensors_is_that_of_integers():
    output = torch.randn(3, 5)
    expected = simple_loss(output, NoiseAddress(7, FORWARD, 5, 9), reduction="none")
    in_tensors = NoiseAddress(torch.tensor(7), FORWARD, torch.tensor([5, 5, 5]), torch.tensor([9, 10, 11]))
    assert_same_bits(actual=simple_loss(output, in_tensors, reduction="none"), expected=expected)


def test_nothing_has_no_loss_and_no_samples_have_no_mean():
    assert simple_loss(torch.ones(2, 0), NoiseAddress(0, FORWARD, 0), reduction="none").tolist() == [0, 0]
    assert simple_loss(torch.ones(0, 2), NoiseAddress(0, FORWARD, 0), reduction="none").shape == (0,)
    assert simple_loss(torch.ones(0, 2), NoiseAddress(0, FORWARD, 0)).isnan()


@pytest.mark.kernel(op="simple_loss")
def test_a_bad_number_spoils_its_own_sample_alone():
    output = torch.randn(3, 5)
    output[1, 2] = torch.nan
    expected = simple_loss(output, NoiseAddress(0, FORWARD, 0), reduction="none")
    assert expected.isnan().tolist() == [False, True, False]
    assert_same_bits(
        actual=run_kernel(simple_loss, output, NoiseAddress(0, FORWARD, 0), reduction="none"), expected=expected
    )


def test_t_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"t must lie in 0\.\.50, got values from 51 to 51"):
        simple_loss(
            torch.ones(2, 3), NoiseAddress(0, FORWARD, 0), prediction="v", schedule=D, t=51, x_0=torch.ones(2, 3)
        )


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradients(prediction, reduction):
    output, x_0 = torch.randn(2, 2, 3, 2, dtype=torch.float64)
    options = dict(prediction=prediction, reduction=reduction, weight=torch.tensor([0.5, 3.0]))
    if prediction != "eps":
        options["x_0"] = x_0
    if prediction in ("v", "flow"):
        options |= dict(schedule=D, t=torch.tensor([3, 50]))
    output.requires_grad_()
    assert torch.autograd.gradcheck(lambda output: simple_loss(output, NoiseAddress(0, FORWARD, 0), **options), output)


def test_gradient_is_that_of_the_chapters_code():
    output, eps = torch.randn(2, 3, 4, 5)
    output.requires_grad_()
    (expected,) = torch.autograd.grad(torch.nn.MSELoss()(output, eps), output)
    (actual,) = torch.autograd.grad(simple_loss(output, eps), output)
    # each side: the difference, 2/n, and two products
    torch.testing.assert_close(actual, expected, rtol=2 * gamma(4, 2.0**-24), atol=0)


@pytest.mark.kernel(op="simple_loss")
@pytest.mark.parametrize("batch", [3, 5, 7, 11])
def test_the_kernels_gradient_of_a_mean_has_a_quotient_and_no_product_with_a_reciprocal(batch):
    def gradient(output, upstream):
        output = output.detach().requires_grad_()
        return torch.autograd.grad(simple_loss(output, NoiseAddress(0, FORWARD, 0)), output, upstream)[0]

    output, upstream = torch.randn(batch, 5), torch.arange(1, 20).float()
    reciprocal = torch.tensor(1 / batch, dtype=torch.float32)
    # those whose two results differ
    upstream = upstream[upstream / batch != upstream * reciprocal]
    assert len(upstream)
    for number in upstream[:3]:
        assert_same_bits(actual=run_kernel(gradient, output, number), expected=gradient(output, number))


@pytest.mark.kernel(op="simple_loss")
@pytest.mark.parametrize("batch", [3, 5, 7, 11])
def test_the_kernels_mean_is_a_quotient_and_no_product_with_a_reciprocal(batch):
    address, reciprocal, found = NoiseAddress(0, FORWARD, 0), torch.tensor(1 / batch, dtype=torch.float32), 0
    for seed in range(20):
        output = torch.randn(batch, 5, generator=torch.Generator().manual_seed(seed))
        mean = simple_loss(output, address)
        total = pairwise_sum(simple_loss(output, address, reduction="none")[None])[0]
        if mean != total * reciprocal:
            found += 1
            assert_same_bits(actual=run_kernel(simple_loss, output, address), expected=mean)
    assert found


def test_a_second_derivative_is_refused():
    output = torch.randn(2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(simple_loss(output, NoiseAddress(0, FORWARD, 0)), output, create_graph=True)
    with pytest.raises(RuntimeError, match=r"simple_loss_backward\.default but no autograd formula was registered"):
        gradient.square().sum().backward()


def test_gradients_of_what_the_loss_takes_as_constant_are_refused():
    output, wants = torch.randn(2, 3), torch.randn(2, 3, requires_grad=True)
    with pytest.raises(ValueError, match=r"noise requires a gradient, .* pass noise\.detach\(\)"):
        simple_loss(output, wants)
    with pytest.raises(ValueError, match=r"x_0 requires a gradient, .* pass x_0\.detach\(\)"):
        simple_loss(output, None, prediction="x_0", x_0=wants)
    with pytest.raises(ValueError, match=r"weight requires a gradient, .* pass weight\.detach\(\)"):
        simple_loss(output, output, weight=wants[:, 0])
    with torch.no_grad():
        assert simple_loss(wants, wants, weight=wants[:, 0]) == 0


REGISTERED = {
    "no gradient": lambda: simple_loss(torch.randn(2, 3), NoiseAddress(0, FORWARD, 0), reduction="none"),
    "gradient": lambda: simple_loss(torch.randn(2, 3).requires_grad_(), torch.randn(2, 3), reduction="none").sum(),
    "v": lambda: simple_loss(
        torch.randn(2, 3, 2, 2).to(memory_format=torch.channels_last).requires_grad_(),
        NoiseAddress(torch.tensor(0), FORWARD, torch.tensor([0, 1]), torch.arange(2)),
        prediction="v",
        schedule=D,
        t=4,
        x_0=torch.zeros(2, 3, 2, 2, dtype=torch.uint8),
        weight=torch.rand(2),
        reduction="none",
    ),
    "x_0": lambda: simple_loss(
        torch.randn(3, 2).T.requires_grad_(), None, prediction="x_0", x_0=torch.ones(2, 3), reduction="none"
    ),
}


@pytest.mark.parametrize("call", REGISTERED.values(), ids=REGISTERED)
def test_registration(call):
    assert_registered(call)


def test_registration_of_the_gradient():
    output = torch.randn(2, 3, requires_grad=True)
    loss = simple_loss(output, NoiseAddress(0, FORWARD, 0), reduction="none").sum()
    assert_registered(lambda: torch.autograd.grad(loss, output))


def test_one_graph_for_every_timestep_batch_and_address():
    def function(parameter, x_0, t, seed, step, weight):
        options = dict(prediction="v", schedule=D, t=t, x_0=x_0, weight=weight)
        return simple_loss(parameter * x_0, NoiseAddress(seed, FORWARD, step), **options)

    traced = compiled(function)
    for i in range(3):
        parameter = torch.tensor(1.5, requires_grad=True)
        rest = torch.randn(2, 3), torch.tensor([i + 1, 50 - i]), torch.tensor(i), torch.tensor([i]), torch.rand(2)
        actual, expected = traced(parameter, *rest), function(parameter, *rest)
        assert_same_bits(actual=actual, expected=expected)
        (by_traced,), (by_eager,) = (torch.autograd.grad(loss, parameter) for loss in (actual, expected))
        assert_same_bits(actual=by_traced, expected=by_eager)


@pytest.mark.parametrize("name", ["eager", "native"])
def test_the_first_step_of_a_table_that_counts_from_0_has_a_velocity(name):
    output, x_0, eps, t = torch.randn(2, 3), torch.randn(2, 3), torch.randn(2, 3), torch.tensor([0, 49])
    options = dict(prediction="v", x_0=x_0, reduction="none")
    with backend(name):
        actual = simple_loss(output, eps, schedule=ZeroBased(D.schedule), t=t, **options)
        expected = simple_loss(output, eps, schedule=D, t=t + 1, **options)
    assert_same_bits(actual=actual, expected=expected)


def test_vmap_is_a_loop():
    outputs = torch.randn(4, 2, 3)
    together = torch.vmap(lambda output: simple_loss(output, NoiseAddress(0, FORWARD, 0), reduction="none"))(outputs)
    one_by_one = [simple_loss(output, NoiseAddress(0, FORWARD, 0), reduction="none") for output in outputs]
    assert_same_bits(actual=together, expected=torch.stack(one_by_one))


def test_autocast_changes_nothing():
    output = torch.randn(2, 3, requires_grad=True)
    expected = simple_loss(output, NoiseAddress(0, FORWARD, 0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = simple_loss(output, NoiseAddress(0, FORWARD, 0))
    assert_same_bits(actual=actual, expected=expected)
