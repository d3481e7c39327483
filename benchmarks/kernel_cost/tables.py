"""The tables, one a function."""

from collections.abc import Iterable, Sequence
from math import prod

from .budgets import AN_ELEMENT, CHANNELS_LAST, INSTRUCTIONS, OVER_CONTIGUOUS, SHAPE
from .cases import SHAPES
from .cost import KernelCost
from .devices import Device, device
from .plain import FUNCTIONS
from .results import Results
from .step import PHASES


def _table(header: Sequence[str], rows: Iterable[Sequence[object]], numbers_from: int = 1) -> str:
    rule = ["---" if i < numbers_from else "---:" for i in range(len(header))]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (header, rule, *rows))


def ours(found: Results, capability: int, shape: str = SHAPE) -> list[KernelCost]:
    """Our kernels on one target."""
    return [c for c in found.kernels if (c.provider, c.capability, c.shape) == ("noisestep", capability, shape)]


def devices(found: Results) -> str:
    """The constants that the bounds rest on."""
    gpus = [device(capability) for capability in found.capabilities]
    pipes = list(gpus[0].lanes)
    return _table(
        ["GPU", "SMs", "GHz", "TB/s", "bf16 TFLOP/s", *(f"{pipe} / clock" for pipe in pipes), "source"],
        [
            [
                f"{gpu.name} (sm_{gpu.capability})",
                gpu.multiprocessors,
                f"{gpu.clock / 1e9:g}",
                f"{gpu.bandwidth / 1e12:g}",
                f"{gpu.tensor_flops / 1e12:g}",
                *(gpu.lanes[pipe] for pipe in pipes),
                gpu.source,
            ]
            for gpu in gpus
        ],
    )


def budgets(found: Results) -> str:
    """Found and allowed, for the kernels that have a budget."""
    if not found.limits:
        return "Not counted: the budgets are for sm_90."
    counted = {(x.case, x.dtype, x.quantity): x for x in found.limits if x.shape == SHAPE}
    rows = []
    for case, allowed in INSTRUCTIONS.items():
        for dtype, limit in allowed.items():
            own = counted[case, dtype, AN_ELEMENT]
            ratio = counted.get((case, dtype, OVER_CONTIGUOUS))
            broken = [x for x in found.limits if (x.case, x.dtype) == (case, dtype) and not x.kept]
            rows.append(
                [
                    case,
                    dtype,
                    f"{own.found:.1f}",
                    f"≤ {limit}",
                    "–" if ratio is None else f"{ratio.found:.2f} (≤ {CHANNELS_LAST})",
                    "; ".join(f"{x.quantity}: {x.found:.4g} ({x.shape}, {x.layout})" for x in broken) or "all kept",
                ]
            )
    return _table(
        ["kernel", "dtype", "instructions an element", "budget", "channels_last ÷ contiguous", "limits exceeded"],
        rows,
        numbers_from=2,
    )


def kernels(found: Results) -> str:
    """Every kernel of ours, a table for each target."""
    parts = []
    for capability in found.capabilities:
        gpu = device(capability)
        images = {(c.case, c.kernel, c.dtype, c.layout): c for c in ours(found, capability, "images")}
        rows = [
            _kernel_row(cost, images[cost.case, cost.kernel, cost.dtype, cost.layout])
            for cost in ours(found, capability)
        ]
        shape = "×".join(map(str, SHAPES[SHAPE]))
        measured = f"measured µs ({found.measured_on})" if found.measured_on else "measured µs"
        header = [
            *("kernel", "dtype", "layout", "elements a thread", "static", "executed", "static, images"),
            *("registers", "local memory", "shared B", "load bits", "store bits", "B an element", "occupancy"),
            *("bound", "10⁹ elements/s", f"predicted µs, {shape}", measured),
        ]
        parts.append(f"**{gpu.name}, sm_{capability}**\n\n" + _table(header, rows, numbers_from=3))
    return "\n\n".join(parts)


def _kernel_row(cost: KernelCost, images: KernelCost) -> list[object]:
    executed = "–" if cost.executed_an_element is None else f"{cost.executed_an_element:.1f}"
    if cost.flow and cost.executed is not None:
        executed += " PTX"
    # a kernel with cold paths is bounded by less than all of its code
    at_most = "≥ " if cost.flow else ""
    elements = prod(SHAPES[cost.shape])
    local = f"{cost.local + cost.stack} B, {cost.spills} accesses" if cost.spills or cost.local or cost.stack else "–"
    return [
        cost.case,
        cost.dtype,
        cost.layout,
        f"{cost.elements_a_thread:g}",
        f"{cost.an_element:.1f}",
        executed,
        f"{images.an_element:.1f}",
        cost.registers,
        local,
        cost.shared,
        _widths(cost.loads),
        _widths(cost.stores),
        f"{cost.bytes_an_element:g}",
        f"{cost.occupancy:.0%}",
        cost.bound.by,
        f"{at_most}{cost.bound.rate / 1e9:.0f}",
        f"{elements / cost.bound.rate * 1e6:.2f}",
        "not measured" if cost.measured is None else f"{cost.measured * 1e6:.2f}",
    ]


