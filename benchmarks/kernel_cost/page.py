"""The tables as Markdown, and the page that holds them between marks."""

import re
from collections.abc import Iterable
from math import prod
from pathlib import Path

import click

from . import step, tables
from .results import Results, versions

_COMMAND = "python -m benchmarks.kernel_cost"
_MARKED = re.compile(r"<!-- counted: ([\w-]+) -->\n.*?<!-- end -->", re.DOTALL)


def sections(found: Results) -> dict[str, str]:
    """Each generated part of the page by its name."""
    return {name: make(found) for name, make in _SECTIONS.items()}


def check_marks(path: Path) -> None:
    """Refuse a page that exists and has no marks, or others than are known, before anything is counted."""
    if not path.exists():
        return
    marked = _MARKED.findall(path.read_text())
    if not marked:
        raise click.ClickException(f"{path} has no part between <!-- counted: NAME --> and <!-- end --> to replace")
    if unknown := sorted(set(marked) - set(_SECTIONS)):
        raise click.ClickException(f"{path} marks {', '.join(unknown)}; known: {', '.join(_SECTIONS)}")


def write(path: Path, found: Results) -> None:
    """Replace the marked parts of a page, or write a new page of all parts."""
    parts = {name: f"<!-- counted: {name} -->\n{text}\n<!-- end -->" for name, text in sections(found).items()}
    if not path.exists():
        path.write_text("# What the kernels cost\n\n" + "\n\n".join(parts.values()) + "\n")
        return
    path.write_text(_MARKED.sub(lambda match: parts[match.group(1)], path.read_text()))


def _versions(found: Results) -> str:
    known = ", ".join(f"{name} {number}" for name, number in versions().items())
    measured = f"measured on {found.measured_on}" if found.measured_on else "not measured"
    return f"Counted by `{_COMMAND}` with {known}; {measured}. {found.inductor_note}"


def _example(found: Results) -> str:
    """The arithmetic of one bound, number by number."""
    capability = 90 if 90 in found.capabilities else found.capabilities[0]
    cost = next(c for c in tables.ours(found, capability) if (c.case, c.dtype) == ("q_sample", "bfloat16"))
    gpu = tables.device(capability)
    issue = cost.bound.clocks["issue"]
    return "\n".join(
        [
            f"`{cost.case}`, {cost.dtype}, {cost.layout}, {gpu.name}: {cost.instructions} instructions a thread ÷ "
            f"{cost.elements_a_thread:g} elements a thread = {cost.an_element:.1f} an element. "
            f"÷ {gpu.lanes['issue']} threads issued a clock and SM = {issue:.3f} clocks; "
            f"{gpu.multiprocessors} SMs × {gpu.clock / 1e9:g} GHz ÷ {issue:.3f} = "
            f"{gpu.clocks / issue / 1e9:.0f}·10⁹ elements a second by issue. "
            f"Memory: {gpu.bandwidth / 1e12:g}·10¹² B/s ÷ {cost.bytes_an_element:g} B = "
            f"{gpu.bandwidth / cost.bytes_an_element / 1e9:.0f}·10⁹. "
            f"The slowest of all: {cost.bound.by}, {cost.bound.rate / 1e9:.0f}·10⁹ elements a second."
        ]
    )


def _networks(found: Results) -> str:
    assumed = found.assumptions
    lines: list[str] = []
    for network in step.networks():
        elements = step.BATCH * prod(network.shape)
        lines.append(
            f"- {network.name}: {network.parameters:,} parameters, {network.forward / 1e9:.1f} GFLOP forward and "
            f"{network.backward / 1e9:.1f} backward for a sample of {'×'.join(map(str, network.shape))}; "
            f"{step.BATCH} samples are {elements:,} elements."
        )
    for capability in found.capabilities:
        gpu = tables.device(capability)
        lines += _network_times(gpu.name, found.shares)
    lines.append(
        f"- Assumed: {assumed.utilisation:.0%} of the tensor cores' peak, {assumed.launch * 1e6:g} µs a launch besides "
        f"its work, {assumed.read * 1e6:g} µs for each value that the host waits for."
    )
    return "\n".join(lines)


def _network_times(gpu: str, shares: Iterable[step.Share]) -> list[str]:
    times = {(s.network, s.phase): s.network_seconds for s in shares if s.device == gpu}
    listed = ", ".join(f"{network} {phase} {seconds * 1e3:.2f} ms" for (network, phase), seconds in times.items())
    return [f"- {gpu}, the network alone: {listed}."]


_SECTIONS = {
    "versions": _versions,
    "devices": tables.devices,
    "budgets": tables.budgets,
    "kernels": tables.kernels,
    "pipes": tables.pipes,
    "example": _example,
    "compiled": tables.side_by_side,
    "traffic": tables.traffic,
    "step": tables.shares,
    "networks": _networks,
}
