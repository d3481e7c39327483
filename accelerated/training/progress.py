"""What a terminal shows while images are trained on or drawn: a progress bar, or one line per log entry."""

import math
import shutil
import sys
from collections.abc import Callable

from tqdm import tqdm


def progress_bar(images: int, task: str, *, done: int = 0, shown: bool = True) -> tqdm:
    """A bar that counts images, with their rate and the time left; disabled if stderr is not a terminal."""
    # in some containers the terminal reports a size of 0 by 0, and tqdm draws nothing
    size = shutil.get_terminal_size()
    return tqdm(
        total=images,
        initial=done,
        desc=task,
        unit=" images",
        unit_scale=True,
        ncols=size.columns,
        nrows=size.lines,
        disable=not (shown and sys.stderr.isatty()),
    )


def increments(update: Callable[[int], object]) -> Callable[[int], None]:
    """A function of how many are done, which tells `update` how many are new."""
    before = 0

    def told(done: int) -> None:
        nonlocal before
        update(done - before)
        before = done

    return told


def progress_line(
    *, step: int, steps: int, batch_size: int, loss: float, learning_rate: float, images_per_second: float
) -> str:
    """One line about the training so far, with the time left at the current rate."""
    left = (steps - step) * batch_size / images_per_second
    return (
        f"step {step}/{steps}  loss {loss:.4f}  learning rate {learning_rate:.2e}  "
        f"{images_per_second:.0f} images/s  {_clock(left)} left"
    )


def _clock(seconds: float) -> str:
    whole = math.ceil(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
