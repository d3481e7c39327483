"""DPM-Solver++ 2M with noise keeps the marginals of the process, and without it is DPM-Solver++ 2M."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import EPS, schedules
from noisestep.reference import Schedule, sample
from noisestep.reference.samplers.chain import Chain
from noisestep.reference.samplers.dpmpp_2m import dpmpp_2m_coefficients
from noisestep.reference.samplers.dpmpp_2m_sde import dpmpp_2m_sde, dpmpp_2m_sde_coefficients
from sampler_laws import MEAN, VARIANCE, cubic_schedule, gaussian_x_0


@settings(max_examples=30)
@given(schedules())
def test_without_noise_it_is_dpmpp_2m(schedule):
    np.testing.assert_array_equal(dpmpp_2m_sde_coefficients(schedule, eta=0.0), dpmpp_2m_coefficients(schedule))


@settings(max_examples=30)
@given(schedules(), st.floats(0, 1))
def test_a_network_that_knows_x_0_gives_the_marginal_of_every_step(schedule, eta):
    a, b, c, sigma = dpmpp_2m_sde_coefficients(schedule, eta=eta)[1:].T
    signal, noise = schedule.sqrt_alpha_bar, schedule.sqrt_one_minus_alpha_bar
    # x_t = signal x_0 + noise eps, with the same x_0 predicted now and before
    np.testing.assert_allclose(a * signal[1:] + b + c, signal[:-1], rtol=0, atol=40 * EPS * (1 + np.abs(c).max()))
    np.testing.assert_allclose((a * noise[1:]) ** 2 + sigma**2, noise[:-1] ** 2, rtol=0, atol=40 * EPS)


@dataclass(frozen=True)
class UnitNoise(Chain):
    """Sample 0 has no noise at all, sample t has z = 1 at step t alone."""

    def z(self, t):
        z = np.zeros_like(self.x_T)
        z[t] = 1
        return z


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_gaussian_data_have_the_moments_of_the_linear_recursion(eta):
    schedule = cubic_schedule(160)
    signal, noise_2 = schedule.sqrt_alpha_bar, schedule.one_minus_alpha_bar
    # the last sample alone starts from x_T = 1
    x_T = np.eye(1, schedule.T + 2, schedule.T + 1)[0]
    chain = UnitNoise(schedule, gaussian_x_0(schedule), x_T, "x_0", None, 0, np.arange(0, dtype=np.uint64), 1.0)
    *_, x_0 = dpmpp_2m_sde(chain, eta=eta)
    mean, variance = x_0[0], np.sum((x_0[1:] - x_0[0]) ** 2)

    # x_t and the prediction before it, as (mean, covariance); E[x_0 | x_t] = MEAN + gain (x_t - signal MEAN)
    gain = VARIANCE * signal / (VARIANCE * signal**2 + noise_2)
    state, covariance = np.zeros(2), np.diag([1.0, 0.0])
    h = np.log(schedule.snr[1:]) / 2
    for t in range(schedule.T, 0, -1):
        predict = np.array([gain[t], 0.0])
        offset = MEAN - gain[t] * signal[t] * MEAN
        if t == 1:
            step, constant, fresh = predict, offset, 0.0
        else:
            step_h = h[t - 2] - h[t - 1]
            kept = np.sqrt(noise_2[t - 1] / noise_2[t]) * np.exp(-eta * step_h)
            gained = signal[t - 1] * (1 - np.exp(-(1 + eta) * step_h))
            slope = step_h / (2 * (h[t - 1] - h[t])) if t < schedule.T else 0.0
            step = np.array([kept, 0.0]) + gained * ((1 + slope) * predict - slope * np.array([0.0, 1.0]))
            constant, fresh = gained * (1 + slope) * offset, noise_2[t - 1] * (1 - np.exp(-2 * eta * step_h))
        matrix = np.stack([step, predict])
        state = matrix @ state + [constant, offset]
        covariance = matrix @ covariance @ matrix.T + np.diag([fresh, 0.0])
    assert abs(mean - state[0]) <= 100 * schedule.T * EPS
    assert abs(variance - covariance[0, 0]) <= 100 * schedule.T * EPS
    # and these are near the data's
    assert abs(mean - MEAN) < 0.02
    assert abs(variance / VARIANCE - 1) < 0.05


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_a_chain_may_start_without_any_signal(zero, eta):
    schedule = Schedule.from_name("cosine", 100, zero_terminal_snr=zero).respace(5)
    x = sample(
        schedule, lambda x, t: np.tanh(x), (2, 3), sampler=dpmpp_2m_sde, prediction="v", eta=eta, trajectory=True
    )
    assert np.isfinite(x).all()


def test_eta_is_a_fraction():
    with pytest.raises(ValueError, match=r"eta must be in \[0, 1\], got 1.5"):
        dpmpp_2m_sde_coefficients(cubic_schedule(4), eta=1.5)
