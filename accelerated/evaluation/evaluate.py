"""The evaluation of samples against held-out real images."""

from math import prod

import numpy as np
from noisestep.reference._arguments import integer

from ..data import ImageSet, ImageStream
from .metrics import (
    draw_gaussian,
    fit_classifier,
    fit_features,
    frechet_distance,
    manifold_metrics,
    nearest,
)
from .results import COPY_SHARE, Evaluation, Metric

# neighbours in precision, recall, density and coverage; each set needs two images more than that
NEIGHBOURS = 5
MIN_IMAGES = NEIGHBOURS + 2
# the pairwise metrics need a few square matrices of this size: 10 000 takes less than 2 GB
PAIRWISE_LIMIT = 10_000
# how much of a stream is loaded for the evaluation; as float64 it takes eight times as much
MAX_STREAM_BYTES = 1 << 28


def in_memory(images: ImageSet | ImageStream) -> ImageSet:
    """The images to evaluate with: of a stream the first `PAIRWISE_LIMIT`, or as many as fit in `MAX_STREAM_BYTES`.

    `Split` has shuffled them.
    """
    if isinstance(images, ImageSet):
        return images
    return images.load(min(PAIRWISE_LIMIT, max(MIN_IMAGES, MAX_STREAM_BYTES // prod(images.shape))))


def evaluate(
    samples: np.ndarray,
    sample_labels: np.ndarray | None,
    train: np.ndarray,
    train_labels: np.ndarray | None,
    held_out: np.ndarray,
    held_out_labels: np.ndarray | None,
    *,
    k: int = NEIGHBOURS,
    seed: int = 0,
) -> Evaluation:
    """Compare samples with held-out real images, and for reference also training images and draws from a Gaussian.

    The caller has shuffled the real images before splitting them into train and held_out. Distances between sets depend
    on their sizes: if there are fewer samples than training images, "real" is a random subset of the training images
    of that size.

    Parameters
    ----------
    samples, train, held_out : ndarray
        Images, floating point in 0..1, (N, ...) of one shape except for N, each of at least k + 2 images.
    sample_labels, train_labels, held_out_labels : ndarray or None
        Integer (N,): the class that each sample was conditioned on, and the class of each real image. If one of them is
        None, or there is only one class, label accuracy is not measured.
    k : int
        Neighbours in precision, recall, density and coverage.
    seed : int
        Seed of the draws from the Gaussian and of the random subsets.

    Returns
    -------
    Evaluation

    Raises
    ------
    ValueError
        Too few images, different shapes, not floating point, outside 0..1, or labels that do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).random((60, 1, 8, 8))
    >>> print(round(evaluate(x[:20], None, x[20:40], None, x[40:], None).precision.real, 2))
    0.95
    """
    k, seed = integer("k", k, 1), integer("seed", seed, 0)
    images = {"samples": samples, "train": train, "held_out": held_out}
    pixels = {name: _flatten(given, name, k) for name, given in images.items()}
    if len({np.shape(given)[1:] for given in images.values()}) > 1:
        shapes = ", ".join(f"{name} {np.shape(given)[1:]}" for name, given in images.items())
        raise ValueError(f"images must have one shape; got {shapes}")
    given_labels = {"samples": sample_labels, "train": train_labels, "held_out": held_out_labels}
    labels = {name: _check_labels(given, name, len(pixels[name])) for name, given in given_labels.items()}

    # copies are found by pixels, sets are compared by features
    index, distances = nearest(pixels["samples"], pixels["train"])
    held_out_distances = nearest(pixels["held_out"], pixels["train"])[1]
    if not held_out_distances.any():
        raise ValueError("every image of held_out is also in train: there are no unseen images")
    rng = np.random.default_rng(seed)
    gaussian = draw_gaussian(_few(rng, pixels["train"]), len(samples), rng)
    too_near = np.quantile(held_out_distances, COPY_SHARE)
    copies = {
        "samples": distances,
        "real": held_out_distances,
        "gaussian": nearest(gaussian, pixels["train"])[1],
    }
    space, transform = fit_features(pixels["held_out"], seed=seed)
    held_out_features = transform(pixels["held_out"])
    stand_ins = {
        "samples": transform(pixels["samples"]),
        "real": transform(pixels["train"][_subset(rng, len(train), len(samples))]),
        "gaussian": transform(gaussian),
    }
    distance = {name: frechet_distance(x, held_out_features) for name, x in stand_ins.items()}
    few = _few(rng, held_out_features)
    manifold = {name: manifold_metrics(few, _few(rng, x), k=k) for name, x in stand_ins.items()}
    classifier, label_accuracy = _label_accuracy(pixels, labels, rng, seed)
    return Evaluation(
        features=space,
        classifier=classifier,
        k=k,
        seed=seed,
        counts={**{name: len(images) for name, images in pixels.items()}, "pairwise": PAIRWISE_LIMIT},
        frechet_distance=Metric(**distance),
        frechet_ratio=Metric(**{name: value / distance["real"] for name, value in distance.items()}),
        **{
            name: Metric(**{who: values[name] for who, values in manifold.items()})
            for name in ("precision", "recall", "density", "coverage")
        },
        label_accuracy=label_accuracy,
        copies=Metric(**{name: float((x <= too_near).mean()) for name, x in copies.items()}),
        neighbour_index=tuple(index.tolist()),
        neighbour_distance=tuple(distances.tolist()),
    )


def _label_accuracy(
    pixels: dict[str, np.ndarray],
    labels: dict[str, np.ndarray | None],
    rng: np.random.Generator,
    seed: int,
) -> tuple[str, Metric | None]:
    given = {name: values for name, values in labels.items() if values is not None}
    if len(given) < len(labels):
        return "no labels", None
    classes = np.unique(given["train"])
    if len(classes) == 1:
        return "one class only", None
    for name, values in given.items():
        unknown = np.setdiff1d(values, classes)
        if len(unknown):
            known = f"the training images have {classes.tolist()}"
            raise ValueError(f"{name} labels {unknown.tolist()} are not known: {known}")
    chosen = _subset(rng, len(given["train"]), PAIRWISE_LIMIT)
    name, classifier = fit_classifier(pixels["train"][chosen], given["train"][chosen], seed=seed)
    right = {who: float((classifier.predict(pixels[who]) == given[who]).mean()) for who in given}
    return name, Metric(samples=right["samples"], real=right["held_out"], gaussian=None)


def _flatten(images: np.ndarray, name: str, k: int) -> np.ndarray:
    images = np.asarray(images)
    if images.dtype.kind != "f":
        raise ValueError(f"{name} must be floating point in 0..1; got {images.dtype}")
    if images.ndim < 2 or not images[:1].size:
        raise ValueError(f"{name} must be images (N, ...); got shape {images.shape}")
    if len(images) < k + 2:
        raise ValueError(f"{name} holds {len(images)} images; k = {k} neighbours need at least {k + 2}")
    # NaN fails the comparison too
    if not (images.min() >= 0.0 and images.max() <= 1.0):
        raise ValueError(f"{name} must be in 0..1; its values go from {images.min():g} to {images.max():g}")
    return images.reshape(len(images), -1).astype(np.float64)


def _check_labels(labels: np.ndarray | None, name: str, count: int) -> np.ndarray | None:
    if labels is None:
        return None
    labels = np.asarray(labels)
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise ValueError(f"{name} labels must be {count} integers; got shape {labels.shape}, {labels.dtype}")
    return labels


def _subset(rng: np.random.Generator, count: int, limit: int) -> np.ndarray:
    return np.arange(count) if count <= limit else np.sort(rng.choice(count, limit, replace=False))


def _few(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    return x[_subset(rng, len(x), PAIRWISE_LIMIT)]
