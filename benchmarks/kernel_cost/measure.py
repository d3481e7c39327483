"""The measured column: the same launches timed with device events, where a GPU is there."""

import statistics

import torch
import triton

from .cases import CASES, SHAPES, Case, batch
from .specialise import Launch, capture, is_batch_sized


def device_name() -> str | None:
    """The GPU's name, or None where there is none."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def capability() -> int:
    """The GPU's compute capability, 90 for sm_90."""
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


def measured(cases: tuple[Case, ...] = CASES) -> dict[tuple[str, str, str, str, str], float]:
    """Seconds of each launch that walks a batch, by (case, kernel, shape, dtype, layout); medians after a warm-up."""
    seconds = {}
    for case in cases:
        for name, shape in SHAPES.items():
            for dtype in case.dtypes:
                for layout in case.layouts:
                    x = batch(shape, dtype, layout)
                    for launch in capture(case.prepare(x)):
                        if is_batch_sized(launch, x):
                            seconds[case.name, launch.name, name, dtype, layout] = _time(launch)
    return seconds


def _time(launch: Launch) -> float:
    arguments = {
        key: value.cuda() if isinstance(value, torch.Tensor) else value for key, value in launch.arguments.items()
    }

    def run() -> None:
        launch.kernel[launch.grid](**arguments, **launch.options)

    times = triton.testing.do_bench(run, warmup=25, rep=100, return_mode="all")
    return statistics.median(times) * 1e-3
