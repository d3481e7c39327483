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
from typing import TYPE_CHECKING, Any, BinaryIO

from ..files import open_file
from .errors import DataError, reading
from .folder import children, class_files, list_images
from .pixels import SUFFIXES

if TYPE_CHECKING:
    from datasets import Dataset

NO_LABEL = -1
# a file or folder, its size, and when its content and anything of it last changed. Whoever copies a file can give the
# copy the size and the time of content of another, but not the last of the three
Stamp = tuple[str, int, int, int]
# more files than a pattern can mean
MOST_FILES = 1_000_000


def is_tar(source: str) -> bool:
    """Whether a source names tar files, packed ones included, which are refused; not a folder, whatever its name."""
    return re.search(r"\.(tar\b|t(gz|bz2?|xz|zst)$)", Path(source).name.lower()) is not None and not os.path.isdir(
        source
    )


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
        none), and file_size and modified of the file at path, which tell whether it has changed since.
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
        paths = expand(source)
        made_from = {"paths": _stamps(paths)}
    else:
        folders = children(Path(source))[1]
        paths = [source, *map(str, folders)]
        made_from = {"folder": source, "folders": _stamps(paths)}
    features = {name: datasets.Value("int64") for name in ("offset", "size", "label", "file_size", "modified")}
    try:
        table = datasets.Dataset.from_generator(
            _rows_of_tars if is_tar(source) else _rows_of_folder,
            features=datasets.Features({"path": datasets.Value("string"), **features}),
            gen_kwargs=made_from,
        )
    except datasets.exceptions.DatasetGenerationError as error:
        raise error.__cause__ if isinstance(error.__cause__, DataError) else error from None
    if _stamps(paths) not in made_from.values():
        raise DataError(f"{source}: expected files that stay as they are, but some changed while they were read")
    labelled = table[0]["label"] != NO_LABEL
    return table, tuple(path.name for path in folders) if labelled else ()


def expand(pattern: str) -> list[str]:
    """The files of a pattern with `{000..099}`, `*` and `?`, in order.

    Raises
    ------
    DataError
        A range that is none, or of more than a million files.
    """
    names = [pattern]
    if found := re.search(r"\{(\d+)\.\.(\d+)\}", pattern):
        first, last = found.groups()
        if len(last) > 18 or int(last) - int(first[:19]) >= MOST_FILES:
            raise DataError(f"{pattern}: expected a range of at most {MOST_FILES} files")
        numbers = range(int(first), int(last) + 1)
        names = [pattern.replace(found[0], f"{number:0{len(first)}d}") for number in numbers]
    paths = [path for name in names for path in (sorted(glob(name)) or [name])]
    if not paths:
        raise DataError(f"{pattern}: expected a range from a lower to a higher number")
    return paths


def _stamps(paths: list[str]) -> tuple[Stamp, ...]:
    stamps = []
    for path in paths:
        with reading(Path(path), "a tar file or a folder"):
            status = os.stat(path)
        stamps.append((path, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return tuple(stamps)


def _rows_of_folder(folder: str, folders: tuple[Stamp, ...]) -> Iterator[dict[str, Any]]:
    files, classes = children(Path(folder))
    if files or not classes:
        # a folder without classes, and what is wrong with one that is no folder of images
        for path in list_images(Path(folder))[0]:
            yield _row_of_file(path, NO_LABEL)
        return
    for label, child in enumerate(classes):
        for path in class_files(child):
            yield _row_of_file(path, label)


def _row_of_file(path: Path, label: int) -> dict[str, Any]:
    with reading(path, "a file"):
        status = path.stat()
    changes = {"file_size": status.st_size, "modified": status.st_mtime_ns}
    return {"path": str(path), "offset": -1, "size": -1, "label": label, **changes}


def _rows_of_tars(paths: tuple[Stamp, ...]) -> Iterator[dict[str, Any]]:
    labelled = None
    for path, file_size, modified, _ in paths:
        expected = reading(Path(path), "an uncompressed tar file")
        with expected, open_file(Path(path)) as file, tarfile.open(path, "r:", file) as tar:
            seen: set[str] = set()
            # the files of one sample are next to each other, and have one name up to its first dot
            for key, group in groupby(_members(tar, path), lambda member: re.sub(r"\.[^/]*$", "", member.name)):
                members = list(group)
                images = [member for member in members if _is_image(member)]
                classes = [member for member in members if not _is_image(member)]
                if not images:
                    raise DataError(
                        f"{path}: expected an image next to {classes[0].name}, found none; the files of a sample must "
                        "be next to each other, as `tar --sort=name` writes them"
                    )
                for same in (images, classes):
                    if len(same) > 1:
                        raise DataError(
                            f"{path}: expected one image and at most one .cls for each name up to the first dot, "
                            f"found {same[0].name} and {same[1].name}"
                        )
                if key in seen:
                    raise DataError(
                        f"{path}: expected each sample once, found {images[0].name} after others of its name"
                    )
                seen.add(key)
                label = _label(tar, classes[0], path) if classes else NO_LABEL
                if labelled not in (None, label != NO_LABEL):
                    raise DataError(f"{path}: expected a .cls beside every image or none, and {key} is the exception")
                labelled = label != NO_LABEL
                place = {"path": path, "offset": images[0].offset_data, "size": images[0].size, "label": label}
                yield {**place, "file_size": file_size, "modified": modified}
            _check_end(path, file, tar.offset)  # type: ignore[attr-defined]
    if labelled is None:
        raise DataError(f"{paths[0][0]}: expected images ({', '.join(SUFFIXES)}) in the tar files, found none")


def _is_image(member: tarfile.TarInfo) -> bool:
    return member.name.lower().endswith(SUFFIXES)


def _members(tar: tarfile.TarFile, path: str) -> Iterator[tarfile.TarInfo]:
    """The images and the classes of a tar file; hidden files and folders are passed over, as in a folder."""
    while (member := tar.next()) is not None:
        # tarfile keeps what it has read, which would be the whole index again
        tar.members.clear()  # type: ignore[attr-defined]
        hidden = any(part.startswith(".") and part not in (".", "..") for part in member.name.split("/"))
        if hidden or member.isdir() or not (_is_image(member) or member.name.lower().endswith(".cls")):
            continue
        if not member.isfile() or member.issparse():
            raise DataError(f"{path}: expected plain files, but {member.name} is a link, a device or has holes")
        yield member


def _check_end(path: str, file: BinaryIO, place: int) -> None:
    """Refuse a tar file that goes on where tarfile stopped, at a damaged header as well as at the end."""
    file.seek(place)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise DataError(
            f"{path}: expected a header or the end mark of a tar file at byte {place}; it is cut or damaged there"
        )
    while rest := file.read(1 << 20):
        if rest.count(0) != len(rest):
            raise DataError(
                f"{path}: expected nothing after the end mark at byte {place}; give tar files that were joined one by "
                "one"
            )


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> int:
    file = tar.extractfile(member)
    text = "" if file is None else file.read(20).decode("ascii", "replace").strip()
    # a number of 19 digits may not fit into the table
    if not text.isdecimal() or len(text) > 18 or member.size > 20:
        raise DataError(f"{path}: expected a class number of 0 or more in {member.name}, got {text!r}")
    return int(text)
