"""The picture of the loss and the learning rate over the steps of a run."""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.signal import lfilter

from ..training.log import read_log
from .plots import as_image, finish, new_figure


def loss_curve(log: Path) -> Image.Image:
    """The loss, its running mean and the learning rate over the steps.

    Parameters
    ----------
    log : Path
        The CSV log of a run.

    Returns
    -------
    Image
        A Pillow image, 1320 × 1008.

    Raises
    ------
    ValueError
        The log cannot be read; see `read_log`.
    """
    # half a second to import, which drawing samples does not need
    from matplotlib.ticker import LogLocator, NullLocator

    columns = read_log(log)
    step, loss, rate = (columns[name] for name in ("step", "loss", "learning_rate"))
    figure = new_figure(4.2)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    top.plot(step, loss, color="#9db8d2", linewidth=0.8, label="loss")
    finite = np.isfinite(loss)
    top.plot(step[finite], _running_mean(loss[finite]), color="#1f4e79", linewidth=1.8, label="running mean")
    # a logarithmic axis shows how a loss goes on falling slowly; over a short range it would have too few ticks
    if finite.any() and loss[finite].min() > 0 and loss[finite].max() > 3 * loss[finite].min():
        top.set_yscale("log")
        top.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
        top.yaxis.set_major_formatter("{x:g}")
        top.yaxis.set_minor_locator(NullLocator())
    top.set_ylabel("loss")
    top.legend(frameon=False)
    bottom.plot(step, rate, color="#b5651d", linewidth=1.5)
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("optimizer step")
    bottom.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    for axes in (top, bottom):
        finish(axes)
    return as_image(figure)


def _running_mean(values: np.ndarray) -> np.ndarray:
    # an exponential mean over about a fiftieth of the run, corrected for its start
    decay = 1.0 - 1.0 / max(1.0, len(values) / 50)
    weight = 1.0 - decay ** np.arange(1, len(values) + 1)
    return np.asarray(lfilter([1.0 - decay], [1.0, -decay], values)) / weight
