"""Where each image of a large set is: a table on disk, of which memory holds the pages that are being read.

Hugging Face's datasets writes the table, keeps it in its cache, and maps it: `pip install 'noisestep[stream]'`.
"""

import os
import re
import tarfile
from collections.abc import Iterator
from glob import glob
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import DataError, reading
from .folder import children, class_files, list_images
from .pixels import SUFFIXES

if TYPE_CHECKING:
    from datasets import Dataset

NO_LABEL = -1
Stamp = tuple[str, int, int]


def is_tar(source: str) -> bool:
    """Whether a source names tar files, not a folder."""
    return ".tar" in Path(source).name


def make_index(source: str) -> tuple["Dataset", tuple[str, ...]]:
    """The table of a source's images, in the order of their names, and the names of their folders' classes.

    It is made once, and again when a folder or a tar file has changed.

    Parameters
    ----------
    source : str
        A folder of images or of one subfolder for each class, as `load_images` takes it; or tar files, by a pattern
        such as `shards/{000..099}.tar` or `shards/*.tar`, whose images have their class beside them: `0001.png` and
        `0001.cls`, which holds an integer.

    Returns
    -------
    table : datasets.Dataset
        path (a file, or the tar that it is in), offset and size (in the tar; −1 for a file), label (`NO_LABEL` for
        none).
    class_names : tuple of str
        Empty for tar files, whose labels are their own names, and without labels.

    Raises
    ------
    DataError
        Naming the file, for whatever is missing, unreadable or mixed.
    """
    try:
        import datasets
    except ImportError:
        raise DataError(f"{source}: to stream images, install what it takes: pip install 'noisestep[stream]'") from None
    datasets.disable_progress_bars()
    folders: list[Path] = []
    made_from: dict[str, Any]
    if is_tar(source):
        made_from = {"paths": _stamps(expand(source))}
    else:
        folders = children(Path(source))[1]
        made_from = {"folder": source, "folders": _stamps([source, *map(str, folders)])}
    features = {"path": "string", "offset": "int64", "size": "int64", "label": "int64"}
    try:
        table = datasets.Dataset.from_generator(
            _in_tars if is_tar(source) else _in_folder,
            features=datasets.Features({name: datasets.Value(kind) for name, kind in features.items()}),
            gen_kwargs=made_from,
        )
    except datasets.exceptions.DatasetGenerationError as error:
        raise error.__cause__ if isinstance(error.__cause__, DataError) else error from None
    labelled = table[0]["label"] != NO_LABEL
    return table, tuple(path.name for path in folders) if labelled else ()


def expand(pattern: str) -> list[str]:
    """The files of a pattern with `{000..099}`, `*` and `?`, in order.

    Raises
    ------
    DataError
        No such file.
    """
    names = [pattern]
    if found := re.search(r"\{(\d+)\.\.(\d+)\}", pattern):
        first, last = found.groups()
        numbers = range(int(first), int(last) + 1)
        names = [pattern.replace(found[0], f"{number:0{len(first)}d}") for number in numbers]
    paths = [path for name in names for path in (sorted(glob(name)) if glob(name) else [name])]
    if not paths:
        raise DataError(f"{pattern}: expected a range from a lower to a higher number")
    return paths


def _stamps(paths: list[str]) -> tuple[Stamp, ...]:
    stamps = []
    for path in paths:
        with reading(Path(path), "a tar file or a folder"):
            status = os.stat(path)
        stamps.append((path, status.st_size, status.st_mtime_ns))
    return tuple(stamps)


def _in_folder(folder: str, folders: tuple[Stamp, ...]) -> Iterator[dict[str, Any]]:
    files, classes = children(Path(folder))
    if files or not classes:
        # a folder without classes, and what is wrong with one that is no folder of images
        for path in list_images(Path(folder))[0]:
            yield {"path": str(path), "offset": -1, "size": -1, "label": NO_LABEL}
        return
    for label, child in enumerate(classes):
        for path in class_files(child):
            yield {"path": str(path), "offset": -1, "size": -1, "label": label}


def _in_tars(paths: tuple[Stamp, ...]) -> Iterator[dict[str, Any]]:
    labelled = None
    for path, _, _ in paths:
        with reading(Path(path), "an uncompressed tar file"), tarfile.open(path, "r:") as tar:
            # the files of one sample stand together, and have one name up to its first dot
            for key, group in groupby(_members(tar), lambda member: re.sub(r"\.[^/]*$", "", member.name)):
                row, label = None, NO_LABEL
                for member in group:
                    if member.name.lower().endswith(SUFFIXES):
                        row = {"path": path, "offset": member.offset_data, "size": member.size}
                    elif member.name.endswith(".cls"):
                        label = _label(tar, member, path)
                if row is None:
                    continue
                if labelled not in (None, label != NO_LABEL):
                    raise DataError(f"{path}: expected a .cls beside every image or none, and {key} is the exception")
                labelled = label != NO_LABEL
                yield {**row, "label": label}
    if labelled is None:
        raise DataError(f"{paths[0][0]}: expected images ({', '.join(SUFFIXES)}) in the tar files, found none")


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        # tarfile keeps what it has read, which would be the whole index again
        tar.members.clear()  # type: ignore[attr-defined]
        if member.isfile() and not member.name.rpartition("/")[2].startswith("."):
            yield member


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> int:
    file = tar.extractfile(member)
    text = "" if file is None else file.read(20).decode("ascii", "replace").strip()
    if not text.isdecimal():
        raise DataError(f"{path}: expected a class number of 0 or more in {member.name}, got {text!r}")
    return int(text)
