"""UniPC: one call of the network a step, which both corrects the step before and predicts the next."""

from collections.abc import Iterator
from math import factorial

import numpy as np
from numpy.typing import NDArray

from .._arguments import FloatArray
from ..schedule import Schedule
from .chain import Chain
from .exponential import half_log_snr_steps, noise_kept, phi, x_0_gained


def unipc(chain: Chain, *, order: int = 2) -> Iterator[FloatArray]:
    """UniPC of x_0, with B(h) = e^h - 1; Zhao et al. 2023 (arXiv:2302.04867), algorithms 1 (UniC) and 2 (UniP).

    A step from x^c_t to s = t - 1 takes the predictions D_0 = x_0(x_t, t), D_1 = x_0(x_{t+1}, t + 1), .., D_{p-1}, at
    the distances r_i = (lambda_{t+i} - lambda_t) / h from t, in units of h = lambda_s - lambda_t:

        y     = sqrt(1 - alpha_bar_s) / sqrt(1 - alpha_bar_t) x^c_t + g D_0,    g = sqrt(alpha_bar_s) (1 - e^{-h})
        x_s   = y + g sum_{0 < i < p} rho_i (D_i - D_0) / r_i                   (UniP)
        x^c_s = y + g sum_{0 < i < p} rho'_i (D_i - D_0) / r_i + g rho'_p (x_0(x_s, s) - D_0)    (UniC, r_p = 1)

    The network is called at x_s, once; its answer corrects x_s to x^c_s and is D_0 of the next step. The rho solve

        sum_i rho_i r_i^{k-1} = k! phi_{k+1}(-h) / phi_1(-h),    k = 1 .. p - 1,    and rho' the same for k = 1 .. p

    so that polynomials of degree p - 1 and p in lambda are integrated exactly; with one unknown the paper takes it to
    be 1/2 instead. UniP of order 2 is DPM-Solver++(2M). p is ``order`` but for the first steps, which have less to
    remember, and the last ones, where it is at most t. x_0 is not corrected.

    Parameters
    ----------
    chain : Chain
    order : int
        p, in 1..3. The corrector makes it one more: with 2 the method is of third order.

    Yields
    ------
    ndarray of float64, shape (B, ...)
        The predicted x_{T-1}, .., x_0, at which the network is called.
    """
    h, p = half_log_snr_steps(chain.schedule), _orders(chain.schedule, order)
    kept, gained = noise_kept(chain.schedule), x_0_gained(chain.schedule, h)
    x_t = y = chain.x_T
    D: list[FloatArray] = []
    for t in range(chain.schedule.T, 0, -1):
        now = chain.x_0(x_t, t)
        if _is_corrected(h, t):
            weights = _weights(h, t + 1, p[t + 1], corrector=True)
            x_t = y + gained[t + 1] * _sum(weights, [*D[: p[t + 1]], now])
        D = [now, *D][:order]
        y = kept[t] * x_t
        x_t = y + gained[t] * _sum(_weights(h, t, p[t]), D[: p[t]])
        yield x_t


def unipc_coefficients(schedule: Schedule, *, order: int = 2) -> tuple[FloatArray, FloatArray]:
    """UniPC as two tables, over the step t of the network's call: UniC, which leads to x^c_t, then UniP from there.

        x^c_t   = a x_t + b D_0 + c_1 x^c_{t+1} + c_2 D_1 + .. + c_{1 + order} D_order + sigma z
        x_{t-1} = a x_t + b D_0 + c_1 x^c_t + c_2 D_1 + .. + c_order D_{order - 1} + sigma z

    Returns
    -------
    ndarray of float64, shape (T + 1, 4 + order)
        UniC. Where there is nothing to correct, a is 1 and the others are 0.
    ndarray of float64, shape (T + 1, 3 + order)
        UniP; a is 0.
    """
    h, p = half_log_snr_steps(schedule), _orders(schedule, order)
    kept, gained = noise_kept(schedule), x_0_gained(schedule, h)
    correct, predict = np.zeros((schedule.T + 1, 4 + order)), np.zeros((schedule.T + 1, 3 + order))
    correct[:, 0], predict[:, 2] = 1, kept
    for t in range(1, schedule.T + 1):
        now, *before = gained[t] * _weights(h, t, p[t])
        predict[t, 1], predict[t, 3 : 2 + p[t]] = now, before
        if _is_corrected(h, t):
            *before, now = gained[t + 1] * _weights(h, t + 1, p[t + 1], corrector=True)
            correct[t, :3] = 0, now, kept[t + 1]
            correct[t, 3 : 3 + p[t + 1]] = before
    return correct, predict


def _orders(schedule: Schedule, order: int) -> NDArray[np.int64]:
    """p of every step, at least 1."""
    if order not in (1, 2, 3):
        raise ValueError(f"order must be 1, 2 or 3, got {order!r}")
    t = np.arange(schedule.T + 1)
    # a prediction at an infinite distance is none
    remembered = schedule.T - schedule.zero_terminal_snr - t
    return np.clip(np.minimum(t, remembered + 1), 1, order)


def _is_corrected(h: FloatArray, t: int) -> bool:
    return t + 1 < len(h) and bool(np.isfinite(h[t + 1]))


def _weights(h: FloatArray, t: int, p: int, *, corrector: bool = False) -> FloatArray:
    """What a step from t takes of D_0 .. D_{p-1}, and as a corrector of x_0(x_s, s), in units of g."""
    r = np.concatenate([-np.cumsum(h[t + 1 : t + p]) / h[t], [1.0] * corrector])
    if len(r) < 2:
        rho = np.full(len(r), 0.5)
    else:
        k = range(1, len(r) + 1)
        moments = np.array([factorial(i) * phi(i + 1, h[t]) / phi(1, h[t]) for i in k])
        rho = np.linalg.solve(np.stack([r ** (i - 1) for i in k]), moments)
    return np.concatenate([[1 - np.sum(rho / r)], rho / r])


def _sum(weights: FloatArray, terms: list[FloatArray]) -> FloatArray:
    total = np.zeros_like(terms[0])
    for weight, term in zip(weights, terms, strict=True):
        total = total + weight * term
    return total
