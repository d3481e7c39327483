"""IDX files, the format of MNIST and its relatives, gzipped or not.

A file is two zero bytes, a byte for the type of the numbers, a byte for the number of axes, each axis' length as
a 32-bit big-endian integer, and the numbers (LeCun, Cortes and Burges, "The MNIST database of handwritten
digits").
"""

import gzip
import math
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from .errors import DataError, check_memory, reading

GZIP_MAGIC = b"\x1f\x8b"
UNSIGNED_BYTE = 0x08


def read_idx(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Return the images (N, H, W) of an IDX file, and the labels (N,) of the one that belongs to it, if there.

    Its name has `labels` and `idx1` in place of `images` and `idx3`, with or without `.gz`.
    """
    labels = _labels_beside(path)
    return _read(path, axes=3), None if labels is None else _read(labels, axes=1)


def training_images(folder: Path) -> Path | None:
    """Return the IDX file of training images in `folder`, the unpacked one if there are both; None if none."""
    with reading(folder, "a folder"):
        found = sorted(folder.glob("train-images*idx3*ubyte*"), key=lambda file: (file.suffix == ".gz", file.name))
    return found[0] if found else None


def _labels_beside(path: Path) -> Path | None:
    if "images" not in path.name:
        return None
    name = path.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    candidates = [path.with_name(name), path.with_name(name + ".gz")]
    return next((candidate for candidate in candidates if candidate.exists()), None)


def _read(path: Path, axes: int) -> NDArray[np.uint8]:
    expected = f"an IDX file of unsigned bytes with {axes} {'axis' if axes == 1 else 'axes'}"
    with reading(path, expected), path.open("rb") as raw:
        zipped = raw.read(2) == GZIP_MAGIC
        raw.seek(0)
        file = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if zipped else raw
        head = file.read(4)
        if head != bytes((0, 0, UNSIGNED_BYTE, axes)):
            raise DataError(
                f"{path}: expected {expected}, which starts with 00 00 08 {axes:02x}, got {head.hex(' ')!r}"
            )
        lengths = file.read(4 * axes)
        if len(lengths) != 4 * axes:
            raise DataError(f"{path}: expected {expected}, but it ends inside its header")
        shape = tuple(int(length) for length in np.frombuffer(lengths, ">u4"))
        size = math.prod(shape)
        check_memory(path, size)
        # one byte more than announced: sees what follows, and makes gzip compare its checksum
        content = file.read(size + 1)
    if len(content) != size:
        found = "more" if len(content) > size else str(len(content))
        raise DataError(f"{path}: expected the {size} bytes that its header {shape} announces, found {found}")
    # bytes cannot be written to, and PyTorch warns of arrays over them
    return np.frombuffer(content, np.uint8).reshape(shape).copy()
