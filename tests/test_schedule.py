"""The schedules and the tables: published numbers, exact arithmetic, and refusals."""

import copy
import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import NAMED, assert_close, betas, log_alpha_bar, schedules
from noisestep.accelerated.schedule import DeviceSchedule
from noisestep.reference import BETA_SCHEDULES, Schedule, beta_schedule, warmup_beta, zero_terminal_snr_beta

T = 1000
LINEAR = {1: 0.9999, 2: 0.9997800920720721, 501: 0.07779665836502389, 1000: 4.035829765375676e-05}
COSINE = {1: 0.999958715775178, 2: 0.9999125759273678, 501: 0.49228517244880304, 1000: 2.4287669070348567e-09}


@pytest.mark.parametrize(("name", "golden"), [("linear", LINEAR), ("cosine", COSINE)])
def test_alpha_bar_is_the_published_one(name, golden):
    schedule = Schedule.from_name(name, T)
    t = np.array(list(golden))
    # the golden product took t roundings after the few of its first beta, the sum of logarithms another t of numbers
    # up to |log alpha_bar|; where beta nears 1 the published 1 - f(t)/f(t-1) loses up to 1/(1 - beta), 1000, once
    assert_close(
        actual=schedule.alpha_bar[t],
        expected=list(golden.values()),
        roundings=(t + 4) * (1 + log_alpha_bar(schedule)[t]) + 1000 * (t == T),
    )


@pytest.mark.parametrize(("name", "golden"), [("linear", 5.4531876613021935e-05), ("cosine", 2.178949614569182e-05)])
def test_posterior_variance_at_2_is_the_published_one(name, golden):
    # the golden has 1 - alpha_bar_1 by subtraction, at the cost of eps / beta_1, twice
    schedule = Schedule.from_name(name, T)
    assert_close(actual=schedule.posterior_variance[2], expected=golden, roundings=2 / schedule.beta[1])


def test_linear_betas_add_up_to_10_05():
    assert_close(actual=Schedule.from_name("linear", T).beta.sum(), expected=10.05, roundings=T)


@given(betas())
def test_alpha_bar_and_its_complement_are_exact_to_rounding(beta):
    schedule = Schedule(beta)
    exact = [Fraction(1)]
    for b in beta:
        exact.append(exact[-1] * (1 - Fraction(float(b))))
    t = np.arange(len(beta) + 1)
    # t logarithms and t additions, each relative to a partial sum of one sign; an error of the sum is one of the log
    roundings = 2 * t * (1 + log_alpha_bar(schedule)) + 2
    assert_close(actual=schedule.alpha_bar, expected=[float(a) for a in exact], roundings=roundings)
    # 1 - alpha_bar keeps full relative precision, which a subtraction would not
    assert_close(actual=schedule.one_minus_alpha_bar, expected=[float(1 - a) for a in exact], roundings=2 * t + 2)


@given(schedules())
def test_tables_are_what_their_names_say(schedule):
    s = schedule
    steps = np.arange(1, s.T + 1)
    assert s.beta[0] == 0
    assert s.alpha_bar[0] == 1
    assert s.snr[0] == np.inf
    assert np.array_equal(s.alpha, 1 - s.beta)
    roundings = 8 + 4 * log_alpha_bar(s)
    assert_close(actual=s.sqrt_alpha_bar**2, expected=s.alpha_bar, roundings=roundings)
    assert_close(actual=s.sqrt_one_minus_alpha_bar**2, expected=s.one_minus_alpha_bar, roundings=4)
    assert_close(actual=s.snr[1:] * s.one_minus_alpha_bar[1:], expected=s.alpha_bar[1:], roundings=4)
    # 1 - alpha_bar_t = beta_t + alpha_t (1 - alpha_bar_{t-1}): all terms positive; the left side sums t logarithms
    recursion = s.beta[1:] + s.alpha[1:] * s.one_minus_alpha_bar[:-1]
    assert_close(actual=s.one_minus_alpha_bar[1:], expected=recursion, roundings=4 * steps + 8)
    weight = s.beta[1:] / s.one_minus_alpha_bar[1:]
    assert_close(actual=s.posterior_variance[1:], expected=s.one_minus_alpha_bar[:-1] * weight, roundings=4)
    assert_close(actual=s.posterior_mean_coef_x_0[1:], expected=s.sqrt_alpha_bar[:-1] * weight, roundings=4)
    # without noise x_t is sqrt(alpha_bar_t) x_0, and the posterior's mean is x_{t-1}
    assert_close(
        actual=s.posterior_mean_coef_x_0[1:] + s.posterior_mean_coef_x_t[1:] * s.sqrt_alpha_bar[1:],
        expected=s.sqrt_alpha_bar[:-1],
        roundings=8 * steps + 4 * log_alpha_bar(s)[1:] + 8,
    )


