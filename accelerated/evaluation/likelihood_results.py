"""The results of the likelihood: bits per dimension by term of the bound and by the ODE, and what they mean."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from noisestep.reference.likelihood import Dequantisation
from noisestep.reference.reverse import Variance
from numpy.typing import NDArray

VARIANCES: tuple[Variance, ...] = ("posterior", "beta")


@dataclass(frozen=True)
class BoundResult:
    """The variational bound with one variance of the reverse step, in bits per dimension.

    Attributes
    ----------
    total, standard_error : float
        The mean over the images, and the standard error of that mean.
    middle : float
        The sum of L_1 .. L_{T-1}.
    decoder : float
        L_0.
    by_step : tuple of float
        A term L_{t-1}, the mean over the images and over t, for each stratum.
    """

    total: float
    standard_error: float
    middle: float
    decoder: float
    by_step: tuple[float, ...]


@dataclass(frozen=True)
class OdeResult:
    """The negative log-likelihood by the probability-flow ODE, in bits per dimension.

    Attributes
    ----------
    dequantisation : {"truncated_normal", "uniform"}
    total, standard_error : float
        The mean over the images, and the standard error of that mean.
    solver_error : float
        A third of the difference to half as many steps: the estimate of what the solver is off.
    probes : int
        Directions of Hutchinson's estimate of the trace; 0: the trace is exact.
    """

    total: float
    standard_error: float
    solver_error: float
    dequantisation: Dequantisation
    probes: int


class Row(NamedTuple):
    """One row of the table: numbers as text, and what they mean."""

    name: str
    bits: str
    standard_error: str
    meaning: str


@dataclass(frozen=True)
class Likelihood:
    """How many bits a pixel of the held-out images costs.

    Attributes
    ----------
    images, held_out : int
        How many images were measured, of how many.
    grid : tuple of int
        The steps of the ODE, and the highest t of each stratum of the bound; from 1 to T.
    clip_x0 : bool
        Whether the predicted x_0 is clipped to [-1, 1].
    seed : int
    prior : float
        L_T, in bits per dimension.
    bound : dict of BoundResult
        By the variance of the reverse step.
    ode : OdeResult
    """

    images: int
    held_out: int
    grid: tuple[int, ...]
    clip_x0: bool
    seed: int
    prior: float
    bound: dict[str, BoundResult]
    ode: OdeResult

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; `from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Likelihood":
        """The likelihood that `to_dict` wrote; ValueError if keys are missing or unknown."""
        expected = {field.name for field in fields(cls)}
        if set(plain) != expected:
            missing, unknown = sorted(expected - set(plain)), sorted(set(plain) - expected)
            raise ValueError(f"not a likelihood: missing keys {missing}, unknown keys {unknown}")
        bound = {
            name: BoundResult(**{**result, "by_step": tuple(result["by_step"])})
            for name, result in plain["bound"].items()
        }
        ode = OdeResult(**plain["ode"])
        return cls(**{**plain, "grid": tuple(plain["grid"]), "bound": bound, "ode": ode})

    def rows(self) -> list[Row]:
        """The rows of the table."""
        rows = []
        for variance, result in self.bound.items():
            rows.append(
                Row(
                    f"Variational bound, σ² = {variance}",
                    f"{result.total:.3f}",
                    f"{result.standard_error:.3f}",
                    "What a pixel costs at most on average if the sampler is DDPM with this variance and all steps: "
                    f"{self.prior:.2g} in L_T, {result.middle:.3f} in L_1 to L_{{T−1}}, {result.decoder:.3f} in L_0.",
                )
            )
        rows.append(
            Row(
                f"Probability-flow ODE, {self.ode.dequantisation.replace('_', ' ')}",
                f"{self.ode.total:.3f}",
                f"{self.ode.standard_error:.3f}",
                "What a pixel costs at most on average if the sampler adds no noise (DDIM with η = 0, Heun); exact but "
                f"for the dequantisation. The solver is off by about {self.ode.solver_error:.1g}.",
            )
        )
        return rows

    def table(self) -> str:
        """The bits per dimension as a text table."""
        rows = self.rows()
        width = max(len(row.name) for row in rows)
        lines = [f"{'bits per dimension':{width}}    mean  standard error"]
        lines += [f"{row.name:{width}}  {row.bits:>6}  {row.standard_error:>14}" for row in rows]
        return "\n".join([*lines, "", *(f"{key}: {value}" for key, value in self.setting().items())])

    def setting(self) -> dict[str, str]:
        """The settings of the measurement, as text."""
        T, S = self.grid[-1], len(self.grid)
        return {
            "images": f"{self.images} of {self.held_out} held out",
            "terms of the bound": f"all {T}" if T == S else f"one of each of {S} strata of the {T}",
            "solver": f"Heun's method, order 2, {S - 1} intervals between trained steps",
            "trace": "Hutchinson's estimate, 1 Rademacher probe" if self.ode.probes else "exact",
            "predicted x_0": "clipped to [−1, 1]" if self.clip_x0 else "not clipped",
            "pixel": "256 levels",
            "seed": str(self.seed),
        }


def summarise(
    rows: NDArray[np.float64],
    *,
    held_out: int,
    grid: Sequence[int],
    dequantisation: Dequantisation,
    probes: int,
    clip_x0: bool,
    seed: int,
) -> Likelihood:
    """The means over images and their standard errors.

    Parameters
    ----------
    rows : ndarray of float64, shape (N, columns), N at least 2
        Of `noisestep.accelerated.evaluation.likelihood.measure`: L_T, the terms of the bound by variance and stratum,
        and the bits by the ODE on the grid and on every second step of it.
    held_out, grid, dequantisation, probes, clip_x0, seed
        As in `Likelihood` and `OdeResult`.

    Returns
    -------
    Likelihood
    """
    prior, terms, fine, coarse = rows[:, 0], rows[:, 1:-2], rows[:, -2], rows[:, -1]
    sizes = np.diff(grid, prepend=0)
    bound = {}
    for variance, of_variance in zip(VARIANCES, np.split(terms, len(VARIANCES), axis=1), strict=True):
        means = of_variance.mean(axis=0)
        bound[str(variance)] = BoundResult(
            *_mean_and_error(prior + of_variance.sum(axis=1)),
            middle=float(means[1:].sum()),
            decoder=float(means[0]),
            by_step=tuple((means / sizes).tolist()),
        )
    # an error of second order is a third of the difference to twice the step
    solver_error = abs(float((fine - coarse).mean())) / 3
    ode = OdeResult(*_mean_and_error(fine), solver_error, dequantisation, probes)
    return Likelihood(len(rows), held_out, tuple(grid), clip_x0, seed, float(prior.mean()), bound, ode)


def _mean_and_error(bits: NDArray[np.float64]) -> tuple[float, float]:
    return float(bits.mean()), float(bits.std(ddof=1) / np.sqrt(len(bits)))
