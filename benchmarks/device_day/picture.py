"""Bytes a second against the size of the batch, each op in each type, ours and others'; and every kernel's roofline."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from .page import timed_ops

_DTYPES = ("bfloat16", "float32")
# the counts are of sm_90, whose clock under load and issue slots these are
_CLOCK, _ISSUE, _CAPABILITY = 1.755e9, 128, 90
# of a counted case, the row that times it, in turn where files name it differently
_TIMED = {
    "noise": ("noise | noisestep",),
    "q_sample": ("q_sample | noisestep",),
    "reverse_step, clipped, posterior variance": ("reverse_step | noisestep",),
    "loss_and_gradient": ("loss_and_gradient | noisestep", "loss and gradient | noisestep, without autograd"),
}
_LARGE = "64x4x1024x1024"
# provider, label, line
_LINES = (
    ("noisestep", "noisestep", dict(color="C0", marker="o", linewidth=2, zorder=3)),
    ("noisestep, without autograd", "noisestep, without autograd", dict(color="C0", marker="o", linestyle=":")),
    ("torch.compile", "torch.compile", dict(color="C1", marker="s", linestyle="none")),
    ("eager", "eager PyTorch", dict(color="C2", marker="^")),
    ("diffusers", "diffusers", dict(color="C3", marker="v", linestyle="--")),
)


def draw_throughput(device: Mapping[str, Any], card: str, path: Path) -> None:
    """Draw the rows of the part "device"."""
    ops = timed_ops(device)
    figure, axes = pyplot.subplots(2, len(ops), figsize=(13, 6), sharex=True, sharey=True, layout="constrained")
    for row, dtype in zip(axes, _DTYPES, strict=True):
        for axis, op in zip(row, ops, strict=True):
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
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def draw_roofline(found: Mapping[str, Any], counts: Mapping[str, Any], path: Path) -> None:
    """Draw every counted kernel of ours below the roof of a card, and what was measured on it.

    Parameters
    ----------
    found : mapping
        Of `day.run`, on a card of sm_90: its memory's speed, its multiprocessors and the rows of "device".
    counts : mapping
        Of `kernel_cost`.
    path : Path
    """
    machine, timed = (found["parts"].get(name, {"rows": {}})["rows"] for name in ("machine", "device"))
    bandwidth = machine["multiply 4096 MiB, TB/s"] * 1e12
    issue = _ISSUE * machine["multiprocessors"] * _CLOCK
    wanted = dict(provider="noisestep", capability=_CAPABILITY, shape="latents", layout="contiguous")
    kernels = [k for k in counts["kernels"] if wanted.items() <= k.items()]
    names = list(dict.fromkeys((k["case"], k["kernel"]) for k in kernels))
    intensities = [k["fewest_an_element"] / k["bytes_an_element"] for k in kernels]
    roof = [0.8 * min(intensities), issue / bandwidth, 1.5 * max(intensities)]
    figure, axes = pyplot.subplots(1, len(_DTYPES), figsize=(13, 6), sharex=True, sharey=True, layout="constrained")
    for axis, dtype in zip(axes, _DTYPES, strict=True):
        axis.plot(roof, [min(bandwidth * x, issue) / 1e12 for x in roof], color="0.3", label="memory, then issue slots")
        own = [k for k in kernels if k["dtype"] == dtype]
        for place, k in enumerate(sorted(own, key=lambda k: k["fewest_an_element"] / k["bytes_an_element"])):
            instructions = k["fewest_an_element"]
            x = instructions / k["bytes_an_element"]
            bound = instructions / max(_seconds(k, bandwidth, machine).values()) / 1e12
            axis.plot(
                x, bound, "o", color="C0", fillstyle="none", markersize=7, label="bound of a kernel, from its counts"
            )
            # neighbours at different heights
            above, number = 8 + 11 * (place % 4), names.index((k["case"], k["kernel"])) + 1
            axis.annotate(str(number), (x, bound), (0, above), textcoords="offset points", ha="center", fontsize=8)
            rows = [timed.get(f"{name} | {_LARGE} | {dtype}") for name in _TIMED.get(k["case"], ())]
            for row in (row for row in rows if isinstance(row, dict)):
                rate = instructions * math.prod(map(int, _LARGE.split("x"))) / (row["us"] * 1e-6) / 1e12
                axis.plot(x, rate, "D", color="C1", markersize=5, label=f"measured at {_LARGE}")
                axis.annotate(str(number), (x, rate), (0, -13), textcoords="offset points", ha="center", fontsize=8)
        axis.set(xscale="log", yscale="log", title=dtype, xlabel="instructions a byte")
        axis.grid(alpha=0.3, which="both")
    axes[0].set(ylabel="10¹² instructions of threads a second", ylim=(None, 3 * issue / 1e12))
    figure.suptitle(
        f"{found['card']}: {bandwidth / 1e12:.2f} TB/s measured, {issue / 1e12:.0f} · 10¹² issue slots a second"
    )
    unique = dict(zip(*axes[0].get_legend_handles_labels()[::-1], strict=True))
    for number, (case, kernel) in enumerate(names, 1):
        (unique[f"{number}  {case}" + (f": {kernel.partition('.')[2]}" if "." in kernel else "")],) = axes[0].plot(
            [], [], " "
        )
    figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def _seconds(kernel: Mapping[str, Any], bandwidth: float, machine: Mapping[str, Any]) -> dict[str, float]:
    """Seconds an element of each pipe on the card, and of its memory."""
    pipes = {pipe: clocks for pipe, clocks in kernel["bound"]["clocks"].items() if pipe != "memory"}
    seconds = {pipe: clocks / (machine["multiprocessors"] * _CLOCK) for pipe, clocks in pipes.items()}
    return seconds | {"memory": kernel["bytes_an_element"] / bandwidth}


def _points(device: Mapping[str, Any], op: str, provider: str, dtype: str) -> list[tuple[int, float]]:
    """(elements, TB/s) of what was timed on the device, smallest first."""
    found = []
    for name, value in device.items():
        its_op, its_provider, shape, its_dtype = name.split(" | ")
        if (its_op, its_provider, its_dtype) == (op, provider, dtype) and isinstance(value, dict):
            found.append((math.prod(map(int, shape.split("x"))), value["tbs"]))
    return sorted(found)
