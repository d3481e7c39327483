"""The report of a run, one HTML file: the samples, how good they are, and how they were made."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..evaluation.comparison import Comparison
from ..evaluation.likelihood_results import Likelihood
from ..evaluation.results import Evaluation
from ..files import read_text
from ..training.atomic import write_atomically
from ..training.config import read_json
from ..training.log import logged, read_log
from .run_folder import RunFolder

SIGNATURES = {".png": b"\x89PNG\r\n\x1a\n", ".gif": b"GIF8"}

_Result = TypeVar("_Result", Evaluation, Likelihood, Comparison)


class Picture(NamedTuple):
    """A picture as a data URI, or the reason why there is none."""

    uri: str | None
    problem: str


def write_report(run: RunFolder, *, training: bool = False) -> Path:
    """Write the report of a run: one file without scripts, which loads nothing from anywhere.

    Only the configuration is required. Of the metrics, the log, the facts and the pictures, the report shows what there
    is, and says what is missing.

    Parameters
    ----------
    run : RunFolder
    training : bool
        Whether the run is still training: the report then has what training writes, and no evaluation, which would be
        one of earlier weights.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    ValueError
        There is no configuration, or a JSON or CSV file cannot be read; the file is named.
    """
    config = _read_json(run.config)
    if config is None:
        raise ValueError(f"{run} is not a run folder: it has no {run.config.name}")
    facts = _read_json(run.facts)
    metrics, likelihood, comparison = (
        None if training else _read_json(path) for path in (run.metrics, run.likelihood, run.comparison)
    )
    evaluation = None if metrics is None else _result(Evaluation, metrics, run.metrics)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    measured = None if likelihood is None else _result(Likelihood, likelihood, run.likelihood)
    compared = None if comparison is None else _result(Comparison, comparison, run.comparison)
    data = config.get("data")
    pictures = (
        "grid",
        "neighbours",
        "likelihood_plot",
        "comparison_plot",
        "comparison_samples",
        "loss_curve",
        "forward_strip",
        "reverse_strip",
        "animation",
    )
    page = environment.get_template("report.html.jinja").render(
        name=run.path.resolve().name,
        under_way=training,
        source=data.get("source", "images") if isinstance(data, Mapping) else "images",
        pictures={name: _picture(getattr(run, name)) for name in pictures},
        over_training=[(step, _picture(path)) for step, path in _some(run.training_grids()).items()],
        rows=[] if evaluation is None else evaluation.rows(),
        setting={} if evaluation is None else evaluation.setting(),
        warning=None if evaluation is None else evaluation.warning,
        several_seeds=evaluation is not None and evaluation.used["seeds"] > 1,
        metrics_problem=f"{run.metrics.name} is missing: the samples have not been evaluated.",
        likelihood=[] if measured is None else measured.rows(),
        likelihood_setting={} if measured is None else measured.setting(),
        comparison=_quality(compared) if compared is not None else {},
        comparison_calls=sorted({cell.calls for cell in compared.cells}) if compared is not None else [],
        comparison_setting={} if compared is None else compared.setting(),
        training=_training(run.log.csv) if run.log.csv.is_file() and logged(run.log.csv) else {},
        log_problem=f"{run.log.csv.name} is missing: nothing is known about the training.",
        run=_flatten(facts or {}),
        run_problem=f"{run.facts.name} is missing: command, device and versions were not recorded.",
        configuration=_groups(config),
    )
    return write_atomically(run.report, page.encode())


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return read_json(read_text(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _result(kind: type[_Result], content: dict[str, Any], path: Path) -> _Result:
    try:
        return kind.from_dict(content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _picture(path: Path) -> Picture:
    if not path.is_file():
        return Picture(None, f"{path.name} is missing from the run folder.")
    content = path.read_bytes()
    kind = path.suffix[1:]
    if not content.startswith(SIGNATURES[path.suffix]):
        return Picture(None, f"{path.name} is damaged: it does not begin like a {kind.upper()} file.")
    return Picture(f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}", "")


def _quality(comparison: Comparison) -> dict[str, list[tuple[str, str]]]:
    """By sampler, for each number of calls: the ratio of distances, and its standard error."""
    rows = comparison.by_sampler(comparison.cells[0].grid)
    return {
        name: [(f"{mean:.2f}", f"± {error:.2f}") for mean, error in map(comparison.ratio, cells)]
        for name, cells in rows.items()
    }


def _some(grids: dict[int, Path], most: int = 6) -> dict[int, Path]:
    """At most so many of the grids, evenly spaced, the first and the last among them."""
    steps = list(grids)
    kept = np.rint(np.linspace(0, len(steps) - 1, min(most, len(steps)))).astype(int)
    return {steps[number]: grids[steps[number]] for number in kept}


def _training(log: Path) -> dict[str, str]:
    columns = read_log(log)
    loss = columns["loss"]
    return {
        "optimizer steps": f"{columns['step'][-1]:,.0f}",
        "time": duration(columns["seconds"][-1]),
        "images per second (median)": f"{np.median(columns['images_per_second']):,.0f}",
        "loss at first": f"{loss[0]:.4g}",
        "loss in the last tenth (mean)": f"{loss[-max(1, len(loss) // 10) :].mean():.4g}",
    }


def duration(seconds: float) -> str:
    """Seconds in readable form: 4.2 s, 3 min 12 s, 2 h 5 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _groups(config: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    # the settings without a section come first
    plain = {key: value for key, value in config.items() if not isinstance(value, Mapping)}
    nested = {key: _flatten(value) for key, value in config.items() if isinstance(value, Mapping)}
    return {"training": _flatten(plain), **nested}


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}".replace("_", " ")] = _text(value)
    return flat


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value) or "–"
    return str(value)
