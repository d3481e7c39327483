"""A flow is the chain at the same signal-to-noise ratio, on another scale, and its Euler steps are DDIM's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import EPS
from noisestep.accelerated.address import INITIAL, NoiseAddress
from noisestep.accelerated.ops import noise
from noisestep.accelerated.samplers import SAMPLERS
from noisestep.accelerated.samplers.loop import sample as sample_tensors
from noisestep.reference import (
    Schedule,
    flow_path,
    flow_schedule,
    flow_step,
    flow_velocity,
    q_sample,
    sample,
    x_0_from_velocity,
    x_t_from_flow,
)
from noisestep.reference.samplers.ddim import ddim
from sampler_laws import MEAN, VARIANCE, Mixture, reference_sampler

IMAGES = np.linspace(-0.9, 0.8, 6).reshape(3, 2)
NOISE = np.sin(7 * IMAGES)
TIMES = st.lists(st.integers(1, 99), min_size=1, max_size=10, unique=True).map(lambda s: np.sort(s) / 100)


@settings(max_examples=30)
@given(TIMES)
def test_on_the_scale_of_the_chain_it_is_the_forward_process(times):
    schedule = flow_schedule(times)
    for k, s in enumerate(times, start=1):
        x_t = x_t_from_flow(flow_path(IMAGES, NOISE, s), s)
        # 1 - alpha_bar is a sum over at most ten steps
        np.testing.assert_allclose(x_t, q_sample(schedule, IMAGES, k, NOISE), rtol=0, atol=400 * EPS)
        np.testing.assert_allclose(schedule.snr[k], ((1 - s) / s) ** 2, rtol=400 * EPS)


@settings(max_examples=30)
@given(st.floats(0, 1), st.floats(0, 1))
def test_a_velocity_leads_along_the_line(s, to):
    x_s, velocity = flow_path(IMAGES, NOISE, s), flow_velocity(IMAGES, NOISE)
    np.testing.assert_allclose(flow_step(x_s, velocity, s, to), flow_path(IMAGES, NOISE, to), rtol=0, atol=8 * EPS)
    np.testing.assert_allclose(x_0_from_velocity(x_s, velocity, s), IMAGES, rtol=0, atol=8 * EPS)


@pytest.mark.parametrize("last", [0.9, 1.0])
def test_its_euler_steps_are_those_of_ddim(last):
    times = np.linspace(0, last, 9)[1:]
    schedule = flow_schedule(times)

    def velocity(x_s, s):
        return np.tanh(0.9 * x_s - s)

    def x_0(x_t, t):
        # the network of the flow, asked on the scale of the chain
        s = times[t[0] - 1]
        x_s = x_t * np.hypot(1 - s, s)
        return x_0_from_velocity(x_s, velocity(x_s, s), s)

    x_s, states = NOISE, [x_t_from_flow(NOISE, times[-1])]
    for s, to in zip(times[::-1], [*times[-2::-1], 0.0], strict=True):
        x_s = flow_step(x_s, velocity(x_s, s), s, to)
        states.append(x_t_from_flow(x_s, to))
    chain = sample(schedule, x_0, NOISE.shape, sampler=ddim, x_T=states[0], prediction="x_0", trajectory=True)
    np.testing.assert_allclose(chain[::-1], states, rtol=0, atol=1000 * EPS)


def test_the_schedule_by_name_is_that_of_even_times():
    assert Schedule.from_name("flow", 7) == flow_schedule(np.arange(1, 8) / 7)


def gaussian_velocity(x_s, s):
    """E[eps - x_0 | x_s] for x_0 ~ N(MEAN, VARIANCE)."""
    off = (x_s - (1 - s) * MEAN) / ((1 - s) ** 2 * VARIANCE + s**2)
    return s * off - (MEAN + (1 - s) * VARIANCE * off)


def on_the_chain(velocity, T):
    """A network of a flow, asked on the scale of the chain at the steps of "flow" with T steps."""

    def model(x_t, t, label=None):
        s = float(t[0]) / T
        return velocity(x_t * float(np.hypot(1 - s, s)), s)

    return model


@pytest.mark.parametrize("T", [1, 2, 25])
def test_gaussian_data_have_the_mean_and_variance_of_eulers_recursion(T):
    mean, variance = 0.0, 1.0
    for k in range(T, 0, -1):
        # the velocity is an affine function of x_s, whose slope two points tell
        at_mean, at_one_more = (gaussian_velocity(mean + shift, k / T) for shift in (0, 1))
        mean, variance = mean - at_mean / T, (1 - (at_one_more - at_mean) / T) ** 2 * variance
    model, start = on_the_chain(gaussian_velocity, T), np.array([[0.0], [1.0]])
    shift, at_one = sample(
        Schedule.from_name("flow", T), model, (2, 1), sampler=ddim, x_T=start, prediction="flow"
    ).ravel()
    # T steps of some 20 roundings, of numbers of up to 1; the square of the slope doubles its own
    assert abs(shift - mean) < 20 * T * EPS
    assert abs((at_one - shift) ** 2 - variance) < 80 * T * EPS
    # which is the variance of the data but for an error of first order
    assert abs(variance - VARIANCE) < 0.5 / T
    if T == 1:
        # one step leads to the mean of the data: at s = 1 the noise says nothing of the image
        assert variance == 0
        assert abs(mean - MEAN) < EPS


def test_one_step_is_enough_where_the_data_are_one_point():
    for T in (1, 3, 10):
        model = on_the_chain(lambda x_s, s: (x_s - 0.3) / s, T)
        x_0 = sample(Schedule.from_name("flow", T), model, NOISE.shape, sampler=ddim, x_T=NOISE, prediction="flow")
        np.testing.assert_allclose(x_0, np.full_like(NOISE, 0.3), rtol=0, atol=20 * T * EPS)


def test_eulers_error_is_of_first_order():
    mixture, start = Mixture(), np.linspace(-2, 2, 20)[:, None]
    # the flow begins at N(0, 1) itself, and keeps the quantile of a point
    exact = mixture.quantile_of_normal(start)
    numbers, errors = [40, 80, 160, 320], []
    for T in numbers:
        schedule = Schedule.from_name("flow", T)

        def velocity(x_t, t, schedule=schedule):
            x_0 = mixture.x_0(schedule, x_t, t)
            noise = schedule.sqrt_one_minus_alpha_bar[t[0]]
            return (x_t - schedule.sqrt_alpha_bar[t[0]] * x_0) / noise - x_0

        x_0 = sample(schedule, velocity, start.shape, sampler=ddim, x_T=start, prediction="flow")
        errors.append(np.sqrt(np.mean((x_0 - exact) ** 2)))
    slope = -np.polyfit(np.log(numbers), np.log(errors), 1)[0]
    assert abs(slope - 1) < 0.15, f"slope {slope}"


def curved(x_s, s):
    """A velocity, for arrays and tensors."""
    return (torch.tanh if isinstance(x_s, torch.Tensor) else np.tanh)(0.9 * x_s - s)


@pytest.mark.parametrize("name", sorted(SAMPLERS.keys() - {"deis"}))
def test_every_sampler_follows_a_flow_on_tensors_as_in_the_reference(name):
    schedule, shape, steps = Schedule.from_name("flow", 100), (1, 2, 3), 8
    model = on_the_chain(curved, 100)
    states = sample_tensors(
        model, schedule, count=2, shape=shape, seed=4, steps=steps, sampler=name, prediction="flow", trajectory=2
    ).trajectory
    expected = sample(
        schedule.respace(steps),
        model,
        (2, *shape),
        sampler=reference_sampler(name),
        seed=4,
        prediction="flow",
        clip=(-1, 1),
        trajectory=True,
    )[::-1]
    # a step makes 20 roundings of float32, of numbers up to the largest state
    bound = 20 * steps * 2.0**-24 * np.abs(expected).max()
    np.testing.assert_allclose(states.double().numpy(), expected, rtol=0, atol=bound)


def test_deis_cannot_begin_in_noise_alone():
    with pytest.raises(ValueError, match="deis"):
        sample_tensors(
            on_the_chain(curved, 100),
            Schedule.from_name("flow", 100),
            count=1,
            shape=(1, 2, 2),
            sampler="deis",
            prediction="flow",
        )


def test_it_is_the_euler_scheduler_of_diffusers():
    diffusers = pytest.importorskip("diffusers", reason="needs diffusers", exc_type=ImportError)
    scheduler, steps, shape = diffusers.FlowMatchEulerDiscreteScheduler(), 10, (1, 4, 4)
    # as its pipelines pass them
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps))
    x = noise(NoiseAddress(3, INITIAL, 0), (2, *shape))
    for s, t in zip(scheduler.sigmas, scheduler.timesteps, strict=False):
        x = scheduler.step(curved(x, float(s)), t, x).prev_sample
    states = sample_tensors(
        on_the_chain(curved, 1000),
        Schedule.from_name("flow", 1000),
        count=2,
        shape=shape,
        seed=3,
        steps=steps,
        prediction="flow",
        clip=False,
        trajectory=2,
    ).trajectory
    # a step makes some 20 roundings of float32 here and 5 there, of numbers up to the largest state
    bound = 25 * steps * 2.0**-24 * float(states.abs().max())
    np.testing.assert_allclose(x.numpy(), states[-1].numpy(), rtol=0, atol=bound)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: flow_path(IMAGES, NOISE, 1.5), r"s must be in \[0, 1\], got 1.5"),
        (lambda: flow_step(IMAGES, NOISE, 0.5, -0.5), r"to must be in \[0, 1\], got -0.5"),
        (lambda: flow_schedule([0.5, 0.5]), r"times must be a row of increasing numbers in \(0, 1\], got \[0.5, 0.5\]"),
        (lambda: flow_schedule([0.5, 1.5]), "times must be a row of increasing numbers"),
        (lambda: flow_velocity(IMAGES, NOISE[:1]), "shapes must be equal"),
    ],
)
def test_what_is_no_flow_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
