"""Images that are decoded when they are needed: what memory holds does not grow with their number."""

import hashlib
import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..files import open_file
from .errors import DataError, reading
from .image_set import ImageSet
from .index import NO_LABEL, make_index
from .pixels import channels_of, checked_options, conform, open_image

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True, eq=False)
class ImageStream:
    """A large set of images on disk, in the order of their names or any other.

    Attributes
    ----------
    table : datasets.Dataset
        Where they are; see `make_index`.
    rows : int64 array (N,)
        Which of the table's images, in which order.
    labels : int64 array (N,) or None
        The class of each, 0..len(class_names) − 1.
    class_names : tuple of str
        Empty without labels.
    shape : (C, H, W)
        That every image is brought to, or that it must have.
    given : (bool, bool)
        Whether channels and size were asked for: then images are brought to them, otherwise another one is refused.
    fit : {"crop", "pad"}
        How an image of another shape is brought to the size.
    source : str
        For messages and reports.
    fingerprint : str
        SHA-256 of the names or places, the labels and the shape; of pixels it knows nothing.
    """

    table: "Dataset"
    rows: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    given: tuple[bool, bool]
    fit: str
    source: str
    fingerprint: str

    @classmethod
    def open(cls, source: str, *, size: int | tuple[int, int] | None, channels: int | None, fit: str) -> Self:
        """The images that a source names; see `make_index`. The first decides the shape where it is not given.

        Parameters
        ----------
        source : str
            As for `make_index`.
        size, channels, fit
            As for `load_images`.

        Raises
        ------
        DataError
            Whatever is missing, unreadable or mixed, named.
        """
        sides, channels = checked_options(size, channels, fit)
        table, class_names = make_index(source)
        labels = table.data.column("label").to_numpy()
        if not class_names and labels[0] != NO_LABEL:
            values, labels = np.unique(labels, return_inverse=True)
            class_names = tuple(map(str, values.tolist()))
        first, _ = _decode(*(table[0][name] for name in _PLACE))
        shape = (channels or channels_of(first), *(sides or (first.height, first.width)))
        return cls(
            table=table,
            rows=np.arange(len(table)),
            labels=labels.astype(np.int64) if class_names else None,
            class_names=class_names,
            shape=shape,
            given=(channels is not None, size is not None),
            fit=fit,
            source=source,
            fingerprint=_fingerprint(table, source, shape),
        )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.rows)

    def subset(self, numbers: NDArray[np.int64]) -> Self:
        """Some of the images."""
        labels = None if self.labels is None else self.labels[numbers]
        return replace(self, rows=self.rows[numbers], labels=labels)

    def read(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The pixels of some of the images, uint8 (len(numbers), C, H, W).

        Raises
        ------
        DataError
            An image that cannot be decoded, or that has another shape.
        """
        places = self.table[self.rows[numbers].tolist()]
        pixels = np.empty((len(numbers), *self.shape), np.uint8)
        for out, *place in zip(pixels, *(places[name] for name in _PLACE), strict=True):
            image, name = _decode(*place)
            out[...] = conform(image, name, self.shape, self.given, self.fit, f"the first of {self.source}")
        return pixels

    def load(self, limit: int) -> ImageSet:
        """The first `limit` images, in memory."""
        numbers = np.arange(min(limit, len(self)))
        labels = None if self.labels is None else self.labels[numbers]
        return ImageSet(self.read(numbers), labels, self.class_names, self.source)


# the columns of the table that say where an image is, and what the file was when it was found there
_PLACE = ("path", "offset", "size", "file_size", "modified")


def _decode(path: str, offset: int, size: int, file_size: int, modified: int) -> tuple[Image.Image, Path]:
    """An image, and what to call it in a message."""
    name = Path(path if offset < 0 else f"{path} (byte {offset})")
    with reading(name, "an image"), open_file(Path(path)) as file:
        status = os.fstat(file.fileno())
        if (status.st_size, status.st_mtime_ns) != (file_size, modified):
            raise DataError(
                f"{path}: expected the file as it was when its index was made, but it has changed since; the index is "
                "made again at the next start" + (" once the folder has changed, too: touch it" if offset < 0 else "")
            )
        file.seek(max(offset, 0))
        content = file.read(size)
    # as for a folder in memory; what is wrong with an image is an error
    with warnings.catch_warnings(action="ignore"):
        return open_image(name, content), name


def _fingerprint(table: "Dataset", source: str, shape: tuple[int, ...]) -> str:
    digest = hashlib.sha256(f"{shape}\n".encode())
    base = str(Path(source).parent)
    for start in range(0, len(table), 10_000):
        part = table[start : start + 10_000]
        for path, offset, label in zip(part["path"], part["offset"], part["label"], strict=True):
            # wherever the whole set is moved to, it is the same
            digest.update(f"{path.removeprefix(base)} {offset} {label}\n".encode())
    return digest.hexdigest()