@pytest.mark.parametrize(("name", "zero"), NAMED)
def test_first_step_of_the_posterior_is_clean(name, zero):
    schedule = Schedule.from_name(name, T, zero_terminal_snr=zero)
    assert schedule.posterior_variance[1] == 0
    assert schedule.posterior_mean_coef_x_t[1] == 0
    assert_close(actual=schedule.posterior_mean_coef_x_0[1], expected=1.0, roundings=4)


@pytest.mark.parametrize(("name", "zero"), NAMED)
def test_every_table_is_finite_and_read_only(name, zero):
    schedule = Schedule.from_name(name, T, zero_terminal_snr=zero)
    forward = ["beta", "alpha", "alpha_bar", "sqrt_alpha_bar", "one_minus_alpha_bar", "sqrt_one_minus_alpha_bar", "snr"]
    variances = ["posterior_variance", "posterior_log_variance"]
    coefficients = ["posterior_mean_coef_x_0", "posterior_mean_coef_x_t"]
    for table in forward + variances + coefficients:
        values = getattr(schedule, table)
        assert values.shape == (T + 1,)
        assert values.dtype == np.float64
        assert np.isfinite(values[1:]).all()
        assert np.isfinite(values[0]) or table == "snr"
        with pytest.raises(ValueError, match="read-only"):
            values[1] = 0
    assert schedule.timesteps.dtype == np.int64
    assert schedule.zero_terminal_snr == (zero or name in ("jsd", "flow"))


def test_log_variance_at_the_first_step_is_a_named_choice():
    reuse, clip = (Schedule.from_name("linear", T, first_log_variance=choice) for choice in ("reuse", "clip"))
    assert reuse.posterior_log_variance[1] == np.log(reuse.posterior_variance[2])
    assert clip.posterior_log_variance[1] == np.log(1e-20)
    assert np.array_equal(reuse.posterior_log_variance[2:], clip.posterior_log_variance[2:])
    for choice in ("reuse", "clip"):
        assert Schedule([0.5], first_log_variance=choice).posterior_log_variance[1] == np.log(1e-20)
    assert reuse != clip


def sigmoid(u):
    return 1 / (1 + np.exp(-u))


def test_schedules_follow_their_published_formulas():
    t = np.arange(T + 1)
    published = {
        "linear": np.linspace(1e-4, 0.02, T),
        "scaled_linear": np.linspace(0.00085**0.5, 0.012**0.5, T) ** 2,
        "quadratic": np.linspace(1e-4**0.5, 0.02**0.5, T) ** 2,
        "constant": np.full(T, 0.02),
        "jsd": 1.0 / np.linspace(T, 1, T),
        "warmup10": np.concatenate([np.linspace(1e-4, 0.02, 100), np.full(900, 0.02)]),
        "warmup50": np.concatenate([np.linspace(1e-4, 0.02, 500), np.full(500, 0.02)]),
    }
    f = np.cos((t / T + 0.008) / 1.008 * np.pi / 2) ** 2
    published["cosine"] = np.minimum(1 - f[1:] / f[:-1], 0.999)
    g = (sigmoid(3.0) - sigmoid(6 * t / T - 3)) / (sigmoid(3.0) - sigmoid(-3.0))
    published["sigmoid"] = np.minimum(1 - g[1:] / g[:-1], 0.999)
    s = t / T
    snr = (1 - s[1:]) ** 2 / s[1:] ** 2
    published["flow"] = 1 - snr / (1 + snr) * np.concatenate([[1], (1 + snr[:-1]) / snr[:-1]])
    assert published.keys() == BETA_SCHEDULES.keys()
    for name, beta in published.items():
        # the subtraction 1 - ratio and, in g, two near-equals: eps / (sigmoid(3) - sigmoid(u)) is at most 22 T eps; in
        # a flow 1 - s, which is off by eps and at least 1 / T
        scale = T if name in ("sigmoid", "flow") else 1
        assert_close(actual=beta_schedule(name, T), expected=beta, roundings=64, scale=scale)


