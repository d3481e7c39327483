"""The one form that every source of images is brought into."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .errors import DataError


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with their labels, as bytes in memory.

    Parameters
    ----------
    images : uint8 array (N, C, H, W), N >= 1
        0..255; the ops scale them to [−1, 1] on the way in.
    labels : int64 array (N,) in 0..len(class_names)−1, or None
        The class of each image.
    class_names : tuple of str
        What the data calls each class; empty exactly when there are no labels.
    source : str
        Where the images are from, for messages and reports.

    Raises
    ------
    DataError
        If the four disagree.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    class_names: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != np.uint8 or images.ndim != 4:
            raise DataError(f"{self.source}: images must be uint8 (N, C, H, W), got {describe(images)}")
        if 0 in images.shape:
            raise DataError(f"{self.source}: expected at least one image of at least one pixel, got {images.shape}")
        if labels is None:
            if self.class_names:
                raise DataError(f"{self.source}: {len(self.class_names)} class names, but no labels")
            return
        if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
            raise DataError(
                f"{self.source}: labels must be int64 ({len(images)},), one an image, got {describe(labels)}"
            )
        if labels.min() < 0 or labels.max() >= len(self.class_names):
            raise DataError(
                f"{self.source}: labels must be in 0..{len(self.class_names) - 1}, one for each class name, "
                f"got {labels.min()}..{labels.max()}"
            )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def subset(self, numbers: NDArray[np.int64]) -> Self:
        """Some of the images, in this order."""
        labels = None if self.labels is None else self.labels[numbers]
        return replace(self, images=self.images[numbers], labels=labels)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of the shape, the pixels and the labels, in order: equal for equal data.

        Where the images were read from and what their classes are called do not enter.
        """
        digest = hashlib.sha256(f"{self.images.shape} {self.labels is not None}\n".encode())
        digest.update(np.ascontiguousarray(self.images).data)
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        return digest.hexdigest()


def describe(array: NDArray[Any]) -> str:
    """Type and shape of an array, as messages name them."""
    return f"{array.dtype} {array.shape}"
