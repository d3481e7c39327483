"""Files that appear whole or not at all, whatever happens while they are written."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SUFFIX = ".partial"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The path of a temporary file beside `path`; when the block is done, it is synced and takes the place of `path`.

    If the block raises, the temporary file is removed and `path` stays as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_SUFFIX}")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # the new name is on disk only once the folder is, too
    _sync(path.parent)


def write_atomically(path: Path, data: bytes) -> Path:
    """Write `data` to `path`; readers see the old file or the new one."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return path


def write_json(path: Path, content: object) -> Path:
    """Write `content` as indented JSON to `path`, atomically."""
    return write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def remove_partial_files(folder: Path) -> None:
    """Remove the temporary files that a killed process left in `folder`."""
    for path in folder.glob(f".*{_SUFFIX}"):
        path.unlink()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
