"""A flow is the chain at the same signal-to-noise ratio, on another scale, and its Euler steps are DDIM's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import EPS
from noisestep.reference import (
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
