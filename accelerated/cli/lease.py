"""The one process that trains in a run folder: it holds an OS lock on a file that names it."""

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RunError
from .run_folder import RunFolder

if TYPE_CHECKING:
    from ..training.distributed import World


class Lease:
    """The right to write into a run folder, from its construction until `release`.

    The lock is a POSIX record lock: the system drops it when the process ends, however it ends, and a child that was
    forked does not have it. On a file system that machines share, it holds between machines if the file system passes
    locks on; a holder on another machine that did not release its lease may therefore still be running, and is not
    taken for gone.

    Parameters
    ----------
    run : RunFolder
        A folder that exists.

    Raises
    ------
    RunError
        Another process has the lease, and is named, or had it on another machine.
    OSError
        The file cannot be written or locked.
    """

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._folder = os.open(run.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._file = self._lock()
            try:
                self._take_over()
            except BaseException:
                os.close(self._file)
                raise
        except BaseException as error:
            os.close(self._folder)
            if isinstance(error, OSError):
                error.filename = str(run.lock)
            raise

    def _lock(self) -> int:
        while True:
            file = os.open(self._run.lock.name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666, dir_fd=self._folder)
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = _holder(file)
                os.close(file)
                if error.errno in (errno.EAGAIN, errno.EACCES):
                    raise RunError(f"{self._run}: {holder} is training here; wait for it, or stop it") from None
                raise
            # the holder before may have removed the file since it was opened
            if self._is_in_place(file):
                return file
            os.close(file)

    def _take_over(self) -> None:
        record = _record(self._file)
        here = _this_process()
        if record and here["boot"] != record.get("boot") and here["host"] != record.get("host"):
            raise RunError(
                f"{self._run}: {_holder(self._file)} was training here and did not say that it ended, and this is "
                f"{here['host']}; if that process is gone, remove {self._run.lock} and start again"
            )
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, (json.dumps(here) + "\n").encode(), 0)
        os.fsync(self._file)

    def confirm(self) -> None:
        """Raise `RunError` if the folder was renamed or removed, or the lease was given to another process."""
        try:
            if os.path.samestat(os.stat(self._run.lock), os.fstat(self._file)):
                return
        except FileNotFoundError:
            pass
        now = os.readlink(f"/proc/self/fd/{self._folder}")
        if now.endswith(" (deleted)"):
            raise RunError(f"{self._run} was removed while it trained")
        if not (self._run.path.exists() and os.path.samefile(self._run.path, now)):
            raise RunError(f"{self._run} was renamed to {now} while it trained")
        raise RunError(
            f"{self._run.lock} was removed or replaced while this process trained; another may train there now"
        )

    def release(self) -> None:
        """Give the lease back."""
        if self._is_in_place(self._file):
            os.unlink(self._run.lock.name, dir_fd=self._folder)
        os.close(self._file)
        os.close(self._folder)

    def _is_in_place(self, file: int) -> bool:
        try:
            there = os.stat(self._run.lock.name, dir_fd=self._folder)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(file))


@contextmanager
def owned(run: RunFolder, world: "World") -> Iterator[Lease | None]:
    """The lease of rank 0, which writes the folder; None in other processes.

    The files that killed processes left unfinished are removed.

    Raises
    ------
    RunError, OSError
        In all processes, if rank 0 does not get it.
    """
    held: list[Lease] = []
    world.on_rank0(lambda: held.append(Lease(run)))
    try:
        if held:
            for path in run.partial_files():
                path.unlink(missing_ok=True)
        yield held[0] if held else None
    finally:
        if held:
            held[0].release()


def holder(run: RunFolder) -> str | None:
    """Who trains in a folder, or trained and did not say that it ended; None if nobody does.

    Not for a process that has a lease itself: it would lose it.
    """
    try:
        file = os.open(run.lock, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return _holder(file)
    finally:
        os.close(file)


def _this_process() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        # containers of one machine have names of their own and one kernel
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
        "process": os.getpid(),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _record(file: int) -> dict[str, Any]:
    try:
        record = json.loads(os.pread(file, 4096, 0))
    except ValueError:
        # a process that has just been given the lease, or was killed then
        return {}
    return record if isinstance(record, dict) else {}


def _holder(file: int) -> str:
    record = _record(file)
    if not record:
        return "another process"
    process, host, started = (ascii(record.get(name)).strip("'") for name in ("process", "host", "started"))
    return f"process {process} on {host}, since {started},"
