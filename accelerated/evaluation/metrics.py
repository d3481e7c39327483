"""Metrics that compare two sets of images: distances, precision and recall, nearest images, label accuracy.

Images are uint8 (N, D), flattened. They become float64 in 0..1 a block at a time, so that a set takes no more memory
than its bytes; features are float64 (N, dimension).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from sklearn.decomposition import PCA
from sklearn.metrics import pairwise_distances, pairwise_distances_argmin_min
from sklearn.svm import SVC

from . import plan
from .features import Features, Predict

DIGITS_DIMENSIONS = 64


def fit_pixels(held_out: np.ndarray, *, seed: int = 0) -> Features:
    """The pixels as features, by which sets of images are compared with the held-out images.

    Up to 1024 values per image, these are the pixels; beyond that, the projection on the first principal components of
    the held-out images, at most 256. The components are not those of the training images, because these take the place
    of the samples for "real", and principal components favour the images that they are fitted to.

    Parameters
    ----------
    held_out : ndarray
        uint8 (N, ...).
    seed : int
        Of the randomised decomposition.

    Returns
    -------
    Features
    """
    flat = held_out.reshape(len(held_out), -1)
    dimension = flat.shape[1]
    if dimension <= plan.PIXEL_LIMIT:
        return Features(f"pixels ({dimension} dimensions)", lambda images: images.reshape(len(images), -1) / 255)
    fitted = _to_fit(flat)
    projection = PCA(min(plan.COMPONENTS, len(fitted) - 1), random_state=seed, copy=False).fit(fitted)

    def project(images: np.ndarray) -> np.ndarray:
        rows = images.reshape(len(images), -1)
        return np.concatenate([projection.transform(rows[part] / 255) for part in blocks(*rows.shape)])

    return Features(f"principal components ({projection.n_components_} of {dimension} dimensions)", project)


def covariance_factor(x: np.ndarray) -> np.ndarray:
    """R with RᵀR the unbiased sample covariance of x; float64 (min(N, D), D).

    It is computed from the centred data and not from the covariance matrix. So there are no square roots of rounding
    errors, and a rank-deficient covariance (few images, pixels that are always black) is no special case.
    """
    centred = (x - x.mean(axis=0)) / np.sqrt(len(x) - 1)
    return np.asarray(np.linalg.qr(centred, mode="r")) if len(x) > x.shape[1] else centred


class Moments(NamedTuple):
    """Mean and covariance of a set of features.

    Attributes
    ----------
    mean : ndarray
        float64 (D,).
    factor : ndarray
        `covariance_factor`.
    """

    mean: np.ndarray
    factor: np.ndarray


def moments(x: np.ndarray) -> Moments:
    """Mean and covariance of features, float64 (N, D), N at least 2."""
    return Moments(x.mean(axis=0), covariance_factor(x))


def gaussian_distance(x: Moments, y: Moments) -> float:
    """Fréchet distance of two Gaussians: |μ_x − μ_y|² + tr(Σ_x + Σ_y − 2 (Σ_x Σ_y)^½).

    With Σ = RᵀR the last trace is the sum of the singular values of R_x R_yᵀ, which needs no matrix square root and has
    no imaginary part.
    """
    shift = x.mean - y.mean
    common = np.linalg.norm(x.factor @ y.factor.T, ord="nuc")
    return max(0.0, float(shift @ shift + (x.factor**2).sum() + (y.factor**2).sum() - 2.0 * common))


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """`gaussian_distance` of the Gaussians fitted to two sets of features (Heusel et al. 2017).

    Parameters
    ----------
    x, y : ndarray
        float64 (N, D) and (M, D), N and M at least 2.

    Returns
    -------
    float
        At least 0. It falls as sets grow: compare distances of sets of similar size only.

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(f"two sets (N, D), (M, D) of at least 2 are needed; got {x.shape} and {y.shape}")
    return gaussian_distance(moments(x), moments(y))