def _widths(accesses: dict[str, int]) -> str:
    return " ".join(f"{count}×{bits}" for bits, count in accesses.items()) or "–"


def pipes(found: Results) -> str:
    """Clocks an element of each pipe, for the kernels that have a budget."""
    rows = []
    for capability in found.capabilities:
        gpu = device(capability)
        for cost in ours(found, capability):
            if cost.case in INSTRUCTIONS and cost.layout == "contiguous":
                clocks = [f"{1e3 * clock:.0f}" for clock in cost.bound.clocks.values()]
                rows.append([gpu.name, cost.case, cost.dtype, *clocks, cost.bound.by])
    return _table(
        ["GPU", "kernel", "dtype", *device(found.capabilities[0]).lanes, "memory", "bound"], rows, numbers_from=3
    )


def side_by_side(found: Results) -> str:
    """Our kernels and torch.compile's for the same function."""
    header = ["function", "dtype", "provider", "kernels", "B an element", "local memory accesses"]
    gpus = [device(capability) for capability in found.capabilities]
    header += [f"{gpu.name}: {what}" for gpu in gpus for what in ("static an element", "bound", "10⁹ elements/s")]
    rows = []
    for case in FUNCTIONS:
        for dtype in INSTRUCTIONS[case]:
            for provider in ("noisestep", "torch.compile"):
                cells: list[object] = []
                for gpu in gpus:
                    cells += _sum_of(_matching(found, case, dtype, provider, gpu))
                first = _matching(found, case, dtype, provider, gpus[0])
                if first:
                    moved, spills = sum(c.bytes_an_element for c in first), sum(c.spills for c in first)
                    rows.append([case, dtype, provider, len(first), f"{moved:g}", spills, *cells])
    return _table(header, rows, numbers_from=3)


def _matching(found: Results, case: str, dtype: str, provider: str, gpu: Device) -> list[KernelCost]:
    wanted = (case, dtype, provider, gpu.capability, SHAPE, "contiguous")
    return [c for c in found.kernels if (c.case, c.dtype, c.provider, c.capability, c.shape, c.layout) == wanted]


def _sum_of(costs: list[KernelCost]) -> list[object]:
    # one after the other: times add up
    rate = 1 / sum(1 / cost.bound.rate for cost in costs) if costs else 0.0
    bounds = ", ".join(dict.fromkeys(cost.bound.by for cost in costs))
    return [f"{sum(cost.an_element for cost in costs):.1f}", bounds, f"{rate / 1e9:.0f}"]


def traffic(found: Results) -> str:
    """Launches, bytes and reads of each provider."""
    by_dtype = {(t.case, t.provider, t.dtype): t for t in found.traffic}
    rows = []
    for case in FUNCTIONS:
        for provider in ("diffusers", "eager PyTorch", "torch.compile", "noisestep"):
            half, full = (by_dtype.get((case, provider, dtype)) for dtype in ("bfloat16", "float32"))
            if half and full:
                launches = f"{half.launches} / {full.launches}"
                moved = f"{half.bytes_an_element:.3g} / {full.bytes_an_element:.3g}"
                rows.append([case, provider, launches, moved, half.reads])
    header = ["function", "provider", "launches, bf16 / float32", "B an element, bf16 / float32", "values waited for"]
    return _table(header, rows, numbers_from=2)


def shares(found: Results) -> str:
    """The whole-step model."""
    header = ["network", "step", "provider", "launches", "values waited for"]
    gpus = [device(capability) for capability in found.capabilities]
    header += [f"{gpu.name}: {what}" for gpu in gpus for what in ("ops, µs", "share")]
    rows = []
    keys = dict.fromkeys((s.network, s.phase, s.provider) for s in found.shares if s.phase in PHASES)
    for network, phase, provider in keys:
        own = {s.device: s for s in found.shares if (s.network, s.phase, s.provider) == (network, phase, provider)}
        any_one = next(iter(own.values()))
        cells = []
        for gpu in gpus:
            cells += [f"{own[gpu.name].ops_seconds * 1e6:.1f}", f"{100 * own[gpu.name].share:.2g} %"]
        rows.append([network, phase, provider, any_one.launches, any_one.reads, *cells])
    return _table(header, rows, numbers_from=3)
