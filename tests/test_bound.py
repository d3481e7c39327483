"""The variational bound: its terms against integrals, and its sum against a likelihood that is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import EPS, assert_close, schedules
from noisestep.reference import (
    Schedule,
    bits_per_dimension,
    discretised_normal_log_likelihood,
    normal_kl,
    prior_kl,
    q_sample,
    variational_bound,
    vlb_terms,
)
from scipy.special import log_ndtr

RNG = np.random.default_rng(5)
LEVELS = 2 * np.arange(256) / 255 - 1
LINEAR = Schedule.from_name("linear", 10)
X_0, NOISE, OUT = RNG.standard_normal((3, 4, 3))


@pytest.mark.parametrize(("name", "golden"), [("linear", 2.911295e-05), ("cosine", 1.751985e-09)])
def test_prior_kl_is_the_published_one(name, golden):
    # seven digits, so half a unit in the last is at most 0.5e-6 of the number
    actual = prior_kl(Schedule.from_name(name, 1000), np.ones((1, 3)))
    assert_close(actual=actual, expected=[golden], roundings=0.5e-6 / EPS)


@given(schedules())
def test_prior_kl_is_a_divergence_of_two_normals(schedule):
    mean = schedule.sqrt_alpha_bar[-1] * X_0
    log_variance = np.log(schedule.one_minus_alpha_bar[-1:])[None]
    kl = normal_kl(mean, np.broadcast_to(log_variance, mean.shape), np.zeros_like(mean), np.zeros_like(mean))
    # v - 1 - log v cancels for a variance near 1: absolute errors of a rounding of 1
    scale = 1 + np.abs(log_variance[0, 0]) + np.square(X_0).max()
    assert_close(actual=prior_kl(schedule, X_0), expected=bits_per_dimension(kl), roundings=32, scale=scale)


@given(st.floats(-3, 3), st.floats(0.1, 3), st.floats(-3, 3), st.floats(0.5, 3))
def test_normal_kl_is_the_integral_of_its_definition(m_1, s_1, m_2, s_2):
    x, width = np.linspace(m_1 - 12 * s_1, m_1 + 12 * s_1, 4001, retstep=True)
    log_p = -(((x - m_1) / s_1) ** 2) / 2 - math.log(s_1)
    log_q = -(((x - m_2) / s_2) ** 2) / 2 - math.log(s_2)
    integrand = np.exp(log_p) / math.sqrt(2 * math.pi) * (log_p - log_q)
    actual = normal_kl(np.float64(m_1), np.float64(2 * math.log(s_1)), np.float64(m_2), np.float64(2 * math.log(s_2)))
    # the sum of a smooth function that vanishes at both ends is exact but for the rounding of 4001 terms, and for
    # the 1e-32 beyond 12 standard deviations
    assert_close(
        actual=actual, expected=integrand.sum() * width, roundings=4001, scale=np.abs(integrand).sum() * width + 1
    )


@given(st.floats(-2, 2), st.floats(-9, 3))
def test_probabilities_of_all_levels_add_up_to_1(mean, log_variance):
    log_p = discretised_normal_log_likelihood(LEVELS, np.full(256, mean), np.full(256, log_variance))
    # an edge of two levels rounds in each by itself, off by eps times its own size; weighted with the density that
    # makes 128 eps over all edges, 127.5 in a unit, beside a few eps of each probability and log p eps of its log
    assert_close(actual=np.exp(log_p).sum(), expected=1.0, roundings=256 * 4)


@pytest.mark.parametrize("sigma", [1e-3, 1e-2, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("level", [0, 64, 127, 128, 200, 255])
def test_decoder_is_the_exact_interval_far_into_the_tails(sigma, level):
    mean = np.linspace(-1, 1, 41)
    x_0 = np.full_like(mean, LEVELS[level])
    actual = discretised_normal_log_likelihood(x_0, mean, np.float64(2 * math.log(sigma)))
    low, high = (x_0 - 1 / 255 - mean) / sigma, (x_0 + 1 / 255 - mean) / sigma
    low, high = (
        (np.full_like(mean, -np.inf) if level == 0 else low),
        (np.full_like(mean, np.inf) if level == 255 else high),
    )
    # scipy's log of the normal distribution function, on the side where the interval is a left tail
    right = low + high > 0
    low, high = np.where(right, -high, low), np.where(right, -low, high)
    # a near tail less the farther one: relative errors grow by the ratio of the tail to the interval
    gap = log_ndtr(low) - log_ndtr(high)
    expected = log_ndtr(high) + np.log(-np.expm1(gap))
    assert np.isfinite(actual).all()
    # the edges round by eps / sigma, which the logarithm feels as |z| / sigma
    edge = (1 + np.abs(high)) / sigma
    assert_close(
        actual=actual,
        expected=expected,
        roundings=16,
        scale=np.abs(expected) + edge + 16 * np.exp(log_ndtr(high) - expected),
    )


@pytest.mark.parametrize("log_variance", [40.0, 60.0, 100.0])
def test_decoder_of_a_wide_normal_is_its_density_times_the_bin(log_variance):
    x_0, mean = LEVELS[1:-1], np.full(254, 0.2)
    actual = discretised_normal_log_likelihood(x_0, mean, log_variance)
    # the edges of a bin of 2/255 round by 2 eps, and the square in the density is below eps
    expected = math.log(2 / 255) - (log_variance + math.log(2 * math.pi)) / 2
    assert_close(actual=actual, expected=np.full(254, expected), roundings=256, scale=1)


@given(schedules(), st.data())
def test_a_perfect_prediction_costs_nothing_before_the_last_step(schedule, data):
    if schedule.T == 1:
        return
    t = data.draw(st.integers(2, schedule.T))
    x_t = q_sample(schedule, X_0, t, NOISE)
    terms = vlb_terms(schedule, X_0, x_t, X_0, t, prediction="x_0")
    assert np.array_equal(terms, np.zeros(4))
    # a wrong x_0 costs its posterior mean's distance, squared, over twice the variance
    wrong = vlb_terms(schedule, X_0, x_t, OUT, t, prediction="x_0")
    c_0 = schedule.posterior_mean_coef_x_0[t]
    expected = c_0**2 * np.mean((OUT - X_0) ** 2, axis=1) / (2 * schedule.posterior_variance[t] * math.log(2))
    # the means are subtracted after the share of x_t was added to both
    size = (c_0 * 5 + 5) ** 2 / schedule.posterior_variance[t]
    roundings = 32 + 4 * abs(schedule.posterior_log_variance[t])
    assert_close(actual=wrong, expected=expected, roundings=roundings, scale=size)


def test_the_last_step_is_the_decoder():
    x_0 = LEVELS[[0, 100, 255, 31]][:, None]
    x_t, out = RNG.standard_normal((2, 4, 1))
    t = np.array([1, 5, 1, 10])
    terms = vlb_terms(LINEAR, x_0, x_t, out, t, prediction="x_0", variance="beta")
    first = t == 1
    # c_0 of the posterior's mean at t = 1 is 1 to a rounding, and the likelihood's slope is up to |z| / sigma
    log_p = discretised_normal_log_likelihood(x_0[first], out[first], np.log(LINEAR.beta[1]))
    assert_close(actual=terms[first], expected=bits_per_dimension(-log_p), roundings=64, scale=1e4)
    each = [
        vlb_terms(LINEAR, x_0[[b]], x_t[[b]], out[[b]], int(t[b]), prediction="x_0", variance="beta")[0]
        for b in range(4)
    ]
    assert np.array_equal(terms, each)


def test_a_given_variance_is_the_named_one():
    t = np.array([1, 3, 7, 10])
    named = vlb_terms(LINEAR, X_0, NOISE, OUT, t, variance="beta")
    assert np.array_equal(vlb_terms(LINEAR, X_0, NOISE, OUT, t, variance=LINEAR.beta[t]), named)


def test_bound_is_tight_where_the_model_is_exact():
    """x_0 ~ N(0, 1) makes every x_t one; with the best eps and sigma^2 = beta, p is the true joint distribution."""
    schedule = Schedule(np.full(6, 0.3))
    count = 4000
    x_0 = np.full((count, 1), LEVELS[150])

    def model(x, t):
        return schedule.sqrt_one_minus_alpha_bar[t][:, None] * x

    bound = variational_bound(schedule, model, x_0, seed=1, variance="beta")
    assert bound.terms.shape == (7, count)
    assert not bound.terms[0].any()
    assert np.array_equal(bound.total, bound.prior + bound.terms.sum(axis=0))
    nll = -math.log2(math.exp(-(LEVELS[150] ** 2) / 2) / math.sqrt(2 * math.pi) * 2 / 255)
    # five standard errors of the mean; the bin is 1/70 of sqrt(beta_1), whose curvature is worth 1e-5 bits
    tolerance = 5 * bound.total.std() / math.sqrt(count) + 1e-5
    assert abs(bound.total.mean() - nll) < tolerance
    assert tolerance < 0.1
    # a worse model has a larger bound
    worse = variational_bound(schedule, lambda x, t: 0.5 * model(x, t), x_0, seed=1, variance="beta")
    assert worse.total.mean() > nll + tolerance


@pytest.mark.parametrize("seed", range(12))
def test_the_bound_of_a_sample_does_not_depend_on_its_batch(seed: int):
    together = variational_bound(LINEAR, lambda x, t: x * t[:, None], X_0, seed=seed, numbers=5)
    alone = variational_bound(LINEAR, lambda x, t: x * t[:, None], X_0[[2]], seed=seed, numbers=[7])
    assert np.array_equal(together.terms[:, [2]], alone.terms)
    assert np.array_equal(together.total[[2]], alone.total)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vlb_terms(LINEAR, X_0, X_0, X_0, 1, variance="zero"), 'variance "zero" has an infinite bound'),
        (lambda: vlb_terms(LINEAR, X_0, X_0, X_0, 1, variance=0.0), "a variance of 0.0 has an infinite bound"),
        (lambda: vlb_terms(LINEAR, X_0, X_0, X_0, 1, variance="typo"), "one of beta, posterior, zero, got 'typo'"),
        (lambda: vlb_terms(LINEAR, X_0, X_0, X_0, 0), r"t must be in 1..10, got 0"),
        (lambda: vlb_terms(LINEAR, X_0, X_0, X_0[:1], 1), r"output \(1, 3\)"),
        (
            lambda: discretised_normal_log_likelihood(X_0, X_0, np.zeros(1), levels=1),
            r"levels must lie in \[2, 4294967297\), got 1",
        ),
        (
            lambda: variational_bound(LINEAR, lambda x, t: x, X_0, numbers=[1, 2]),
            r"one number or 4 of them, got shape \(2,\)",
        ),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
