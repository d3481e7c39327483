"""q(x_t | x_{t-1}) and q(x_t | x_0): one jump equals step by step, and the chain ends in noise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import assert_close, log_alpha_bar, schedules
from noisestep.reference import (
    Schedule,
    prior_kl,
    q_mean_variance,
    q_sample,
    q_step,
    q_step_mean_variance,
)

RNG = np.random.default_rng(0)
X, EPS_NOISE = RNG.standard_normal((2, 3, 2, 4))


@given(schedules())
def test_one_jump_equals_step_by_step(schedule):
    mean, variance = X, 0.0
    for t in range(1, schedule.T + 1):
        # a step scales mean and standard deviation alike, and adds its own variance
        scale = q_step_mean_variance(schedule, np.ones(1), t)[0][0]
        mean, added = q_step_mean_variance(schedule, mean, t)
        variance = scale**2 * variance + added
        jump_mean, jump_variance = q_mean_variance(schedule, X, t)
        roundings = 8 * (t + 2) * (1 + log_alpha_bar(schedule)[t])
        assert_close(actual=jump_mean, expected=mean, roundings=roundings)
        assert_close(actual=jump_variance, expected=variance, roundings=16 * (t + 2))


@given(schedules(), st.data())
def test_samples_have_the_mean_and_variance_of_their_distributions(schedule, data):
    t = np.array(data.draw(st.lists(st.integers(1, schedule.T), min_size=3, max_size=3)))
    for sample, moments in ((q_sample, q_mean_variance), (q_step, q_step_mean_variance)):
        mean, variance = moments(schedule, X, t)
        assert_close(actual=sample(schedule, X, t, np.zeros_like(X)), expected=mean, roundings=4)
        deviation = sample(schedule, X, t, EPS_NOISE) - mean
        size = np.abs(mean) + np.abs(EPS_NOISE)
        assert_close(actual=deviation, expected=np.sqrt(variance) * EPS_NOISE, roundings=8, scale=size)


@given(schedules())
def test_a_step_for_each_sample_is_each_sample_by_itself(schedule):
    t = RNG.integers(1, schedule.T + 1, len(X))
    for sample in (q_sample, q_step):
        together = sample(schedule, X, t, EPS_NOISE)
        for b in range(len(X)):
            assert np.array_equal(together[b], sample(schedule, X[b], int(t[b]), EPS_NOISE[b]))


def test_step_0_is_clean_data():
    assert np.array_equal(q_sample(Schedule.from_name("cosine", 5), X, 0, EPS_NOISE), X)


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        # Ho et al. state L_T of about 1e-5 bits for linear; the others are alpha_bar_T / (2 log 2), rounded up
        ("linear", 3e-5),
        ("scaled_linear", 3.4e-3),
        ("cosine", 1.8e-9),
        ("sigmoid", 2.2e-7),
        ("quadratic", 5.4e-4),
        ("constant", 1.3e-9),
        ("jsd", 0.0),
        ("warmup10", 3.4e-9),
        ("warmup50", 1.9e-7),
    ],
)
def test_the_chain_ends_at_a_standard_normal(name, bound):
    # |x_0| <= 1 for images, and the divergence grows with |x_0|
    assert prior_kl(Schedule.from_name(name, 1000), np.ones((1, 4)))[0] <= bound
    assert prior_kl(Schedule.from_name(name, 1000, zero_terminal_snr=True), np.ones((1, 4)))[0] == 0


@pytest.mark.parametrize(
    ("t", "x", "eps", "error", "message"),
    [
        (-1, X, X, ValueError, r"t must be in 0..10, got -1"),
        (11, X, X, ValueError, r"t must be in 0..10, got 11"),
        (1.0, X, X, TypeError, "t must be an int or an array of ints, got float64"),
        (True, X, X, TypeError, "got bool"),
        ([[1]], X, X, ValueError, r"one number or shape \(B,\), got shape \(1, 1\)"),
        ([1, 2], X, X, ValueError, r"t has shape \(2,\): it needs x of shape \(2, ...\), got \(3, 2, 4\)"),
        ([1], np.float64(1), np.float64(1), ValueError, r"needs x of shape \(1, ...\), got \(\)"),
        (1, X, X[:1], ValueError, r"shapes must be equal, got x_0 \(3, 2, 4\), eps \(1, 2, 4\)"),
        (1, np.zeros((3, 2, 4), np.uint8), X, TypeError, r"x_0 must be floating, got uint8; scale images"),
    ],
)
def test_bad_arguments_are_refused(t, x, eps, error, message):
    with pytest.raises(error, match=message):
        q_sample(Schedule.from_name("linear", 10), x, t, eps)


def test_a_markov_step_begins_at_1():
    with pytest.raises(ValueError, match=r"t must be in 1..10, got 0"):
        q_step(Schedule.from_name("linear", 10), X, 0, X)
