"""Files and texts that somebody else may have made: reading them ends, and showing them changes no terminal."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

# far above any configuration
MOST_TEXT = 1 << 24


def printable(text: str) -> str:
    """Text with escapes in place of what would move the cursor, colour the screen or end the line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file to read bytes from.

    Raises
    ------
    OSError
        It cannot be opened, or is a folder, a pipe, a device or a socket, which may have no end.
    """
    # without O_NONBLOCK, to open a pipe waits until somebody writes to it
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    raise OSError(errno.EINVAL, "It is a pipe, a device or a socket, and no file", os.fspath(path))


def read_text(path: Path) -> str:
    """A text of at most 16 MiB in UTF-8.

    Raises
    ------
    OSError
        As for `open_file`.
    ValueError
        A larger one, or bytes that are not UTF-8.
    """
    with open_file(path) as file:
        content = file.read(MOST_TEXT + 1)
    if len(content) > MOST_TEXT:
        raise ValueError(f"a text of at most {MOST_TEXT} bytes is expected, and it has more")
    return content.decode("utf-8")
