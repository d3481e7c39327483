"""The trainer's own step: how long it takes, what of that the device works, and where the host waits for it."""

import dataclasses
import linecache
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from noisestep.accelerated.training.config import TrainConfig, train_config
from noisestep.accelerated.training.data import Split
from noisestep.accelerated.training.log import LogPaths
from noisestep.accelerated.training.loop import train
from noisestep.accelerated.training.model_config import with_model

from .. import gpu
from .day import Budget

# changes of the default settings without a GPU
TINY = {
    "batch_size": 4,
    "model": {
        "in_channels": 1,
        "out_channels": 1,
        "channels": [8, 16],
        "blocks": 1,
        "attention": [1],
        "head": 8,
        "embedding": 16,
        "groups": 4,
        "num_classes": 10,
    },
}


# steps that are timed, profiled, and watched for waits
STRETCH, QUICK_STRETCH, TINY_STRETCH = 40, 10, 1


def rows(budget: Budget) -> Iterator[tuple[str, Any]]:
    """What a run with the default settings takes; and one with its step in a CUDA graph."""
    config = train_config({} if gpu.PRESENT else TINY)
    yield "as it is", _measure(config, budget.quick)
    if gpu.DEVICE.type == "cuda":
        yield "--cuda-graph", _measure(dataclasses.replace(config, cuda_graph=True), budget.quick)


class _Watch:
    """Called by the trainer every few steps: the steps between are timed, then profiled, then watched for waits."""

    def __init__(self) -> None:
        self.calls = 0
        self.seconds = 0.0
        self.waits: list[tuple[str, int]] = []
        self.kernels: list[Any] = []

    def __call__(self, state: Any, log: Any) -> None:
        gpu.synchronize()
        self.calls += 1
        if self.calls == 1:
            self._begun = time.perf_counter()
        elif self.calls == 2:
            self.seconds = time.perf_counter() - self._begun
            if gpu.PRESENT:
                activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
                self._profile = torch.profiler.profile(activities=activities)
                self._profile.__enter__()
        elif self.calls == 3 and gpu.PRESENT:
            self._profile.__exit__(None, None, None)
            events = self._profile.events()
            self.kernels = [e for e in events if e.device_type == torch.autograd.DeviceType.CUDA]
            self._noting = gpu.waits_noted()
            self.waits = self._noting.__enter__()
        elif self.calls == 4 and gpu.PRESENT:
            self._noting.__exit__(None, None, None)


def _measure(config: TrainConfig, quick: bool) -> dict[str, Any]:
    stretch = (QUICK_STRETCH if quick else STRETCH) if gpu.PRESENT else TINY_STRETCH
    split = Split.load(config.data)
    # nothing but steps between the calls; the log is written where the trainer waits anyway
    config = dataclasses.replace(
        with_model(config, split.record),
        steps=4 * stretch,
        warmup=1,
        sample_every=stretch,
        log_every=stretch,
        checkpoint_every=4 * stretch,
    )
    watch = _Watch()
    with tempfile.TemporaryDirectory() as folder:
        paths = LogPaths(*(Path(folder) / name for name in ("log.csv", "train.log", "events")))
        train(
            config,
            split.train,
            split.record,
            device=gpu.DEVICE,
            checkpoint_folder=Path(folder) / "checkpoints",
            log_paths=paths,
            draw=watch,
        )
    step = watch.seconds / stretch
    found: dict[str, Any] = {"ms a step": round(step * 1e3, 3), "images/s": round(config.batch_size / step)}
    if gpu.PRESENT:
        busy = sum(event.device_time_total for event in watch.kernels) / stretch
        found |= {
            "ms the device works": round(busy / 1e3, 3),
            "launches a step": round(len(watch.kernels) / stretch, 1),
            "waits": [
                f"{Path(file).name}: {linecache.getline(file, line).strip()}" for file, line in sorted(set(watch.waits))
            ],
        }
    return found