def draw_gaussian(x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Images, uint8 (count, D), from one Gaussian with the mean and covariance of the images x, uint8 (N, D)."""
    mean, factor = moments(_to_fit(x))
    drawn = np.empty((count, x.shape[1]), np.uint8)
    for rows in blocks(count, x.shape[1]):
        noise = rng.standard_normal((len(drawn[rows]), len(factor)))
        drawn[rows] = np.rint(255 * np.clip(mean + noise @ factor, 0.0, 1.0))
    return drawn


class KernelDistance:
    """The kernel distance to a set (KID, Bińkowski et al. 2018): the unbiased MMD² of the kernel (x·y / D + 1)³.

    Parameters
    ----------
    real : ndarray
        float64 (N, D), N at least 2.
    """

    def __init__(self, real: np.ndarray) -> None:
        self._real = real
        self._within = _kernel_means(real, real, same=True)[0]

    def compare(self, fake: np.ndarray) -> tuple[float, float]:
        """The distance of a set, float64 (M, D), and its standard error.

        The error is that of a U-statistic to first order: the deviation over the images, of both sets, of what an image
        adds. It holds for one draw of both sets.
        """
        within = _kernel_means(fake, fake, same=True)[0]
        to_real, to_fake = _kernel_means(fake, self._real, same=False)
        value = within.mean() + self._within.mean() - 2 * to_real.mean()
        parts = (within - to_real, self._within - to_fake)
        return float(value), float(np.sqrt(sum(4 * part.var(ddof=1) / len(part) for part in parts)))


def _kernel_means(x: np.ndarray, y: np.ndarray, *, same: bool) -> tuple[np.ndarray, np.ndarray]:
    """The mean kernel of each row of x with the rows of y, (N,), and of each row of y with those of x, (M,).

    If they are the same set, a row is not compared with itself.
    """
    of_x, of_y = np.empty(len(x)), np.zeros(len(y))
    for rows in blocks(len(x), len(y)):
        kernel = (x[rows] @ y.T / x.shape[1] + 1) ** 3
        if same:
            kernel[np.arange(len(kernel)), np.arange(rows.start, rows.stop)] = 0
        of_x[rows] = kernel.sum(axis=1)
        of_y += kernel.sum(axis=0)
    return of_x / (len(y) - same), of_y / (len(x) - same)


class Manifold:
    """Precision, recall (Kynkäänniemi et al. 2019), density, coverage (Naeem et al. 2020) against real images.

    Parameters
    ----------
    real : ndarray
        float64 (N, D) of at least k + 2 rows.
    k : int
        The ball around an image extends to its k-th nearest neighbour.
    """

    def __init__(self, real: np.ndarray, *, k: int) -> None:
        self._real, self._k = real, k
        self._radii = _radii(real, k)

    def compare(self, fake: np.ndarray) -> dict[str, float]:
        """The four metrics of a set, float64 (M, D) of at least k + 2 rows."""
        radii, near = _radii(fake, self._k), np.zeros(len(fake), np.int64)
        inside, covered = [], []
        for rows in blocks(len(self._real), len(fake)):
            distances, own = pairwise_distances(self._real[rows], fake), self._radii[rows]
            near += (distances < own[:, None]).sum(axis=0)
            inside.append((distances < radii).any(axis=1))
            covered.append(distances.min(axis=1) < own)
        return {
            "precision": float((near > 0).mean()),
            "recall": float(np.concatenate(inside).mean()),
            "density": float(near.mean() / self._k),
            "coverage": float(np.concatenate(covered).mean()),
        }


def nearest(x: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each image of x, uint8 (N, D), its nearest of `among`: int64 (N,), and the distance, float64 (N,)."""
    index, exact = np.zeros(len(x), np.int64), np.empty(len(x))
    for rows in blocks(len(x), x.shape[1]):
        here, best = x[rows] / 255, np.full(len(x[rows]), np.inf)
        for part in blocks(len(among), among.shape[1]):
            place, distance = pairwise_distances_argmin_min(here, among[part] / 255)
            nearer = distance < best
            best[nearer], index[rows][nearer] = distance[nearer], place[nearer] + part.start
        # the search expands (a − b)², which gives 1e-8 for equal images; the distance of a copy has to be 0
        exact[rows] = np.linalg.norm(here - among[index[rows]] / 255, axis=1)
    return index, exact


def fit_classifier(features: Features, train: np.ndarray, labels: np.ndarray) -> tuple[str, Predict]:
    """A support vector classifier of features of real training images, and its description.

    γ is 0.25 at 64 dimensions of pixels, the handwritten digits; else scikit-learn's rule, 1 / (dimensions × variance).

    Parameters
    ----------
    features : Features
    train : ndarray
        uint8 (N, ...).
    labels : ndarray
        Integer (N,).

    Returns
    -------
    name : str
    predict : callable
        uint8 (M, ...) -> the class of each, (M,).
    """
    x = features.transform(train)
    gamma: float | str = 0.25 if features.name == f"pixels ({DIGITS_DIMENSIONS} dimensions)" else "scale"
    classifier = SVC(C=10.0, gamma=gamma, cache_size=plan.SVC_CACHE / 1e6).fit(x, labels)
    name = f"SVC(gamma={gamma}, C=10) on {features.kind} of {len(train)} real training images"
    return name, lambda images: classifier.predict(features.transform(images))


def blocks(count: int, values: int) -> Iterator[slice]:
    """Slices of `count` rows, each of rows that take `BLOCK_BYTES` as float64 with so many values."""
    size = max(1, plan.BLOCK_BYTES // (8 * values))
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _to_fit(images: np.ndarray) -> np.ndarray:
    """The first images in float64, as many as are fitted to."""
    return images[: plan.fitted(images.shape[1])] / 255


def _radii(x: np.ndarray, k: int) -> np.ndarray:
    """The distance of each row of x to its k-th nearest other row, (N,)."""
    radii = np.empty(len(x))
    for rows in blocks(len(x), len(x)):
        # a row itself is the nearest
        radii[rows] = np.partition(pairwise_distances(x[rows], x), k, axis=1)[:, k]
    return radii
