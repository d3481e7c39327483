"""Folders of image files."""

import os
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from .errors import DataError, check_memory, reading
from .pixels import MODES, SUFFIXES, open_image, render


def list_images(folder: Path) -> tuple[list[Path], list[int] | None, tuple[str, ...]]:
    """Return the image files of a folder in natural order, their labels or None, and the classes' names.

    With subfolders that hold images, each is a class. A folder without is one set with no labels. What starts
    with a dot and files with another suffix than `SUFFIXES` are passed over. The order depends on the names
    alone: 2 before 10, and upper case as lower case.
    """
    files, folders = _children(folder)
    classes = [(child, *_children(child)) for child in folders]
    if files:
        for child, inside, _ in classes:
            if inside:
                raise DataError(
                    f"{folder}: expected images, or one subfolder of images for each class, but found both "
                    f"({files[0].name} and {child.name}/{inside[0].name})"
                )
        return files, None, ()
    if not classes:
        raise DataError(f"{folder}: expected images ({', '.join(SUFFIXES)}) or subfolders of them, found none")
    for child, inside, deeper in classes:
        if deeper:
            raise DataError(f"{child}: expected images alone in a class's folder, found the folder {deeper[0].name}")
        if not inside:
            raise DataError(f"{child}: expected images ({', '.join(SUFFIXES)}) in a class's folder, found none")
    paths = [path for _, inside, _ in classes for path in inside]
    labels = [label for label, (_, inside, _) in enumerate(classes) for _ in inside]
    return paths, labels, tuple(child.name for child, _, _ in classes)


def read_files(paths: list[Path], *, size: tuple[int, int] | None, channels: int | None, fit: str) -> NDArray[np.uint8]:
    """Decode image files to uint8 (N, C, H, W), on all cores and with a progress bar on a terminal.

    The first file decides the channels and the size where they are not given; a file that differs is refused,
    and so is the first, in order, that cannot be read.
    """
    with warnings.catch_warnings():
        # warnings speak of metadata, which is not used, except for this one
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        first = open_image(paths[0])
        shape = size or (first.height, first.width)
        depth = channels or _channels(first)
        check_memory(paths[0].parent, len(paths) * depth * shape[0] * shape[1])
        images = np.empty((len(paths), depth, *shape), np.uint8)

        def read(number: int) -> None:
            path = paths[number]
            image = open_image(path)
            if channels is None and _channels(image) != depth:
                raise DataError(
                    f"{path}: expected {depth} channel{'s' * (depth > 1)} as in {paths[0]}, "
                    f"got {_channels(image)}; pass --channels 1, 3 or 4 to convert them all"
                )
            if size is None and (image.height, image.width) != shape:
                raise DataError(
                    f"{path}: expected {shape[0]}×{shape[1]} pixels (height × width) as in {paths[0]}, "
                    f"got {image.height}×{image.width}; pass --size to bring them all to one size"
                )
            images[number] = render(image, depth, shape, fit)

        with ThreadPoolExecutor() as pool:
            done = pool.map(read, range(len(paths)))
            # disable=None: no bar where stderr is not a terminal
            for _ in tqdm(done, total=len(paths), desc="reading images", unit="", leave=False, disable=None):
                pass
    return images


def _children(folder: Path) -> tuple[list[Path], list[Path]]:
    """Image files and subfolders of a folder, each in natural order."""
    with reading(folder, "a folder"), os.scandir(folder) as entries:
        visible = {entry.name: entry.is_dir() for entry in entries if not entry.name.startswith(".")}
    paths = [folder / name for name in sorted(visible, key=_natural)]
    files = [path for path in paths if not visible[path.name] and path.suffix.lower() in SUFFIXES]
    return files, [path for path in paths if visible[path.name]]


def _natural(name: str) -> tuple[list[str | int], str]:
    # odd places hold the digits, so that text is compared with text and numbers with numbers
    parts = re.split(r"([0-9]+)", name.casefold())
    # names that differ in case or leading zeros alone have an order too
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def _channels(image: Image.Image) -> int:
    return next(channels for channels, mode in MODES.items() if mode == image.mode)
