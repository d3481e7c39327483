"""Check a finished run of `noisestep train` on the digits: `python tests/check_run.py RUN`.

Every file of a run is there, and the metrics are as good as the README says.
"""

import json
import sys
from pathlib import Path

FILES = (
    "config.json",
    "log.csv",
    "train.log",
    "metrics.json",
    "samples.npz",
    "samples.png",
    "neighbours.png",
    "loss.png",
    "forward_strip.png",
    "reverse_strip.png",
    "denoising.gif",
    "report.html",
)
# metric: lowest and highest value of the mean over the sampling seeds, some five standard errors from docs/first-run.md
BOUNDS = {
    "label_accuracy": (0.98, 1.0),
    "frechet_ratio": (0.0, 1.8),
    "precision": (0.95, 1.0),
    "recall": (0.83, 1.0),
    "coverage": (0.93, 1.0),
    "copies": (0.0, 0.06),
}


def main(run: Path) -> int:
    """Print each metric beside its bounds; 1 if a file is missing or a metric is out of bounds."""
    missing = [name for name in FILES if not (run / name).is_file()]
    missing += [name for name in ("checkpoints", "tensorboard") if not any((run / name).glob("*"))]
    for name in missing:
        print(f"{run / name} is missing")
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    outside = 0
    for name, (low, high) in BOUNDS.items():
        value, error = metrics[name]["samples"], metrics[name]["error"]
        inside = low <= value <= high
        outside += not inside
        print(f"{name:15} {value:.4f} ± {error:.4f}  allowed {low} to {high}  {'ok' if inside else 'OUTSIDE'}")
    return 1 if missing or outside else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
