"""How many images an evaluation takes, and what that costs: however many there are, its memory and time are bounded."""

import time
from dataclasses import dataclass
from math import isqrt

import numpy as np

# images of a set in the Fréchet distance, precision, recall, density and coverage
COMPARED = 10_000
# samples whose nearest training image is searched, and multiply-adds of the whole search
QUERIED, SEARCH = 2_000, 500_000_000_000
# bytes of the images of a set, and of those in float64 to which principal components or a Gaussian are fitted
SET_BYTES, FIT_BYTES = 1 << 28, 1 << 27
# images are never so large that fewer are taken
LEAST = 16
# bytes of what is converted to float64, or compared with each other, at a time
BLOCK_BYTES = 1 << 25
# images of more values than this are projected on their principal components
PIXEL_LIMIT, COMPONENTS = 1024, 256
# a support vector classifier has a machine for each pair of classes; beyond this the nearest image decides
SVC_CLASSES, SVC_IMAGES = 20, 5_000
# the kernel cache of the classifier, in bytes
SVC_CACHE = 200_000_000
# libsvm computes its kernel by scalar instructions on one core: so many multiply-adds of a matrix product take as long
SVC_SLOWNESS = 30


@dataclass(frozen=True)
class Plan:
    """How many of the images are used for what.

    Attributes
    ----------
    samples, train, held_out : int
        How many there are.
    values : int
        C · H · W of an image.
    classes : int
        0 without labels.
    compared : int
        Samples that are compared with the held-out images; as many training images and draws of a Gaussian take their
        place.
    real : int
        Held-out images that they are compared with.
    queried, held_out_queried : int
        Samples and held-out images whose nearest training image is searched.
    searched : int
        Training images among which it is.
    classified : int
        Training images that a support vector classifier learns; 0 where the nearest image decides.
    """

    samples: int
    train: int
    held_out: int
    values: int
    classes: int

    @property
    def compared(self) -> int:
        return min(self.samples, COMPARED, max(LEAST, SET_BYTES // self.values))

    @property
    def real(self) -> int:
        return min(self.held_out, COMPARED, max(LEAST, SET_BYTES // self.values))

    @property
    def _queries(self) -> int:
        return max(1, min(QUERIED, isqrt(SEARCH // (3 * self.values))))

    @property
    def queried(self) -> int:
        return min(self.compared, self._queries)

    @property
    def held_out_queried(self) -> int:
        return min(self.real, self._queries)

    @property
    def searched(self) -> int:
        most = min(SEARCH // (3 * self._queries * self.values), SET_BYTES // self.values)
        return min(self.train, max(LEAST, most))

    @property
    def loaded(self) -> int:
        """The training images that are used at all: to be searched, or in place of the samples."""
        return min(self.train, max(self.searched, self.compared))

    @property
    def classified(self) -> int:
        return min(self.searched, SVC_IMAGES) if 1 < self.classes <= SVC_CLASSES else 0

    @property
    def features(self) -> int:
        """Dimensions in which sets are compared, at most."""
        return self.values if self.values <= PIXEL_LIMIT else min(COMPONENTS, self.real)

    @property
    def _fitted(self) -> int:
        return min(fitted(self.values), max(self.loaded, self.real))

    @property
    def multiply_adds(self) -> int:
        """Of the matrix products, and of what takes as long."""
        D, f, S, M = self.values, self.features, self.compared, self.real
        search = (2 * self.queried + self.held_out_queried) * self.searched * D
        pairs = (M**2 + 3 * (S**2 + S * M)) * f
        moments = 4 * (M + 3 * S) * f**2 + 30 * f**3
        fit = self._fitted
        gaussian = fit * D * min(D, fit) + self.compared * min(D, fit) * D
        components = 0 if D <= PIXEL_LIMIT else 12 * fit * D * f + (M + 3 * S) * D * f
        kernel = (self.classified + S + self.held_out_queried) * self.classified * f
        return search + pairs + moments + gaussian + components + SVC_SLOWNESS * kernel

    @property
    def bytes(self) -> int:
        """Of memory, beyond the images themselves."""
        D, f = self.values, self.features
        held = 8 * f * (self.compared + self.real) + D * self.compared + 8 * BLOCK_BYTES
        fit = 4 * 8 * D * self._fitted
        moments = 3 * 8 * f * max(self.compared, self.real)
        classifier = (3 * 8 * f * self.classified + SVC_CACHE) * (self.classified > 0)
        return held + max(fit, moments, classifier)

    def describe(self) -> str:
        """Memory and time on this machine, as a line says them."""
        seconds = self.multiply_adds / multiply_adds_per_second()
        return f"at most {self.bytes / 1e9:.1f} GB of memory and about {max(1, round(seconds)):,} s"


def fitted(values: int) -> int:
    """Images of so many values to which principal components and a Gaussian are fitted, at most."""
    return min(COMPARED, max(LEAST, FIT_BYTES // (8 * values)))


def multiply_adds_per_second(size: int = 768) -> float:
    """How fast this machine multiplies matrices of float64: the best of three."""
    x = np.ones((size, size))
    times = []
    for _ in range(3):
        before = time.perf_counter()
        x @ x
        times.append(time.perf_counter() - before)
    return size**3 / min(times)
