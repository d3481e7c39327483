"""The evaluation of samples against held-out real images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from noisestep.reference._arguments import integer

from ..data import ImageSet, ImageStream
from .features import Features
from .metrics import (
    KernelDistance,
    Manifold,
    Moments,
    draw_gaussian,
    fit_classifier,
    fit_pixels,
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
    samples: np.ndarray | Sequence[np.ndarray],
    sample_labels: np.ndarray | None,
    train: np.ndarray,
    train_labels: np.ndarray | None,
    held_out: np.ndarray,
    held_out_labels: np.ndarray | None,
    *,
    features: Features | None = None,
    k: int = NEIGHBOURS,
    seed: int = 0,
    plan: Plan | None = None,
    progress: Callable[[int], object] = lambda images: None,
) -> Evaluation:
    """Compare samples with held-out real images, and for reference also training images and draws from a Gaussian.

    The caller has shuffled the real images before splitting them into train and held_out. Distances between sets depend
    on their sizes, so "real" are as many training images as there are samples, and no more samples are compared than
    there are such. Of many images the plan takes a part, the first.

    Parameters
    ----------
    samples, train, held_out : ndarray
        Images, uint8 (N, ...) of one shape except for N, each of at least k + 2 images. Samples may be a sequence of
        sets of equal size, one a seed: then the values are means over the sets, with their standard error.
    sample_labels, train_labels, held_out_labels : ndarray or None
        Integer (N,): the class that each sample was conditioned on, the same in each set, and the class of each real
        image. If one of them is None, or there is only one class, label accuracy is not measured.
    features : Features, optional
        By which the sets are compared; by default pixels.
    k : int
        Neighbours in precision, recall, density and coverage.
    seed : int
        Seed of the draws from the Gaussian.
    plan : Plan, optional
        Of sets of which `train` and `held_out` are the first images, as many as it takes; by default these are all, and
        the features were learned from none of them.
    progress : callable, optional
        Is told the number of images of each set that has been compared; `plan.in_sets` in all.

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
    sets = [samples] if isinstance(samples, np.ndarray | np.generic) else list(samples)
    named = [*(("samples", images) for images in sets), ("train", train), ("held_out", held_out)]
    for name, images in named:
        _check_images(images, name, k)
    if len({images.shape[1:] for _, images in named}) > 1 or len({len(images) for images in sets}) > 1:
        shapes = ", ".join(f"{name} {images.shape}" for name, images in named)
        raise ValueError(f"images must have one shape, and all sets of samples one size; got {shapes}")
    given_labels = {"samples": sample_labels, "train": train_labels, "held_out": held_out_labels}
    counts = {"samples": len(sets[0]), "train": len(train), "held_out": len(held_out)}
    labels = {name: _check_labels(given, name, counts[name]) for name, given in given_labels.items()}
    if plan is None:
        classes = 0 if labels["train"] is None else len(np.unique(labels["train"]))
        plan = Plan(len(sets[0]), len(train), len(held_out), _shape(train), classes, len(sets))
    held = held_out[: plan.real]
    if features is None:
        features = fit_pixels(held, seed=seed)

    # copies are found by pixels, sets are compared by features
    among = _flat(train[: plan.searched])
    held_out_index, held_out_distances = nearest(_flat(held[: plan.held_out_queried]), among)
    if not held_out_distances.any():
        raise ValueError("every image of held_out is also in train: there are no unseen images")
    too_near = np.quantile(held_out_distances, COPY_SHARE)
    gaussian = draw_gaussian(_flat(train), plan.compared, np.random.default_rng(seed)).reshape(-1, *train.shape[1:])
    x = features.transform(held)
    measure = _Measure(features, moments(x), KernelDistance(x), Manifold(x, k=k), progress)
    measured: dict[str, list[dict[str, float]]] = {"samples": [], "real": [], "gaussian": [measure(gaussian)]}
    near = []
    for images in sets:
        measured["samples"].append(measure(images[: plan.compared]))
        near.append(nearest(_flat(images[: plan.queried]), among))
    for number in range(plan.real_sets):
        start = plan.learned + number * plan.compared
        measured["real"].append(measure(train[start : start + plan.compared]))
    copies = {
        "samples": [float((distances <= too_near).mean()) for _, distances in near],
        "real": [float((held_out_distances <= too_near).mean())],
        "gaussian": [float((nearest(_flat(gaussian[: plan.queried]), among)[1] <= too_near).mean())],
    }
    floor = np.mean([values["frechet_distance"] for values in measured["real"]])
    for values in (values for one in measured.values() for values in one):
        values["frechet_ratio"] = float(values["frechet_distance"] / floor)
    classifier, label_accuracy = _label_accuracy(
        features, sets, train, held, labels, [index for index, _ in near], held_out_index, plan
    )
    return Evaluation(
        features=features.name,
        classifier=classifier,
        k=k,
        seed=seed,
        counts={"samples": plan.samples, "train": plan.train, "held_out": plan.held_out},
        used={
            "seeds": len(sets),
            "real_sets": plan.real_sets,
            "samples": plan.compared,
            "held_out": plan.real,
            "queried": plan.queried,
            "searched": plan.searched,
        },
        **{
            name: Metric.of(features.kind, *([values[name] for values in one] for one in measured.values()))
            for name in measured["gaussian"][0]
        },
        label_accuracy=label_accuracy,
        copies=Metric.of("pixels", *copies.values()),
        neighbour_index=tuple(near[0][0].tolist()),
        neighbour_distance=tuple(near[0][1].tolist()),
    )


