"""Updates that cross several steps at once, from any t: what a respaced schedule does for its own steps alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import NAMED, assert_close, log_alpha_bar, schedules
from noisestep.accelerated.schedule import DeviceSchedule
from noisestep.reference import Schedule, reverse_coefficients
from noisestep.reference.jumps import Jumps

LINEAR = Schedule.from_name("linear", 10)
UPDATES = (
    {},
    {"variance": "beta"},
    {"variance": "zero"},
    {"eta": 0.0},
    {"eta": 0.7},
    {"eta": 1.0, "rederive_eps": False},
)


@given(schedules(), st.sampled_from(UPDATES))
def test_jumps_to_the_neighbour_are_the_schedule(schedule, update):
    t = np.arange(schedule.T)
    jumps = Jumps(schedule, t)
    assert np.array_equal(jumps.alpha, schedule.alpha[1:])
    assert np.array_equal(jumps.beta, schedule.beta[1:])
    assert np.array_equal(jumps.posterior_variance, schedule.posterior_variance[1:])
    assert np.array_equal(
        reverse_coefficients(schedule, prediction="v", **update, previous=t),
        reverse_coefficients(schedule, prediction="v", **update),
    )


@pytest.mark.parametrize(("name", "zero"), NAMED)
@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("kept", [1, 7, [3, 4, 900, 1000]])
def test_jumps_between_the_steps_of_a_chain_are_the_respaced_schedule(name, zero, update, kept):
    schedule = Schedule.from_name(name, 1000, zero_terminal_snr=zero)
    chain = schedule.respace(kept)
    previous = chain.timesteps[np.searchsorted(chain.timesteps, np.arange(1, 1001)) - 1]
    actual = reverse_coefficients(schedule, prediction="v", **update, previous=previous)[chain.timesteps]
    expected = reverse_coefficients(chain, prediction="v", **update)
    # alpha is a difference of two logarithms here, each a sum of up to T, and 1 - beta there, beta rounded before
    smallest = chain.alpha[chain.alpha > 0].min()
    roundings = (16 + 16 * schedule.T) * (1 + log_alpha_bar(schedule).max()) + 8 * chain.T / smallest
    assert_close(actual=actual, expected=expected, roundings=roundings)


def test_an_update_that_leads_to_its_own_step_changes_nothing():
    schedule = Schedule.from_name("linear", 10, zero_terminal_snr=True)
    for update in UPDATES[:5]:
        table = reverse_coefficients(schedule, prediction="v", **update, previous=np.arange(1, 11))
        expected = np.tile([0.0, 1.0, 0.0], (10, 1))
        assert_close(actual=table[1:, [2, 3, 5]], expected=expected, roundings=8)


def test_no_noise_where_an_update_leads_to_clean_data():
    previous = np.zeros(10, int)
    for update in ({}, {"variance": "beta"}, {"eta": 1.0}):
        assert (reverse_coefficients(LINEAR, **update, previous=previous)[:, 5] == 0).all()


@pytest.mark.parametrize(
    ("previous", "error", "message"),
    [
        (np.arange(10.0), TypeError, "must be ints, got float64"),
        (np.arange(9), ValueError, r"must have shape \(10,\), one for each t, got \(9,\)"),
        (np.arange(10) - 1, ValueError, r"from t = 1 leads to a step in 0..1, got -1"),
        (np.arange(10) + np.eye(10, dtype=int)[4] * 2, ValueError, r"from t = 5 leads to a step in 0..5, got 6"),
    ],
)
def test_steps_that_lead_nowhere_are_refused(previous, error, message):
    with pytest.raises(error, match=message):
        Jumps(LINEAR, previous)


def test_the_tables_of_a_device_are_those_of_the_jumps():
    previous = np.array([0, 0, 2, 2, 2, 5, 5, 5, 8, 8])
    jumps, device_schedule = Jumps(LINEAR, previous), DeviceSchedule(LINEAR, previous=previous)
    for update in ({}, {"variance": "beta"}, {"eta": 0.5}):
        table = device_schedule.reverse_table(**update, dtype=torch.float64).numpy()
        assert np.array_equal(table[:, :6], reverse_coefficients(LINEAR, **update, previous=previous))
    table = device_schedule.reverse_table(variance="learned_range", dtype=torch.float64).numpy()
    assert np.array_equal(table[1:, 5], previous > 0)
    noisy = previous > 0
    ends = np.stack([jumps.beta, jumps.posterior_variance], axis=1)[noisy]
    assert_close(actual=np.exp(2 * table[1:, 8:10])[noisy], expected=ends, roundings=64)
    assert device_schedule.to("meta").previous.tolist() == previous.tolist()
    with pytest.raises(ValueError, match="must have shape"):
        DeviceSchedule(LINEAR, previous=previous[:3])
