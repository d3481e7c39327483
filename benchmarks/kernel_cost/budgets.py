"""What a kernel may cost, and which limits are kept."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .cost import KernelCost

# static instructions an element on sm_90, contiguous, at 16 or more elements a thread: bfloat16, float32
INSTRUCTIONS = {
    "q_sample": {"bfloat16": 38, "float32": 42},
    "reverse_step, β variance": {"bfloat16": 42, "float32": 45},
    "reverse_step, clipped, posterior variance": {"bfloat16": 46, "float32": 48},
    "simple_loss with gradient": {"bfloat16": 42, "float32": 45},
    "noise": {"bfloat16": 36, "float32": 38},
}
# channels_last over contiguous, instructions an element
CHANNELS_LAST = 1.5
# the target and the shape that they are counted at; its samples are whole blocks, so that no thread idles
CAPABILITY, SHAPE = 90, "latents"


@dataclass(frozen=True)
class Limit:
    """One limit and what was counted.

    Parameters
    ----------
    case, dtype, layout, quantity : str
    found, allowed : float
        Kept where found is at most allowed.
    """

    case: str
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
        return (
            f"{self.case} ({self.dtype}, {self.layout}): {self.quantity} {self.found:.4g}, at most {self.allowed:.4g}"
        )


def limits(costs: Iterable[KernelCost], elementwise: frozenset[str]) -> Iterator[Limit]:
    """Every limit of the kernels that have a budget; a case of several kernels is held to their sum.

    Parameters
    ----------
    costs : iterable of KernelCost
    elementwise : frozenset of str
        The cases that sum nothing.
    """
    ours = [c for c in costs if (c.capability, c.shape, c.provider) == (CAPABILITY, SHAPE, "noisestep")]
    for case, allowed in INSTRUCTIONS.items():
        for dtype, instructions in allowed.items():
            by_layout: dict[str, float] = {}
            for layout in ("contiguous", "channels_last"):
                kernels = [c for c in ours if (c.case, c.dtype, c.layout) == (case, dtype, layout)]
                if not kernels:
                    continue
                by_layout[layout] = sum(c.an_element for c in kernels)
                yield from _hygiene(kernels, case, dtype, layout, case in elementwise)
            if "contiguous" in by_layout:
                found = by_layout["contiguous"]
                yield Limit(case, dtype, "contiguous", "instructions an element", found, instructions)
            if "channels_last" in by_layout:
                ratio = by_layout["channels_last"] / by_layout["contiguous"]
                yield Limit(case, dtype, "channels_last", "instructions over contiguous", ratio, CHANNELS_LAST)


def _hygiene(kernels: list[KernelCost], case: str, dtype: str, layout: str, elementwise: bool) -> Iterator[Limit]:
    yield Limit(case, dtype, layout, "spilled accesses", sum(c.spills for c in kernels), 0)
    yield Limit(case, dtype, layout, "bytes of local memory", sum(c.local + c.stack for c in kernels), 0)
    yield Limit(case, dtype, layout, "branches and calls", sum(c.flow for c in kernels), 0)
    # wide enough for sums, too narrow for exchanging elements between threads
    if elementwise:
        yield Limit(case, dtype, layout, "bytes of shared memory", sum(c.shared for c in kernels), 0)
    if layout == "contiguous":
        narrow = sum(c.bytes_an_element - c.wide_bytes_an_element for c in kernels)
        yield Limit(case, dtype, layout, "bytes an element in accesses of less than 16", narrow, 0)
