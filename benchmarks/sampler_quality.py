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
from dataclasses import replace
from pathlib import Path

import torch
from noisestep.accelerated.cli.comparison import draw_sets
from noisestep.accelerated.cli.comparison_plot import comparison_plot
from noisestep.accelerated.cli.pictures import save_png
from noisestep.accelerated.cli.run_folder import RunFolder
from noisestep.accelerated.data import ImageSet
from noisestep.accelerated.evaluation.comparison import SAMPLES, Cell, Comparison, DistanceToReal
from noisestep.accelerated.evaluation.metrics import fit_pixels
from noisestep.accelerated.samplers import SAMPLERS
from noisestep.accelerated.training.config import SampleConfig, with_sampler
from noisestep.accelerated.training.data import Split
from noisestep.accelerated.training.trained import TrainedModel
from noisestep.reference import GRIDS

ROOT = Path(__file__).parent.parent
RESULTS, PICTURE = ROOT / "benchmarks" / "results" / "sampler_quality.json", ROOT / "docs" / "images" / "samplers.png"
CALLS, SEEDS = (5, 10, 20, 50), range(8)
# the samplers whose grids are compared, and at how many calls
GRID_SAMPLERS, GRID_CALLS = ("ddim", "dpmpp_2m", "unipc"), 10


def wanted() -> list[tuple[str, str, int]]:
    """What is measured: sampler, grid, calls; a few calls first."""
    table = [(sampler, "uniform", calls) for calls in CALLS for sampler in SAMPLERS]
    return table + [(sampler, grid, GRID_CALLS) for grid in GRIDS if grid != "uniform" for sampler in GRID_SAMPLERS]


def run(folder: Path, device: torch.device) -> Comparison:
    """All cells, as they are written to the file."""
    model = TrainedModel.load(RunFolder(folder).checkpoints, device)
    split = Split.load(model.config.data)
    model.record.require(split.record, model.config.data.source)
    # the digits are in memory as they are
    assert isinstance(split.train, ImageSet)
    assert isinstance(split.held_out, ImageSet)
    train, held_out = split.train.images, split.held_out.images
    distance = DistanceToReal(fit_pixels(held_out), train, held_out, SAMPLES)
    known = Comparison.from_dict(json.loads(RESULTS.read_text())).cells if RESULTS.exists() else ()
    results = Comparison(distance.features, distance.real, SAMPLES, tuple(SEEDS), known)
    for sampler, grid, calls in wanted():
        if find(results, sampler, grid, calls) is None:
            plain = SampleConfig(grid=grid, temperature=1.0, seed=SEEDS[0], batch_size=SAMPLES)
            settings = with_sampler(replace(model.config, sample=plain), sampler, calls)
            sets = draw_sets(model, settings, seeds=len(SEEDS), count=SAMPLES)
            cell = Cell(sampler, grid, calls, tuple(distance(images) for images in sets))
            results = replace(results, cells=(*results.cells, cell))
            RESULTS.write_text(json.dumps(results.to_dict(), indent=1) + "\n")
            print(sampler, grid, calls, results.text(cell), flush=True)
    return results


def find(results: Comparison, sampler: str, grid: str, calls: int) -> Cell | None:
    """The cell of a sampler, a grid and a number of calls, if it has been measured."""
    return next(
        (cell for cell in results.cells if (cell.sampler, cell.grid, cell.calls) == (sampler, grid, calls)), None
    )


def text(results: Comparison, sampler: str, grid: str, calls: int) -> str:
    """A cell of a table in Markdown."""
    cell = find(results, sampler, grid, calls)
    assert cell is not None
    return results.text(cell)


def tables(results: Comparison) -> str:
    """The tables of docs/samplers.md."""
    lines = [f"| sampler | {' | '.join(f'{calls} calls' for calls in CALLS)} |", "| --- " * (1 + len(CALLS)) + "|"]
    for sampler in SAMPLERS:
        lines.append(f"| `{sampler}` | {' | '.join(text(results, sampler, 'uniform', calls) for calls in CALLS)} |")
    lines += ["", f"| grid, {GRID_CALLS} calls | {' | '.join(f'`{name}`' for name in GRID_SAMPLERS)} |"]
    lines.append("| --- " * (1 + len(GRID_SAMPLERS)) + "|")
    for grid in GRIDS:
        lines.append(f"| `{grid}` | {' | '.join(text(results, name, grid, GRID_CALLS) for name in GRID_SAMPLERS)} |")
    return "\n".join(lines) + "\n"


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
    save_png(comparison_plot(results, "uniform"), PICTURE)
    print(tables(results), end="")


if __name__ == "__main__":
    main()
