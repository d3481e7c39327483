"""vlb_terms: eager and native, like the kernel (test_ops.py), within its bound of the float64 reference."""

import numpy as np
import pytest
import torch
from descriptions.vlb_terms import (
    CLIPS,
    EXACT,
    LEVELS,
    VARIANCES,
    arguments,
    assert_near_the_reference,
    fitting,
    timesteps,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreter import assert_same_bits, run_kernel
from laws import NAMED
from noisestep.accelerated.backends import backend
from noisestep.accelerated.ops import vlb_terms
from noisestep.accelerated.schedule import DeviceSchedule
from noisestep.reference import Schedule
from noisestep.reference import bound as reference
from op_cases import (
    LAYOUTS,
    PREDICTIONS,
    Case,
    arranged,
    assert_registered,
    cases,
    compiled,
    device_schedule,
    float64,
)

D = device_schedule("cosine", 50)


options_of_a_term = st.fixed_dictionaries(
    dict(
        prediction=st.sampled_from(PREDICTIONS),
        variance=st.sampled_from(VARIANCES),
        clip=st.sampled_from(CLIPS),
        levels=st.sampled_from(LEVELS),
    )
)


def option(prediction="eps", variance="posterior", clip=None, levels=256) -> dict:
    return dict(prediction=prediction, variance=variance, clip=clip, levels=levels)


@pytest.mark.property
@settings(max_examples=60)
@given(cases(), options_of_a_term, st.sampled_from((0.0, 0.05, 3.0)))
def test_within_its_bound_of_the_reference(case, options, wrong):
    options, t = fitting(case, options), timesteps(case)
    inputs = arguments(case, t, options["prediction"], options["variance"], options["levels"], wrong=wrong)
    if inputs[1].numel():
        for name in ("eager", "native"):
            with backend(name):
                assert_near_the_reference(vlb_terms(*inputs, t, **options), inputs, t, options)


@pytest.mark.parametrize(("name", "zero"), NAMED)
@pytest.mark.parametrize("variance", VARIANCES)
def test_within_its_bound_of_the_reference_at_every_t(name, zero, variance):
    T = 1000
    case = Case((T, 2, 3), "float64", schedule=name, zero_terminal_snr=zero, T=T)
    t = torch.arange(1, T + 1)
    for predicted, clip in zip(PREDICTIONS, (*CLIPS, None), strict=True):
        options = fitting(case, option(predicted, variance, clip))
        inputs = arguments(case, t, options["prediction"], variance, 256)
        assert_near_the_reference(vlb_terms(*inputs, t, **options), inputs, t, options)


@pytest.mark.kernel(op="native")
@pytest.mark.kernel(op="vlb_terms")
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
    with backend("eager"):
        eager = vlb_terms(*inputs, t, **options)
    for actual in (eager, vlb_terms(*inputs, t, **options), run_kernel(vlb_terms, *inputs, t, **options)):
        # half the square of the distance in sigmas: sigma is the exponential of a logarithm near -14, rounded often
        np.testing.assert_allclose(actual.numpy(), expected, rtol=256 * EXACT, atol=0)


@pytest.mark.property
@settings(max_examples=40)
@given(cases(), options_of_a_term)
def test_the_memory_layout_changes_no_bit(case, options):
    options, t = fitting(case, options), timesteps(case)
    inputs = arguments(case, t, options["prediction"], options["variance"], options["levels"])
    expected = vlb_terms(*inputs, t, **options)
    for layout in LAYOUTS:
        others = [arranged(part, layout) for part in inputs[1:]]
        assert_same_bits(actual=vlb_terms(inputs[0], *others, t, **options), expected=expected)


@pytest.mark.property
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


@pytest.mark.kernel(op="vlb_terms")
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
    assert_registered(call)


def test_registration_of_the_gradient():
    output = torch.rand(2, 3, requires_grad=True)
    terms = vlb_terms(D, *torch.rand(2, 2, 3), output, torch.tensor([1, 4])).sum()
    assert_registered(lambda: torch.autograd.grad(terms, output))


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
