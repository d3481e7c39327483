"""DEIS: one call of the network a step, third order by a parabola through the last three predictions of eps."""

from collections.abc import Iterator

import numpy as np

from .._arguments import FloatArray
from ..schedule import Schedule
from .chain import Chain


def deis(chain: Chain) -> Iterator[FloatArray]:
    """rho-AB-DEIS of three predictions; Zhang & Chen 2023 (arXiv:2204.13902). k-diffusion calls it lms.

        rho_t = sqrt((1 - alpha_bar_t) / alpha_bar_t),    d (x / sqrt(alpha_bar)) / d rho = eps

        x_{t-1} = sqrt(alpha_bar_{t-1}) (x_t / sqrt(alpha_bar_t) + sum_i C_i eps_i)
        C_i     = integral of L_i(rho) over rho_t .. rho_{t-1}

    eps_i is the predicted eps of step t + i, and L_i is Lagrange's polynomial, 1 at rho_{t+i} and 0 at the other rhos:
    the method of Adams and Bashforth with steps of any size. The first step has eps_0 alone, and is DDIM's; the second
    has two.

    DPM-Solver++ remembers x_0 in the place of eps, and its time is lambda = -log rho.

    Parameters
    ----------
    chain : Chain

    Yields
    ------
    ndarray of float64, shape (B, ...)
        x_{T-1}, .., x_0.

    Raises
    ------
    ValueError
        If the schedule has zero terminal SNR, where rho_T is infinite.
    """
    signal, rho = chain.schedule.sqrt_alpha_bar, _rho(chain.schedule)
    x_t = chain.x_T
    before: list[FloatArray] = []
    for t in range(chain.schedule.T, 0, -1):
        eps = [chain.eps(x_t, t), *before]
        y = x_t / signal[t]
        for C, eps_i in zip(_lagrange_integrals(rho, t, len(eps)), eps, strict=True):
            y = y + C * eps_i
        x_t = signal[t - 1] * y
        before = eps[:2]
        yield x_t


def deis_coefficients(schedule: Schedule) -> FloatArray:
    """DEIS as a table: (a, b, c_1, c_2, sigma) of x_{t-1} = a x_t + b eps_0 + c_1 eps_1 + c_2 eps_2 + sigma z.

    Returns
    -------
    ndarray of float64, shape (T + 1, 5)
    """
    table, rho = np.zeros((schedule.T + 1, 5)), _rho(schedule)
    table[:, 0] = 1 / np.sqrt(schedule.alpha)
    for t in range(1, schedule.T + 1):
        C = _lagrange_integrals(rho, t, min(3, schedule.T - t + 1))
        table[t, 1 : 1 + len(C)] = schedule.sqrt_alpha_bar[t - 1] * C
    return table


def _rho(schedule: Schedule) -> FloatArray:
    if schedule.zero_terminal_snr:
        raise ValueError(
            "alpha_bar_T is 0 (zero terminal SNR): deis needs a finite rho_T; take a sampler that uses x_0"
        )
    return schedule.sqrt_one_minus_alpha_bar / schedule.sqrt_alpha_bar


def _lagrange_integrals(rho: FloatArray, t: int, count: int) -> FloatArray:
    """C_0 .. C_{count-1} of step t."""
    nodes = rho[t : t + count]
    # two points are exact up to the third degree
    at, weights = np.polynomial.legendre.leggauss(2)
    half = (rho[t - 1] - rho[t]) / 2
    points = rho[t] + half * (1 + at)
    integrals = np.zeros(count)
    for i in range(count):
        others = np.delete(nodes, i)
        values = np.prod((points[:, None] - others) / (nodes[i] - others), axis=1)
        integrals[i] = half * weights @ values
    return integrals
