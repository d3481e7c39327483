"""The costs of this package's kernels."""

from collections.abc import Iterator
from dataclasses import asdict

from noisestep.accelerated.backends import Launch
from torch import Tensor

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
                    yield from of_a_batch(cache, case, shape, dtype, layout, targets)


def of_a_batch(
    cache: Cache, case: Case, shape: str, dtype: str, layout: str, capabilities: tuple[int, ...]
) -> Iterator[KernelCost]:
    """The cost of each kernel of a case that walks a whole batch."""
    x = batch(SHAPES[shape], dtype, layout)
    launches = [launch for launch in capture(case.prepare(x)) if is_batch_sized(launch, x)]
    if not launches:
        raise RuntimeError(f"{case.name}: no launch of a kernel was seen")
    for launch in launches:
        for capability in capabilities:
            yield cost_of(cache, launch, x, capability, case=case.name, shape=shape, dtype=dtype, layout=layout)


def cost_of(
    cache: Cache,
    launch: Launch,
    x: Tensor,
    capability: int,
    *,
    case: str = "",
    shape: str = "",
    dtype: str = "",
    layout: str = "",
) -> KernelCost:
    """The cost of one launch on a batch like x; the words say what it is called."""
    code = Code(**cache.get(key_of(launch, capability), lambda: asdict(read(compile_launch(launch, capability)))))
    return KernelCost(
        case=case,
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
