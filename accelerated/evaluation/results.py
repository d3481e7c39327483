"""The results of an evaluation: the metrics, their reference values, and what they mean."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple, Self

import numpy as np

# a sample is a copy if it is as near to a training image as the nearest 5 % of the held-out images
COPY_SHARE = 0.05
# fewer held-out images than this are few
FEW = 300


@dataclass(frozen=True)
class Metric:
    """A metric of the samples, and two values to compare it with.

    Attributes
    ----------
    by : str
        The features, or whatever else it is measured by.
    samples : float
        The value for the samples: the mean over the sets of samples, one of each seed.
    error : float or None
        The standard error of that mean; None with a single set.
    values : tuple of float
        The value of each set.
    real, real_error : float, float or None
        The same for sets of real images in place of the samples, which a perfect model would reach.
    gaussian : float or None
        The value for draws from one Gaussian with the mean and covariance of the training images, a trivial model.
    """

    by: str
    samples: float
    error: float | None
    values: tuple[float, ...]
    real: float
    real_error: float | None
    gaussian: float | None

    @classmethod
    def of(cls, by: str, samples: Sequence[float], real: Sequence[float], gaussian: Sequence[float]) -> Self:
        """The metric of values of sets of samples, of sets of real images, and of one set of a Gaussian's or none."""
        return cls(
            by, *mean_and_error(samples), tuple(samples), *mean_and_error(real), gaussian[0] if gaussian else None
        )


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and its standard error; None of a single value."""
    if len(values) == 1:
        return float(values[0]), None
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))


class Row(NamedTuple):
    """One row of the table: the metric, by what it is measured, numbers as text, which is better, and what it means."""

    name: str
    by: str
    samples: str
    real: str
    gaussian: str
    better: str
    meaning: str


# attribute: name, number format, which direction is better, meaning
_METRICS = {
    "frechet_distance": (
        "Fréchet distance",
        "{:.4f}",
        "lower",
        "How far the mean and covariance of the features are from those of held-out real images.",
    ),
    "frechet_ratio": (
        "Fréchet distance ÷ real",
        "{:.2f}",
        "lower",
        "The same, divided by the distance between two sets of real images: 1 is as good as real.",
    ),
    "kid": (
        "Kernel distance (KID)",
        "{:.5f}",
        "lower",
        "How far the distributions of the features are apart, by a kernel; 0 on average for real images, however few.",
    ),
    "kid_error": (
        "Its standard error in one set",
        "{:.5f}",
        "",
        "How much it would vary between draws of both sets, samples and held-out images.",
    ),
    "precision": (
        "Precision",
        "{:.3f}",
        "higher",
        "Fraction of the samples that lie among the held-out images: do they look real?",
    ),
    "recall": (
        "Recall",
        "{:.3f}",
        "higher",
        "Fraction of the held-out images that lie among the samples: is every kind of image drawn?",
    ),
    "density": (
        "Density",
        "{:.3f}",
        "higher",
        "Like precision, but counts how many held-out images a sample is near; about 1 for real images.",
    ),
    "coverage": (
        "Coverage",
        "{:.3f}",
        "higher",
        "Fraction of the held-out images with a sample near them: a recall that outliers cannot raise.",
    ),
    "label_accuracy": (
        "Label accuracy",
        "{:.3f}",
        "higher",
        "Fraction of the samples that a classifier of real images assigns to the class that they were drawn for.",
    ),
    "copies": (
        "Copies",
        "{:.1%}",
        "near real",
        f"Fraction of the samples nearer to a training image than {1 - COPY_SHARE:.0%} of the held-out images "
        "are. Far above the value for real images, the model has memorised its training images.",
    ),
}


@dataclass(frozen=True)
class Evaluation:
    """The results of `evaluate`.

    Attributes
    ----------
    features, classifier : str
        The features by which sets are compared, and the classifier of the label accuracy (or why there is none). Copies
        and neighbours are found by the distance of pixels.
    k, seed : int
        Neighbours in the manifold metrics; seed of the draws from the Gaussian.
    counts : dict
        Images in samples, train and held_out.
    used : dict
        The seeds; how many samples of each are compared with how many held-out images, and how many sets of training
        images; of how many samples (queried) the nearest of how many training images (searched) is known.
    frechet_distance, frechet_ratio, kid, kid_error, precision, recall, density, coverage, copies : Metric
        `rows` explains each. The ratio is the distance divided by that of real images.
    label_accuracy : Metric or None
        None without labels.
    neighbour_index, neighbour_distance : tuple
        For each of the first samples of the first seed, `used["queried"]` of them, the index of the nearest training
        image, and its distance.
    """

    features: str
    classifier: str
    k: int
    seed: int
    counts: dict[str, int]
    used: dict[str, int]
    frechet_distance: Metric
    frechet_ratio: Metric
    kid: Metric
    kid_error: Metric
    precision: Metric
    recall: Metric
    density: Metric
    coverage: Metric
    label_accuracy: Metric | None
    copies: Metric
    neighbour_index: tuple[int, ...]
    neighbour_distance: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; `from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Evaluation":
        """The evaluation that `to_dict` wrote; ValueError if keys are missing or unknown."""
        expected = {field.name for field in fields(cls)}
        if set(plain) != expected:
            missing, unknown = sorted(expected - set(plain)), sorted(set(plain) - expected)
            raise ValueError(f"not an evaluation: missing keys {missing}, unknown keys {unknown}")
        values = dict(plain)
        for key, value in plain.items():
            if key in _METRICS and value is not None:
                metric = Metric(**value)
                values[key] = replace(metric, values=tuple(metric.values))
            elif isinstance(value, list | tuple):
                values[key] = tuple(value)
        return cls(**values)

    def rows(self) -> list[Row]:
        """The rows of the table."""
        rows = []
        for key, (name, number, better, meaning) in _METRICS.items():
            metric: Metric | None = getattr(self, key)
            if metric is None:
                rows.append(Row(name, "", "–", "–", "–", better, f"Not measured: {self.classifier}."))
                continue
            numbers = ((metric.samples, metric.error), (metric.real, metric.real_error), (metric.gaussian, None))
            samples, real, gaussian = (_text(number, *value) for value in numbers)
            rows.append(Row(name, metric.by, samples, real, gaussian, better, meaning))
        return rows

    @property
    def warning(self) -> str | None:
        """What is to be said of few held-out images, if they are."""
        count = self.used["held_out"]
        if count >= FEW:
            return None
        return f"{count} held-out images are few: others may give other values, by more than the ±, which is over seeds"

    def table(self) -> str:
        """The metrics as a text table."""
        head = Row("", "by", "samples", "real", "one Gaussian", "better", "")
        lines = [row[:6] for row in (head, *self.rows())]
        widths = [max(len(line[i]) for line in lines) for i in range(6)]
        text = [
            "  ".join(
                cell.ljust(width) if i in (0, 1, 5) else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        warning = [] if self.warning is None else [self.warning]
        return "\n".join([*text, "", *warning, *(f"{key}: {value}" for key, value in self.setting().items())])

    def setting(self) -> dict[str, str]:
        """The settings of the evaluation, as text."""
        used, seeds = self.used, self.used["seeds"]
        samples = f"{self.counts['samples']} samples" + (f" from each of {seeds} seeds" if seeds > 1 else "")
        images = f"{samples}, {self.counts['train']} train, {self.counts['held_out']} held-out"
        if (used["samples"], used["held_out"]) != (self.counts["samples"], self.counts["held_out"]):
            images += f"; {used['samples']} samples are compared with {used['held_out']} held-out images"
        if (used["queried"], used["searched"]) != (self.counts["samples"], self.counts["train"]):
            images += f"; copies of {used['searched']} training images are looked for in {used['queried']} samples"
        sets = used["real_sets"]
        return {
            "images": images,
            "features": self.features,
            "neighbours": f"k = {self.k}",
            "labels": self.classifier,
            "real": f"{used['samples']} training images" + (f", {sets} times others" if sets > 1 else ""),
            **({"±": "standard error of the mean over the seeds"} if seeds > 1 else {}),
        }


def _text(number: str, value: float | None, error: float | None) -> str:
    """A value with its standard error."""
    if value is None:
        return "–"
    return number.format(value) + ("" if error is None else f" ± {number.format(error)}")
