"""The reverse update, DDIM, and the table of coefficients that says both again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import NAMED, assert_close, log_alpha_bar, schedules
from noisestep.reference import (
    Schedule,
    ddim_direction,
    ddim_sigma,
    ddim_step,
    guided,
    learned_range_variance,
    mu_from_eps,
    posterior_mean,
    predict_x_0,
    q_sample,
    reverse_coefficients,
    reverse_mean,
    reverse_step,
    reverse_variance,
)

RNG = np.random.default_rng(3)
X, OUT, Z = RNG.standard_normal((3, 4, 3))
LINEAR = Schedule.from_name("linear", 10)
ZERO_SNR = Schedule.from_name("linear", 10, zero_terminal_snr=True)


@given(schedules(), st.sampled_from(["beta", "posterior", "zero"]), st.data())
def test_the_update_is_the_chapters(schedule, variance, data):
    t = np.array(data.draw(st.lists(st.integers(1, schedule.T - schedule.zero_terminal_snr), min_size=4, max_size=4)))
    alpha, beta = schedule.alpha[t, None], schedule.beta[t, None]
    sigma_2 = {"beta": beta, "posterior": schedule.posterior_variance[t, None], "zero": 0 * beta}[variance]
    z = np.where(t[:, None] > 1, Z, 0)
    of_x = 1 / np.sqrt(alpha) * X
    of_out = 1 / np.sqrt(alpha) * beta / np.sqrt(schedule.one_minus_alpha_bar[t, None]) * OUT
    assert_close(
        actual=reverse_step(schedule, X, OUT, t, Z, variance=variance),
        expected=of_x - of_out + np.sqrt(sigma_2) * z,
        roundings=16,
        scale=np.abs(of_x) + np.abs(of_out) + np.abs(Z),
    )


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v", "flow", "mu"])
def test_other_predictions_and_clipping_go_through_x_0(prediction):
    t = np.array([1, 3, 7, 10])
    x_0 = predict_x_0(LINEAR, X, OUT, t, prediction=prediction, clip=(-1, 1))
    mean = reverse_mean(LINEAR, X, OUT, t, prediction=prediction, clip=(-1, 1))
    assert np.array_equal(mean, posterior_mean(LINEAR, x_0, X, t))
    step = reverse_step(LINEAR, X, OUT, t, Z, prediction=prediction, clip=(-1, 1), variance="zero")
    assert np.array_equal(step, mean)


def test_a_given_variance_is_taken_as_it_is():
    t = np.array([1, 3, 7, 10])
    named = reverse_step(LINEAR, X, OUT, t, Z, variance="beta")
    each = LINEAR.beta[t]
    assert np.array_equal(reverse_step(LINEAR, X, OUT, t, Z, variance=each), named)
    assert np.array_equal(reverse_step(LINEAR, X, OUT, t, Z, variance=np.repeat(each, 3).reshape(4, 3)), named)
    assert np.array_equal(
        reverse_step(LINEAR, X, OUT, 7, Z, variance=float(LINEAR.beta[7])),
        reverse_step(LINEAR, X, OUT, 7, Z, variance="beta"),
    )


@pytest.mark.parametrize("variance", ["beta", "posterior", 0.5])
def test_no_noise_at_the_first_step(variance):
    assert np.array_equal(reverse_step(LINEAR, X, OUT, 1, Z, variance=variance), mu_from_eps(LINEAR, X, OUT, 1))


@given(schedules(), st.data())
def test_learned_range_reaches_from_the_posteriors_variance_to_beta(schedule, data):
    t = data.draw(st.integers(1, schedule.T))
    low, high = np.exp(schedule.posterior_log_variance[t]), schedule.beta[t]
    # the exponential of a logarithm rounds relative to the size of the logarithm
    roundings = 4 + 4 * abs(np.log(low))
    assert_close(actual=learned_range_variance(schedule, np.zeros(2), t), expected=[low] * 2, roundings=roundings)
    assert_close(actual=learned_range_variance(schedule, np.ones(2), t), expected=[high] * 2, roundings=roundings)
    between = learned_range_variance(schedule, np.full(2, 0.25), t)
    assert_close(actual=between, expected=[high**0.25 * low**0.75] * 2, roundings=2 * roundings)


def test_guidance_extrapolates_from_the_unconditional_output():
    assert np.array_equal(guided(X, OUT, 0.0), OUT)
    # OUT + (X - OUT) rounds twice
    assert_close(actual=guided(X, OUT, 1.0), expected=X, roundings=2, scale=np.abs(X) + np.abs(OUT))
    # the paper's (1 + w) conditional - w unconditional, w = scale - 1
    assert_close(
        actual=guided(X, OUT, 3.0), expected=3 * X - 2 * OUT, roundings=8, scale=3 * np.abs(X) + 3 * np.abs(OUT)
    )


@given(schedules(), st.just(0.0) | st.floats(1e-3, 1))
def test_ddim_sigma_and_direction_are_the_papers(schedule, eta):
    before, after = schedule.alpha_bar[:-1], schedule.alpha_bar[1:]
    # the paper's form subtracts from 1 what may be near it: eps / beta, and 1 - alpha_bar as often
    lost = 1 + 1 / schedule.beta[1:] + 1 / schedule.one_minus_alpha_bar[1:]
    clean = schedule.one_minus_alpha_bar
    printed = eta**2 * (clean[:-1] / clean[1:]) * (1 - after / before)
    sigma = ddim_sigma(schedule, eta)
    roundings = (8 + 8 * schedule.T) * (1 + log_alpha_bar(schedule)[1:])
    assert_close(actual=sigma[1:] ** 2, expected=printed, roundings=roundings, scale=printed * lost)
    direction = ddim_direction(schedule, eta)
    assert_close(actual=direction[1:] ** 2 + sigma[1:] ** 2, expected=clean[:-1], roundings=16 + 8 * schedule.T)
    assert direction[0] == sigma[0] == sigma[1] == 0


@given(schedules(), st.data())
def test_ddim_without_noise_stays_on_the_marginals(schedule, data):
    t = data.draw(st.integers(1, schedule.T))
    x_0, eps = X, OUT
    x_t = q_sample(schedule, x_0, t, eps)
    actual = ddim_step(schedule, x_t, x_0, t, Z, prediction="x_0")
    # eps is x_t less sqrt(alpha_bar_t) x_0, divided by sqrt(1 - alpha_bar_t) and multiplied by no more than that again
    assert_close(actual=actual, expected=q_sample(schedule, x_0, t - 1, eps), roundings=32 + 8 * schedule.T, scale=10)


@given(schedules())
def test_ddim_with_eta_1_is_the_ancestral_update(schedule):
    ddim = reverse_coefficients(schedule, prediction="v", eta=1.0)
    ddpm = reverse_coefficients(schedule, prediction="v", variance="posterior")
    # both rest on 1 - alpha_bar of two steps, sums of up to T logarithms, combined differently
    roundings = (16 + 8 * schedule.T) * (1 + log_alpha_bar(schedule)[:, None])
    assert_close(actual=ddim, expected=ddpm, roundings=roundings)


@pytest.mark.parametrize(("name", "zero"), NAMED)
@pytest.mark.parametrize("prediction", ["eps", "x_0", "v", "flow"])
@pytest.mark.parametrize("steps", [2, 25, 1000])
def test_coefficients_are_the_written_out_update(name, zero, prediction, steps):
    schedule = Schedule.from_name(name, steps, zero_terminal_snr=zero)
    if prediction == "eps" and schedule.zero_terminal_snr:
        with pytest.raises(ValueError, match="eps tells nothing of x_0"):
            reverse_coefficients(schedule, prediction="eps")
        return
    t = np.arange(1, steps + 1)
    x, out, z = np.random.default_rng(steps).standard_normal((3, steps, 2)).clip(-5, 5)
    options = [{"eta": eta, "rederive_eps": rederive} for eta in (0.0, 0.3, 1.0) for rederive in (True, False)]
    options += [{"variance": variance} for variance in ("beta", "posterior", "zero")]
    for option in options:
        update = ddim_step if "eta" in option else reverse_step
        table = reverse_coefficients(schedule, prediction=prediction, **option)
        assert table.shape == (steps + 1, 6)
        assert table[0].tolist() == [1, 0, 0, 1, 0, 0]
        assert table[1, 5] == 0
        assert (table[:, 4] == 0).all() or not option["rederive_eps"]
        c = table[1:, :, None]
        # the written-out update forms x_0 from the output and eps from x_0, whose terms are larger than the results
        from_x_0 = (
            np.abs(c[:, 2]) + (schedule.sqrt_alpha_bar / np.maximum(schedule.sqrt_one_minus_alpha_bar, 1e-9))[t, None]
        )
        size = 5 * (np.abs(c[:, 0]) + np.abs(c[:, 1])) * (1 + from_x_0) + 5 * (1 + np.abs(c[:, 3]) + np.abs(c[:, 4]))
        for clip in (None, (-1, 1)):
            x_0 = c[:, 0] * x + c[:, 1] * out
            x_0 = x_0 if clip is None else np.clip(x_0, *clip)
            assert_close(
                actual=c[:, 2] * x_0 + c[:, 3] * x + c[:, 4] * out + c[:, 5] * z,
                expected=update(schedule, x, out, t, z, prediction=prediction, clip=clip, **option),
                roundings=32 + 4 * log_alpha_bar(schedule)[t, None],
                scale=size,
            )


def test_variances_by_name():
    assert np.array_equal(reverse_variance(LINEAR, "beta"), LINEAR.beta)
    assert np.array_equal(reverse_variance(LINEAR), LINEAR.posterior_variance)
    assert not reverse_variance(LINEAR, "zero").any()


def linear_recursion(schedule, step, mean, variance):
    """Mean and variance of x_0 under an affine step, from those of x_T: the step is read off at three points."""
    x, z = np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0])
    for t in range(schedule.T, 0, -1):
        shift, at_one, with_noise = step(x, t, z)
        slope, sigma = at_one - shift, with_noise - shift
        mean, variance = slope * mean + shift, slope**2 * variance + sigma**2
    return mean, variance


def best_eps(schedule, x, t, mean, variance):
    """E[eps | x_t] for x_0 ~ N(mean, variance)."""
    signal, clean = schedule.sqrt_alpha_bar[t], schedule.one_minus_alpha_bar[t]
    return np.sqrt(clean) * (x - signal * mean) / (signal**2 * variance + clean)


@pytest.mark.parametrize(
    ("update", "option"),
    [
        (reverse_step, {"variance": "beta"}),
        (reverse_step, {"variance": "posterior"}),
        (ddim_step, {"eta": 0.0}),
        (ddim_step, {"eta": 0.3}),
    ],
)
def test_more_steps_bring_a_gaussian_back_at_first_order(update, option):
    """With the best eps the error of the sampled variance halves as the steps double."""
    errors = []
    for steps in (250, 500, 1000):
        schedule = Schedule.from_name("linear", steps, scaling="1000/T")

        def step(x, t, z, schedule=schedule):
            return update(schedule, x, best_eps(schedule, x, t, 0.3, 0.25), t, z, **option)

        mean, sampled = linear_recursion(schedule, step, 0.0, 1.0)
        # x_T starts at mean 0 in place of sqrt(alpha_bar_T) 0.3, about 0.002, and contracts further on its way
        assert abs(mean - 0.3) < 0.003
        errors.append(abs(sampled - 0.25))
    ratios = np.array(errors[:-1]) / np.array(errors[1:])
    # the next order in 1/T moves the ratio by a share of order 10 / T, as the betas add up to 10
    assert np.all(np.abs(ratios / 2 - 1) < 0.1), (errors, ratios)


def test_beta_is_exact_for_a_standard_normal():
    """Every x_t is N(0, 1) then, and the reverse chain with sigma^2 = beta keeps it so, but for the last noise."""
    schedule = Schedule.from_name("cosine", 100)

    def step(x, t, z):
        return reverse_step(schedule, x, best_eps(schedule, x, t, 0.0, 1.0), t, z, variance="beta")

    _, variance = linear_recursion(schedule, step, 0.0, 1.0)
    # each of T steps contracts by alpha_t and adds beta_t, a few roundings of numbers up to 1
    assert_close(actual=variance + schedule.beta[1], expected=1.0, roundings=16 * schedule.T)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: reverse_step(LINEAR, X, OUT, 0, Z), ValueError, r"t must be in 1..10, got 0"),
        (lambda: reverse_step(LINEAR, X, OUT, 11, Z), ValueError, r"t must be in 1..10, got 11"),
        (lambda: reverse_step(LINEAR, X, OUT, 1, Z[:1]), ValueError, r"x_t \(4, 3\), output \(4, 3\), z \(1, 3\)"),
        (lambda: reverse_step(LINEAR, X, OUT, 1, Z, variance="typo"), ValueError, "beta, posterior, zero, got 'typo'"),
        (
            lambda: reverse_step(LINEAR, X, OUT, 1, Z, variance=-1.0),
            ValueError,
            "variance must be at least 0, got -1.0",
        ),
        (lambda: reverse_step(LINEAR, X, OUT, 1, Z, variance=np.nan), ValueError, "at least 0, got nan"),
        (lambda: reverse_step(LINEAR, X, OUT, 1, Z, variance=[1.0, 2.0]), ValueError, r"shape \(4, 3\), got \(2,\)"),
        (lambda: reverse_step(ZERO_SNR, X, OUT, 10, Z), ValueError, "zero terminal SNR"),
        (lambda: reverse_variance(LINEAR, "learned"), ValueError, "variance must be one of"),
        (lambda: ddim_step(LINEAR, X, OUT, 1, Z, eta=1.1), ValueError, r"eta must be in \[0, 1\], got 1.1"),
        (lambda: ddim_sigma(LINEAR, -0.1), ValueError, r"eta must be in \[0, 1\], got -0.1"),
        (lambda: reverse_coefficients(LINEAR, eta=np.nan), ValueError, "eta must be in"),
        (lambda: reverse_coefficients(LINEAR, prediction="mu"), ValueError, "one of eps, x_0, v, flow, got 'mu'"),
        (lambda: guided(X, OUT[:1], 2.0), ValueError, r"conditional \(4, 3\), unconditional \(1, 3\)"),
        (lambda: learned_range_variance(LINEAR, np.ones(2, int), 1), TypeError, "fraction must be floating, got int64"),
    ],
)
def test_bad_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_schedule_without_signal_still_steps_from_x_0_or_a_velocity():
    for prediction in ("x_0", "v", "flow"):
        assert np.isfinite(reverse_coefficients(ZERO_SNR, prediction=prediction)).all()
        assert np.isfinite(reverse_coefficients(ZERO_SNR, prediction=prediction, eta=0.5)).all()
    # at t = T all of x_{T-1} is x_0 and fresh noise: nothing of x_T is kept
    step = reverse_step(ZERO_SNR, X, OUT, 10, np.zeros_like(Z), prediction="x_0")
    assert_close(actual=step, expected=ZERO_SNR.sqrt_alpha_bar[9] * OUT, roundings=4)
