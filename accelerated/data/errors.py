"""How data is refused: one printable line, whatever went wrong underneath."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..files import printable


class DataError(ValueError):
    """Data that cannot be used; the message is one printable line that names it and says what was expected.

    Line breaks, control characters and undecodable bytes (a file name may hold any of them) are written as
    escapes.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


@contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """Turn every failure to read `path` into a `DataError`; `expected` completes "expected ...".

    Decoders answer a damaged file with almost any exception (OSError, EOFError, SyntaxError, struct.error,
    zlib.error, KeyError, ...), so all of them are taken as a statement about the file: keep nothing but
    reading in the block.
    """
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file or folder") from None
    except PermissionError:
        raise DataError(f"{path}: permission denied") from None
    except MemoryError:
        raise DataError(f"{path}: expected {expected}, but it does not fit into memory") from None
    except OSError as error:
        raise DataError(f"{path}: expected {expected}; {error.strerror or error}") from None
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{path}: expected {expected}; {reason}") from None


def physical_memory() -> int:
    """Bytes of memory in this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(path: Path | str, size: int) -> None:
    """Refuse `size` bytes for `path` before they are allocated: headers lie, and archives may be bombs."""
    available = physical_memory()
    if size > available:
        raise DataError(
            f"{path}: expected data that fits into this machine's memory of {available / 2**30:.1f} GiB, "
            f"but its header announces {size / 2**30:.1f} GiB"
        )
