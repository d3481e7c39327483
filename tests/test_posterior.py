"""q(x_{t-1} | x_t, x_0) is what Bayes' rule makes of the forward process."""

import numpy as np
from hypothesis import assume, given
from laws import assert_close, log_alpha_bar, schedules
from noisestep.reference import posterior_mean, posterior_mean_variance, posterior_sample

RNG = np.random.default_rng(1)
X_0, X_T, Z = RNG.standard_normal((3, 2, 5))


@given(schedules())
def test_posterior_is_bayes_rule(schedule):
    assume(schedule.T > 1)
    t = np.arange(2, schedule.T + 1)
    x_0, x_t = (np.broadcast_to(x[0], (len(t), 5)) for x in (X_0, X_T))
    # the product of two normal densities in x_{t-1}: precisions add, means are weighted by them
    alpha, beta = schedule.alpha[t, None], schedule.beta[t, None]
    likelihood, prior = alpha / beta, 1 / schedule.one_minus_alpha_bar[t - 1, None]
    variance = 1 / (likelihood + prior)
    of_x_t, of_x_0 = (
        variance * np.sqrt(alpha) / beta * x_t,
        variance * prior * schedule.sqrt_alpha_bar[t - 1, None] * x_0,
    )
    actual_mean, actual_variance = posterior_mean_variance(schedule, x_0, x_t, t)
    # Bayes' rule has 1 - alpha_bar_t as beta_t + alpha_t (1 - alpha_bar_{t-1}), off by the sum of t logarithms
    roundings = (8 * t + 4 * log_alpha_bar(schedule)[t - 1] + 32)[:, None]
    assert_close(actual=actual_variance, expected=variance, roundings=roundings)
    assert_close(
        actual=actual_mean, expected=of_x_t + of_x_0, roundings=roundings, scale=np.abs(of_x_t) + np.abs(of_x_0)
    )


@given(schedules())
def test_posterior_sample_has_the_posteriors_mean_and_variance(schedule):
    t = RNG.integers(1, schedule.T + 1, 2)
    mean, variance = posterior_mean_variance(schedule, X_0, X_T, t)
    assert np.array_equal(posterior_mean(schedule, X_0, X_T, t), mean)
    assert np.array_equal(posterior_sample(schedule, X_0, X_T, t, np.zeros_like(Z)), mean)
    actual = posterior_sample(schedule, X_0, X_T, t, Z) - mean
    assert_close(actual=actual, expected=np.sqrt(variance) * Z, roundings=4, scale=np.abs(mean) + np.abs(Z))


@given(schedules())
def test_the_first_step_lands_on_x_0(schedule):
    # the coefficient of x_0 is beta_1 / (1 - alpha_bar_1), one rounding of a logarithm and an exponential away from 1
    assert_close(actual=posterior_sample(schedule, X_0, X_T, 1, Z), expected=X_0, roundings=4)
