"""The log of a training run: a CSV file, a text file and TensorBoard events."""

import csv
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
from tqdm import tqdm

from .atomic import write_atomically
from .config import TrainConfig
from .progress import progress_bar, progress_line

COLUMNS = ("step", "loss", "learning_rate", "images_per_second", "seconds")


class LogPaths(NamedTuple):
    """Where a run is logged.

    Attributes
    ----------
    csv : Path
        A row of the columns in `COLUMNS` for each log entry.
    text : Path
        What the terminal showed.
    tensorboard : Path
        A folder of TensorBoard events.
    """

    csv: Path
    text: Path
    tensorboard: Path


class NoLog:
    """The log of a process other than rank 0: nothing is written."""

    def info(self, line: str) -> None:
        """Nothing."""

    def advance(self) -> None:
        """Nothing."""

    def metrics(
        self, *, step: int, loss: float, learning_rate: float, images_per_second: float, seconds: float
    ) -> None:
        """Nothing."""

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is open."""


class TrainLog:
    """An open log.

    Parameters
    ----------
    paths : LogPaths
    steps : int
        Steps of the whole run.
    batch_size : int
        Images per step.
    start : int
        Steps made before; entries about later ones, left by an interrupted process, are removed.
    """

    def __init__(self, paths: LogPaths, *, steps: int, batch_size: int, start: int = 0) -> None:
        self._steps, self._batch_size = steps, batch_size
        _keep_rows_until(paths.csv, start)
        self._paths = paths
        self._text = paths.text.open("a", encoding="utf-8")
        self._csv = paths.csv.open("a", encoding="utf-8", newline="")
        self._events = _Events(paths.tensorboard, purge_step=start + 1 if start else None)
        self._bar: tqdm = progress_bar(steps * batch_size, "training", done=start * batch_size)

    def info(self, line: str) -> None:
        """Write a line to the text file and the terminal."""
        with _naming(self._paths.text):
            self._text.write(line + "\n")
            self._text.flush()
        if self._bar.disable:
            print(line, flush=True)
        else:
            self._bar.write(line)

    def advance(self) -> None:
        """Count one more step in the progress bar."""
        self._bar.update(self._batch_size)

    def metrics(
        self, *, step: int, loss: float, learning_rate: float, images_per_second: float, seconds: float
    ) -> None:
        """Log the metrics of the steps since the last entry."""
        with _naming(self._paths.csv):
            csv.writer(self._csv).writerow(
                [step, f"{loss:.6g}", f"{learning_rate:.6g}", f"{images_per_second:.1f}", f"{seconds:.2f}"]
            )
            self._csv.flush()
            os.fsync(self._csv.fileno())
        self._events.scalars(step, loss=loss, learning_rate=learning_rate, images_per_second=images_per_second)
        line = progress_line(
            step=step,
            steps=self._steps,
            batch_size=self._batch_size,
            loss=loss,
            learning_rate=learning_rate,
            images_per_second=images_per_second,
        )
        with _naming(self._paths.text):
            self._text.write(line + "\n")
            self._text.flush()
        if self._bar.disable:
            print(line, flush=True)
        else:
            self._bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close every file."""
        self._bar.close()
        for file in (self._events, self._csv, self._text):
            # what could not be written before cannot be now, and has been said
            with nullcontext() if error is None else suppress(OSError):
                file.close()


class _Events:
    """A file of TensorBoard events. TensorBoard's own writer has a thread, and opens the file by its name each time."""

    def __init__(self, folder: Path, *, purge_step: int | None) -> None:
        # protocol buffers, which sampling does not need
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        folder.mkdir(exist_ok=True)
        # in order of their names, and no two alike
        self._path = folder / f"events.out.tfevents.{int(time.time()):010d}.{secrets.token_hex(4)}"
        self._file = self._path.open("xb")
        self._records = RecordWriter(self._file)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if purge_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._write(Event(wall_time=time.time(), step=purge_step, session_log=start))

    def scalars(self, step: int, **values: float) -> None:
        """Write the values of a step."""
        summary = self._summary(value=[self._summary.Value(tag=name, simple_value=x) for name, x in values.items()])
        self._write(self._event(wall_time=time.time(), step=step, summary=summary))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, event: Any) -> None:
        with _naming(self._path):
            self._records.write(event.SerializeToString())
            self._file.flush()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Give an error of an open file the name of the file."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


Log: TypeAlias = TrainLog | NoLog


def open_log(paths: LogPaths, config: TrainConfig, *, start: int, rank: int) -> Log:
    """The log of a run that has made `start` steps; only rank 0 writes."""
    return TrainLog(paths, steps=config.steps, batch_size=config.batch_size, start=start) if rank == 0 else NoLog()


def logged(path: Path) -> bool:
    """Whether a CSV log has an entry below its column names."""
    with path.open(encoding="utf-8") as file:
        # as `read_log` has it, a line that is being written is none yet
        return sum(line.endswith("\n") for line in islice(file, 2)) == 2


def read_log(path: Path) -> dict[str, np.ndarray]:
    """The columns of a CSV log by name, each float64 (entries,).

    Raises
    ------
    ValueError
        No entries, a missing column, rows of different lengths, or a value that is not a number; the file is named.
    """
    with open(path, newline="", encoding="utf-8") as file:
        # the last line may just be being written
        rows = list(csv.reader(line for line in file if line.endswith("\n")))
    if len(rows) < 2:
        raise ValueError(f"{path}: expected a line of column names and at least one line of numbers")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(rows[0]):
            raise ValueError(f"{path}, line {number}: expected {len(rows[0])} values, found {len(row)}")
    if missing := [name for name in COLUMNS if name not in rows[0]]:
        raise ValueError(f"{path} lacks the columns {', '.join(missing)}")
    columns = {}
    for name, *values in zip(*rows, strict=True):
        try:
            columns[name] = np.array(values, dtype=np.float64)
        except ValueError:
            raise ValueError(f"{path}: column {name!r} holds something that is not a number") from None
    return columns


def _keep_rows_until(path: Path, step: int) -> None:
    """Keep the whole rows of a CSV log up to a step, whatever else is in it."""
    found = path.read_bytes() if path.exists() else b""
    kept, last = [",".join(COLUMNS).encode()], 0
    for line in found.split(b"\r\n")[1:-1]:
        row = re.fullmatch(rb"([0-9]{1,9})(,[0-9.e+-]+){4}", line)
        if row and last < int(row[1]) <= step:
            kept.append(line)
            last = int(row[1])
    content = b"\r\n".join([*kept, b""])
    if content != found:
        write_atomically(path, content)
