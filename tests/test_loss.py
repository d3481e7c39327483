"""L_simple and its weightings."""

import numpy as np
import pytest
from hypothesis import given
from laws import assert_close, schedules
from noisestep.reference import (
    LOSS_WEIGHTINGS,
    Schedule,
    eps_from_x_0,
    loss_weights,
    min_snr_weights,
    p2_weights,
    q_sample,
    simple_loss,
    squared_error,
    training_target,
    truncated_snr_weights,
    uniform_weights,
    velocity,
)

RNG = np.random.default_rng(4)
X_0, EPS, OUT = RNG.standard_normal((3, 4, 3, 2))
LINEAR = Schedule.from_name("linear", 10)
ZERO_SNR = Schedule.from_name("linear", 10, zero_terminal_snr=True)


def test_simple_loss_is_the_mean_of_squares_where_the_chapter_prints_the_sum():
    squares = (OUT - EPS) ** 2
    assert_close(actual=simple_loss(OUT, EPS), expected=squares.mean(), roundings=EPS.size)
    assert_close(actual=squared_error(OUT, EPS), expected=squares.mean(axis=(1, 2)), roundings=6)
    assert_close(actual=squared_error(OUT, EPS, over="sum"), expected=squares.sum(axis=(1, 2)), roundings=6)
    assert simple_loss(EPS, EPS) == 0


def test_a_weighted_loss_is_the_mean_of_weighted_samples():
    weight = np.array([0.0, 1.0, 2.0, 0.5])
    expected = np.mean(weight * squared_error(OUT, EPS))
    assert simple_loss(OUT, EPS, weight=weight) == expected


def test_targets_are_what_the_network_is_asked_for():
    t = np.array([1, 4, 7, 10])
    assert np.array_equal(training_target(LINEAR, X_0, EPS, t), EPS)
    assert np.array_equal(training_target(LINEAR, X_0, EPS, t, prediction="x_0"), X_0)
    assert np.array_equal(training_target(LINEAR, X_0, EPS, t, prediction="v"), velocity(LINEAR, X_0, EPS, t))
    assert np.array_equal(training_target(LINEAR, X_0, EPS, t, prediction="flow"), EPS - X_0)


@pytest.mark.parametrize("weighting", ["min_snr", "p2", "truncated_snr"])
@given(schedules())
def test_a_weighting_means_the_same_for_every_prediction(weighting, schedule):
    """One wrong x_0, told as x_0, eps, v and a flow: the weighted errors agree."""
    last = schedule.T - schedule.zero_terminal_snr
    if last == 0:
        return
    t = np.arange(1, last + 1)
    snr = schedule.snr[t]
    weights = {kind: loss_weights(schedule, weighting, prediction=kind)[t] for kind in ("x_0", "v", "flow")}
    if weighting != "truncated_snr" or not schedule.zero_terminal_snr:
        weights["eps"] = loss_weights(schedule, weighting, prediction="eps")[t]
    # an error d in x_0 is one of d^2 SNR in eps and d^2 (SNR + 1) in v, d^2 (sqrt(SNR) + 1)^2 in a flow
    errors = {"x_0": np.ones_like(snr), "eps": snr, "v": snr + 1, "flow": (np.sqrt(snr) + 1) ** 2}
    for kind, weight in weights.items():
        assert_close(actual=weight * errors[kind], expected=weights["x_0"], roundings=16)


def test_errors_of_the_predictions_stand_as_the_weightings_assume():
    t = np.array([1, 4, 7, 10])
    x_t = q_sample(LINEAR, X_0, t, EPS)
    wrong_eps = eps_from_x_0(LINEAR, x_t, OUT, t)
    of_x_0 = squared_error(OUT, X_0)
    # eps is a difference divided by sqrt(1 - alpha_bar), at least 0.01 here, and is up to 300
    scale = 1e4 * of_x_0
    assert_close(actual=squared_error(wrong_eps, EPS), expected=LINEAR.snr[t] * of_x_0, roundings=32, scale=scale)
    # v with a wrong x_0 and the eps that goes with it
    of_v = squared_error(velocity(LINEAR, OUT, wrong_eps, t), velocity(LINEAR, X_0, EPS, t))
    assert_close(actual=of_v, expected=(LINEAR.snr[t] + 1) * of_x_0, roundings=32, scale=scale)
    of_flow = squared_error(wrong_eps - OUT, EPS - X_0)
    assert_close(actual=of_flow, expected=(LINEAR.snr[t] ** 0.5 + 1) ** 2 * of_x_0, roundings=32, scale=scale)


