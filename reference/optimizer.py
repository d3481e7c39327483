"""Adam, the optimizer of the chapter's training step, and the moving average of the weights, by hand."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ._arguments import MOST_STEPS, integer, real

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Adam:
    """The moments that Adam keeps, as a value: a step returns new ones and leaves these alone.

    Attributes
    ----------
    step : int
        Steps taken so far, 0 at the start.
    m, v : dict of str to ndarray
        Running means of the gradient and of its square, under the parameters' names; empty stands for zero.
    """

    step: int = 0
    m: Mapping[str, Array] = field(default_factory=dict)
    v: Mapping[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "step", integer("step", self.step, 0, MOST_STEPS + 1))

    def update(
        self,
        parameters: Mapping[str, Array],
        gradients: Mapping[str, Array],
        *,
        learning_rate: float = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
    ) -> tuple[dict[str, Array], Self]:
        """One step of Adam, Kingma & Ba 2015, algorithm 1.

            m_k = beta_1 m_{k-1} + (1 - beta_1) g,    v_k = beta_2 v_{k-1} + (1 - beta_2) g^2
            theta_k = theta_{k-1} - learning_rate (m_k / (1 - beta_1^k)) / (sqrt(v_k / (1 - beta_2^k)) + epsilon)

        The step is the running mean of the gradient over the root of its running mean square, so its size is about the
        learning rate whatever the scale of the gradient. Both means start at 0, and the divisions by 1 - beta^k
        correct for that. The defaults are the paper's.

        Parameters
        ----------
        parameters, gradients : mapping of str to ndarray
            theta_{k-1} and g = dL/d theta, under the same names and of the same shapes.
        learning_rate, epsilon : float
            Positive.
        beta_1, beta_2 : float
            In [0, 1).

        Returns
        -------
        parameters : dict of str to ndarray
            theta_k, in the parameters' floating type.
        adam : Adam
            The moments after step k.
        """
        learning_rate, epsilon = real("learning_rate", learning_rate), real("epsilon", epsilon)
        beta_1, beta_2 = real("beta_1", beta_1), real("beta_2", beta_2)
        if not (0 <= beta_1 < 1 and 0 <= beta_2 < 1 and 0 < epsilon < np.inf and 0 < learning_rate < np.inf):
            raise ValueError(
                f"need beta_1 and beta_2 in [0, 1), and epsilon and learning_rate above 0, got {beta_1=}, {beta_2=}, "
                f"{epsilon=}, {learning_rate=}"
            )
        shapes = {name: np.shape(array) for name, array in parameters.items()}
        if (got := {name: np.shape(array) for name, array in gradients.items()}) != shapes:
            raise ValueError(f"gradients have shapes {got}, the parameters {shapes}")
        k = self.step + 1
        m, v, moved = {}, {}, {}
        for name, theta in parameters.items():
            g = gradients[name]
            m[name] = beta_1 * self.m.get(name, 0.0) + (1 - beta_1) * g
            v[name] = beta_2 * self.v.get(name, 0.0) + (1 - beta_2) * g**2
            m_hat = m[name] / (1 - beta_1**k)
            v_hat = v[name] / (1 - beta_2**k)
            moved[name] = theta - learning_rate * m_hat / (np.sqrt(v_hat) + epsilon)
        return moved, type(self)(k, m, v)


def ema(mean: Mapping[str, Array], parameters: Mapping[str, Array], decay: float) -> dict[str, Array]:
    """Exponential moving average of the weights, Ho et al. 2020, appendix B: what sampling uses.

        mean' = decay mean + (1 - decay) theta

    The weights of a noisy training wander around a good place; their average is nearer to it than most of them.

    Parameters
    ----------
    mean, parameters : mapping of str to ndarray
        The average so far and the present weights.
    decay : float
        In [0, 1].

    Returns
    -------
    dict of str to ndarray
    """
    if not 0 <= (decay := real("decay", decay)) <= 1:
        raise ValueError(f"decay must be in [0, 1], got {decay}")
    return {name: decay * mean[name] + (1 - decay) * theta for name, theta in parameters.items()}
