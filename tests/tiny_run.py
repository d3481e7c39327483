"""A training run small enough for a test: a few thousand weights, with every feature that uses random numbers."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from noisestep.accelerated.training.config import TrainConfig, merge, train_config
from noisestep.accelerated.training.data import DataRecord
from noisestep.accelerated.training.model_config import with_model

SETTINGS: dict[str, Any] = {
    "model": {
        "in_channels": 1,
        "out_channels": 1,
        "channels": [8, 16],
        "blocks": 1,
        "attention": [1],
        "middle": 1,
        "head": 8,
        "embedding": 16,
        "groups": 4,
        "num_classes": 10,
    },
    "dropout": 0.1,
    "data": {"flip": True},
    "schedule": {"T": 20},
    "label_dropout": 0.2,
    "batch_size": 16,
    "warmup": 3,
    "log_every": 5,
    "sample_every": 0,
    "checkpoint_every": 5,
    "sample": {"steps": 3, "count": 20, "seeds": 2},
}


def tiny_config(**changes: Any) -> TrainConfig:
    """`SETTINGS` with changes on top, for images like the digits."""
    config = train_config(merge(SETTINGS, {"steps": 10, **changes}))
    return with_model(config, DataRecord("", (1, 8, 8), tuple("0123456789")))


def run(
    *arguments: str,
    cwd: Path,
    status: int = 0,
    program: str = "from noisestep.accelerated.cli import main; main()",
) -> str:
    """The output of the command line in a process of its own, on one thread; its exit status has to be `status`."""
    process = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    said = process.stdout + process.stderr
    assert process.returncode == status, f"exit status {process.returncode}\n{said}"
    return said
