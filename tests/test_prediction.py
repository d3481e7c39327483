"""eps, x_0, v, a flow and mu say the same thing: every conversion, both ways."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import assert_close, schedules
from noisestep.reference import (
    Schedule,
    convert,
    eps_from_flow,
    eps_from_mu,
    eps_from_v,
    eps_from_x_0,
    mu_from_eps,
    posterior_mean,
    predict_x_0,
    q_sample,
    velocity,
    x_0_from_eps,
    x_0_from_flow,
    x_0_from_mu,
    x_0_from_v,
)

RNG = np.random.default_rng(2)
X_0, EPS = RNG.standard_normal((2, 4, 3))
ZERO_SNR = Schedule.from_name("linear", 10, zero_terminal_snr=True)
KINDS = ("eps", "x_0", "v", "flow", "mu")


def draw(schedule, t):
    """x_t, and everything that a network could say of it."""
    x_t = q_sample(schedule, X_0, t, EPS)
    return x_t, {
        "eps": EPS,
        "x_0": X_0,
        "v": velocity(schedule, X_0, EPS, t),
        "flow": EPS - X_0,
        "mu": posterior_mean(schedule, X_0, x_t, t),
    }


def x_0_slopes(schedule, t):
    """|d x_0 / d said|: how much an error in each quantity becomes in x_0. Large numbers are where cancellation is."""
    signal, noise = schedule.sqrt_alpha_bar[t], schedule.sqrt_one_minus_alpha_bar[t]
    with np.errstate(divide="ignore"):
        return {
            "eps": np.maximum(noise, 1) / signal,
            "x_0": 1.0,
            "v": 1.0,
            "flow": 1.0,
            "mu": 1 / schedule.posterior_mean_coef_x_0[t],
        }


@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("target", KINDS)
@settings(max_examples=25)
@given(schedules(), st.data())
def test_every_conversion_holds(source, target, schedule, data):
    t = data.draw(st.integers(1, schedule.T))
    if source == "eps" and schedule.alpha_bar[t] == 0:
        return
    x_t, said = draw(schedule, t)
    actual = convert(schedule, x_t, said[source], t, source=source, target=target)
    # an error of x_0 grows by the reciprocal of its slope on the way to the target, or not at all; inputs are up to 5
    slope = x_0_slopes(schedule, t)
    growth = {"eps": 1 / schedule.sqrt_one_minus_alpha_bar[t], "x_0": 1.0, "v": 0.0, "mu": 1.0}
    growth["v"] = growth["flow"] = growth["eps"]
    size = 5 * (1 + slope[source]) * (1 + growth[target])
    # mu rests on 1 - alpha_bar of two steps, each a sum of up to t logarithms
    assert_close(actual=actual, expected=said[target], roundings=16 + 8 * t, scale=size)


@given(schedules(), st.data())
def test_conversions_by_name_are_the_formulas(schedule, data):
    t = data.draw(st.integers(1, schedule.T))
    x_t, said = draw(schedule, t)
    assert np.array_equal(
        convert(schedule, x_t, X_0, t, source="x_0", target="eps"), eps_from_x_0(schedule, x_t, X_0, t)
    )
    assert np.array_equal(
        predict_x_0(schedule, x_t, said["v"], t, prediction="v"), x_0_from_v(schedule, x_t, said["v"], t)
    )
    assert np.array_equal(predict_x_0(schedule, x_t, X_0, t, prediction="mu"), x_0_from_mu(schedule, x_t, X_0, t))
    # v is a rotation of (x_0, eps), so that no error grows in it
    assert_close(actual=eps_from_v(schedule, x_t, said["v"], t), expected=EPS, roundings=16, scale=10)
    assert_close(actual=x_0_from_v(schedule, x_t, said["v"], t), expected=X_0, roundings=16, scale=10)
    # so does the flow's velocity: its coefficients are at most 1
    assert_close(actual=eps_from_flow(schedule, x_t, said["flow"], t), expected=EPS, roundings=16, scale=10)
    assert_close(actual=x_0_from_flow(schedule, x_t, said["flow"], t), expected=X_0, roundings=16, scale=10)


@given(schedules(), st.data())
def test_mean_of_the_chapters_update_is_the_posteriors(schedule, data):
    t = data.draw(st.integers(1, schedule.T))
    if schedule.alpha_bar[t] == 0:
        with pytest.raises(ValueError, match="zero terminal SNR"):
            mu_from_eps(schedule, X_0, EPS, t)
        return
    x_t, said = draw(schedule, t)
    mu = mu_from_eps(schedule, x_t, EPS, t)
    size = 5 / np.sqrt(schedule.alpha[t])
    assert_close(actual=mu, expected=said["mu"], roundings=16 + 8 * t, scale=size)
    back = 5 * (1 + schedule.sqrt_one_minus_alpha_bar[t] / schedule.beta[t])
    assert_close(actual=eps_from_mu(schedule, x_t, mu, t), expected=EPS, roundings=16, scale=back)
    assert_close(
        actual=x_0_from_eps(schedule, x_t, EPS, t), expected=X_0, roundings=16, scale=5 / schedule.sqrt_alpha_bar[t]
    )


def test_x_0_is_clipped_when_asked():
    schedule = Schedule.from_name("linear", 10)
    x_0 = predict_x_0(schedule, X_0, 3 * X_0, 5, prediction="x_0", clip=(-1, 0.5))
    assert np.array_equal(x_0, np.clip(3 * X_0, -1, 0.5))


def test_a_velocity_reaches_x_0_where_no_signal_is_left():
    x_t, said = draw(ZERO_SNR, 10)
    assert np.array_equal(x_t, EPS)
    assert np.array_equal(x_0_from_v(ZERO_SNR, x_t, said["v"], 10), X_0)
    assert_close(actual=x_0_from_flow(ZERO_SNR, x_t, said["flow"], 10), expected=X_0, roundings=2, scale=5)
    assert np.array_equal(eps_from_mu(ZERO_SNR, x_t, X_0, 10), EPS)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda s: predict_x_0(s, X_0, X_0, 1, prediction="noise"),
            "prediction must be one of eps, x_0, v, flow, mu, got 'noise'",
        ),
        (lambda s: predict_x_0(s, X_0, X_0, 0, prediction="x_0"), r"t must be in 1..10, got 0"),
        (lambda s: predict_x_0(s, X_0, X_0, [1, 2], prediction="x_0"), r"t has shape \(2,\)"),
        (lambda s: predict_x_0(s, X_0, X_0, 1, clip=(1, -1)), r"low < high, got \(1, -1\)"),
        (lambda s: predict_x_0(s, X_0, X_0[:2], 1), r"got x_t \(4, 3\), output \(2, 3\)"),
        (lambda s: convert(s, X_0, X_0, 1, source="eps", target="score"), "target must be one of"),
        (lambda s: x_0_from_eps(ZERO_SNR, X_0, X_0, 10), r"alpha_bar is 0 at t = 10 .* predict x_0, v or flow"),
        (lambda s: x_0_from_eps(ZERO_SNR, X_0, X_0, [1, 2, 3, 10]), "alpha_bar is 0 at t = 10"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(Schedule.from_name("linear", 10))
