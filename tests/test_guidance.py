"""Guidance: by a classifier, in an interval, rescaled, for each sample by itself; the reference's laws, and tensors."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import assert_close, schedules
from noisestep.reference import (
    Schedule,
    classifier_mean,
    classifier_output,
    convert,
    guided,
    guided_steps,
    normal,
    predict_x_0,
    rescaled,
    reverse_mean,
    reverse_variance,
    sample,
)
from noisestep.reference.samplers.ddim import ddim
from noisestep.reference.samplers.ddpm import ddpm
from noisestep.reference.samplers.heun import heun

X = np.cos(np.arange(24.0)).reshape(2, 3, 4)
OUT = np.sin(3 * np.arange(24.0)).reshape(2, 3, 4)
# a mixture of two normal distributions, and which of them a classifier asks for
WEIGHTS, MEANS, VARIANCE, Y = np.array([0.4, 0.6]), np.array([-0.8, 0.5]), 0.09, 0


def parts(schedule, x, t):
    """Of x_t at one t: log densities of the parts up to a constant, and their scores; shape (..., 2)."""
    mean = schedule.sqrt_alpha_bar[t] * MEANS
    variance = schedule.alpha_bar[t] * VARIANCE + schedule.one_minus_alpha_bar[t]
    distance = x[..., None] - mean
    return np.log(WEIGHTS) - distance**2 / (2 * variance), -distance / variance


def mixture_score(schedule, x, t):
    log_p, scores = parts(schedule, x, t)
    p = np.exp(log_p - log_p.max(axis=-1, keepdims=True))
    return (p * scores).sum(-1) / p.sum(-1)


def classifier_gradient(schedule, x, t):
    """grad log p(y | x_t) of the exact classifier."""
    return parts(schedule, x, t)[1][..., Y] - mixture_score(schedule, x, t)


def test_a_scale_for_each_sample_is_that_scale_of_it():
    scales = np.array([0.0, 3.0])
    both = guided(X, OUT, scales)
    for row, scale in enumerate(scales):
        assert np.array_equal(both[row], guided(X, OUT, scale)[row])


@settings(max_examples=30)
@given(st.floats(0, 1), st.floats(-3, 8))
def test_rescaled_guidance_has_the_standard_deviation_that_it_promises(rescale, scale):
    strong = guided(X, OUT, scale)
    spread = rescaled(strong, X, rescale).reshape(2, -1).std(axis=1)
    before, asked = strong.reshape(2, -1).std(axis=1), X.reshape(2, -1).std(axis=1)
    assert_close(actual=spread, expected=rescale * asked + (1 - rescale) * before, roundings=64)
    # and is the same picture otherwise
    factor = (rescale * asked / before + 1 - rescale)[:, None, None]
    assert_close(actual=rescaled(strong, X, rescale), expected=factor * strong, roundings=64)


def test_no_rescaling_is_the_guided_output():
    assert np.array_equal(rescaled(OUT, X, 0.0), OUT)


@settings(max_examples=30)
@given(schedules())
def test_an_interval_that_covers_everything_is_every_step(schedule):
    assert guided_steps(schedule, 0.0, np.inf).tolist() == [False] + [True] * schedule.T
    assert not guided_steps(schedule, 0.0, 0.0).any()


def test_an_interval_is_one_of_sigma_whatever_the_steps():
    schedule = Schedule.from_name("cosine", 100)
    sigma = np.sqrt(1 / schedule.snr[1:])
    assert guided_steps(schedule, 0.5, 2.0)[1:].tolist() == ((sigma >= 0.5) & (sigma <= 2)).tolist()
    few = schedule.respace(10)
    assert np.array_equal(guided_steps(few, 0.5, 2.0), guided_steps(schedule, 0.5, 2.0)[few.timesteps])


@settings(max_examples=30)
@given(schedules().filter(lambda schedule: not schedule.zero_terminal_snr), st.data())
def test_a_classifier_moves_every_prediction_to_the_same_image(schedule, data):
    t, scale = data.draw(st.integers(1, schedule.T)), data.draw(st.floats(0, 5))
    eps = convert(schedule, X, OUT, t, source="x_0", target="eps")
    by_eps = predict_x_0(schedule, X, classifier_output(schedule, eps, t, X, scale), t, prediction="eps")
    signal, noise = schedule.sqrt_alpha_bar[t], schedule.sqrt_one_minus_alpha_bar[t]
    # x_0 is formed through eps and back, by numbers up to 1 / noise and then noise / signal
    size = (1 + scale) * 4 * (1 + 1 / signal) * (1 + 1 / noise)
    for kind in ("x_0", "v"):
        output = convert(schedule, X, OUT, t, source="x_0", target=kind)
        moved = classifier_output(schedule, output, t, X, scale, prediction=kind)
        actual = predict_x_0(schedule, X, moved, t, prediction=kind)
        assert_close(actual=actual, expected=by_eps, roundings=64, scale=np.float64(size))


@settings(max_examples=30)
@given(schedules().filter(lambda schedule: not schedule.zero_terminal_snr), st.data())
def test_the_exact_classifier_turns_the_noise_of_all_into_that_of_its_class(schedule, data):
    t = data.draw(st.integers(1, schedule.T))
    noise = schedule.sqrt_one_minus_alpha_bar[t]
    of_all = -noise * mixture_score(schedule, X, t)
    of_class = -noise * parts(schedule, X, t)[1][..., Y]
    actual = classifier_output(schedule, of_all, t, classifier_gradient(schedule, X, t))
    # the variance of a part is at least VARIANCE but for rounding, so that scores are below (|x| + 1) / 0.09
    assert_close(actual=actual, expected=of_class, roundings=16, scale=np.float64(noise * 3 * 2 / VARIANCE))


@pytest.mark.parametrize("option", [{"sampler": ddpm}, {"sampler": ddim}, {"sampler": heun}])
def test_more_steps_with_the_exact_classifier_sample_the_mean_and_variance_of_its_part(option):
    errors = []
    for steps in (10, 160):
        schedule = Schedule.from_name("cosine", steps)

        def network(x, t, schedule=schedule):
            t = int(t[0])
            of_all = -schedule.sqrt_one_minus_alpha_bar[t] * mixture_score(schedule, x, t)
            return classifier_output(schedule, of_all, t, classifier_gradient(schedule, x, t))

        x_0 = sample(schedule, network, (50, 40), seed=2, **option)
        errors.append((abs(x_0.mean() - MEANS[Y]), abs(x_0.var() / VARIANCE - 1)))
    # 2000 numbers: a standard error of the mean is 0.007, of the variance 3 %
    assert errors[1][0] < 4 * 0.007
    assert errors[1][1] < 0.12
    assert errors[0][1] > 0.2


def test_algorithm_1_samples_the_mean_and_variance_of_the_part_of_its_classifier():
    schedule, shape = Schedule.from_name("cosine", 200), (50, 40)
    x = normal(0, 15, 0, range(50), (40,)).astype(np.float64)
    variances = reverse_variance(schedule, "posterior")
    for t in range(200, 0, -1):
        eps = -schedule.sqrt_one_minus_alpha_bar[t] * mixture_score(schedule, x, t)
        mean = reverse_mean(schedule, x, eps, t)
        mean = classifier_mean(mean, variances[t], classifier_gradient(schedule, x, t))
        z = normal(0, 15, t, range(50), (40,))
        x = mean + np.sqrt(variances[t]) * z
    assert x.shape == shape
    assert abs(x.mean() - MEANS[Y]) < 4 * 0.007
    assert abs(x.var() / VARIANCE - 1) < 0.12


@settings(max_examples=30)
@given(st.integers(0, 2), st.floats(0, 5))
def test_both_algorithms_are_one_in_the_limit_of_small_steps(exponent, scale):
    # the mean of DDPM moves by s beta_t / sqrt(alpha_t) grad, or by s beta~_t grad
    schedule, t = Schedule(np.full(100, 10.0 ** -(exponent + 2))), 100
    one = classifier_mean(reverse_mean(schedule, X, OUT, t), schedule.beta[t], X, scale)
    two = reverse_mean(schedule, X, classifier_output(schedule, OUT, t, X, scale), t)
    moved = scale * schedule.beta[t] * np.abs(X)
    assert (np.abs(one - two) <= moved * schedule.beta[t] + 1e-14).all()


BAD: list[tuple[Any, str]] = [
    (lambda: rescaled(X, OUT, 1.5), r"rescale must be in \[0, 1\], got 1.5"),
    (lambda: rescaled(X, OUT[:1], 0.5), r"guided \(2, 3, 4\), conditional \(1, 3, 4\)"),
    (lambda: guided(X, OUT, [1.0, 2.0, 3.0]), r"scale must be one number or \(2,\) of them, got shape \(3,\)"),
    (lambda: guided_steps(Schedule([0.1]), 2.0, 1.0), "0 <= low <= high, got 2.0 and 1.0"),
    (lambda: guided_steps(Schedule([0.1]), float("nan"), 1.0), "0 <= low <= high, got nan and 1.0"),
    (lambda: classifier_output(Schedule([0.1]), OUT, 1, X, prediction="mu"), "prediction must be one of eps, x_0, v"),
    (
        lambda: classifier_output(Schedule([0.1, 1.0], zero_terminal_snr=True), OUT, 1, X, prediction="v"),
        "alpha_bar_T is 0",
    ),
    (lambda: classifier_mean(X, -1.0, X), "variance must be at least 0, got -1.0"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_arguments_of_guidance_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
