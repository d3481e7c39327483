"""One linear multistep step: what most samplers do between two calls of the network, whatever they are derived from.

A solver of the probability-flow ODE, or of its stochastic counterpart, takes x_t, what the network has just predicted,
and a few earlier predictions, and adds them up. Derivations differ; the sum does not. DDIM, Euler, DPM-Solver++, UniPC,
DEIS and iPNDM are tables of its coefficients.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from ._arguments import FloatArray, per_sample, real_array, require_name, same_shape
from .prediction import Prediction, Quantity, convert, eps_from_x_0, predict_x_0
from .reverse import reverse_coefficients
from .schedule import Schedule

Memory = Literal["x_0", "eps"]


def step_prediction(
    schedule: Schedule,
    x_t: ArrayLike,
    output: ArrayLike,
    t: ArrayLike,
    *,
    prediction: Quantity = "eps",
    clip: tuple[float, float] | None = None,
    memory: Memory = "x_0",
) -> FloatArray:
    """D, the prediction that a step uses and remembers: the predicted x_0, or the eps that belongs to it.

    Clipping is done on x_0, and eps follows from the clipped x_0; without a clip both are the network's output written
    as another quantity.

    Parameters
    ----------
    memory : {"x_0", "eps"}
        Which of the two. Solvers in exponential form integrate x_0 (Lu et al. 2022, DPM-Solver++) or eps (Zhang &
        Chen 2022, DEIS; Liu et al. 2022, PNDM).
    """
    require_name("memory", memory, get_args(Memory))
    if memory == "eps" and clip is None:
        return convert(schedule, x_t, output, t, source=prediction, target="eps")
    x_0 = predict_x_0(schedule, x_t, output, t, prediction=prediction, clip=clip)
    return x_0 if memory == "x_0" else eps_from_x_0(schedule, x_t, x_0, t)


def linear_step(
    coefficients: ArrayLike,
    x_t: ArrayLike,
    D: ArrayLike,
    history: Sequence[ArrayLike],
    t: ArrayLike,
    z: ArrayLike,
) -> FloatArray:
    """x_s, one step of a linear multistep method.

        x_s = a x_t + b D + c_1 h_1 + .. + c_K h_K + sigma z

    Parameters
    ----------
    coefficients : array_like, shape (T + 1, 3 + K)
        Row t: (a, b, c_1, .., c_K, sigma) of the step whose call of the network is at t.
    D : array_like, shape (B, ...)
        What :func:`step_prediction` makes of the network's output at x_t.
    history : sequence of K array_like, shape (B, ...)
        As a rule D of the calls before, the latest first. It may be any array: UniPC's corrector has the x of the step
        before in it, since its D belongs to another x than the one that it corrects from.
    z : array_like, shape (B, ...)
        Standard normal.

    Examples
    --------
    The second-order Adams-Bashforth step of dx/dt = D, from t = 1 to 0, with slope 2 now and 3 before:

    >>> table = np.array([[1, 0, 0, 0], [1, -1.5, 0.5, 0]])
    >>> x, now, before = np.array([[5.0]]), np.array([[2.0]]), np.array([[3.0]])
    >>> linear_step(table, x, now, [before], 1, np.zeros((1, 1))).tolist()
    [[3.5]]
    """
    table = real_array("coefficients", coefficients)
    x_t, D, z, *terms = same_shape(x_t=x_t, D=D, z=z, **{f"history[{k}]": h for k, h in enumerate(history)})
    if table.ndim != 2 or table.shape[1] != 3 + len(terms):
        raise ValueError(f"coefficients must have shape (T + 1, {3 + len(terms)}), got {table.shape}")
    a, b, *c, sigma = (per_sample(column, t, x_t) for column in table.T)
    x_s = a * x_t + b * D
    for weight, term in zip(c, terms, strict=True):
        x_s = x_s + weight * term
    return x_s + sigma * z


def prediction_coefficients(schedule: Schedule, prediction: Prediction = "eps") -> FloatArray:
    """x_0 and eps from x_t and the network's output, as linear combinations: what a fused kernel reads.

        x_0 = c_0 x_t + c_1 output,   then clipped
        eps = c_2 x_t + c_3 x_0,      from the clipped x_0
        eps = c_4 x_t + c_5 output,   where nothing is clipped

    Returns
    -------
    ndarray of float64, shape (T + 1, 6)
        Row t holds c_0 .. c_5 at t. In row 0 x_t is the image: x_0 is x_t, and eps is 0.

    Raises
    ------
    ValueError
        If the prediction is eps on a schedule with zero terminal SNR.
    """
    signal, noise = schedule.sqrt_alpha_bar[1:], schedule.sqrt_one_minus_alpha_bar[1:]
    table = np.zeros((schedule.T + 1, 6))
    table[:, :2] = reverse_coefficients(schedule, prediction=prediction)[:, :2]
    c = table[1:].T
    c[2], c[3] = 1 / noise, -signal / noise
    if prediction == "eps":
        c[5] = 1
    elif prediction == "x_0":
        c[4], c[5] = c[2], c[3]
    elif prediction == "flow":
        c[4], c[5] = 1 / (signal + noise), signal / (signal + noise)
    else:
        c[4], c[5] = noise, signal
    return table
