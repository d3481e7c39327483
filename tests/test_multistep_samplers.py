"""Samplers that remember integrate polynomials exactly: of x_0 in half the log-SNR, or of eps in rho."""

from functools import partial
from math import exp, factorial

import mpmath
import numpy as np
import pytest
from laws import EPS
from noisestep.reference import Schedule, sample
from noisestep.reference.samplers.ddim import ddim
from noisestep.reference.samplers.deis import deis
from noisestep.reference.samplers.dpmpp_2m import dpmpp_2m, dpmpp_2m_coefficients
from noisestep.reference.samplers.dpmpp_3m import dpmpp_3m
from noisestep.reference.samplers.exponential import half_log_snr_steps, phi
from noisestep.reference.samplers.unipc import unipc, unipc_coefficients

CHAIN = Schedule.from_name("linear", 1000).respace(15, "karras")
X_T = np.linspace(-2, 2, 6).reshape(3, 2)
PARABOLA = 0.3, -0.2, 0.05


def curved(x, t):
    return np.tanh(0.9 * x - 0.001 * t[:, None])


def every_step(sampler, network, prediction):
    """Where each step leads from and to, T first, for a network that depends on t alone."""
    step = {int(timestep): t for t, timestep in enumerate(CHAIN.timesteps)}
    states = sample(
        CHAIN,
        lambda x, t: np.full_like(x, network(step[t[0]])),
        X_T.shape,
        sampler=sampler,
        x_T=X_T,
        prediction=prediction,
        trajectory=True,
    )
    return [(t, states[t], states[t - 1]) for t in range(CHAIN.T, 0, -1)]


@pytest.mark.parametrize(
    ("sampler", "degree", "first"),
    [
        (dpmpp_3m, 2, 3),
        (dpmpp_3m, 1, 2),
        (ddim, 0, 1),
        # the step after the first that three predictions make starts from where it led
        (partial(unipc, order=3), 2, 4),
        (partial(unipc, order=1), 0, 1),
    ],
)
def test_a_polynomial_in_half_the_log_snr_is_integrated_exactly(sampler, degree, first):
    c = np.array([*PARABOLA[: degree + 1], 0, 0][:3])
    lam = np.log(CHAIN.snr[1:]) / 2

    def integral(x):
        # of e^x (c_0 + c_1 x + c_2 x^2)
        return np.exp(x) * (c[0] - c[1] + 2 * c[2] + (c[1] - 2 * c[2]) * x + c[2] * x**2)

    def network(t):
        return np.polynomial.polynomial.polyval(lam[t - 1], c)

    # the step to clean data is DDIM's, and UniPC takes a lower order just before
    steps = every_step(sampler, network, "x_0")[first - 1 : -degree if degree else -1]
    assert len(steps) >= 10
    noise = CHAIN.sqrt_one_minus_alpha_bar
    for t, x_t, x_s in steps:
        expected = noise[t - 1] * (x_t / noise[t] + integral(lam[t - 2]) - integral(lam[t - 1]))
        np.testing.assert_allclose(x_s, expected, rtol=0, atol=1000 * EPS)


def test_a_parabola_of_eps_in_rho_is_integrated_exactly():
    rho = np.sqrt(CHAIN.one_minus_alpha_bar / CHAIN.alpha_bar)
    eps = np.polynomial.Polynomial(np.array(PARABOLA) / [1, 10, 100])
    signal, integral = CHAIN.sqrt_alpha_bar, eps.integ()
    for t, x_t, x_s in every_step(deis, lambda t: eps(rho[t]), "eps")[2:]:
        expected = signal[t - 1] * (x_t / signal[t] + integral(rho[t - 1]) - integral(rho[t]))
        np.testing.assert_allclose(x_s, expected, rtol=0, atol=100 * EPS * (rho[t] + np.abs(x_t).max()))


def test_the_predictor_of_unipc_is_dpmpp_2m():
    table = dpmpp_2m_coefficients(CHAIN)
    _, predict = unipc_coefficients(CHAIN)
    # a is the coefficient of x^c_t there
    np.testing.assert_allclose(predict[2:, [2, 1, 3]], table[2:, :3], rtol=0, atol=8 * EPS)
    assert np.all(predict[:, 0] == 0)


@pytest.mark.parametrize("order", [0, 4, 2.5])
def test_unipc_has_three_orders(order):
    with pytest.raises(ValueError, match=f"order must be 1, 2 or 3, got {order}"):
        sample(CHAIN, curved, X_T.shape, sampler=unipc, order=order)


@pytest.mark.parametrize("prediction", ["x_0", "v"])
@pytest.mark.parametrize("sampler", [dpmpp_2m, dpmpp_3m, unipc])
def test_a_chain_may_start_without_any_signal(sampler, prediction):
    schedule = Schedule.from_name("cosine", 100, zero_terminal_snr=True).respace(5)
    ours, theirs = (
        sample(schedule, curved, X_T.shape, sampler=s, x_T=X_T, prediction=prediction, trajectory=True)
        for s in (sampler, ddim)
    )
    # h is infinite in the first step, which then says nothing about a slope: the second is DDIM's, too
    np.testing.assert_allclose(ours[3:], theirs[3:], rtol=0, atol=32 * EPS * np.abs(X_T).max())
    assert np.isfinite(ours).all()
    assert not np.allclose(ours[2], theirs[2], atol=1e-3)


def test_deis_cannot_start_without_any_signal():
    schedule = Schedule.from_name("cosine", 100, zero_terminal_snr=True).respace(5)
    with pytest.raises(ValueError, match="deis needs a finite rho_T"):
        sample(schedule, curved, X_T.shape, sampler=deis, x_T=X_T, prediction="v")


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_phi_is_its_integral(k):
    for h in (1e-12, 1e-3, 0.5, 0.999, 1.001, 3.0, 40.0):
        with mpmath.workdps(30):
            u = mpmath.mpf(1)
            exact = mpmath.quad(lambda u, h=h: mpmath.exp(-(1 - u) * h) * u ** (k - 1), [0, u]) / factorial(k - 1)
        # beyond 1 each of the k - 1 subtractions may lose a bit or two
        assert abs(phi(k, h) - float(exact)) <= 4**k * EPS * float(exact)
    assert phi(k, 0.0) == 1 / factorial(k)
    assert abs(phi(1, 1.0) - (1 - exp(-1))) <= EPS


def test_the_steps_in_half_the_log_snr_are_exact_where_they_are_small():
    schedule = Schedule([0.3, *[1e-9] * 3, 0.2])
    h, t = half_log_snr_steps(schedule), np.arange(2, 6)
    # of beta = 1e-9: beta / (2 (1 - alpha_bar)), to first order in beta
    np.testing.assert_allclose(h[2:5], 1e-9 / (2 * 0.3), rtol=1e-8)
    np.testing.assert_allclose(h[t], np.log(schedule.snr[t - 1] / schedule.snr[t]) / 2, rtol=0, atol=8 * EPS)
    assert h[1] == np.inf
