"""How many images an evaluation takes, and what that costs: however many there are, its memory and time are bounded."""

import time
from dataclasses import dataclass
from math import isqrt, prod
from typing import Literal

import numpy as np

from .features import BATCH, cost, dimension

Kind = Literal["pixels", "learned", "other"]

# images of a set in the Fréchet and the kernel distance, precision, recall, density and coverage; samples of all seeds
COMPARED, COMPARED_IN_ALL = 10_000, 20_000
# samples whose nearest training image is searched, and multiply-adds of the whole search
QUERIED, SEARCH = 2_000, 500_000_000_000
# bytes of the images of a set, and of those in float64 to which principal components or a Gaussian are fitted
SET_BYTES, FIT_BYTES = 1 << 28, 1 << 27
# images are never so large that fewer are taken
LEAST = 16
# bytes of what is converted to float64, or compared with each other, at a time
BLOCK_BYTES = 1 << 25
# training images that the network of the features learns at most, its steps, and the multiply-adds of all of them
LEARNED, LEARNING_STEPS, LEARNING = 20_000, 400, 600_000_000_000
# it learns classes where there are so many images of one, on average, and no more classes than this
IMAGES_OF_A_CLASS, MOST_CLASSES = 8, 100
# convolutions take so many times as long as a matrix product with as many multiply-adds
CONVOLUTION_SLOWNESS = 2
# the dimensions of other features are not known beforehand
OTHER_DIMENSIONS = 2048
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
        How many there are; samples of each seed.
    shape : (C, H, W)
        Of an image.
    classes : int
        0 without labels.
    seeds : int
        Sets of samples.
    features : {"pixels", "learned", "other"}
        In what they are compared.
    values : int
        C · H · W.
    learned : int
        Training images, the first, that the network of the features learns. They take no sample's place: of images that
        it has seen it knows too much.
    compared : int
        Samples of each set that are compared with the held-out images; as many training images and draws of a Gaussian
        take their place.
    real_sets : int
        Sets of that many training images.
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
    shape: tuple[int, int, int]
    classes: int
    seeds: int = 1
    features: Kind = "pixels"

    @property
    def values(self) -> int:
        return prod(self.shape)

    @property
    def learned(self) -> int:
        if self.features != "learned":
            return 0
        return min(self.train // 2, LEARNED, max(LEAST, SET_BYTES // self.values))

    @property
    def learns_classes(self) -> bool:
        """Whether the features are those of a classifier."""
        return 1 < self.classes <= MOST_CLASSES and self.learned >= IMAGES_OF_A_CLASS * self.classes

    @property
    def steps(self) -> int:
        """Of the network that learns the features."""
        return max(20, min(LEARNING_STEPS, LEARNING // (3 * BATCH * cost(self.shape)[0])))

    @property
    def compared(self) -> int:
        stand_ins = self.train - self.learned
        most = min(COMPARED, COMPARED_IN_ALL // self.seeds, SET_BYTES // (self.seeds * self.values))
        return min(self.samples, stand_ins, max(LEAST, most))

    @property
    def real_sets(self) -> int:
        most = min(self.train - self.learned, SET_BYTES // self.values)
        return max(1, min(self.seeds, most // self.compared))

    @property
    def real(self) -> int:
        return min(self.held_out, COMPARED, max(LEAST, SET_BYTES // self.values))

    @property
    def _searches(self) -> int:
        """Sets of which each image's nearest training image is searched: the samples, the held-out, a Gaussian's."""
        return self.seeds + 2

    @property
    def _queries(self) -> int:
        return max(1, min(QUERIED, isqrt(SEARCH // (self._searches * self.values))))

    @property
    def queried(self) -> int:
        return min(self.compared, self._queries)

    @property
    def held_out_queried(self) -> int:
        return min(self.real, self._queries)

    @property
    def searched(self) -> int:
        most = min(SEARCH // (self._searches * self._queries * self.values), SET_BYTES // self.values)
        return min(self.train, max(LEAST, most))

    @property
    def loaded(self) -> int:
        """The training images that are used at all: learned, in place of the samples, or searched."""
        return min(self.train, max(self.searched, self.learned + self.real_sets * self.compared))

    @property
    def classified(self) -> int:
        if self.learns_classes or not 1 < self.classes <= SVC_CLASSES:
            return 0
        return min(self.searched, SVC_IMAGES)

    @property
    def dimension(self) -> int:
        """Of the features in which sets are compared, at most."""
        if self.features == "learned":
            return dimension(self.learned)
        if self.features == "other":
            return OTHER_DIMENSIONS
        return self.values if self.values <= PIXEL_LIMIT else min(COMPONENTS, self.real)

    @property
    def _fitted(self) -> int:
        return min(fitted(self.values), max(self.loaded, self.real))

    @property
    def _sets(self) -> int:
        """Sets that are compared with the held-out images: the samples, the real ones, a Gaussian's."""
        return self.seeds + self.real_sets + 1

    @property
    def in_sets(self) -> int:
        """The images in all of them."""
        return self._sets * self.compared

    @property
    def multiply_adds(self) -> int:
        """Of the matrix products, and of what takes as long."""
        D, f, S, M, sets = self.values, self.dimension, self.compared, self.real, self._sets
        search = ((self.seeds + 1) * self.queried + self.held_out_queried) * self.searched * D
        # once for the manifolds and once for the kernel distance
        pairs = 2 * (M**2 + sets * (S**2 + S * M)) * f
        moments = 4 * (M + sets * S) * f**2 + 10 * sets * f**3
        fit = self._fitted
        gaussian = fit * D * min(D, fit) + self.compared * min(D, fit) * D
        seen = M + sets * S + self.classified
        features = 0
        if self.features == "learned":
            products = 3 * BATCH * self.steps + self.learned + seen + (self.seeds + 1) * self.queried
            features = CONVOLUTION_SLOWNESS * products * cost(self.shape)[0]
        elif self.features == "pixels" and D > PIXEL_LIMIT:
            features = 12 * fit * D * f + seen * D * f
        kernel = (self.classified + self.seeds * self.queried + self.held_out_queried) * self.classified * f
        return search + pairs + moments + gaussian + features + SVC_SLOWNESS * kernel

    @property
    def bytes(self) -> int:
        """Of memory, beyond the images themselves."""
        D, f = self.values, self.dimension
        held = 8 * f * (self.compared + self.real) + D * self.compared + 8 * BLOCK_BYTES
        fit = 4 * 8 * D * self._fitted
        moments = 3 * 8 * f * max(self.compared, self.real)
        classifier = (3 * 8 * f * self.classified + SVC_CACHE) * (self.classified > 0)
        # what a step of learning keeps for its gradient, and the gradient
        learning = 4 * 4 * BATCH * cost(self.shape)[1] * (self.learned > 0)
        return held + max(fit, moments, classifier, learning)

    def describe(self) -> str:
        """Memory and time on this machine, as a line says them."""
        seconds = self.multiply_adds / multiply_adds_per_second()
        besides = ", and what the features take" if self.features == "other" else ""
        return f"at most {self.bytes / 1e9:.1f} GB of memory and about {max(1, round(seconds)):,} s{besides}"


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
