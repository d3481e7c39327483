"""The quality of samples against calls of the network, for every sampler, on the digits.

    python -m benchmarks.sampler_quality [RUN]

RUN is the folder of a trained run (noisestep train); without it a run is trained first, with default settings. For
every sampler and number of calls, and for every grid at ten calls, it draws 200 digits from each of the seeds 0 to 7,
and measures the Fréchet distance of each set to the held-out images, divided by that of as many training images. All
have the same options: temperature 1, clipped to [-1, 1], no guidance; the settings of a sampler are its defaults.

It writes benchmarks/results/sampler_quality.json and docs/images/samplers.png, and prints the tables of
docs/samplers.md. What stands in the file already is not measured again.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from noisestep.accelerated.evaluation.metrics import frechet_distance
from noisestep.accelerated.samplers import SAMPLERS
from noisestep.accelerated.samplers.loop import sample
from noisestep.accelerated.training.data import Split
from noisestep.accelerated.training.trained import TrainedModel
from noisestep.reference import GRIDS

ROOT = Path(__file__).parent.parent
RESULTS, PICTURE = ROOT / "benchmarks" / "results" / "sampler_quality.json", ROOT / "docs" / "images" / "samplers.png"
CALLS, SEEDS, COUNT = (5, 10, 20, 50), range(8), 200
# the samplers whose grids are compared, and at how many calls
GRID_SAMPLERS, GRID_CALLS = ("ddim", "dpmpp_2m", "unipc"), 10


def steps_of(sampler: str, calls: int) -> int:
    """The steps that take at most so many calls of the network."""
    return calls if SAMPLERS[sampler].correct is None else (calls + 1) // 2


def cells() -> list[tuple[str, str, int]]:
    """What is measured: sampler, grid, calls; a few calls first."""
    table = [(sampler, "uniform", calls) for calls in CALLS for sampler in SAMPLERS]
    return table + [(sampler, grid, GRID_CALLS) for grid in GRIDS if grid != "uniform" for sampler in GRID_SAMPLERS]


def measure(model: TrainedModel, distance: Callable[[np.ndarray], float], sampler: str, grid: str, calls: int) -> Any:
    """The Fréchet distance of each seed's samples."""
    # image k of a seed does not depend on the batch that it is in
    batches = [
        sample(
            model.model,  # type: ignore[arg-type]
            model.config.schedule.build(),
            count=COUNT,
            shape=model.record.shape,
            seed=seed,
            labels=model.labels(0, COUNT),
            steps=steps_of(sampler, calls),
            grid=grid,
            sampler=sampler,
            prediction=model.config.prediction,
            batch_size=COUNT,
            device=model.device,
        ).images
        for seed in SEEDS
    ]
    return [distance((images.clamp(-1, 1).double().numpy() + 1) / 2) for images in batches]


def run(folder: Path, device: torch.device) -> dict[str, Any]:
    """All cells, as they are written to the file."""
    model = TrainedModel.load(folder / "checkpoints", device)
    split = Split.load(model.config.data)
    model.record.require(split.record, model.config.data.source)
    train, held_out = (images.images.reshape(len(images), -1) / 255 for images in (split.train, split.held_out))

    def distance(images: np.ndarray) -> float:
        return frechet_distance(images.reshape(len(images), -1), held_out)

    rng = np.random.default_rng(0)
    real = float(np.mean([distance(rng.permutation(train)[:COUNT]) for _ in range(100)]))
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results = {"real": real, "count": COUNT, "seeds": len(SEEDS), "cells": results.get("cells", {})}
    for sampler, grid, calls in cells():
        name = f"{sampler} {grid} {calls}"
        if name not in results["cells"]:
            results["cells"][name] = measure(model, distance, sampler, grid, calls)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
            print(name, cell(results, sampler, grid, calls), flush=True)
    return results


def ratio(results: dict[str, Any], sampler: str, grid: str, calls: int) -> tuple[float, float]:
    """Mean and standard error over the seeds of the distance, in units of that of real images."""
    values = np.array(results["cells"][f"{sampler} {grid} {calls}"]) / results["real"]
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def cell(results: dict[str, Any], sampler: str, grid: str, calls: int) -> str:
    """A cell of a table in Markdown."""
    mean, error = ratio(results, sampler, grid, calls)
    return f"{mean:.2f} ± {error:.2f}"


def tables(results: dict[str, Any]) -> str:
    """The tables of docs/samplers.md."""
    lines = [f"| sampler | {' | '.join(f'{calls} calls' for calls in CALLS)} |", "| --- " * (1 + len(CALLS)) + "|"]
    for sampler in SAMPLERS:
        lines.append(f"| `{sampler}` | {' | '.join(cell(results, sampler, 'uniform', calls) for calls in CALLS)} |")
    lines += ["", f"| grid, {GRID_CALLS} calls | {' | '.join(f'`{name}`' for name in GRID_SAMPLERS)} |"]
    lines.append("| --- " * (1 + len(GRID_SAMPLERS)) + "|")
    for grid in GRIDS:
        lines.append(f"| `{grid}` | {' | '.join(cell(results, name, grid, GRID_CALLS) for name in GRID_SAMPLERS)} |")
    return "\n".join(lines) + "\n"


def draw(results: dict[str, Any]) -> Figure:
    """The first table as a picture."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    markers = "os^vD<>Pd"
    for sampler, marker in zip(SAMPLERS, markers, strict=False):
        means, errors = np.array([ratio(results, sampler, "uniform", calls) for calls in CALLS]).T
        axes.errorbar(CALLS, means, errors, label=sampler, marker=marker, markersize=5, linewidth=1.2, capsize=2)
    axes.axhline(1, color="0.5", linestyle=":", label="real images")
    axes.set_xscale("log")
    axes.set_xticks(CALLS, [str(calls) for calls in CALLS])
    axes.minorticks_off()
    axes.set_xlabel("calls of the network")
    axes.set_ylabel("Fréchet distance, real images = 1")
    axes.legend(fontsize=8, frameon=False)
    return figure


def main() -> None:
    """Measure, write the results and the picture, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="folder of a trained run")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trained = arguments.run or Path(folder) / "run"
        if arguments.run is None:
            subprocess.run([sys.executable, "-m", "noisestep", "train", "--out", str(trained)], check=True)
        results = run(trained, arguments.device)
    draw(results).savefig(PICTURE, dpi=110)
    print(tables(results), end="")


if __name__ == "__main__":
    main()
