"""One page about a run, complete in itself: what was trained, what came out, and how good it is."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..evaluation.results import Evaluation
from .figures import read_log, write_atomically

PICTURES = (
    "samples.png",
    "neighbours.png",
    "loss.png",
    "forward_strip.png",
    "reverse_strip.png",
    "denoising.gif",
)
SIGNATURES = {".png": b"\x89PNG\r\n\x1a\n", ".gif": b"GIF8"}


class Picture(NamedTuple):
    """A picture as a data URI, or the reason why there is none."""

    uri: str | None
    problem: str


def write_report(run_dir: str | Path) -> Path:
    """Write `report.html` into a run folder: one file, no script, no request to anywhere.

    Parameters
    ----------
    run_dir : path
        A run folder. Its config.json is required. What else is there is shown, and what is not is named in
        its place: samples.png, neighbours.png, loss.png, forward_strip.png, reverse_strip.png, denoising.gif,
        metrics.json (an `Evaluation`), log.csv, and run.json: facts about the run by name (command, device,
        parameters, versions, ...), each a value or an object of values.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    ValueError
        If the folder has no config.json, or a JSON or CSV file cannot be understood; the file is named.
    """
    folder = Path(run_dir)
    config = _read_json(folder / "config.json")
    if config is None:
        raise ValueError(f"{folder} is not a run folder: it has no config.json")
    metrics, run = _read_json(folder / "metrics.json"), _read_json(folder / "run.json")
    evaluation = None if metrics is None else _evaluation(metrics, folder / "metrics.json")
    log = folder / "log.csv"
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    data = config.get("data")
    page = environment.get_template("report.html.jinja").render(
        name=folder.resolve().name,
        source=data.get("source", "images") if isinstance(data, Mapping) else "images",
        pictures={name: _picture(folder / name) for name in PICTURES},
        rows=[] if evaluation is None else evaluation.rows(),
        setting={} if evaluation is None else evaluation.setting(),
        metrics_problem="metrics.json is missing: the samples have not been evaluated.",
        training=_training(log) if log.is_file() else {},
        log_problem="log.csv is missing: nothing is known about the training.",
        run=_flatten(run or {}),
        run_problem="run.json is missing: command, device and versions were not recorded.",
        configuration=_groups(config),
    )
    return write_atomically(folder / "report.html", page.encode())


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, not {type(content).__name__}")
    return content


def _evaluation(metrics: dict[str, Any], path: Path) -> Evaluation:
    try:
        return Evaluation.from_dict(metrics)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _picture(path: Path) -> Picture:
    if not path.is_file():
        return Picture(None, f"{path.name} is missing from the run folder.")
    content = path.read_bytes()
    kind = path.suffix[1:]
    if not content.startswith(SIGNATURES[path.suffix]):
        return Picture(None, f"{path.name} is damaged: it does not begin like a {kind.upper()} file.")
    return Picture(f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}", "")


def _training(log: Path) -> dict[str, str]:
    columns = read_log(log)
    missing = {"step", "loss", "images_per_second", "seconds"} - set(columns)
    if missing:
        raise ValueError(f"{log} lacks the columns {', '.join(sorted(missing))}")
    loss = columns["loss"]
    return {
        "optimizer steps": f"{columns['step'][-1]:,.0f}",
        "time": duration(columns["seconds"][-1]),
        "images per second (median)": f"{np.median(columns['images_per_second']):,.0f}",
        "loss at first": f"{loss[0]:.4g}",
        "loss in the last tenth (mean)": f"{loss[-max(1, len(loss) // 10) :].mean():.4g}",
    }


def duration(seconds: float) -> str:
    """Seconds as a person says them: 4.2 s, 3 min 12 s, 2 h 5 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _groups(config: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    # what has a heading of its own follows what has none
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
