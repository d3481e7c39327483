"""Guidance beyond one scale: by a classifier, in a part of the chain, and without its excess of contrast.

A score is the gradient of log p. By Bayes' rule, log p(x_t | y) = log p(x_t) + log p(y | x_t) + const, so that the
score of the images of a class is that of all images plus the gradient of a classifier that has learned noised images.
The score and the noise are the same knowledge: grad log p(x_t) = -eps / sqrt(1 - alpha_bar_t). Classifier-free
guidance, :func:`noisestep.reference.guided`, has the network stand for both.
"""

from typing import get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arguments import FloatArray, given_scale, given_variance, per_sample, real, require_name, same_shape
from .prediction import Prediction
from .schedule import Schedule


def classifier_mean(mean: ArrayLike, variance: ArrayLike, gradient: ArrayLike, scale: ArrayLike = 1.0) -> FloatArray:
    """The mean of a guided reverse step; Dhariwal & Nichol 2021, algorithm 1.

        mu + s Sigma grad log p(y | x_t)

    To first order log p(y | x) is linear in x across the width of a step, and a normal density times the exponential of
    a linear function is a normal one with the mean moved.

    Parameters
    ----------
    mean : array_like, shape (B, ...), floating
        Of p_theta(x_{t-1} | x_t), such as :func:`noisestep.reference.reverse_mean`.
    gradient : array_like, shape (B, ...), floating
        Of log p(y | x_t) in x_t.
    scale : float, or array_like of shape (B,)
        s: above 1 for more typical images of y, and less variety.
    """
    mean, gradient = same_shape(mean=mean, gradient=gradient)
    return mean + given_scale(scale, mean) * given_variance(variance, mean) * gradient


def classifier_output(
    schedule: Schedule,
    output: ArrayLike,
    t: ArrayLike,
    gradient: ArrayLike,
    scale: ArrayLike = 1.0,
    *,
    prediction: Prediction = "eps",
) -> FloatArray:
    """The network's output, moved by a classifier; Dhariwal & Nichol 2021, eq. 14 and algorithm 2, for any sampler.

        eps^ = eps - s sqrt(1 - alpha_bar_t) grad log p(y | x_t)
        x_0^ = x_0 + s (1 - alpha_bar_t) / sqrt(alpha_bar_t) grad log p(y | x_t)
        v^   = v   - s sqrt((1 - alpha_bar_t) / alpha_bar_t) grad log p(y | x_t)

    and the velocity of a flow, eps^ - x_0^.

    The first line is the paper's. The others are the same x_0, said by another prediction. DDPM's update then moves by
    s beta_t / sqrt(alpha_t) grad log p(y | x_t), which is algorithm 1 in the limit of small steps.

    Parameters
    ----------
    gradient : array_like, shape (B, ...), floating
        Of log p(y | x_t) in x_t.
    scale : float, or array_like of shape (B,)
        s.

    Raises
    ------
    ValueError
        Where alpha_bar_t is 0: x_t says nothing of x_0 there, and nothing of y.
    """
    require_name("prediction", prediction, get_args(Prediction))
    output, gradient = same_shape(output=output, gradient=gradient)
    moved = per_sample(classifier_coefficients(schedule, prediction), t, output) * gradient
    return output + given_scale(scale, output) * moved


def classifier_coefficients(schedule: Schedule, prediction: Prediction) -> FloatArray:
    """What multiplies s grad log p(y | x_t) in the output, at every step: :func:`classifier_output` as a table.

    The result has the shape (T + 1,), and 0 in row 0.
    """
    require_name("prediction", prediction, get_args(Prediction))
    if schedule.zero_terminal_snr:
        raise ValueError("alpha_bar_T is 0 (zero terminal SNR): x_T says nothing of x_0, and a classifier nothing of y")
    noise, signal = schedule.sqrt_one_minus_alpha_bar, schedule.sqrt_alpha_bar
    if prediction == "eps":
        return -noise
    if prediction == "flow":
        return -noise * (signal + noise) / signal
    return noise**2 / signal if prediction == "x_0" else -noise / signal


def rescaled(guided: ArrayLike, conditional: ArrayLike, rescale: float) -> FloatArray:
    """Guidance with the contrast of the conditional output; Lin et al. 2023, eq. 14 to 16.

        rescale std(conditional) / std(guided) guided + (1 - rescale) guided

    A large scale makes the output of guidance larger than any that training showed, and images too bright and too
    dark. The paper takes 0.7 of the rescaled output, since all of it looks plain. The standard deviations are those of
    all elements of a sample.

    Parameters
    ----------
    guided : array_like, shape (B, ...), floating
        From :func:`noisestep.reference.guided`. A sample of one value everywhere stays as it is.
    conditional : array_like, shape (B, ...), floating
        The output with the label.
    rescale : float
        In [0, 1]; the paper's phi.
    """
    guided, conditional = same_shape(guided=guided, conditional=conditional)
    if not 0 <= (rescale := real("rescale", rescale)) <= 1:
        raise ValueError(f"rescale must be in [0, 1], got {rescale}")
    elements = tuple(range(1, guided.ndim))
    asked, spread = (x.std(axis=elements, keepdims=True) for x in (conditional, guided))
    ratio = np.divide(asked, spread, out=np.ones_like(spread), where=spread > 0)
    result: FloatArray = (rescale * ratio + (1 - rescale)) * guided
    return result


def guided_steps(schedule: Schedule, low: float, high: float) -> NDArray[np.bool_]:
    """The steps at which guidance is applied; Kynkäänniemi et al. 2024, here with both ends.

        low <= sigma_t <= high,    sigma_t = sqrt((1 - alpha_bar_t) / alpha_bar_t)

    Elsewhere the output is the conditional one. Much noise: guidance throws away variety, since it leads all images of
    a class to the same few. Little noise: it does nothing, and the network is called twice for it.

    Parameters
    ----------
    low, high : float
        At least 0; ``high`` may be infinite. The whole chain is 0 and infinity.

    Returns
    -------
    ndarray of bool, shape (T + 1,)
        False in row 0.
    """
    low, high = real("low", low), real("high", high)
    if not 0 <= low <= high:
        raise ValueError(f"the interval of guidance must be 0 <= low <= high, got {low} and {high}")
    with np.errstate(divide="ignore"):
        sigma = schedule.sqrt_one_minus_alpha_bar / schedule.sqrt_alpha_bar
    return (low <= sigma) & (sigma <= high) & (np.arange(schedule.T + 1) > 0)
