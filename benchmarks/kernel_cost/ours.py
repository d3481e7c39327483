"""The costs of this package's kernels."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from noisestep.accelerated.backends import Launch

from . import budgets
from .cache import Cache, key_of
from .cases import CASES, SHAPES, Case, batch
from .cost import Code, KernelCost, read
from .specialise import batch_bytes, capture, compile_launch, is_batch_sized, name_of, threads


def costs(cache: Cache, capabilities: tuple[int, ...], cases: tuple[Case, ...] = CASES) -> Iterator[KernelCost]:
    """The cost of each kernel that walks a whole batch: case by case, shape, dtype, layout and target.

    The shapes other than that of the budgets are counted for the target of the budgets alone.
    """
    for case in cases:
        for shape in SHAPES:
            targets = tuple(c for c in capabilities if shape == budgets.SHAPE or c == budgets.CAPABILITY)
            for dtype in case.dtypes:
                for layout in case.layouts:
                    yield from _of_a_batch(cache, case, shape, dtype, layout, targets)


def _of_a_batch(
    cache: Cache, case: Case, shape: str, dtype: str, layout: str, capabilities: tuple[int, ...]
) -> Iterator[KernelCost]:
    x = batch(SHAPES[shape], dtype, layout)
    launches = [launch for launch in capture(case.prepare(x)) if is_batch_sized(launch, x)]
    if not launches:
        raise RuntimeError(f"{case.name}: no launch of a kernel was seen")
    for launch in launches:
        for capability in capabilities:
            code = Code(**cache.get(key_of(launch, capability), lambda: _read(launch, capability)))  # noqa: B023
            yield KernelCost(
                case=case.name,
                provider="noisestep",
                kernel=name_of(launch),
                shape=shape,
                dtype=dtype,
                layout=layout,
                capability=capability,
                code=code,
                elements_a_thread=x.numel() / threads(launch, code.warps),
                bytes_an_element=batch_bytes(launch, x) / x.numel(),
            )


def _read(launch: Launch, capability: int) -> dict[str, Any]:
    return asdict(read(compile_launch(launch, capability)))
