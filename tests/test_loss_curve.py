"""The log of a run is read as it was written, and its loss is drawn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from noisestep.accelerated.cli.loss_curve import _running_mean, loss_curve
from noisestep.accelerated.training.log import COLUMNS, read_log

LOG = "step,loss,learning_rate,images_per_second,seconds\n20,0.9,1e-3,100,1\n40,0.5,2e-3,110,2\n60,0.2,1e-3,120,3\n"


def write_log(path: Path, **columns: Any) -> Path:
    """A log with these columns; those that are not given are ones."""
    count = len(columns["loss"])
    rows = zip(*(columns.get(name, [1] * count) for name in COLUMNS), strict=True)
    path.write_text("\n".join(",".join(map(str, row)) for row in [COLUMNS, *rows]) + "\n")
    return path


def test_the_curve_shows_step_loss_and_learning_rate_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(LOG)
    drawn = loss_curve(tmp_path / "log.csv")
    assert drawn.size == (1320, 1008)
    assert drawn.mode == "RGB"
    columns = {"step": [20, 40, 60], "loss": [0.9, 0.5, 0.2], "learning_rate": [1e-3, 2e-3, 1e-3]}
    assert drawn.tobytes() == loss_curve(write_log(tmp_path / "same.csv", **columns)).tobytes()
    for change in ({"loss": [0.9, 0.5, 0.3]}, {"learning_rate": [1e-3, 1e-3, 1e-3]}, {"step": [20, 30, 60]}):
        other = write_log(tmp_path / "other.csv", **{**columns, **change})
        assert drawn.tobytes() != loss_curve(other).tobytes()


@pytest.mark.parametrize(
    ("loss", "logarithmic"),
    [
        ([0.9, 0.1], True),
        ([0.9, 0.8], False),
        ([0.5], False),
        ([0.0, 1.0], False),
        ([-1.0, 2.0], False),
        ([np.nan, np.nan], False),
        ([1.0, np.inf, 0.1, np.nan], True),
    ],
)
def test_loss_is_drawn_on_a_logarithmic_axis_where_it_has_one(
    loss: list[float], logarithmic: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scales = []
    monkeypatch.setattr("matplotlib.axes.Axes.set_yscale", lambda self, scale: scales.append(scale))
    log = write_log(tmp_path / "log.csv", step=range(len(loss)), loss=loss)
    assert loss_curve(log).size == (1320, 1008)
    assert scales == ["log"] * logarithmic


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30), st.integers(1, 10))
def test_running_mean_is_a_weighted_mean_of_what_came_before(values: list[float], times: int) -> None:
    # the mean is of more than one value from a length of 51 on
    x = np.tile(values, times)
    means = _running_mean(x)
    # a step of the filter rounds three times
    slack = 3 * len(x) * np.finfo(float).eps * 1e3
    assert (means >= np.minimum.accumulate(x) - slack).all()
    assert (means <= np.maximum.accumulate(x) + slack).all()


def test_running_mean_remembers_a_fiftieth_of_the_run() -> None:
    means = _running_mean(np.repeat([1.0, 0.0], 500))
    # a decay of 0.95 a value; 0.95^500 = 7e-12 is what the 500 ones are not yet, and 1000 steps round by 3 eps each
    np.testing.assert_allclose(means[:500], 1, rtol=1e-11)
    np.testing.assert_allclose(means[500:], 0.95 ** np.arange(1, 501), rtol=1e-11)


BAD_LOGS = {
    "empty": ("", "a line of column names and at least one line of numbers"),
    "names only": ("step,loss,learning_rate\n", "at least one line of numbers"),
    "cut short": (LOG + "80,0.1\n", "line 5: expected 5 values, found 2"),
    "words": (LOG.replace("0.5", "low"), "column 'loss' holds something that is not a number"),
    "no rate": ("step,loss\n1,2\n", "lacks the columns learning_rate, images_per_second, seconds"),
}


@pytest.mark.parametrize(("text", "message"), BAD_LOGS.values(), ids=BAD_LOGS)
def test_a_bad_log_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    log = tmp_path / "log.csv"
    log.write_text(text)
    with pytest.raises(ValueError, match=f"log.csv.*{message}"):
        loss_curve(log)


def test_read_log_gives_every_column(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(LOG)
    columns = read_log(tmp_path / "log.csv")
    assert tuple(columns) == COLUMNS
    assert columns["loss"].tolist() == [0.9, 0.5, 0.2]
    assert columns["loss"].dtype == np.float64
