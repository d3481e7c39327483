"""What a sampler works with: where it starts, the network, and the noise of every step."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._arguments import FloatArray
from ..multistep import Memory, step_prediction
from ..noise import REVERSE, VISIT, normal
from ..prediction import Quantity
from ..schedule import Schedule

Model = Callable[[FloatArray, NDArray[np.int64]], NDArray[Any]]
# sampler(chain, **settings) yields x_{T-1}, .., x_0
Sampler = Callable[..., Iterator[FloatArray]]


@dataclass(frozen=True)
class Chain:
    """The arguments of `noisestep.reference.samplers.loop.sample` as a sampler needs them.

    A sampler reads ``schedule`` and ``x_T``, where the chain starts, and calls the methods below. They keep what
    it need not know: what the model predicts, whether x_0 is clipped, and at which address the noise of a step is.

    Attributes
    ----------
    x_T : ndarray of float64, shape (B, ...)
    numbers : ndarray of uint64, shape (B,)
    temperature : float
        Factor on every z.
    visit : int
        How often RePaint has been at the first step before.
    """

    schedule: Schedule
    model: Model
    x_T: FloatArray
    prediction: Quantity
    clip: tuple[float, float] | None
    seed: int
    numbers: NDArray[np.uint64]
    temperature: float
    visit: int = 0

    def output(self, x_t: FloatArray, t: int) -> NDArray[Any]:
        """The model's output for x_t; its t is ``schedule.timesteps[t]``, the step that it was trained on."""
        return self.model(x_t, np.full(len(x_t), self.schedule.timesteps[t]))

    def x_0(self, x_t: FloatArray, t: int) -> FloatArray:
        """The predicted x_0, clipped where asked: the papers' D(x; sigma_t) and x_theta(x_t, t)."""
        return self._predicted("x_0", x_t, t)

    def eps(self, x_t: FloatArray, t: int) -> FloatArray:
        """The predicted eps, which follows from the clipped x_0 where there is a clip."""
        return self._predicted("eps", x_t, t)

    def z(self, t: int) -> FloatArray:
        """z ~ N(0, I) of step t, times the temperature; stream REVERSE, step ``timesteps[t] + VISIT visit``."""
        step = int(self.schedule.timesteps[t]) + VISIT * self.visit
        return self.temperature * normal(self.seed, REVERSE, step, self.numbers, self.x_T.shape[1:]).astype(np.float64)

    def _predicted(self, memory: Memory, x_t: FloatArray, t: int) -> FloatArray:
        output = self.output(x_t, t)
        return step_prediction(self.schedule, x_t, output, t, prediction=self.prediction, clip=self.clip, memory=memory)
