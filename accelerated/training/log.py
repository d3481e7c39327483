"""What a run says while it goes: a progress bar or plain lines, a log file, a CSV and TensorBoard events."""

import csv
import math
import shutil
import sys
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

from tqdm import tqdm

from .config import TrainConfig

COLUMNS = ("step", "loss", "learning_rate", "images_per_second", "seconds")


def progress_bar(images: int, what: str, *, done: int = 0, shown: bool = True) -> tqdm:
    """A bar that counts images, with their rate and the time left; silent where nobody watches a terminal."""
    # some terminals, of containers for one, say that they are 0 by 0, and tqdm believes them
    size = shutil.get_terminal_size()
    return tqdm(
        total=images,
        initial=done,
        desc=what,
        unit=" images",
        unit_scale=True,
        ncols=size.columns,
        nrows=size.lines,
        disable=not (shown and sys.stderr.isatty()),
    )


class Silence:
    """What a process that keeps no records does with them."""

    def say(self, line: str) -> None:
        """Nothing."""

    def advance(self) -> None:
        """Nothing."""

    def measure(self, **figures: float) -> None:
        """Nothing."""

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is open."""


class RunLog:
    """The records of a training run, open while it trains.

    Parameters
    ----------
    run : Path
        The run folder: `log.csv` (the columns in `COLUMNS`), `train.log` and `tensorboard/` are written there.
    steps : int
        Steps of the whole run.
    batch_size : int
        Images in a step.
    start : int
        Steps made before; what the records say of later ones, from before an interruption, is taken back.
    """

    def __init__(self, run: Path, *, steps: int, batch_size: int, start: int = 0) -> None:
        # TensorBoard's writer takes a second to import, which whoever only samples need not wait for
        from torch.utils.tensorboard import SummaryWriter

        self._steps, self._batch_size = steps, batch_size
        _take_back(run / "log.csv", start)
        self._text = (run / "train.log").open("a", encoding="utf-8")
        self._csv = (run / "log.csv").open("a", encoding="utf-8", newline="")
        self._events = SummaryWriter(str(run / "tensorboard"), purge_step=start + 1 if start else None)
        self._bar = progress_bar(steps * batch_size, "training", done=start * batch_size)

    def say(self, line: str) -> None:
        """A line for the log file and for whoever watches."""
        self._text.write(line + "\n")
        self._text.flush()
        if self._bar.disable:
            print(line, flush=True)
        else:
            self._bar.write(line)

    def advance(self) -> None:
        """One step is done."""
        self._bar.update(self._batch_size)

    def measure(
        self, *, step: int, loss: float, learning_rate: float, images_per_second: float, seconds: float
    ) -> None:
        """The figures of the steps since the last ones: to the CSV, to TensorBoard, and to the bar or as a line."""
        csv.writer(self._csv).writerow(
            [step, f"{loss:.6g}", f"{learning_rate:.6g}", f"{images_per_second:.1f}", f"{seconds:.2f}"]
        )
        self._csv.flush()
        self._events.add_scalar("loss", loss, step)
        self._events.add_scalar("learning_rate", learning_rate, step)
        self._events.add_scalar("images_per_second", images_per_second, step)
        left = (self._steps - step) * self._batch_size / images_per_second
        line = (
            f"step {step}/{self._steps}  loss {loss:.4f}  learning rate {learning_rate:.2e}  "
            f"{images_per_second:.0f} images/s  {_clock(left)} left"
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


Log: TypeAlias = RunLog | Silence


def open_log(run: Path, config: TrainConfig, *, start: int, kept: bool) -> Log:
    """The records of a training run in the one process that keeps them, and silence in the others."""
    return RunLog(run, steps=config.steps, batch_size=config.batch_size, start=start) if kept else Silence()


def _take_back(path: Path, start: int) -> None:
    rows = [list(COLUMNS)]
    if start:
        with path.open(encoding="utf-8", newline="") as file:
            # a row that a kill cut short has too few values
            rows += [row for row in list(csv.reader(file))[1:] if len(row) == len(COLUMNS) and int(row[0]) <= start]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def _clock(seconds: float) -> str:
    whole = math.ceil(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
