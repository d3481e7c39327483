"""Heun's method is the algorithm as it is printed, with the calls that it promises."""

import numpy as np
import pytest
from laws import EPS
from noisestep.reference import Schedule, sample
from noisestep.reference.samplers.ddim import ddim
from noisestep.reference.samplers.heun import heun, heun_coefficients
from sampler_laws import MEAN, cubic_schedule, gaussian_x_0, shrinkage

LINEAR = Schedule.from_name("linear", 1000).respace(12)
X_T = np.linspace(-2, 2, 6).reshape(3, 2)


def curved(x, t):
    return np.tanh(0.9 * x - 0.001 * t[:, None])


def test_it_is_algorithm_1_of_karras_with_sigma_1_over_k_and_s_k():
    # x = s(t) x_bar, where the time t of the paper is k = sqrt(SNR)
    time = np.sqrt(LINEAR.snr)[::-1]
    sigma, sigma_dot = lambda t: 1 / t, lambda t: -1 / t**2
    s, s_dot = lambda t: t, lambda t: 1.0

    def D(x_bar, i):
        step = LINEAR.T - i
        return curved(LINEAR.sqrt_alpha_bar[step] * x_bar, np.full(3, LINEAR.timesteps[step]))

    def slope(x, i):
        t = time[i]
        return (sigma_dot(t) / sigma(t) + s_dot(t) / s(t)) * x - sigma_dot(t) * s(t) / sigma(t) * D(x / s(t), i)

    x = X_T / LINEAR.sqrt_alpha_bar[-1] * s(time[0])
    trajectory = sample(LINEAR, curved, X_T.shape, sampler=heun, x_T=X_T, prediction="x_0", trajectory=True)
    for i in range(LINEAR.T - 1):
        d = slope(x, i)
        euler = x + (time[i + 1] - time[i]) * d
        x = x + (time[i + 1] - time[i]) * (d / 2 + slope(euler, i + 1) / 2)
        step = LINEAR.T - i - 1
        expected = LINEAR.sqrt_alpha_bar[step] * x / s(time[i + 1])
        np.testing.assert_allclose(trajectory[step], expected, rtol=0, atol=20 * LINEAR.T * EPS * np.abs(X_T).max())


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_n_steps_are_2_n_minus_1_calls_at_the_steps_that_they_join(steps):
    heard = []

    def listener(x, t):
        heard.append(int(t[0]))
        return curved(x, t)

    schedule = Schedule.from_name("linear", 100).respace(steps)
    sample(schedule, listener, X_T.shape, sampler=heun, x_T=X_T, prediction="v")
    told = schedule.timesteps[:0:-1].tolist()
    assert heard == [told[0], *(t for later in told[1:] for t in (later, later))]


def test_gaussian_data_follow_the_recursion_of_a_trapezium():
    schedule = cubic_schedule(25)
    sigma, g = shrinkage(schedule)
    factor = 1.0
    for t in range(schedule.T, 0, -1):
        ratio = sigma[t - 1] / sigma[t]
        euler = ratio + (1 - ratio) * g[t]
        # g is 1 at t = 0: the last step is Euler's
        factor *= ratio + (1 - ratio) * (g[t] + g[t - 1] * euler) / 2 if t > 1 else euler
    x_0 = sample(schedule, gaussian_x_0(schedule), X_T.shape, sampler=heun, x_T=X_T, prediction="x_0")
    expected = MEAN + factor * (X_T / schedule.sqrt_alpha_bar[-1] - MEAN)
    np.testing.assert_allclose(x_0, expected, rtol=0, atol=40 * schedule.T * EPS)


@pytest.mark.parametrize("prediction", ["x_0", "v"])
def test_a_chain_may_start_without_any_signal(prediction):
    schedule = Schedule.from_name("cosine", 100, zero_terminal_snr=True).respace(2)
    both = [
        sample(schedule, curved, X_T.shape, sampler=sampler, x_T=X_T, prediction=prediction, trajectory=True)
        for sampler in (heun, ddim)
    ]
    assert np.isfinite(both[0]).all()
    assert not np.allclose(both[0][1], both[1][1], atol=1e-3)


def test_the_second_call_counts_half():
    signal, noise = LINEAR.sqrt_alpha_bar, LINEAR.sqrt_one_minus_alpha_bar
    of_x_0 = signal[1:-1] - noise[1:-1] * signal[2:] / noise[2:]
    a, b, c, sigma = heun_coefficients(LINEAR)[1].T
    np.testing.assert_allclose(b[1:-1], of_x_0 / 2, rtol=0, atol=4 * EPS)
    assert np.all(c == -b)
    assert np.all(a == 1)
    assert np.all(sigma == 0)
    assert b[0] == b[-1] == 0
    assert b.max() <= 0.5
