"""What the tests of samplers share: the reference's sampler of a name, and Gaussian data with a known E[x_0 | x_t]."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from noisestep.accelerated.samplers import Sampler
from noisestep.reference import Schedule
from scipy.optimize import brentq
from scipy.stats import norm

MEAN, VARIANCE = 0.3, 0.04


class Mixture:
    """Two normal distributions, whose marginal at every sigma = sqrt((1 - alpha_bar) / alpha_bar) is known."""

    weights, means, deviations = np.array([0.3, 0.7]), np.array([-0.6, 0.5]), np.array([0.3, 0.2])

    def x_0(self, schedule: Schedule, x_t: np.ndarray, t: np.ndarray) -> np.ndarray:
        """E[x_0 | x_t]; all t must be the same."""
        signal, noise_2 = schedule.sqrt_alpha_bar[t[0]], schedule.one_minus_alpha_bar[t[0]]
        # of x_t itself, so that there may be no signal in it
        x, variance = x_t[..., None], (signal * self.deviations) ** 2 + noise_2
        likelihood = self.weights * norm.pdf(x, signal * self.means, np.sqrt(variance))
        x_0 = self.means + signal * self.deviations**2 / variance * (x - signal * self.means)
        mean: np.ndarray = (likelihood * x_0).sum(-1) / likelihood.sum(-1)
        return mean

    def cdf(self, x: float, sigma: float = 0.0) -> float:
        """Of x_t / sqrt(alpha_bar_t)."""
        return float(self.weights @ norm.cdf((x - self.means) / np.sqrt(self.deviations**2 + sigma**2)))

    def quantile(self, probability: float) -> float:
        """Of x_0."""
        root: float = brentq(lambda x: self.cdf(x) - probability, -5, 5, xtol=1e-14)
        return root

    def quantile_of_normal(self, x: np.ndarray) -> np.ndarray:
        """Where N(0, 1) has the quantile of x, the mixture's x_0 of the same quantile."""
        return np.vectorize(self.quantile)(norm.cdf(x))


def reference_sampler(name: str) -> Callable[..., Any]:
    """The sampler of a name in the reference: the function that its file is named after."""
    sampler: Callable[..., Any] = getattr(import_module(f"noisestep.reference.samplers.{name}"), name)
    return sampler


def cubic_schedule(steps: int, sigma_max: float = 10.0) -> Schedule:
    """A schedule whose sigma = sqrt((1 - alpha_bar) / alpha_bar) is sigma_max (t / T)^3.

    The step to clean data then has an error of the sixth power of 1 / T, whatever the sampler: the order that is
    measured is that of the steps before it.
    """
    sigma = sigma_max * (np.arange(steps + 1) / steps) ** 3
    alpha_bar = 1 / (1 + sigma**2)
    return Schedule(1 - alpha_bar[1:] / alpha_bar[:-1])


def gaussian_x_0(schedule: Schedule) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """E[x_0 | x_t] for x_0 ~ N(MEAN, VARIANCE), as a network that predicts x_0."""
    signal, noise = schedule.sqrt_alpha_bar, schedule.one_minus_alpha_bar

    def model(x_t: np.ndarray, t: np.ndarray) -> np.ndarray:
        a, s_2 = signal[t[0]], noise[t[0]]
        x_0: np.ndarray = MEAN + VARIANCE * a / (VARIANCE * a**2 + s_2) * (x_t - a * MEAN)
        return x_0

    return model


def shrinkage(schedule: Schedule) -> tuple[np.ndarray, np.ndarray]:
    """sigma_t, and g_t of E[x_0 | x_t] = MEAN + g_t (x_t / sqrt(alpha_bar_t) - MEAN), for each t in 0..T."""
    sigma = np.sqrt(schedule.one_minus_alpha_bar / schedule.alpha_bar)
    return sigma, VARIANCE / (VARIANCE + sigma**2)


class TableChain:
    """What a sampler of tensors does with its tables, in float64: `noisestep.accelerated.samplers.loop.Chain` in NumPy.

    `step` is the arithmetic of a sum of terms, each with its coefficient, and `prediction` makes D of x and the output
    of the network; a test may put another arithmetic in their place.
    """

    def __init__(self, sampler: Sampler, schedule: Schedule, x_T: Any, zero: Any, **settings: Any) -> None:
        self.sampler, self.schedule, self.x, self.kept = sampler, schedule, x_T, zero
        self.settings = sampler.with_defaults(settings)
        assert sampler.tables is not None
        tables = sampler.tables(schedule, **self.settings)
        self.tables = tables if isinstance(tables, tuple) else (tables,)
        self.memory = [zero] * sampler.memory
        self.t = schedule.T

    def ask(self) -> None:
        """Call the network at x and t."""
        self.D = self.prediction(self.x, self.t)

    def prediction(self, x: Any, t: int) -> Any:
        raise NotImplementedError

    def step(self, coefficients: np.ndarray, terms: list[Any], t: int) -> Any:
        raise NotImplementedError

    def multistep(self, table: int, history: list[Any], *, in_place: bool = False, remember: bool = False) -> Any:
        coefficients = self.tables[table]
        assert coefficients.shape == (self.schedule.T + 1, 3 + len(history))
        x_s = self.step(coefficients[self.t], [self.x, self.D, *history], self.t)
        if in_place:
            self.x = x_s
        return x_s

    def keep(self, x: Any) -> None:
        self.kept = x

    def states(self) -> list[Any]:
        """x_T, .., x_0."""
        states = [self.x]
        while self.t > 0:
            self.ask()
            self.sampler.predict(self)  # type: ignore[arg-type]
            self.t -= 1
            if self.sampler.memory:
                self.memory = [self.D, *self.memory][: self.sampler.memory]
            if self.sampler.correct is not None and self.t > 0:
                self.ask()
                self.sampler.correct(self)  # type: ignore[arg-type]
            states.append(self.x)
        return states
