"""L_simple, which training minimises, and the weightings of it that are in use.

The variational bound weights the error at each t by a factor that is largest where there is
little noise. L_simple drops the
factor (Ho et al. 2020, section 3.4), and so spends the network on large noise, where the shape of an image is
decided. The weightings below choose something else on purpose. Each is stated by its authors for one prediction; for
the others it is converted, since an error of eps is SNR times, and one of v SNR + 1 times, the error of x_0:

    ||eps - eps_theta||^2 = SNR ||x_0 - x_theta||^2,    ||v - v_theta||^2 = (SNR + 1) ||x_0 - x_theta||^2

and one of the velocity of a flow (sqrt(SNR) + 1)^2 times that of x_0.

Every weighting returns w_t as a table, float64, shape (T + 1,), to be indexed by t; row 0, which is never trained, is
0. Its ``prediction`` says of which quantity the error is taken: "eps", "x_0", "v" or "flow".
"""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from ._arguments import FloatArray, real, require_name, rows, same_shape, steps
from .flow import flow_velocity
from .prediction import Prediction, velocity
from .schedule import Schedule


def training_target(
    schedule: Schedule, x_0: ArrayLike, eps: ArrayLike, t: ArrayLike, *, prediction: Prediction = "eps"
) -> FloatArray:
    """What the network should output for x_t: eps in the chapter's loss, or x_0, v, or the velocity of a flow.

    Parameters
    ----------
    prediction : {"eps", "x_0", "v", "flow"}
        What the network predicts.
    """
    require_name("prediction", prediction, get_args(Prediction))
    x_0, eps = same_shape(x_0=x_0, eps=eps)
    rows(steps(t, schedule.T), x_0)
    if prediction == "v":
        return velocity(schedule, x_0, eps, t)
    if prediction == "flow":
        return flow_velocity(x_0, eps)
    return eps if prediction == "eps" else x_0


def squared_error(output: ArrayLike, target: ArrayLike, *, over: Literal["mean", "sum"] = "mean") -> FloatArray:
    """The squared error of each sample, over its n elements.

        mean:  1/n ||target - output||^2          sum:  ||target - output||^2

    The chapter prints the sum and codes the mean (``nn.MSELoss``). They have the same minimum; gradients of the mean
    are n times smaller, so that a learning rate does not depend on the size of the images.

    Parameters
    ----------
    target : array_like, shape (B, ...), floating
        What the output should have been.
    over : {"mean", "sum"}
        Which of the two.

    Returns
    -------
    ndarray of float64, shape (B,)

    Examples
    --------
    >>> squared_error(np.array([[1.0, 2.0]]), np.array([[0.0, 0.0]])).tolist()
    [2.5]
    >>> squared_error(np.array([[1.0, 2.0]]), np.array([[0.0, 0.0]]), over="sum").tolist()
    [5.0]
    """
    output, target = same_shape(output=output, target=target)
    require_name("over", over, ("mean", "sum"))
    if output.ndim == 0:
        raise ValueError("output must have shape (B, ...), got shape ()")
    squares = (target - output).reshape(len(output), -1) ** 2  # (B, n)
    reduced: FloatArray = squares.sum(axis=1) if over == "sum" else squares.mean(axis=1)
    return reduced


def simple_loss(output: ArrayLike, target: ArrayLike, *, weight: ArrayLike | None = None) -> float:
    """L_simple, the chapter's loss over a batch; Ho et al. 2020, eq. 14.

        L_simple = E ||eps - eps_theta(x_t, t)||^2

    as the mean over the samples of w_b / n ||target_b - output_b||^2: the mean over elements, as the chapter codes it.
    The expectation over t and eps is taken by drawing one of each for every sample.

    Parameters
    ----------
    target : array_like, shape (B, ...), floating
        What the output should have been: eps, x_0, v or the velocity of a flow (:func:`training_target`).
    weight : array_like, shape (B,), optional
        w, such as ``loss_weights(schedule, "min_snr")[t]``; 1 if left out.

    Returns
    -------
    float
    """
    losses = squared_error(output, target)
    if weight is None:
        return float(np.mean(losses))
    losses, weight = same_shape(losses=losses, weight=weight)
    return float(np.mean(weight * losses))


def uniform_weights(schedule: Schedule, prediction: Prediction = "eps") -> FloatArray:
    """w_t = 1, the weighting "none": L_simple as it stands, whatever is predicted."""
    return _with_row_0(np.ones_like(_snr(schedule, prediction)))