def test_linear_ends_scale_with_1000_over_T_when_asked():
    assert np.array_equal(beta_schedule("linear", 250), np.linspace(1e-4, 0.02, 250))
    assert np.array_equal(beta_schedule("linear", 250, scaling="1000/T"), np.linspace(4e-4, 0.08, 250))


def test_a_warm_up_shorter_than_a_step_is_none():
    assert np.array_equal(beta_schedule("warmup10", 5), np.full(5, 0.02))


@pytest.mark.parametrize("name", [name for name in BETA_SCHEDULES if name not in ("jsd", "flow")])
def test_zero_terminal_snr_shifts_and_stretches_the_signal(name):
    before = Schedule.from_name(name, T)
    after = Schedule.from_name(name, T, zero_terminal_snr=True)
    first, last = before.sqrt_alpha_bar[1], before.sqrt_alpha_bar[-1]
    expected = (before.sqrt_alpha_bar[1:] - last) * first / (first - last)
    # the signal is rebuilt from T betas, each of which carries the rounding of its alpha, large where it is near 0
    assert_close(actual=after.sqrt_alpha_bar[1:], expected=expected, roundings=8 * T, scale=1)
    assert after.alpha_bar[-1] == 0
    assert after.beta[-1] == 1
    assert after.beta[1] == before.beta[1]
    assert after.snr[-1] == 0


def lost_in_alpha(schedule):
    """How many roundings alpha_bar_t carries because each beta is near 1 and its 1 - beta that much coarser."""
    return np.cumsum(1 / np.where(schedule.alpha > 0, schedule.alpha, 1))


@given(st.data())
def test_respacing_keeps_alpha_bar_at_the_kept_steps(data):
    schedule = data.draw(schedules())
    kept = sorted(data.draw(st.sets(st.integers(1, schedule.T), min_size=1)))
    respaced = schedule.respace(kept)
    assert respaced.timesteps.tolist() == [0, *kept]
    at = [0, *kept]
    roundings = 4 * (schedule.T + 2) * (1 + log_alpha_bar(schedule)[at]) + 2 * lost_in_alpha(respaced)
    assert_close(actual=respaced.alpha_bar, expected=schedule.alpha_bar[at], roundings=roundings)
    # no cancellation: 1 - alpha_bar stays exact as well
    assert_close(
        actual=respaced.one_minus_alpha_bar,
        expected=schedule.one_minus_alpha_bar[at],
        roundings=8 * (schedule.T + 2),
    )


@given(st.data())
def test_respacing_twice_is_respacing_once(data):
    schedule = data.draw(schedules())
    outer = sorted(data.draw(st.sets(st.integers(1, schedule.T), min_size=1)))
    inner = sorted(data.draw(st.sets(st.integers(1, len(outer)), min_size=1)))
    twice = schedule.respace(outer).respace(inner)
    once = schedule.respace([outer[k - 1] for k in inner])
    assert twice.timesteps.tolist() == once.timesteps.tolist()
    roundings = 8 * (schedule.T + 2) * (1 + log_alpha_bar(once)) + 4 * lost_in_alpha(once)
    assert_close(actual=twice.alpha_bar, expected=once.alpha_bar, roundings=roundings)


@given(st.integers(1, 300), st.data())
def test_a_count_is_spaced_evenly_and_ends_at_T(steps, data):
    n = data.draw(st.integers(1, steps))
    kept = Schedule.from_name("constant", steps).respace(n).timesteps
    assert kept[-1] == steps
    k = np.arange(1, n + 1)
    assert np.all(np.abs(kept[1:] * n - k * steps) * 2 <= n)


