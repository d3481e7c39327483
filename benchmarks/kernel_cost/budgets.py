"""What a kernel may cost, and which limits are kept."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..described import DESCRIPTIONS
from .cost import KernelCost

# static instructions an element on sm_90, contiguous, at 16 or more elements a thread, by case and dtype
INSTRUCTIONS = {case: allowed for op in DESCRIPTIONS.values() for case, allowed in op.budgets.items()}
# channels_last over contiguous, instructions an element
CHANNELS_LAST = 1.5
AN_ELEMENT, OVER_CONTIGUOUS = "instructions an element", "instructions over contiguous"
# the target that all limits are counted for, and the shape that instructions are: its samples are whole blocks, so that
# no thread idles. The other limits hold at every shape
CAPABILITY, SHAPE = 90, "latents"


@dataclass(frozen=True)
class Limit:
    """One limit and what was counted.

    Parameters
    ----------
    case, shape, dtype, layout, quantity : str
    found, allowed : float
        Kept where found is at most allowed.
    """

    case: str
    shape: str
    dtype: str
    layout: str
    quantity: str
    found: float
    allowed: float

    @property
    def kept(self) -> bool:
        """Whether the kernel stays within it."""
        return self.found <= self.allowed

    def __str__(self) -> str:
        where = f"{self.case} ({self.shape}, {self.dtype}, {self.layout})"
        return f"{where}: {self.quantity} {self.found:.4g}, at most {self.allowed:.4g}"


def limits(costs: Iterable[KernelCost], elementwise: frozenset[str]) -> Iterator[Limit]:
    """Every limit of the kernels that have a budget; a case of several kernels is held to their sum.

    Parameters
    ----------
    costs : iterable of KernelCost
    elementwise : frozenset of str
        The cases that sum nothing.
    """
    groups: dict[tuple[str, str, str, str], list[KernelCost]] = {}
    for cost in costs:
        if (cost.capability, cost.provider) == (CAPABILITY, "noisestep") and cost.case in INSTRUCTIONS:
            groups.setdefault((cost.case, cost.shape, cost.dtype, cost.layout), []).append(cost)
    for (case, shape, dtype, layout), kernels in groups.items():
        for quantity, found, allowed in _clean(kernels, case in elementwise, layout):
            yield Limit(case, shape, dtype, layout, quantity, found, allowed)
        found = sum(cost.an_element for cost in kernels)
        if layout == "channels_last":
            contiguous = sum(cost.an_element for cost in groups[case, shape, dtype, "contiguous"])
            yield Limit(case, shape, dtype, layout, OVER_CONTIGUOUS, found / contiguous, CHANNELS_LAST)
        elif shape == SHAPE:
            yield Limit(case, shape, dtype, layout, AN_ELEMENT, found, INSTRUCTIONS[case][dtype])


def _clean(kernels: list[KernelCost], elementwise: bool, layout: str) -> Iterator[tuple[str, float, float]]:
    yield "spilled accesses", sum(cost.code.spills for cost in kernels), 0
    yield "bytes of local memory", sum(cost.code.local + cost.code.stack for cost in kernels), 0
    yield "branches and calls", sum(cost.code.flow for cost in kernels), 0
    if elementwise:
        yield "bytes of shared memory", sum(cost.code.shared for cost in kernels), 0
    # the channels of a pixel may be fewer than 16 bytes
    if layout == "contiguous":
        narrow = sum(cost.narrow_bytes_an_element for cost in kernels)
        yield "bytes an element in accesses of less than 16", narrow, 0
