"""Samplers compared: the Fréchet distance of their samples to held-out images, by calls of the network."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from .features import Features
from .metrics import gaussian_distance, moments

# samples of a seed, and from how many sets of as many training images the distance of real images is the mean
SAMPLES, REAL_SETS = 200, 100


@dataclass(frozen=True)
class Cell:
    """What a sampler reaches with a number of network calls.

    Attributes
    ----------
    sampler, grid : str
    calls : int
        At most so many calls of the network an image.
    distances : tuple of float
        The Fréchet distance for each seed.
    """

    sampler: str
    grid: str
    calls: int
    distances: tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """Samplers by quality and number of network calls.

    Attributes
    ----------
    features : str
        Of what the Fréchet distance is measured.
    real : float
        The distance of as many training images: the mean over `REAL_SETS` sets.
    count : int
        Samples of each seed.
    seeds : tuple of int
    cells : tuple of Cell
    """

    features: str
    real: float
    count: int
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]

    def ratio(self, cell: Cell) -> tuple[float, float]:
        """The distance in units of that of real images: the mean over the seeds, and the standard error of it."""
        values = np.array(cell.distances) / self.real
        return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))

    def text(self, cell: Cell) -> str:
        """`ratio` as text."""
        return "{:.2f} ± {:.2f}".format(*self.ratio(cell))

    def by_sampler(self, grid: str) -> dict[str, list[Cell]]:
        """The cells of a grid by their sampler, each with its calls in order."""
        rows: dict[str, list[Cell]] = {}
        for cell in sorted(self.cells, key=lambda cell: cell.calls):
            if cell.grid == grid:
                rows.setdefault(cell.sampler, []).append(cell)
        return rows

    def table(self) -> str:
        """The ratios as a text table: a row for each sampler, a column for each number of calls."""
        rows = self.by_sampler(self.cells[0].grid)
        width = max(len(name) for name in rows)
        calls = [f"{cell.calls} calls" for cell in next(iter(rows.values()))]
        lines = ["Fréchet distance ÷ real", " ".join([" " * width, *(f"{text:>13}" for text in calls)])]
        for name, cells in rows.items():
            lines.append(" ".join([f"{name:{width}}", *(f"{self.text(cell):>13}" for cell in cells)]))
        return "\n".join([*lines, "", *(f"{key}: {value}" for key, value in self.setting().items())])

    def setting(self) -> dict[str, str]:
        """The settings of the comparison, as text."""
        return {
            "samples": f"{self.count} from each of the seeds {self.seeds[0]} to {self.seeds[-1]}",
            "features": self.features,
            "grid": self.cells[0].grid,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; `from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Comparison":
        """The comparison that `to_dict` wrote; ValueError if keys are missing or unknown."""
        expected = {field.name for field in fields(cls)}
        if set(plain) != expected:
            missing, unknown = sorted(expected - set(plain)), sorted(set(plain) - expected)
            raise ValueError(f"not a comparison: missing keys {missing}, unknown keys {unknown}")
        cells = tuple(Cell(**{**cell, "distances": tuple(cell["distances"])}) for cell in plain["cells"])
        return cls(**{**plain, "seeds": tuple(plain["seeds"]), "cells": cells})


class DistanceToReal:
    """The Fréchet distance of sets of samples to held-out images.

    Parameters
    ----------
    features : Features
    train, held_out : ndarray
        uint8 (N, C, H, W), real images, from which the features were not learned.
    count : int
        Images in a set, at least 2 and at most as many as there are in `train`.

    Attributes
    ----------
    features : str
        Of what it is measured.
    real : float
        The distance of sets of `count` training images: the mean over `REAL_SETS` of them.
    """

    def __init__(self, features: Features, train: np.ndarray, held_out: np.ndarray, count: int) -> None:
        self.features = features.name
        self._transform = features.transform
        self._held_out = moments(self._transform(held_out))
        rng = np.random.default_rng(0)
        x = self._transform(train)
        sets = (x[rng.permutation(len(x))[:count]] for _ in range(REAL_SETS))
        self.real = float(np.mean([gaussian_distance(moments(drawn), self._held_out) for drawn in sets]))

    def __call__(self, images: np.ndarray) -> float:
        """The distance of images, uint8 (N, C, H, W)."""
        return gaussian_distance(moments(self._transform(images)), self._held_out)
