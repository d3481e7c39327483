"""Grids keep n different steps of a chain, as near as there are to the levels that their papers ask for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import NAMED, schedules
from noisestep.reference import GRIDS, Schedule
from noisestep.reference.grids import grid_steps, sections

LINEAR, COSINE = (Schedule.from_name(name, 1000) for name in ("linear", "cosine"))


def sigma(schedule):
    return np.sqrt(schedule.one_minus_alpha_bar[1:] / schedule.alpha_bar[1:])


@pytest.mark.parametrize("grid", GRIDS)
@settings(max_examples=40)
@given(data=st.data())
def test_a_grid_is_n_different_steps_that_end_at_T(grid, data):
    schedule = data.draw(schedules())
    n = data.draw(st.integers(1, schedule.T))
    steps = grid_steps(schedule, n, grid)
    assert steps.dtype == np.int64
    assert len(steps) == n
    assert steps[0] >= 1
    assert steps[-1] == schedule.T
    assert np.all(np.diff(steps) > 0)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("name", "zero"), NAMED)
def test_a_grid_of_all_steps_is_the_chain(grid, name, zero):
    schedule = Schedule.from_name(name, 25, zero_terminal_snr=zero)
    assert schedule.respace(25, grid) == schedule


@pytest.mark.parametrize("n", [1, 7, 40])
def test_uniform_is_the_trailing_spacing_of_diffusers(n):
    trailing = np.round(np.arange(1000, 0, -1000 / n))
    np.testing.assert_array_equal(grid_steps(LINEAR, n, "uniform")[::-1], trailing)


def test_quadratic_steps_are_squares_of_even_ones():
    assert grid_steps(LINEAR, 10, "quadratic").tolist() == [10 * k**2 for k in range(1, 11)]


@pytest.mark.parametrize(("grid", "scale"), [("karras", lambda sigma: sigma ** (1 / 7)), ("exponential", np.log)])
def test_levels_are_even_on_their_scale_to_the_nearest_step(grid, scale):
    # a chain that ends at sigma 20 keeps both ends
    chain = Schedule(LINEAR.beta[1 : 1 + np.searchsorted(sigma(LINEAR), 20)])
    levels = sigma(chain)
    steps = grid_steps(chain, 12, grid)
    assert (steps[0], steps[-1]) == (1, chain.T)
    wanted = np.linspace(scale(levels[0]), scale(levels[-1]), 12)
    # neighbours are at most 1.06 apart in sigma where there is room for all twelve
    away = np.abs(np.log(levels[steps - 1]) - np.interp(wanted, scale(levels), np.log(levels)))
    gaps = np.diff(np.log(levels))
    widest = np.maximum(gaps[np.maximum(steps - 2, 0)], gaps[np.minimum(steps - 1, chain.T - 2)])
    assert np.all(away <= 0.51 * widest)


@pytest.mark.parametrize("grid", ["karras", "exponential"])
@pytest.mark.parametrize("zero", [False, True])
def test_a_chain_that_ends_in_noise_alone_spends_one_step_on_it(grid, zero):
    schedule = Schedule.from_name("cosine", 1000, zero_terminal_snr=zero)
    with np.errstate(divide="ignore"):
        levels = sigma(schedule)
    assert levels[-1] > 10_000
    steps = grid_steps(schedule, 10, grid)
    assert 75 < levels[steps[-2] - 1] < 85


def test_the_steps_of_improved_diffusion_are_taken_by_their_names():
    assert LINEAR.respace("ddim25").timesteps[1:].tolist() == list(range(1, 1001, 40))
    assert (
        LINEAR.respace("2,1,3").timesteps[1:].tolist()
        == sections(1000, [2, 1, 3]).tolist()
        == [1, 334, 335, 668, 834, 1000]
    )


@pytest.mark.parametrize(
    ("kept", "grid", "message"),
    [
        (10, "cosine", "grid must be one of uniform, quadratic, karras, exponential, got 'cosine'"),
        (1001, "karras", "must be in 1..1000, got 1001"),
        ("karras", "uniform", 'steps must be a number, their numbers, "ddimN" or "N,N,..", got \'karras\''),
        ("ddim999", "uniform", "no whole stride takes 999 of 1000 steps"),
        ("600,1", "uniform", "the count of a section of 500 steps must be at most that, got 600"),
    ],
)
def test_what_is_no_grid_is_refused(kept, grid, message):
    with pytest.raises(ValueError, match=message):
        LINEAR.respace(kept, grid)
