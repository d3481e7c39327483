"""Files that appear whole or not at all, whatever happens while they are written."""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_SUFFIX = ".partial"


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file to write into, in the folder of `path`; when the block is done, it is synced and renamed to `path`.

    If anything fails, the new file is removed and `path` stays as it was. The file's mode is what the umask leaves.

    Raises
    ------
    OSError
        With the name of `path`, also where the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_SUFFIX}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        # the new name is on disk only once the folder is, too
        _sync_folder(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None
        raise


def write_atomically(path: Path, data: bytes) -> Path:
    """Write `data` to `path`; readers see the old file or the new one."""
    with replacing(path) as file:
        file.write(data)
    return path


def write_json(path: Path, content: object) -> Path:
    """Write `content` as indented JSON to `path`, atomically."""
    return write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def partial_files(folder: Path) -> list[Path]:
    """The unfinished files that killed processes left in `folder`, or that are being written there."""
    return sorted(folder.glob(f".*{_SUFFIX}"))


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