def min_snr_weights(schedule: Schedule, prediction: Prediction = "eps", *, gamma: float = 5.0) -> FloatArray:
    """w_t of min-SNR-gamma; Hang et al. 2023.

        x_0:  min(SNR, gamma)      eps:  min(SNR, gamma) / SNR
        v:    min(SNR, gamma) / (SNR + 1)      flow:  min(SNR, gamma) / (sqrt(SNR) + 1)^2

    L_simple of eps weights the error of x_0 by the SNR, which is huge at small t: those steps dominate the gradient
    and disagree with the others. Here the weight stops growing at gamma.

    Parameters
    ----------
    gamma : float
        Above 0.
    """
    if not 0 < (gamma := real("gamma", gamma)) < np.inf:
        raise ValueError(f"gamma must be finite and above 0, got {gamma}")
    snr = _snr(schedule, prediction)
    if prediction == "eps":
        # min(SNR, gamma) / SNR, and its limit 1 where SNR is 0
        return _with_row_0(gamma / np.maximum(snr, gamma))
    return _with_row_0(np.minimum(snr, gamma) / _error_of(prediction, snr))


def p2_weights(schedule: Schedule, prediction: Prediction = "eps", *, gamma: float = 1.0, k: float = 1.0) -> FloatArray:
    """w_t of P2, perception prioritized; Choi et al. 2022.

        eps:  1 / (k + SNR)^gamma      x_0:  that times SNR
        v:    that times SNR / (SNR + 1)      flow:  that times SNR / (sqrt(SNR) + 1)^2

    It holds back small noise, where only imperceptible details are left to learn.

    Parameters
    ----------
    gamma : float
        How much small noise is held back, at least 0; 0 leaves L_simple of eps.
    k : float
        Keeps the weight of pure noise finite, above 0.
    """
    gamma, k = real("gamma", gamma), real("k", k)
    if not (0 <= gamma < np.inf and 0 < k < np.inf):
        raise ValueError(f"gamma must be at least 0 and k above 0, both finite, got {gamma=}, {k=}")
    snr = _snr(schedule, prediction)
    of_eps: FloatArray = (k + snr) ** -gamma
    if prediction == "eps":
        return _with_row_0(of_eps)
    return _with_row_0(snr / _error_of(prediction, snr) * of_eps)


def truncated_snr_weights(schedule: Schedule, prediction: Prediction = "eps") -> FloatArray:
    """w_t of the truncated SNR; Salimans & Ho 2022, section 4.

        x_0:  max(SNR, 1)      eps:  max(SNR, 1) / SNR
        v:    max(SNR, 1) / (SNR + 1)      flow:  max(SNR, 1) / (sqrt(SNR) + 1)^2

    It is the larger of the errors of x_0 and of eps, L = max(||x_0 - x_theta||^2, ||eps - eps_theta||^2), so that a
    network that predicts x_0 still learns something where SNR is near 0.

    Raises
    ------
    ValueError
        If the prediction is eps on a schedule with zero terminal SNR, whose weight is infinite.
    """
    snr = _snr(schedule, prediction)
    if prediction == "eps" and schedule.zero_terminal_snr:
        raise ValueError("truncated SNR weighs an error of eps infinitely at zero terminal SNR; predict x_0, v or flow")
    return _with_row_0(np.maximum(snr, 1) / _error_of(prediction, snr))


LOSS_WEIGHTINGS: dict[str, Callable[..., FloatArray]] = {
    "none": uniform_weights,
    "min_snr": min_snr_weights,
    "p2": p2_weights,
    "truncated_snr": truncated_snr_weights,
}


def loss_weights(
    schedule: Schedule, weighting: str = "none", *, prediction: Prediction = "eps", **parameters: float
) -> FloatArray:
    """w_t of the weighting with a name.

    Parameters
    ----------
    weighting : str
        A key of ``LOSS_WEIGHTINGS``: none, min_snr, p2 or truncated_snr.
    **parameters
        Passed to the weighting's function: ``gamma``, ``k``; a TypeError if it has no such parameter.

    Examples
    --------
    >>> schedule = Schedule.from_name("linear", 1000)
    >>> loss_weights(schedule, "min_snr")[[1, 100, 250, 1000]].round(4).tolist()
    [0.0005, 0.574, 1.0, 1.0]
    """
    require_name("weighting", weighting, tuple(LOSS_WEIGHTINGS))
    return LOSS_WEIGHTINGS[weighting](schedule, prediction, **parameters)


def _snr(schedule: Schedule, prediction: Prediction) -> FloatArray:
    require_name("prediction", prediction, get_args(Prediction))
    return schedule.snr[1:]


def _error_of(prediction: Prediction, snr: FloatArray) -> FloatArray:
    """The squared error of the prediction, in units of that of x_0."""
    if prediction == "x_0":
        return np.ones_like(snr)
    if prediction == "eps":
        return snr
    error: FloatArray = snr + 1 if prediction == "v" else (np.sqrt(snr) + 1) ** 2
    return error


def _with_row_0(weights: FloatArray) -> FloatArray:
    return np.concatenate([[0.0], weights])
