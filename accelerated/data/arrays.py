"""NumPy files, and arrays of any accepted type and layout to uint8 (N, C, H, W)."""

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files import open_file
from .errors import DataError, check_memory, reading
from .image_set import describe
from .pixels import MODES

IMAGE_KEYS = ("images", "x", "x_train", "train_images", "arr_0")
LABEL_KEYS = ("labels", "y", "y_train", "train_labels", "arr_1")
TYPES = (np.uint8, np.bool_, np.float16, np.float32, np.float64)


def read_npy(path: Path) -> NDArray[Any]:
    """Return the array of a .npy file; pickled objects are refused."""
    with reading(path, "a .npy array of numbers"), open_file(path) as file:
        check_memory(path, os.fstat(file.fileno()).st_size)
        return np.lib.format.read_array(file, allow_pickle=False)


def read_npz(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return the images and the labels, or None, of a .npz file; pickled objects are refused.

    Images are under exactly one of `IMAGE_KEYS`, labels under at most one of `LABEL_KEYS`; other keys are not
    read.
    """
    with reading(path, "a .npz archive of NumPy arrays"), open_file(path) as file, zipfile.ZipFile(file) as archive:
        sizes = {info.filename.removesuffix(".npy"): info.file_size for info in archive.infolist()}
        image_keys = [key for key in IMAGE_KEYS if key in sizes]
        label_keys = [key for key in LABEL_KEYS if key in sizes]
        if len(image_keys) != 1 or len(label_keys) > 1:
            raise DataError(
                f"{path}: expected the images under one key of {', '.join(IMAGE_KEYS)} and the labels, "
                f"if any, under one of {', '.join(LABEL_KEYS)}; found {', '.join(sizes) or 'no keys'}"
            )
        check_memory(path, sum(sizes[key] for key in image_keys + label_keys))
        arrays = []
        for key in image_keys + label_keys:
            with archive.open(f"{key}.npy") as member:
                arrays.append(np.lib.format.read_array(member, allow_pickle=False))
    return arrays[0], arrays[1] if label_keys else None


def image_bytes(path: Path | str, array: NDArray[Any]) -> NDArray[np.uint8]:
    """Bring an array of images to uint8 (N, C, H, W), contiguous.

    Parameters
    ----------
    path : Path or str
        What to call it in a message.
    array : array (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1, 3 or 4
        uint8 is taken as it is, bool as 0 and 255. Floats lie in [0, 1], or in [−1, 1] if any is negative,
        and become the nearest byte. Other types have no one scale and are refused, as is a shape that fits both
        layouts.
    """
    if array.dtype not in TYPES:
        raise DataError(f"{path}: expected images of uint8, bool, or float in [0, 1] or [−1, 1], got {describe(array)}")
    return np.ascontiguousarray(_bytes(path, _channels_first(path, array)))


def _channels_first(path: Path | str, array: NDArray[Any]) -> NDArray[Any]:
    layouts = "(N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1, 3 or 4"
    if array.ndim == 3:
        return array[:, np.newaxis]
    if array.ndim != 4:
        raise DataError(f"{path}: expected images of shape {layouts}, got {describe(array)}")
    first, last = array.shape[1] in MODES, array.shape[3] in MODES
    if first and last:
        raise DataError(
            f"{path}: expected a shape with one reading, but {array.shape} may be (N, H, W, C) as well as (N, C, H, W)"
        )
    if not first and not last:
        raise DataError(f"{path}: expected images of shape {layouts}, got {describe(array)}")
    return array if first else array.transpose(0, 3, 1, 2)


def _bytes(path: Path | str, array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.size == 0:
        return np.zeros(array.shape, np.uint8)
    low, high = array.min(), array.max()
    # a NaN anywhere makes both of them NaN, and then no comparison holds
    if not (low >= -1 and high <= 1):
        bad = int(np.argwhere(~((array >= -1) & (array <= 1)))[0][0])
        raise DataError(
            f"{path}: expected floats in [0, 1] or [−1, 1], got {low}..{high}, first in image {bad} (counted from 0)"
        )
    # in float16 the products would be rounded before they are rounded to bytes
    array = array.astype(np.promote_types(array.dtype, np.float32), copy=False)
    return np.rint((array + 1) * 127.5 if low < 0 else array * 255).astype(np.uint8)


def class_indices(path: Path | str, labels: NDArray[Any], count: int) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Number the classes of `count` labels from 0, in sorted order: the numbers, and the names of the classes.

    Labels are integers >= 0 or text, of shape (count,) or (count, 1). Their values become the names.
    """
    if labels.shape not in ((count,), (count, 1)):
        raise DataError(f"{path}: expected {count} labels, one for each image, got {describe(labels)}")
    if labels.dtype.kind not in "iuU":
        raise DataError(f"{path}: expected labels that are integers or text, got {describe(labels)}")
    if labels.dtype.kind == "i" and labels.size and labels.min() < 0:
        raise DataError(f"{path}: expected labels of 0 or more, got {labels.min()}")
    values, indices = np.unique(labels.reshape(-1), return_inverse=True)
    return indices.astype(np.int64), tuple(str(value) for value in values)
