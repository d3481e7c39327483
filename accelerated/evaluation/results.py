"""The results of an evaluation: the metrics, their reference values, and what they mean."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

# a sample is a copy if it is as near to a training image as the nearest 5 % of the held-out images
COPY_SHARE = 0.05


@dataclass(frozen=True)
class Metric:
    """A metric of the samples, and two values to compare it with.

    Attributes
    ----------
    samples : float
        The value for the samples.
    real : float
        The value for real images in place of the samples, which a perfect model would reach.
    gaussian : float or None
        The value for draws from one Gaussian with the mean and covariance of the training images, a trivial model.
    """

    samples: float
    real: float
    gaussian: float | None


class Row(NamedTuple):
    """One row of the table: numbers as text, which direction is better, and what the metric means."""

    name: str
    samples: str
    real: str
    gaussian: str
    better: str
    meaning: str


# attribute: name, number format, which direction is better, meaning
_METRICS = {
    "frechet_distance": (
        "Fréchet distance ({space})",
        "{:.4f}",
        "lower",
        "How far the mean and covariance of the images are from those of held-out real images. "
        "This is not FID, whose features come from an Inception network.",
    ),
    "frechet_ratio": (
        "Fréchet distance ÷ real",
        "{:.2f}",
        "lower",
        "The same, divided by the distance between two sets of real images: 1 is as good as real.",
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
        Neighbours in the manifold metrics; seed of the draws from the Gaussian and of the subsets.
    counts : dict
        Images in samples, train and held_out.
    used : dict
        How many samples are compared with how many held-out images; of how many samples (queried) the nearest of how
        many training images (searched) is known.
    frechet_distance, frechet_ratio, precision, recall, density, coverage, copies : Metric
        `rows` explains each. The ratio is the distance divided by that of real images.
    label_accuracy : Metric or None
        None without labels.
    neighbour_index, neighbour_distance : tuple
        For each of the first samples, `used["queried"]` of them, the index of the nearest training image, and its
        distance.
    """

    features: str
    classifier: str
    k: int
    seed: int
    counts: dict[str, int]
    used: dict[str, int]
    frechet_distance: Metric
    frechet_ratio: Metric
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
        plain = asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}

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
                values[key] = Metric(**value)
            elif isinstance(value, list):
                values[key] = tuple(value)
        return cls(**values)

    def rows(self) -> list[Row]:
        """The rows of the table."""
        rows = []
        for key, (name, number, better, meaning) in _METRICS.items():
            metric: Metric | None = getattr(self, key)
            if metric is None:
                rows.append(Row(name, "–", "–", "–", better, f"Not measured: {self.classifier}."))
                continue
            numbers = (metric.samples, metric.real, metric.gaussian)
            samples, real, gaussian = ("–" if value is None else number.format(value) for value in numbers)
            title = name.format(space=self.features.split(" (")[0])
            rows.append(Row(title, samples, real, gaussian, better, meaning))
        return rows

    def table(self) -> str:
        """The metrics as a text table."""
        head = Row("", "samples", "real", "one Gaussian", "better", "")
        lines = [(row.name, row.samples, row.real, row.gaussian, row.better) for row in (head, *self.rows())]
        widths = [max(len(line[i]) for line in lines) for i in range(5)]
        text = [
            "  ".join(
                cell.ljust(width) if i in (0, 4) else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        return "\n".join([*text, "", *(f"{key}: {value}" for key, value in self.setting().items())])

    def setting(self) -> dict[str, str]:
        """The settings of the evaluation, as text."""
        images = ", ".join(f"{count} {name.replace('_', '-')}" for name, count in self.counts.items())
        used = self.used
        if (used["samples"], used["held_out"]) != (self.counts["samples"], self.counts["held_out"]):
            images += f"; {used['samples']} samples are compared with {used['held_out']} held-out images"
        if (used["queried"], used["searched"]) != (self.counts["samples"], self.counts["train"]):
            images += f"; copies of {used['searched']} training images are looked for in {used['queried']} samples"
        return {
            "images": images,
            "features": self.features,
            "neighbours": f"k = {self.k}",
            "labels": self.classifier,
        }
