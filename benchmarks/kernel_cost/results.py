"""Everything that one run counts, and its form as JSON."""

import json
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from . import budgets, inductor, ours, step
from .cache import Cache
from .cases import CASES, SHAPES
from .cost import KernelCost
from .devices import DEVICES
from .traffic import traffic

FILE = Path(__file__).parents[1] / "results" / "kernel_cost.json"


def check(cache: Cache) -> list[budgets.Limit]:
    """Every limit, from the kernels that have a budget, on the target that the budgets are for."""
    budgeted = tuple(case for case in CASES if case.name in budgets.INSTRUCTIONS)
    return _limits(list(ours.costs(cache, (budgets.CAPABILITY,), budgeted)))


def everything(cache: Cache) -> tuple[dict[str, Any], list[budgets.Limit]]:
    """All counts as JSON has them, on every device, those of diffusers where it is installed; and the limits."""
    capabilities = tuple(gpu.capability for gpu in DEVICES)
    kernels = list(ours.costs(cache, capabilities))
    limits = _limits(kernels)
    generated, of_generated = inductor.counted(cache, capabilities)
    kernels += generated
    moved = [*traffic(diffusers=_version("diffusers") is not None), *of_generated]
    shares = [share for gpu in DEVICES for share in step.shares(gpu, kernels, moved)]
    found = {
        "versions": {"python": platform.python_version()}
        | {package: _version(package) for package in ("torch", "triton", "diffusers")},
        "shapes": SHAPES,
        "assumed": {
            "utilisation": step.UTILISATION,
            "seconds a launch": step.LAUNCH,
            "seconds a value waited for": step.READ,
            "batch": step.BATCH,
            "dtype": step.DTYPE,
        },
        "devices": list(map(asdict, DEVICES)),
        "networks": list(map(asdict, step.NETWORKS)),
        "limits": [asdict(limit) | {"kept": limit.kept} for limit in limits],
        "kernels": [cost.record() for cost in kernels],
        "traffic": list(map(asdict, moved)),
        "steps": [asdict(share) | {"share": share.share} for share in shares],
    }
    return found, limits


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def write(found: dict[str, Any], path: Path) -> None:
    """Write it as JSON, a line for each kernel and limit, numbers to five digits."""
    parts = []
    for name, value in _rounded(found).items():
        if isinstance(value, list):
            text = "[\n" + ",\n".join(json.dumps(item, ensure_ascii=False) for item in value) + "\n]"
        else:
            text = json.dumps(value, ensure_ascii=False)
        parts.append(f"{json.dumps(name)}: {text}")
    path.parent.mkdir(exist_ok=True)
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return list(map(_rounded, value)) if isinstance(value, list | tuple) else value


def _limits(kernels: list[KernelCost]) -> list[budgets.Limit]:
    return list(budgets.limits(kernels, frozenset(case.name for case in CASES if case.elementwise)))
