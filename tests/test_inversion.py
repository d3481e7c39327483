"""DDIM backwards finds the noise that an image comes from, and takes diffusers' steps."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from laws import EPS, schedules
from noisestep.accelerated.samplers.inversion import invert as invert_tensors
from noisestep.reference import Schedule, sample
from noisestep.reference.samplers.ddim import ddim
from noisestep.reference.samplers.inversion import inversion_coefficients, invert
from sampler_laws import cubic_schedule, gaussian_x_0

IMAGES = np.linspace(-0.9, 0.8, 6).reshape(3, 2)
LINEAR = Schedule.from_name("linear", 1000)


def network(x, t, label=None):
    return torch.tanh(0.9 * x - 0.001 * t.reshape(-1, 1, 1, 1).to(x.dtype))


@settings(max_examples=30)
@given(schedules())
def test_the_noise_of_a_network_that_knows_it_is_found(schedule):
    assume(not schedule.zero_terminal_snr)
    eps = np.sin(7 * IMAGES)
    states = invert(schedule, lambda x, t: eps, IMAGES, trajectory=True)
    a, s = schedule.sqrt_alpha_bar[:, None, None], schedule.sqrt_one_minus_alpha_bar[:, None, None]
    np.testing.assert_allclose(states, a * IMAGES + s * eps, rtol=0, atol=20 * schedule.T * EPS)
    table = inversion_coefficients(schedule)
    before = schedule.sqrt_one_minus_alpha_bar[:-1]
    np.testing.assert_allclose(table[1:, 0] * before + table[1:, 1], s[1:, 0, 0], rtol=0, atol=8 * EPS)


def test_sampling_from_it_gives_the_image_to_first_order():
    errors = []
    for steps in (100, 200, 400):
        schedule = cubic_schedule(steps)
        model = gaussian_x_0(schedule)
        x_T = invert(schedule, model, IMAGES, prediction="x_0")
        again = sample(schedule, model, IMAGES.shape, sampler=ddim, x_T=x_T, prediction="x_0")
        errors.append(np.abs(again - IMAGES).max())
    assert errors[-1] < 0.05
    slope = -np.polyfit(np.log([100, 200, 400]), np.log(errors), 1)[0]
    assert abs(slope - 1) < 0.15


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v", "flow"])
def test_tensors_are_the_reference(prediction):
    images = torch.linspace(-1, 1, 3 * 8).reshape(3, 1, 2, 4)
    labels = torch.arange(3)
    actual = invert_tensors(
        network, LINEAR, images, labels=labels, steps=9, grid="quadratic", prediction=prediction, batch_size=2
    )
    states = invert(
        LINEAR.respace(9, "quadratic"),
        lambda x, t: network(torch.from_numpy(x), torch.from_numpy(t)).numpy(),
        images.double().numpy(),
        prediction=prediction,
        trajectory=True,
    )
    # 10 roundings of float32 a step; at the first t, x_0 becomes eps by a division by sqrt(1 - alpha_bar_t)
    bound = 10 * 9 * 2.0**-24 * np.abs(states).max() / LINEAR.respace(9, "quadratic").sqrt_one_minus_alpha_bar[1]
    np.testing.assert_allclose(actual.numpy(), states[-1], rtol=0, atol=bound)


def test_its_steps_are_those_of_diffusers():
    diffusers = pytest.importorskip("diffusers", reason="needs diffusers", exc_type=ImportError)
    scheduler = diffusers.DDIMInverseScheduler(clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(10)
    x = images = torch.linspace(-1, 1, 3 * 8).reshape(3, 1, 2, 4)
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t + 1), int(t), x).prev_sample
    actual = invert_tensors(network, LINEAR, images, steps=10)
    # their alpha_bar is a product of a thousand factors in float32
    assert (x - actual).abs().max() <= 1000 * 2.0**-24 * max(1.0, float(x.abs().max()))
    assert (x - images).abs().max() > 0.1


def test_what_does_not_fit_is_refused():
    images = torch.zeros(3, 1, 2, 2)
    with pytest.raises(ValueError, match=r"labels have shape \(2,\); 3 images need \(3,\)"):
        invert_tensors(network, LINEAR, images, labels=torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"batch_size must lie in \[1, 2147483648\), got 0"):
        invert_tensors(network, LINEAR, images, batch_size=0)
    with pytest.raises(TypeError, match="images must be floating"):
        invert(LINEAR, None, np.zeros((2, 2), int))
