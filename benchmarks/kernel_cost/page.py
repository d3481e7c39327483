"""What a person reads: the parts of docs/kernel-cost.md between marks, and its picture, from the JSON."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from .budgets import AN_ELEMENT, CAPABILITY, CHANNELS_LAST, INSTRUCTIONS, OVER_CONTIGUOUS, SHAPE
from .devices import device
from .plain import FUNCTIONS

_DOCS = Path(__file__).parents[2] / "docs"
PAGE = _DOCS / "kernel-cost.md"
PICTURE = _DOCS / "images" / "kernel-cost.png"
_MARKED = re.compile(r"(<!-- counted: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_PROVIDERS = ("noisestep", "torch.compile")
_COLOURS = {"noisestep": "#1b6ca8", "torch.compile": "#b8b8b8"}
_RARE = "#e3e3e3"


def filled(text: str, found: dict[str, Any]) -> str:
    """A page with what stands between its marks made anew."""
    parts = {"versions": _versions, "budgets": _budgets, "steps": _steps}
    return _MARKED.sub(lambda match: match[1] + parts[match[2]](found) + "\n" + match[3], text)


def _table(header: Sequence[str], rows: Iterable[Sequence[object]], words: int) -> str:
    """A Markdown table; all but the first columns, which are words, are aligned to the right."""
    rule = ["---" if i < words else "---:" for i in range(len(header))]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (header, rule, *rows))


def _versions(found: dict[str, Any]) -> str:
    known = ", ".join(f"{name} {number or '(not installed)'}" for name, number in found["versions"].items())
    return f"Counted with {known}."


def _budgets(found: dict[str, Any]) -> str:
    rows = []
    for case, allowed in INSTRUCTIONS.items():
        for dtype, limit in allowed.items():
            own = [x for x in found["limits"] if (x["case"], x["dtype"]) == (case, dtype)]
            counted = {x["quantity"]: x["found"] for x in own if x["shape"] == SHAPE}
            ratio = counted.get(OVER_CONTIGUOUS)
            broken = dict.fromkeys(f"{x['quantity']}: {x['found']:.4g}" for x in own if not x["kept"])
            rows.append(
                [
                    case,
                    dtype,
                    f"{counted[AN_ELEMENT]:.1f}",
                    f"≤ {limit}",
                    "–" if ratio is None else f"{ratio:.2f} (≤ {CHANNELS_LAST})",
                    "; ".join(broken) or "all kept",
                ]
            )
    header = ["kernel", "dtype", AN_ELEMENT, "budget", "channels_last ÷ contiguous", "limits"]
    return _table(header, rows, words=2)


def _steps(found: dict[str, Any]) -> str:
    steps = [x for x in found["steps"] if x["device"] == device(CAPABILITY).name]
    counted = {x["provider"] for x in steps}
    providers = [name for name in ("diffusers", "eager PyTorch", *reversed(_PROVIDERS)) if name in counted]
    rows = []
    for network, phase in dict.fromkeys((x["network"], x["phase"]) for x in steps):
        own = {x["provider"]: x for x in steps if (x["network"], x["phase"]) == (network, phase)}
        cells = [f"{own[name]['ops_seconds'] * 1e6:.0f} µs, {100 * own[name]['share']:.2g} %" for name in providers]
        rows.append([network, phase, f"{own['noisestep']['network_seconds'] * 1e3:.3g} ms", *cells])
    return _table(["network", "step", "the network alone", *providers], rows, words=2)


@dataclass(frozen=True)
class Bar:
    """A function as one provider computes it, an element; of several kernels the sums."""

    fewest: float
    static: float
    moved: float
    rate: float
    by: str


def bars(found: dict[str, Any], dtype: str = "bfloat16") -> dict[tuple[str, str], Bar]:
    """What the picture shows, by function and provider."""
    result = {}
    for case in FUNCTIONS:
        for provider in _PROVIDERS:
            wanted = (case, provider, CAPABILITY, SHAPE, dtype, "contiguous")
            keys = ("case", "provider", "capability", "shape", "dtype", "layout")
            kernels = [x for x in found["kernels"] if tuple(x[key] for key in keys) == wanted]
            result[case, provider] = Bar(
                sum(x["fewest_an_element"] for x in kernels),
                sum(x["instructions_an_element"] for x in kernels),
                sum(x["bytes_an_element"] for x in kernels),
                # one after the other: times add up
                1 / sum(1 / x["bound"]["rate"] for x in kernels),
                ", ".join(dict.fromkeys(x["bound"]["by"] for x in kernels)),
            )
    return result


def draw(found: dict[str, Any]) -> Figure:
    """Instructions, bytes and the bound, ours beside torch.compile's."""
    shown = bars(found)
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3, sharey=True)
    for axes, title in (
        (left, "instructions an element"),
        (middle, "bytes an element"),
        (right, "bound: 10⁹ elements a second"),
    ):
        axes.set_title(title, fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    height = 0.38
    for row, case in enumerate(FUNCTIONS):
        for which, provider in enumerate(_PROVIDERS):
            bar, y, colour = shown[case, provider], row + (which - 0.5) * (height + 0.02), _COLOURS[provider]
            left.barh(y, bar.static, height, color=_RARE)
            left.barh(y, bar.fewest, height, color=colour)
            middle.barh(y, bar.moved, height, color=colour)
            right.barh(y, bar.rate / 1e9, height, color=colour)
            few = f"{bar.fewest:.0f}" + (f" to {bar.static:.0f}" if round(bar.static) > round(bar.fewest) else "")
            for axes, end, label in (
                (left, bar.static, few),
                (middle, bar.moved, f"{bar.moved:.3g}"),
                (right, bar.rate / 1e9, f"{bar.rate / 1e9:.0f}, by {bar.by}"),
            ):
                axes.annotate(label, (end, y), (4, 0), textcoords="offset points", va="center", fontsize=8)
    left.set_yticks(range(len(FUNCTIONS)), [case.replace(", ", ",\n", 1) for case in FUNCTIONS])
    left.invert_yaxis()
    for axes in (left, middle, right):
        axes.set_xlim(0, 1.28 * axes.get_xlim()[1])
    patches = [Patch(color=_COLOURS[name], label=name) for name in _PROVIDERS]
    patches.append(Patch(color=_RARE, label="code off the shortest path, which few threads run"))
    figure.legend(handles=patches, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(f"{device(CAPABILITY).name} (sm_{CAPABILITY}), bfloat16, with fresh noise", fontsize=12)
    return figure


def write(found: dict[str, Any]) -> None:
    """Fill the page and draw its picture; the same counts give the same bytes."""
    PAGE.write_text(filled(PAGE.read_text(), found))
    draw(found).savefig(PICTURE, dpi=130, metadata={"Software": None})
