"""The log of a training run: a CSV file, a text file and TensorBoard events."""

import csv
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, TypeAlias

import numpy as np
from tqdm import tqdm

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
        # TensorBoard's writer takes a second to import, which sampling does not need
        from torch.utils.tensorboard import SummaryWriter

        self._steps, self._batch_size = steps, batch_size
        _drop_rows_after(paths.csv, start)
        self._text = paths.text.open("a", encoding="utf-8")
        self._csv = paths.csv.open("a", encoding="utf-8", newline="")
        self._events = SummaryWriter(str(paths.tensorboard), purge_step=start + 1 if start else None)
        self._bar: tqdm = progress_bar(steps * batch_size, "training", done=start * batch_size)

    def info(self, line: str) -> None:
        """Write a line to the text file and the terminal."""
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
        csv.writer(self._csv).writerow(
            [step, f"{loss:.6g}", f"{learning_rate:.6g}", f"{images_per_second:.1f}", f"{seconds:.2f}"]
        )
        self._csv.flush()
        self._events.add_scalar("loss", loss, step)
        self._events.add_scalar("learning_rate", learning_rate, step)
        self._events.add_scalar("images_per_second", images_per_second, step)
        line = progress_line(
            step=step,
            steps=self._steps,
            batch_size=self._batch_size,
            loss=loss,
            learning_rate=learning_rate,
            images_per_second=images_per_second,
        )
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
        self._events.close()
        self._csv.close()
        self._text.close()


Log: TypeAlias = TrainLog | NoLog


def open_log(paths: LogPaths, config: TrainConfig, *, start: int, rank: int) -> Log:
    """The log of a run that has made `start` steps; only rank 0 writes."""
    return TrainLog(paths, steps=config.steps, batch_size=config.batch_size, start=start) if rank == 0 else NoLog()


def read_log(path: Path) -> dict[str, np.ndarray]:
    """The columns of a CSV log by name, each float64 (entries,).

    Raises
    ------
    ValueError
        No entries, a missing column, rows of different lengths, or a value that is not a number; the file is named.
    """
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
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


def _drop_rows_after(path: Path, step: int) -> None:
    rows = [list(COLUMNS)]
    if step:
        with path.open(encoding="utf-8", newline="") as file:
            # a process that was killed may leave a row cut short
            rows += [row for row in list(csv.reader(file))[1:] if len(row) == len(COLUMNS) and int(row[0]) <= step]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