def test_keeping_every_step_changes_nothing():
    schedule = Schedule.from_name("cosine", 50)
    assert schedule.respace(50) == schedule
    assert hash(schedule.respace(50)) == hash(schedule)
    assert schedule.respace(49) != schedule
    assert schedule != "schedule"


def test_a_schedule_cannot_be_changed():
    schedule = Schedule.from_name("cosine", 5)
    for change in (
        lambda: setattr(schedule, "beta", schedule.beta),
        lambda: setattr(schedule, "alpha_bar", schedule.beta),
        lambda: setattr(schedule, "name", "cosine"),
        lambda: delattr(schedule, "timesteps"),
    ):
        with pytest.raises(AttributeError, match="a Schedule cannot be changed"):
            change()
    assert schedule == Schedule.from_name("cosine", 5)


def test_a_schedule_is_equal_to_its_copies():
    schedule = Schedule.from_name("cosine", 5).respace(3)
    for copied in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
        assert copied == schedule
        assert np.array_equal(copied.alpha_bar, schedule.alpha_bar)


def test_a_schedule_says_what_it_is():
    assert repr(Schedule.from_name("linear", 1000).respace(4)) == (
        "Schedule(T=4, beta=0.475915..0.987955, timesteps=..1000)"
    )


def test_zero_terminal_snr_survives_respacing_that_keeps_the_last_step():
    schedule = Schedule.from_name("linear", T, zero_terminal_snr=True)
    assert schedule.respace(10).zero_terminal_snr
    assert not schedule.respace([1, 500]).zero_terminal_snr


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Schedule([]), ValueError, r"shape \(T,\) with T at least 1, got shape \(0,\)"),
        (lambda: Schedule(0.1), ValueError, r"got shape \(\)"),
        (lambda: Schedule([[0.1]]), ValueError, r"got shape \(1, 1\)"),
        (lambda: Schedule([0.1, float("nan")]), ValueError, r"in \(0, 1\), got beta_2 = nan"),
        (lambda: Schedule([0.0, 0.1]), ValueError, r"got beta_1 = 0.0"),
        (lambda: Schedule([0.1, -0.1]), ValueError, r"got beta_2 = -0.1"),
        (lambda: Schedule([1.0, 0.1]), ValueError, r"got beta_1 = 1.0$"),
        (lambda: Schedule([0.1, 1.0]), ValueError, r"got beta_2 = 1.0; a beta_T of 1 needs zero_terminal_snr=True"),
        (lambda: Schedule([0.1, 1.5]), ValueError, r"got beta_2 = 1.5$"),
        (lambda: Schedule([0.1, 0.2], zero_terminal_snr=True), ValueError, "says that beta_T is 1, got beta_T = 0.2"),
        (lambda: Schedule([1.0, 1.0], zero_terminal_snr=True), ValueError, "got beta_1 = 1.0"),
        (lambda: Schedule(["a"]), TypeError, "beta must hold real numbers"),
        (lambda: Schedule([0.1j]), TypeError, "got complex128"),
        (lambda: Schedule([0.999] * 200), ValueError, "underflows to 0 at t = 108"),
        (lambda: Schedule([0.1], first_log_variance="two"), ValueError, '"reuse" or "clip", got \'two\''),
        (lambda: Schedule([0.1, 0.2], [1]), ValueError, "timesteps must be 2 increasing numbers"),
        (lambda: Schedule([0.1, 0.2], [2, 1]), ValueError, "increasing"),
        (lambda: Schedule([0.1, 0.2], [0, 1]), ValueError, "from 1 up"),
        (lambda: Schedule([0.1], [1.0]), TypeError, "timesteps must be ints, got float64"),
        (lambda: Schedule([0.1]).respace(2), ValueError, r"must be in 1..1, got 2"),
        (lambda: Schedule([0.1]).respace(0), ValueError, r"must be in 1..1, got 0"),
        (lambda: Schedule([0.1, 0.2]).respace([2, 1]), ValueError, "increasing numbers in 1..2"),
        (lambda: Schedule([0.1, 0.2]).respace([0, 1]), ValueError, "increasing numbers in 1..2"),
        (lambda: Schedule([0.1, 0.2]).respace([1, 3]), ValueError, "increasing numbers in 1..2"),
        (lambda: Schedule([0.1, 0.2]).respace(1.5), TypeError, "a count or a sequence of ints, got 1.5"),
        (lambda: beta_schedule("typo", 10), ValueError, "no schedule is called 'typo'; there are linear"),
        (lambda: beta_schedule("linear", 0), ValueError, r"T must lie in \[1, 268435456\), got 0"),
        (lambda: beta_schedule("linear", 10.0), TypeError, "T must be an int, got 10.0"),
        (lambda: beta_schedule("linear", True), TypeError, "T must be an int, got True"),
        (lambda: beta_schedule("linear", 10, end=1.0), ValueError, r"end must be in \(0, 1\), got 1.0"),
        (lambda: beta_schedule("linear", 10, scaling="T"), ValueError, "scaling must be"),
        (lambda: beta_schedule("linear", 10, scaling="1000/T"), ValueError, r"end must be in \(0, 1\), got 2.0"),
        (lambda: beta_schedule("linear", 10, s=1), TypeError, "unexpected keyword argument 's'"),
        (lambda: beta_schedule("cosine", 10, s=-1), ValueError, "s must be finite and at least 0, got -1"),
        (lambda: beta_schedule("cosine", 10, max_beta=1.0), ValueError, r"max_beta must be in \(0, 1\)"),
        (lambda: beta_schedule("sigmoid", 10, start=3.0), ValueError, "need start < end"),
        (lambda: beta_schedule("sigmoid", 10, tau=0.0), ValueError, "tau=0.0"),
        (lambda: beta_schedule("constant", 10, value=0.0), ValueError, "value must be"),
        (lambda: warmup_beta(10, fraction=1.5), ValueError, r"fraction must be in \[0, 1\], got 1.5"),
        (lambda: zero_terminal_snr_beta([0.1]), ValueError, r"at least 2 betas, got shape \(1,\)"),
        (lambda: zero_terminal_snr_beta([0.1, 1.1]), ValueError, r"every beta must be in \(0, 1\)"),
    ],
)
def test_bad_schedules_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_rescaling_a_schedule_that_ends_at_zero_changes_nothing():
    beta = beta_schedule("jsd", 20)
    # each beta comes back from a ratio of square roots of products of up to T factors
    assert_close(actual=zero_terminal_snr_beta(beta), expected=beta, roundings=80, scale=1)


