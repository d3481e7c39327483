"""Where compiled libraries are kept: files that the user alone can have written, each with a digest of itself.

A library is code that runs as the user. So it is loaded only from a folder, and from a file, whose owner is the user or
root and which nobody else can write to; and only where the SHA-256 behind its last byte is that of the bytes before,
since a library that was cut short is a bus error and one with a wrong bit may compute something else.

Several processes may need a library at once, and any of them may be killed. Each compiles it in a folder of its own;
a file appears under its name in one rename, whole and on the disk. Which of them comes last makes no difference.
"""

import contextlib
import ctypes
import hashlib
import os
import secrets
import stat
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

_DIGEST = hashlib.sha256().digest_size
# what a process that was killed while it wrote leaves behind, and after how many seconds it is certainly that
_UNFINISHED, _STALE = ".unfinished-", 3600.0


class NativeCacheRefused(RuntimeWarning):
    """The folder for compiled libraries is not used; the message says why, and what to do about it."""


def load(name: str, compile_to: Callable[[Path], None]) -> ctypes.CDLL:
    """The library of a name, from the cache if it is sound there; otherwise compiled now, and kept if it can be.

    Parameters
    ----------
    name : str
        A file name that says all that the library is made from.
    compile_to : function of Path
        Writes the library to a file that does not exist.

    Raises
    ------
    OSError, RuntimeError
        It cannot be compiled, or not be loaded.
    """
    with contextlib.ExitStack() as stack:
        kept = stack.enter_context(_opened(_folder()))
        if kept is None or not _is_sound(name, kept):
            private = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="noisestep-")))
            compile_to(private / name)
            content = (private / name).read_bytes()
            (private / name).unlink()
            content += hashlib.sha256(content).digest()
            # the second is removed as soon as the library is loaded from it
            if kept is None or not _is_saved(name, content, kept):
                kept = stack.enter_context(_opened(private))
                if kept is None or not _is_saved(name, content, kept):
                    raise OSError(f"{private}: the compiled library cannot be written there")
        # by the open folder, which stays the one that was looked at
        return ctypes.CDLL(f"/proc/self/fd/{kept}/{name}")


def _folder() -> Path:
    given = os.environ.get("NOISESTEP_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "noisestep"


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int | None]:
    """The folder, made if it is not there, as a file descriptor; None where there can be none or it is another's."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield None
        return
    try:
        if (problem := _problem(os.fstat(descriptor))) is None:
            yield descriptor
        else:
            warnings.warn(
                f"no compiled code is loaded from {folder} or kept there, since {problem}: each process compiles "
                "its own. NOISESTEP_CACHE names another folder; only you may be able to write to it (chmod 700)",
                NativeCacheRefused,
                stacklevel=2,
            )
            yield None
    finally:
        os.close(descriptor)


def _problem(status: os.stat_result) -> str | None:
    """Why a file or folder may hold what others wrote."""
    if status.st_uid not in (0, os.geteuid()):
        return f"it belongs to user {status.st_uid}, and this process runs as user {os.geteuid()}"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others can write to it (mode {stat.S_IMODE(status.st_mode):o})"
    return None


def _is_sound(name: str, folder: int) -> bool:
    """Whether the library is there, the user's, and what its digest says."""
    try:
        # a pipe under the name would wait for a writer
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or _problem(status) is not None:
                return False
            content = file.read()
    except OSError:
        return False
    return hashlib.sha256(content[:-_DIGEST]).digest() == content[-_DIGEST:]


def _is_saved(name: str, content: bytes, folder: int) -> bool:
    """Put a library under its name, in one step; False where the folder cannot be written to, or has no room."""
    unfinished = f"{_UNFINISHED}{secrets.token_hex(16)}"
    try:
        for old in os.listdir(folder):
            if old.startswith(_UNFINISHED) and os.stat(old, dir_fd=folder).st_mtime < time.time() - _STALE:
                os.unlink(old, dir_fd=folder)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700, dir_fd=folder)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.rename(unfinished, name, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(unfinished, dir_fd=folder)
        return False
    return True
