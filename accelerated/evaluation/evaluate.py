"""The evaluation of samples against held-out real images."""

import numpy as np
from noisestep.reference._arguments import integer

from ..data import ImageSet, ImageStream
from .metrics import (
    Manifold,
    draw_gaussian,
    fit_classifier,
    fit_features,
    gaussian_distance,
    moments,
    nearest,
)
from .plan import Plan
from .results import COPY_SHARE, Evaluation, Metric

# neighbours in precision, recall, density and coverage; each set needs two images more than that
NEIGHBOURS = 5
MIN_IMAGES = NEIGHBOURS + 2


def in_memory(images: ImageSet | ImageStream, most: int) -> ImageSet:
    """The first images, at most so many; `Split` has shuffled them."""
    if isinstance(images, ImageSet):
        labels = None if images.labels is None else images.labels[:most]
        return ImageSet(images.images[:most], labels, images.class_names, images.source)
    return images.load(most)


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
    plan: Plan | None = None,
) -> Evaluation:
    """Compare samples with held-out real images, and for reference also training images and draws from a Gaussian.

    The caller has shuffled the real images before splitting them into train and held_out. Distances between sets depend
    on their sizes: if there are fewer samples than training images, "real" is a random subset of the training images
    of that size. Of many images the plan takes a part, the first.

    Parameters
    ----------
    samples, train, held_out : ndarray
        Images, uint8 (N, ...) of one shape except for N, each of at least k + 2 images.
    sample_labels, train_labels, held_out_labels : ndarray or None
        Integer (N,): the class that each sample was conditioned on, and the class of each real image. If one of them is
        None, or there is only one class, label accuracy is not measured.
    k : int
        Neighbours in precision, recall, density and coverage.
    seed : int
        Seed of the draws from the Gaussian and of the random subsets.
    plan : Plan, optional
        Of sets of which `train` and `held_out` are the first images, as many as it takes; by default these are all.

    Returns
    -------
    Evaluation

    Raises
    ------
    ValueError
        Too few images, different shapes, not uint8, or labels that do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)
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
    if plan is None:
        classes = 0 if labels["train"] is None else len(np.unique(labels["train"]))
        plan = Plan(len(samples), len(train), len(held_out), pixels["train"].shape[1], classes)
    held = pixels["held_out"][: plan.real]

    # copies are found by pixels, sets are compared by features
    queried = pixels["samples"][: plan.queried], held[: plan.held_out_queried]
    (index, distances), (held_out_index, held_out_distances) = (
        nearest(images, pixels["train"][: plan.searched]) for images in queried
    )
    if not held_out_distances.any():
        raise ValueError("every image of held_out is also in train: there are no unseen images")
    rng = np.random.default_rng(seed)
    gaussian = draw_gaussian(pixels["train"], plan.compared, rng)
    too_near = np.quantile(held_out_distances, COPY_SHARE)
    copies = {
        "samples": distances,
        "real": held_out_distances,
        "gaussian": nearest(gaussian[: plan.queried], pixels["train"][: plan.searched])[1],
    }
    space, transform = fit_features(held, seed=seed)
    held_out_features = transform(held)
    held_out_moments, manifold = moments(held_out_features), Manifold(held_out_features, k=k)
    stand_ins = {
        "samples": pixels["samples"][: plan.compared],
        "real": pixels["train"][_subset(rng, len(train), plan.compared)],
        "gaussian": gaussian,
    }
    distance, manifold_metrics = {}, {}
    for name, stand_in in stand_ins.items():
        features = transform(stand_in)
        distance[name] = gaussian_distance(moments(features), held_out_moments)
        manifold_metrics[name] = manifold.compare(features)
    by_nearest = {"samples": index, "held_out": held_out_index}
    classifier, label_accuracy = _label_accuracy(pixels, labels, by_nearest, plan, seed)
    return Evaluation(
        features=space,
        classifier=classifier,
        k=k,
        seed=seed,
        counts={"samples": plan.samples, "train": plan.train, "held_out": plan.held_out},
        used={
            "samples": plan.compared,
            "held_out": plan.real,
            "queried": plan.queried,
            "searched": plan.searched,
        },
        frechet_distance=Metric(**distance),
        frechet_ratio=Metric(**{name: value / distance["real"] for name, value in distance.items()}),
        **{
            name: Metric(**{who: values[name] for who, values in manifold_metrics.items()})
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
    by_nearest: dict[str, np.ndarray],
    plan: Plan,
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
        # a part of the training images need not have every class
        if len(unknown) and len(given["train"]) == plan.train:
            known = f"the training images have {classes.tolist()}"
            raise ValueError(f"{name} labels {unknown.tolist()} are not known: {known}")
    predicted: dict[str, np.ndarray]
    if plan.classified:
        name, predict = fit_classifier(pixels["train"][: plan.classified], given["train"][: plan.classified], seed=seed)
        predicted = {who: predict(pixels[who][: len(index)]) for who, index in by_nearest.items()}
    else:
        name = f"the class of the nearest of {plan.searched} real training images"
        predicted = {who: given["train"][index] for who, index in by_nearest.items()}
    right = {who: float((found == given[who][: len(found)]).mean()) for who, found in predicted.items()}
    return name, Metric(samples=right["samples"], real=right["held_out"], gaussian=None)


def _flatten(images: np.ndarray, name: str, k: int) -> np.ndarray:
    images = np.asarray(images)
    if images.dtype != np.uint8:
        raise ValueError(f"{name} must be uint8, 0..255; got {images.dtype}")
    if images.ndim < 2 or not images[:1].size:
        raise ValueError(f"{name} must be images (N, ...); got shape {images.shape}")
    if len(images) < k + 2:
        raise ValueError(f"{name} holds {len(images)} images; k = {k} neighbours need at least {k + 2}")
    return images.reshape(len(images), -1)


def _check_labels(labels: np.ndarray | None, name: str, count: int) -> np.ndarray | None:
    if labels is None:
        return None
    labels = np.asarray(labels)
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise ValueError(f"{name} labels must be {count} integers; got shape {labels.shape}, {labels.dtype}")
    return labels


def _subset(rng: np.random.Generator, count: int, limit: int) -> np.ndarray:
    return np.arange(count) if count <= limit else np.sort(rng.choice(count, limit, replace=False))
