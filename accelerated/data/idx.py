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

from ..files import open_file
from .errors import DataError, check_memory, reading

GZIP_MAGIC = b"\x1f\x8b"
UNSIGNED_BYTE = 0x08


def read_idx(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Return the images (N, H, W) of an IDX file, and the labels (N,) of the one that belongs to it, if there.

    Its name has `labels` and `idx1` in place of `images` and `idx3`; dots stand for hyphens, and `.gz` may follow. It
    lies beside the images, or beside the folder that an archive made for them, in a folder of its own or not.
    """
    labels = _labels_of(path)
    return _read(path, axes=3), None if labels is None else _read(labels, axes=1)


def find_images(folder: Path) -> Path | None:
    """Return the IDX file of images in `folder`, or None.

    Training images come before others, and unpacked ones before those in a `.gz`. Where the folder has no such file,
    those in its folders `*idx3*`, which archives make, and `raw`, which torchvision makes, are looked at.

    Raises
    ------
    DataError
        There are several sets to choose from.
    """
    for inside in ([folder], _folders(folder, "idx3") + _folders(folder, "raw")):
        files = [file for child in inside for file in _files(child) if _plain(file).endswith("images-idx3-ubyte")]
        files = [file for file in files if "train" in file.name] or files
        files = [file for file in files if file.suffix != ".gz"] or files
        if len(files) > 1:
            raise DataError(
                f"{folder}: expected the IDX images of one set, found {files[0].relative_to(folder)} and "
                f"{files[1].relative_to(folder)}: name one of them"
            )
        if files:
            return files[0]
    return None


def _labels_of(path: Path) -> Path | None:
    if "images" not in path.name:
        return None
    name = _plain(path).replace("images", "labels").replace("idx3", "idx1")
    folders = [path.parent]
    if "idx3" in path.parent.name:
        folders += [path.parent.parent, *_folders(path.parent.parent, "idx1")]
    files = [file for folder in folders for file in _files(folder)]
    found = [file for file in files if _plain(file) == name]
    others = [file for file in files if _plain(file).startswith(name.partition("idx1")[0])]
    if others and not found:
        raise DataError(f"{others[0]}: expected the labels of {path.name} to have one axis, in a file {name}")
    return min(found, key=lambda file: file.suffix == ".gz", default=None)


def _plain(file: Path) -> str:
    """The name of a file as MNIST's own are written: train-images-idx3-ubyte."""
    return file.name.removesuffix(".gz").replace(".", "-")


def _files(folder: Path) -> list[Path]:
    return [child for child in _children(folder) if child.is_file()]


def _folders(folder: Path, part: str) -> list[Path]:
    return [child for child in _children(folder) if part in child.name and child.is_dir()]


def _children(folder: Path) -> list[Path]:
    with reading(folder, "a folder"):
        return sorted(child for child in folder.iterdir() if "idx" in child.name or child.name == "raw")


def _read(path: Path, axes: int) -> NDArray[np.uint8]:
    expected = f"an IDX file of unsigned bytes with {axes} {'axis' if axes == 1 else 'axes'}"
    with reading(path, expected), open_file(path) as raw:
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
    if size == 0 and max(shape) > 1 << 31:
        # lengths that no array can have, even of no element
        raise DataError(f"{path}: expected images of at least one pixel, but its header announces {shape}")
    # bytes cannot be written to, and PyTorch warns of arrays over them
    return np.frombuffer(content, np.uint8).reshape(shape).copy()
