"""Metrics that compare two sets of images: Fréchet distance, precision and recall, nearest images, label accuracy.

All take float64 (N, D): flattened pixels in 0..1, or the features of `fit_features`.
"""

import contextlib
import io
from collections.abc import Callable

import numpy as np
from prdc import compute_prdc
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

# images with more values than this are projected on principal components
PIXEL_LIMIT = 1024
COMPONENTS = 256
DIGITS_DIMENSIONS = 64


def fit_features(held_out: np.ndarray, *, seed: int = 0) -> tuple[str, Callable[[np.ndarray], np.ndarray]]:
    """The features by which sets of images are compared with the held-out images.

    Up to 1024 values per image, these are the pixels; beyond that, the projection on the first principal components of
    the held-out images, at most 256. The components are not those of the training images, because these take the place
    of the samples for "real", and principal components favour the images that they are fitted to.

    Parameters
    ----------
    held_out : ndarray
        float64 (N, D), pixels.
    seed : int
        Of the randomised decomposition.

    Returns
    -------
    name : str
        The features and their dimension.
    transform : callable
        (N, D) -> (N, dimension).
    """
    dimension = held_out.shape[1]
    if dimension <= PIXEL_LIMIT:
        return f"pixels ({dimension} dimensions)", lambda images: images
    projection = PCA(min(COMPONENTS, len(held_out) - 1), random_state=seed).fit(held_out)
    name = f"principal components ({projection.n_components_} of {dimension} dimensions)"
    return name, projection.transform


def covariance_factor(x: np.ndarray) -> np.ndarray:
    """R with RᵀR the unbiased sample covariance of x; float64 (min(N, D), D).

    It is computed from the centred data and not from the covariance matrix. So there are no square roots of rounding
    errors, and a rank-deficient covariance (few images, pixels that are always black) is no special case.
    """
    centred = (x - x.mean(axis=0)) / np.sqrt(len(x) - 1)
    return np.asarray(np.linalg.qr(centred, mode="r")) if len(x) > x.shape[1] else centred


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Fréchet distance between Gaussians fitted to two sets of features (Heusel et al. 2017).

    |μ_x − μ_y|² + tr(Σ_x + Σ_y − 2 (Σ_x Σ_y)^½). With Σ = RᵀR the last trace is the sum of the singular
    values of R_x R_yᵀ, which needs no matrix square root and has no imaginary part.

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
    shift = x.mean(axis=0) - y.mean(axis=0)
    r_x, r_y = covariance_factor(x), covariance_factor(y)
    common = np.linalg.norm(r_x @ r_y.T, ord="nuc")
    return max(0.0, float(shift @ shift + (r_x**2).sum() + (r_y**2).sum() - 2.0 * common))


def draw_gaussian(x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Images (count, D) from one Gaussian with the mean and covariance of x, clipped to 0..1."""
    factor = covariance_factor(x)
    return np.clip(x.mean(axis=0) + rng.standard_normal((count, len(factor))) @ factor, 0.0, 1.0)


def manifold_metrics(real: np.ndarray, fake: np.ndarray, *, k: int) -> dict[str, float]:
    """Precision, recall (Kynkäänniemi et al. 2019), density, coverage (Naeem et al. 2020).

    Computed by `prdc`, the package of the latter authors.

    Parameters
    ----------
    real, fake : ndarray
        float64 (N, D) and (M, D), each of at least k + 2 rows. Allocates matrices of N × N, M × M and N × M.
    k : int
        The ball around an image extends to its k-th nearest neighbour.
    """
    # the package prints the sizes
    with contextlib.redirect_stdout(io.StringIO()):
        return {name: float(value) for name, value in compute_prdc(real, fake, nearest_k=k).items()}


def nearest(x: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row of x its nearest row of `among`, int64 (N,), and the distance, float64 (N,)."""
    search = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(among)
    index = search.kneighbors(x, return_distance=False)[:, 0]
    # the search expands (a − b)², which gives 1e-8 for equal images; the distance of a copy has to be 0
    return index, np.linalg.norm(x - among[index], axis=1)


def fit_classifier(train: np.ndarray, labels: np.ndarray, *, seed: int = 0) -> tuple[str, BaseEstimator]:
    """A support vector classifier of real training images, and its description.

    γ is 0.25 at 64 pixels, the handwritten digits; else scikit-learn's rule, 1 / (dimensions × variance).
    Images of more than 1024 values are first projected on the training images' largest principal components.

    Parameters
    ----------
    train : ndarray
        float64 (N, D), pixels.
    labels : ndarray
        Integer (N,).
    seed : int
        Of the randomised decomposition.
    """
    count, dimension = train.shape
    gamma: float | str = 0.25 if dimension == DIGITS_DIMENSIONS else "scale"
    name = f"SVC(gamma={gamma}, C=10) on pixels of {count} real training images"
    steps: list[BaseEstimator] = [SVC(C=10.0, gamma=gamma)]
    if dimension > PIXEL_LIMIT:
        steps.insert(0, PCA(min(COMPONENTS, count - 1), random_state=seed))
        name = name.replace("pixels", f"{steps[0].n_components} principal components")
    return name, make_pipeline(*steps).fit(train, labels)
