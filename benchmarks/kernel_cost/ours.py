"""The costs of this package's kernels."""

from collections.abc import Iterator
from dataclasses import replace

from .cases import CASES, SHAPES, Case, batch
from .cost import KernelCost, cost_of
from .emulated import executed_ptx
from .specialise import batch_bytes, capture, compile_launch, is_batch_sized, threads

# the shape whose kernels are run in the emulator where their code branches
EMULATED = "latents"


def costs(
    capabilities: tuple[int, ...], cases: tuple[Case, ...] = CASES, shapes: tuple[str, ...] = tuple(SHAPES)
) -> Iterator[KernelCost]:
    """The cost of each kernel that walks a whole batch: case by case, shape, dtype, layout and target."""
    for case in cases:
        for name in shapes:
            for dtype in case.dtypes:
                for layout in case.layouts:
                    yield from _of_a_batch(case, name, SHAPES[name], dtype, layout, capabilities)


def _of_a_batch(
    case: Case, name: str, shape: tuple[int, ...], dtype: str, layout: str, capabilities: tuple[int, ...]
) -> Iterator[KernelCost]:
    x = batch(shape, dtype, layout)
    launches = [launch for launch in capture(case.prepare(x)) if is_batch_sized(launch, x)]
    if not launches:
        raise RuntimeError(f"{case.name}: no launch of a kernel was seen; ops must launch by launch.launch")
    for launch in launches:
        for capability in capabilities:
            compiled = compile_launch(launch, capability)
            cost = cost_of(
                compiled,
                capability,
                case=case.name,
                provider="noisestep",
                kernel=launch.name,
                shape=name,
                dtype=dtype,
                layout=layout,
                elements_a_thread=x.numel() / threads(launch, compiled),
                bytes_an_element=batch_bytes(launch, x) / x.numel(),
            )
            # once is enough: what runs of the code depends on the timesteps, not on the shape
            if cost.executed is None and name == EMULATED:
                count, how = executed_ptx(launch, capability, threads(launch, compiled))
                cost = replace(cost, executed=count, executed_by=how)
            yield cost
