"""What an evaluation found: the numbers, what stands beside them, and what they mean."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

# a sample is a copy if it is as near to a training image as this share of the held-out images is
COPY_SHARE = 0.05


@dataclass(frozen=True)
class Measure:
    """One number about the samples, and two to judge it by.

    Attributes
    ----------
    samples : float
        Of the samples.
    real : float
        Of real images in the samples' place: what a perfect model would reach.
    gaussian : float or None
        Of draws from one Gaussian with the training images' mean and covariance: what can be had for nothing.
    """

    samples: float
    real: float
    gaussian: float | None


class Row(NamedTuple):
    """One line of the table: numbers as text, which way is better, and the meaning in plain words."""

    name: str
    samples: str
    real: str
    gaussian: str
    better: str
    meaning: str


# attribute: name, number format, which way is better, meaning
_MEANINGS = {
    "frechet_distance": (
        "Fréchet distance ({space})",
        "{:.4f}",
        "lower",
        "How far the average and the spread of the images are from those of held-out real images. "
        "This is not FID, whose features come from an Inception network.",
    ),
    "frechet_ratio": (
        "Fréchet distance ÷ real",
        "{:.2f}",
        "lower",
        "The same, in units of the distance between two sets of real images: at 1 nothing is left to gain.",
    ),
    "precision": (
        "Precision",
        "{:.3f}",
        "higher",
        "Share of the samples that lie among the held-out images: do they look real?",
    ),
    "recall": (
        "Recall",
        "{:.3f}",
        "higher",
        "Share of the held-out images that lie among the samples: is every kind of image made?",
    ),
    "density": (
        "Density",
        "{:.3f}",
        "higher",
        "Precision that counts how many held-out images a sample is near to; real images give about 1.",
    ),
    "coverage": (
        "Coverage",
        "{:.3f}",
        "higher",
        "Share of the held-out images with a sample next to them: a recall that stray samples cannot raise.",
    ),
    "label_accuracy": (
        "Label accuracy",
        "{:.3f}",
        "higher",
        "Share of the samples that a classifier, trained on real images only, takes for what they were asked to be.",
    ),
    "copies": (
        "Copies",
        "{:.1%}",
        "near real",
        f"Share of the samples as near to a training image as only {COPY_SHARE:.0%} of the held-out images "
        "are. Far above that, the model repeats what it was shown.",
    ),
}


@dataclass(frozen=True)
class Evaluation:
    """Everything that `evaluate` measured.

    Attributes
    ----------
    features, classifier : str
        The space in which sets are compared, and what judged the labels (or why nothing did). Copies and
        neighbours are found by the distance of pixels.
    k, seed : int
        Neighbours in the manifold measures; seed of the baseline's draws and of the subsets.
    counts : dict
        Images in samples, train and held_out, and (pairwise) the most that a pairwise measure takes of each.
    frechet_distance, frechet_ratio, precision, recall, density, coverage, copies : Measure
        `rows` says what each means. The ratio is the distance in multiples of the real one.
    label_accuracy : Measure or None
        None without labels.
    neighbour_index, neighbour_distance : tuple
        For each sample the row of its nearest training image, and how far away that is.
    """

    features: str
    classifier: str
    k: int
    seed: int
    counts: dict[str, int]
    frechet_distance: Measure
    frechet_ratio: Measure
    precision: Measure
    recall: Measure
    density: Measure
    coverage: Measure
    label_accuracy: Measure | None
    copies: Measure
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
            if key in _MEANINGS and value is not None:
                values[key] = Measure(**value)
            elif isinstance(value, list):
                values[key] = tuple(value)
        return cls(**values)

    def rows(self) -> list[Row]:
        """The lines of the table, in reading order."""
        rows = []
        for key, (name, number, better, meaning) in _MEANINGS.items():
            measure: Measure | None = getattr(self, key)
            if measure is None:
                rows.append(Row(name, "–", "–", "–", better, f"Not measured: {self.classifier}."))
                continue
            numbers = (measure.samples, measure.real, measure.gaussian)
            samples, real, gaussian = ("–" if value is None else number.format(value) for value in numbers)
            title = name.format(space=self.features.split(" (")[0])
            rows.append(Row(title, samples, real, gaussian, better, meaning))
        return rows

    def table(self) -> str:
        """The measures as a text table."""
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
        """What was compared, and how, as text."""
        sizes = {name: count for name, count in self.counts.items() if name != "pairwise"}
        images = ", ".join(f"{count} {name.replace('_', '-')}" for name, count in sizes.items())
        if max(sizes.values()) > self.counts["pairwise"]:
            images += f"; at most {self.counts['pairwise']} of each in precision, recall, density, coverage"
        return {
            "images": images,
            "features": self.features,
            "neighbours": f"k = {self.k}",
            "labels": self.classifier,
        }
