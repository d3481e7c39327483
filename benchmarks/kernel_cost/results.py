"""Everything that one run counts, and its form as JSON."""

import json
import platform
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from . import budgets, inductor, measure, ours, step
from .bound import Bound
from .cases import CASES, SHAPES
from .cost import KernelCost
from .devices import device
from .traffic import Traffic, traffic


@dataclass
class Results:
    """What one run counted.

    Parameters
    ----------
    capabilities : tuple of int
    kernels : list of KernelCost
        Ours, then torch.compile's.
    limits : list of budgets.Limit
    traffic : list of Traffic
    shares : list of step.Share
    assumptions : step.Assumptions
    inductor_note : str
        With which versions torch.compile's kernels were had, or why not.
    measured_on : str or None
        The GPU's name, where one was there and asked for.
    """

    capabilities: tuple[int, ...]
    kernels: list[KernelCost] = field(default_factory=list)
    limits: list[budgets.Limit] = field(default_factory=list)
    traffic: list[Traffic] = field(default_factory=list)
    shares: list[step.Share] = field(default_factory=list)
    assumptions: step.Assumptions = field(default_factory=step.Assumptions)
    inductor_note: str = ""
    measured_on: str | None = None

    @property
    def broken(self) -> list[budgets.Limit]:
        """The limits that are not kept."""
        return [limit for limit in self.limits if not limit.kept]

    def to_json(self) -> str:
        """All of it, with the versions and the devices' constants that it rests on."""
        content: dict[str, Any] = {
            "versions": versions(),
            "shapes": SHAPES,
            "devices": [vars(device(capability)) for capability in self.capabilities],
            "measured_on": self.measured_on or "not measured",
            "kernels": [cost.record() for cost in self.kernels],
            "limits": [vars(limit) | {"kept": limit.kept} for limit in self.limits],
            "traffic": [found.record() for found in self.traffic],
            "inductor": self.inductor_note,
            "assumptions": vars(self.assumptions) | {"batch": step.BATCH, "dtype": step.DTYPE},
            "networks": [vars(network) for network in step.networks()] if self.shares else [],
            "shares": [share.record() for share in self.shares],
        }
        return json.dumps(content, indent=1) + "\n"

    def write_json(self, path: Path) -> None:
        """Write `to_json` to a file."""
        path.write_text(self.to_json())


def versions() -> dict[str, str]:
    """What the counts depend on; ptxas and nvdisasm come in Triton's wheel."""
    found = {"python": platform.python_version()}
    for package in ("torch", "triton", "diffusers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def check() -> Results:
    """The kernels that have a budget, for the target that the budgets are for."""
    found = Results((budgets.CAPABILITY,))
    budgeted = tuple(case for case in CASES if case.name in budgets.INSTRUCTIONS)
    found.kernels = list(ours.costs(found.capabilities, budgeted))
    found.limits = _limits(found.kernels)
    return found


def everything(capabilities: tuple[int, ...], assumptions: step.Assumptions, *, measuring: bool = False) -> Results:
    """All tables; `measuring` times the kernels on the GPU that is there."""
    found = Results(capabilities, assumptions=assumptions)
    seconds = measure.measured() if measuring else {}
    for cost in ours.costs(capabilities):
        key = (cost.case, cost.kernel, cost.shape, cost.dtype, cost.layout)
        if seconds and cost.capability == measure.capability():
            cost = replace(cost, measured=seconds[key])
        found.kernels.append(cost)
    found.measured_on = measure.device_name() if measuring else None
    found.limits = _limits(found.kernels) if budgets.CAPABILITY in capabilities else []
    generated, found.inductor_note = inductor.counted(capabilities)
    found.kernels += [_from_record(record) for record in generated["kernels"]]
    found.traffic = [*traffic(), *(Traffic(**record) for record in generated["traffic"])]
    for capability in capabilities:
        found.shares += step.shares(device(capability), found.kernels, found.traffic, assumptions)
    return found


def _limits(kernels: list[KernelCost]) -> list[budgets.Limit]:
    return list(budgets.limits(kernels, frozenset(case.name for case in CASES if case.elementwise)))


def _from_record(record: dict[str, Any]) -> KernelCost:
    fields = {name: record[name] for name in KernelCost.__dataclass_fields__}
    return KernelCost(**{**fields, "bound": Bound(**fields["bound"])})
