"""Bytes a second against the size of the batch, each op in each type, ours and others'."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

_OPS = ("noise", "q_sample", "reverse_step", "loss and gradient")
_DTYPES = ("bfloat16", "float32")
# provider, label, line
_LINES = (
    ("noisestep", "noisestep", dict(color="C0", marker="o", linewidth=2, zorder=3)),
    ("noisestep, without autograd", "noisestep, without autograd", dict(color="C0", marker="o", linestyle=":")),
    ("torch.compile", "torch.compile", dict(color="C1", marker="s", linestyle="none")),
    ("eager", "eager PyTorch", dict(color="C2", marker="^")),
    ("diffusers", "diffusers", dict(color="C3", marker="v", linestyle="--")),
)


def draw(device: Mapping[str, Any], card: str, path: Path) -> None:
    """Draw the rows of the part "device"."""
    figure, axes = pyplot.subplots(2, len(_OPS), figsize=(13, 6), sharex=True, sharey=True, layout="constrained")
    for row, dtype in zip(axes, _DTYPES, strict=True):
        for axis, op in zip(row, _OPS, strict=True):
            for provider, label, line in _LINES:
                points = _points(device, op, provider, dtype)
                if points:
                    axis.plot(*zip(*points, strict=True), label=label, markersize=5, **line)
            copy = _points(device, "copy", "torch", dtype)
            if copy:
                axis.plot(*zip(*copy, strict=True), label="copy", color="0.6", zorder=1)
            axis.set(xscale="log", title=f"{op}, {dtype}")
            axis.grid(alpha=0.3)
    # one scale for all: once they are drawn
    axes[0, 0].set_ylim(bottom=0)
    for axis in axes[:, 0]:
        axis.set_ylabel("TB/s of the fewest bytes")
    for axis in axes[-1]:
        axis.set_xlabel("elements")
    figure.suptitle(f"{card}: time on the device, from CUDA graphs")
    unique = {
        label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=len(unique))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def _points(device: Mapping[str, Any], op: str, provider: str, dtype: str) -> list[tuple[int, float]]:
    """(elements, TB/s) of what was timed on the device, smallest first."""
    found = []
    for name, value in device.items():
        its_op, its_provider, shape, its_dtype = name.split(" | ")
        if (its_op, its_provider, its_dtype) == (op, provider, dtype) and isinstance(value, dict):
            found.append((math.prod(map(int, shape.split("x"))), value["tbs"]))
    return sorted(found)
