"""From what `--data` names to an `ImageSet`."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..files import open_file
from . import folder, idx
from .arrays import class_indices, image_bytes, read_npy, read_npz
from .errors import DataError, check_memory, reading
from .image_set import ImageSet
from .pixels import SUFFIXES, checked_options, render


def load_images(
    source: str | os.PathLike[str],
    *,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    fit: str = "crop",
) -> ImageSet:
    """Read a set of images, with its labels where it has them.

    Parameters
    ----------
    source : str or path
        - `"digits"`: the 1,797 handwritten digits, 8×8, that scikit-learn holds (Alpaydin and Kaynak, 1998, UCI
          repository). Their values 0..16 become round(255 v / 16). For a folder of that name write `./digits`.
        - a folder of images, or of one subfolder of images for each class: png, jpg, bmp, gif, webp, tif
        - a folder with MNIST's `train-images-idx3-ubyte` and `train-labels-idx1-ubyte`, also in folders of their own as
          archives leave them, or one file of IDX images with its labels beside it, gzipped or not. Of a folder that has
          the test images as well, the training images are read
        - an .npz (images and labels under names such as `images` and `labels`, `x` and `y`) or an .npy: uint8,
          bool, or float in [0, 1] or [−1, 1]; (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1, 3 or 4
    size : int or (height, width), optional
        Bring every image to this size. Without it they must be of one size already.
    channels : 1, 3 or 4, optional
        Convert to grey, RGB or RGBA. Without it the images must agree, and stay what they are.
    fit : {"crop", "pad"}
        Whether an image of other proportions is scaled to cover `size` and cut, or to fit inside and padded.

    Returns
    -------
    ImageSet
        Classes are numbered from 0 in order: of the folders' names, of the label values otherwise.

    Raises
    ------
    DataError
        In one line that names the file and what was expected, for whatever is missing, unreadable, damaged,
        empty, mixed or too large for this machine's memory.
    """
    shape, channels = checked_options(size, channels, fit)
    if source == "digits":
        values, targets = _digits()
        return _image_set("digits", values, targets, shape, channels, fit)
    path = Path(source)
    with reading(path, "a folder or a file"):
        is_folder = path.is_dir()
        path.stat()
    file = idx.find_images(path) if is_folder else path
    if file is not None:
        return _image_set(file, *_read_file(file), shape, channels, fit)
    paths, labels, class_names = folder.list_images(path)
    return ImageSet(
        images=folder.read_files(paths, size=shape, channels=channels, fit=fit),
        labels=None if labels is None else np.array(labels, np.int64),
        class_names=class_names,
        source=str(path),
    )


def _read_file(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None]:
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return read_npy(path), None
    if suffix == ".npz":
        return read_npz(path)
    with reading(path, "a file"), open_file(path) as file:
        head = file.read(2)
    if head in (b"\0\0", idx.GZIP_MAGIC) or "idx3" in path.name:
        return idx.read_idx(path)
    expected = f"a folder of images ({', '.join(SUFFIXES)}), an .npz, an .npy or IDX images"
    found = "one image: name the folder it is in" if suffix in SUFFIXES else "none of these"
    raise DataError(f"{path}: expected {expected}, got {found}")


def _digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    # scikit-learn takes about a second to import, which other sources need not wait for
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.rint(bunch.images * 255 / 16).astype(np.uint8), bunch.target


def _image_set(
    path: Path | str,
    array: NDArray[Any],
    labels: NDArray[Any] | None,
    size: tuple[int, int] | None,
    channels: int | None,
    fit: str,
) -> ImageSet:
    images = image_bytes(path, array)
    indices, class_names = (None, ()) if labels is None else class_indices(path, labels, len(images))
    if 0 not in images.shape:
        images = _rendered(path, images, size or images.shape[2:], channels or images.shape[1], fit)
    return ImageSet(images=images, labels=indices, class_names=class_names, source=str(path))


def _rendered(
    path: Path | str, images: NDArray[np.uint8], size: tuple[int, ...], channels: int, fit: str
) -> NDArray[np.uint8]:
    if images.shape[1:] == (channels, *size):
        return images
    height, width = size
    check_memory(path, len(images) * channels * height * width)
    rendered = np.empty((len(images), channels, height, width), np.uint8)
    for number, image in enumerate(images):
        pixels = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
        rendered[number] = render(Image.fromarray(pixels), channels, (height, width), fit)
    return rendered
