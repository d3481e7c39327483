"""Folders of image files."""

import os
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from .errors import DataError, check_memory, reading
from .pixels import SUFFIXES, channels_of, conform, open_image


def list_images(folder: Path) -> tuple[list[Path], list[int] | None, tuple[str, ...]]:
    """Return the image files of a folder in natural order, their labels or None, and the classes' names.

    With subfolders that hold images, each is a class. A folder without is one set with no labels. What starts
    with a dot and files with another suffix than `SUFFIXES` are passed over. The order depends on the names
    alone: 2 before 10, and upper case as lower case.
    """
    files, folders = children(folder)
    if files:
        for child in folders:
            if inside := children(child)[0]:
                raise DataError(
                    f"{folder}: expected images, or one subfolder of images for each class, but found both "
                    f"({files[0].name} and {child.name}/{inside[0].name})"
                )
        return files, None, ()
    if not folders:
        raise DataError(f"{folder}: expected images ({', '.join(SUFFIXES)}) or subfolders of them, found none")
    classes = [class_files(child) for child in folders]
    paths = [path for inside in classes for path in inside]
    labels = [label for label, inside in enumerate(classes) for _ in inside]
    return paths, labels, tuple(child.name for child in folders)


def class_files(folder: Path) -> list[Path]:
    """Return the image files of a class's folder, in natural order; a folder with none, or with folders, is refused."""
    inside, deeper = children(folder)
    if deeper:
        raise DataError(f"{folder}: expected images alone in a class's folder, found the folder {deeper[0].name}")
    if not inside:
        raise DataError(f"{folder}: expected images ({', '.join(SUFFIXES)}) in a class's folder, found none")
    return inside


def read_files(paths: list[Path], *, size: tuple[int, int] | None, channels: int | None, fit: str) -> NDArray[np.uint8]:
    """Decode image files to uint8 (N, C, H, W), on all cores and with a progress bar on a terminal.

    The first file decides the channels and the size where they are not given; a file that differs is refused,
    and so is the first, in order, that cannot be read.
    """
    # Pillow's warnings speak of metadata, which is not used, and of sizes that are allowed
    with warnings.catch_warnings(action="ignore"):
        first = open_image(paths[0])
        shape = size or (first.height, first.width)
        depth = channels or channels_of(first)
        given = channels is not None, size is not None
        check_memory(paths[0].parent, len(paths) * depth * shape[0] * shape[1])
        images = np.empty((len(paths), depth, *shape), np.uint8)

        def read(number: int) -> None:
            path = paths[number]
            images[number] = conform(open_image(path), path, (depth, *shape), given, fit, paths[0])

        with ThreadPoolExecutor() as pool:
            done = pool.map(read, range(len(paths)))
            # disable=None: no bar where stderr is not a terminal
            for _ in tqdm(done, total=len(paths), desc="reading images", unit="", leave=False, disable=None):
                pass
    return images


def children(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the image files and the subfolders of a folder, each in natural order."""
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