@given(schedules())
def test_weights_are_the_papers(schedule):
    snr = schedule.snr[1:]
    positive = snr > 0
    assert np.array_equal(uniform_weights(schedule)[1:], np.ones(schedule.T))
    # Hang et al.: min(SNR, gamma) / SNR for eps, which is 1 for large noise
    eps = min_snr_weights(schedule)[1:]
    assert_close(actual=eps[positive], expected=np.minimum(snr[positive], 5) / snr[positive], roundings=4)
    assert np.array_equal(eps[snr <= 5], np.ones((snr <= 5).sum()))
    assert np.array_equal(min_snr_weights(schedule, "x_0", gamma=2.0)[1:], np.minimum(snr, 2.0))
    # Choi et al.: 1 / (k + SNR)^gamma for eps; gamma 0 is L_simple
    assert_close(actual=p2_weights(schedule, gamma=0.5, k=2.0)[1:], expected=1 / np.sqrt(2 + snr), roundings=8)
    assert np.array_equal(p2_weights(schedule, gamma=0.0), uniform_weights(schedule))
    # Salimans & Ho: the larger of the errors of x_0 and of eps
    assert np.array_equal(truncated_snr_weights(schedule, "x_0")[1:], np.maximum(1, snr))


@pytest.mark.parametrize("weighting", LOSS_WEIGHTINGS)
@pytest.mark.parametrize("prediction", ["eps", "x_0", "v", "flow"])
def test_weights_are_a_finite_table_with_nothing_for_clean_data(weighting, prediction):
    for schedule in (LINEAR, ZERO_SNR):
        if schedule is ZERO_SNR and (weighting, prediction) == ("truncated_snr", "eps"):
            with pytest.raises(ValueError, match="predict x_0, v or flow"):
                loss_weights(schedule, weighting, prediction=prediction)
            continue
        weights = loss_weights(schedule, weighting, prediction=prediction)
        assert weights.shape == (11,)
        assert weights[0] == 0
        assert np.isfinite(weights).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: simple_loss(OUT, EPS[:1]), ValueError, r"output \(4, 3, 2\), target \(1, 3, 2\)"),
        (lambda: simple_loss(OUT, EPS, weight=np.ones(3)), ValueError, r"losses \(4,\), weight \(3,\)"),
        (lambda: squared_error(np.float64(1), np.float64(1)), ValueError, r"\(B, ...\), got shape \(\)"),
        (lambda: squared_error(OUT, EPS, over="max"), ValueError, "over must be one of mean, sum, got 'max'"),
        (lambda: training_target(LINEAR, X_0, EPS, 1, prediction="mu"), ValueError, "x_0, v, flow, got 'mu'"),
        (lambda: training_target(LINEAR, X_0, EPS, 0), ValueError, r"t must be in 1..10, got 0"),
        (lambda: loss_weights(LINEAR, "typo"), ValueError, "none, min_snr, p2, truncated_snr, got 'typo'"),
        (lambda: loss_weights(LINEAR, "none", gamma=1.0), TypeError, "unexpected keyword argument 'gamma'"),
        (lambda: loss_weights(LINEAR, prediction="mu"), ValueError, "one of eps, x_0, v, flow, got 'mu'"),
        (lambda: min_snr_weights(LINEAR, gamma=0.0), ValueError, "gamma must be finite and above 0, got 0.0"),
        (lambda: p2_weights(LINEAR, gamma=-1.0), ValueError, "gamma=-1.0"),
        (lambda: p2_weights(LINEAR, k=0.0), ValueError, "k=0.0"),
    ],
)
def test_bad_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
