"""What a user can cause ends in one line and an exit status; anything else is a bug and keeps its traceback."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from ..errors import Interrupted, LostRank, RunError, TrainingError
from ..files import printable


@contextmanager
def usage_errors() -> Iterator[None]:
    """A `ValueError` is a bad flag, file or folder: exit status 2."""
    try:
        yield
    except ValueError as error:
        raise click.UsageError(printable(str(error))) from None


@contextmanager
def runtime_errors() -> Iterator[None]:
    """What goes wrong in the work itself: exit status 1, or that of a process which a signal ended."""
    from ..data import DataError

    try:
        yield
    except Interrupted as stopped:
        # torchrun numbers its processes; one line is enough
        if os.environ.get("RANK", "0") == "0":
            click.echo(_line(str(stopped), stopped), err=True)
        sys.exit(128 + stopped.signal)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package == "noisestep":
            raise
        # the NumPy half was installed alone
        raise click.ClickException(
            f"this command needs {package}, which is not installed: pip install {package}"
        ) from None
    except (RunError, DataError, TrainingError, LostRank) as error:
        raise click.ClickException(_line(str(error), error)) from None
    except OSError as error:
        file = f"{error.filename}: " if error.filename else ""
        raise click.ClickException(_line(f"{file}{error.strerror or error}", error)) from None
    except (RuntimeError, MemoryError) as error:
        if not (isinstance(error, MemoryError) or "memory" in str(error)):
            raise
        reason = str(error).splitlines()[0] if str(error) else "MemoryError"
        line = _line(f"out of memory; a smaller batch size needs less ({reason})", error)
        raise click.ClickException(line) from None


def _line(message: str, error: Exception) -> str:
    """The message and what was noted about the error on its way, such as the state that is saved."""
    return printable("; ".join([message, *getattr(error, "__notes__", [])]))