@pytest.mark.parametrize(("name", "zero_terminal_snr"), NAMED)
def test_a_schedule_is_its_alpha_bar(name, zero_terminal_snr):
    schedule = Schedule.from_name(name, 20, zero_terminal_snr=zero_terminal_snr)
    again = Schedule.from_alpha_bar(schedule.alpha_bar[1:])
    assert again.zero_terminal_snr == (schedule.alpha_bar[-1] == 0)
    # a quotient and a difference, with an error of two roundings of alpha, which is at most 1
    np.testing.assert_allclose(again.beta, schedule.beta, rtol=0, atol=4 * 2.0**-53 * 20)


@pytest.mark.parametrize("bad", [[], 0.5, [0.5, 0.5], [0.5, 0.6], [1.0, 0.5], [0.5, 0.0, 0.0], [0.5, -0.1], [np.nan]])
def test_what_is_no_alpha_bar_is_refused(bad):
    with pytest.raises(ValueError, match="alpha_bar must"):
        Schedule.from_alpha_bar(bad)


def test_device_tables_by_name_betas_and_alphas_cumprod():
    schedule = Schedule.from_name("cosine", 20)
    expected = DeviceSchedule(schedule).forward_table(torch.float64)
    for device_schedule in (
        DeviceSchedule.from_name("cosine", 20),
        DeviceSchedule.from_betas(schedule.beta[1:]),
        DeviceSchedule.from_alphas_cumprod(schedule.alpha_bar[1:]),
    ):
        torch.testing.assert_close(device_schedule.forward_table(torch.float64), expected, rtol=0, atol=2.0**-45)
    assert DeviceSchedule.from_name("linear", 20, zero_terminal_snr=True).schedule.zero_terminal_snr