@dataclass(frozen=True)
class _Measure:
    """Everything by which a set of images is compared with the held-out images."""

    features: Features
    moments: Moments
    kernel: KernelDistance
    manifold: Manifold
    progress: Callable[[int], object]

    def __call__(self, images: np.ndarray) -> dict[str, float]:
        x = self.features.transform(images)
        kid, kid_error = self.kernel.compare(x)
        distance = gaussian_distance(moments(x), self.moments)
        compared = {"frechet_distance": distance, "kid": kid, "kid_error": kid_error, **self.manifold.compare(x)}
        self.progress(len(images))
        return compared


def _label_accuracy(
    features: Features,
    sets: Sequence[np.ndarray],
    train: np.ndarray,
    held_out: np.ndarray,
    labels: dict[str, np.ndarray | None],
    nearest_to_samples: Sequence[np.ndarray],
    nearest_to_held_out: np.ndarray,
    plan: Plan,
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
    images = [*(one[: plan.queried] for one in sets), held_out[: plan.held_out_queried]]
    if features.predict is not None or plan.classified:
        name, predict = f"{features.name}, of which the features are", features.predict
        if predict is None:
            name, predict = fit_classifier(features, train[: plan.classified], given["train"][: plan.classified])
        predicted = [predict(one) for one in images]
    else:
        name = f"the class of the nearest of {plan.searched} real training images"
        predicted = [given["train"][index] for index in (*nearest_to_samples, nearest_to_held_out)]
    asked = [given["samples"]] * len(sets) + [given["held_out"]]
    right = [float((found == wanted[: len(found)]).mean()) for found, wanted in zip(predicted, asked, strict=True)]
    return name, Metric.of("classifier", right[:-1], right[-1:], [])


def _check_images(images: np.ndarray, name: str, k: int) -> None:
    if images.dtype != np.uint8:
        raise ValueError(f"{name} must be uint8, 0..255; got {images.dtype}")
    if images.ndim < 2 or not images[:1].size:
        raise ValueError(f"{name} must be images (N, ...); got shape {images.shape}")
    if len(images) < k + 2:
        raise ValueError(f"{name} holds {len(images)} images; k = {k} neighbours need at least {k + 2}")


def _shape(images: np.ndarray) -> tuple[int, int, int]:
    """Of an image, (C, H, W); what has fewer axes is one row, or one channel."""
    channels, height, width = (1, 1, *images.shape[1:])[-3:]
    return channels, height, width


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)


def _check_labels(labels: np.ndarray | None, name: str, count: int) -> np.ndarray | None:
    if labels is None:
        return None
    labels = np.asarray(labels)
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise ValueError(f"{name} labels must be {count} integers; got shape {labels.shape}, {labels.dtype}")
    return labels
