"""The cost of one kernel."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from .bound import Bound, bound, lanes
from .devices import device, occupancy
from .sass import disassemble


@dataclass(frozen=True)
class Code:
    """What a kernel's machine code says, whatever it is launched on.

    Parameters
    ----------
    instructions : int
        Of a thread: each instruction of the program once, NOPs left out.
    fewest : int
        Those on the shortest path through it, which a thread executes at least; all of them where no branch is.
    flow : int
        Branches, loops' ends and calls in the code.
    registers, spills, stack, local, shared : int
        See `sass.MachineCode`; a block's shared memory is what a launch asks for.
    loads, stores : dict of str to int
        Accesses to device memory: how many of each width in bits.
    warps : int
        Of a block.
    lanes : dict of str to float
        What a thread takes of each pipe on the shortest path.
    """

    instructions: int
    fewest: int
    flow: int
    registers: int
    spills: int
    stack: int
    local: int
    shared: int
    loads: dict[str, int]
    stores: dict[str, int]
    warps: int
    lanes: dict[str, float]


def read(compiled: Any) -> Code:
    """The code of a kernel that Triton has compiled."""
    code = disassemble(compiled.asm["cubin"])
    shortest = code.shortest
    return Code(
        instructions=len(code.instructions),
        fewest=len(shortest),
        flow=len(code.flow),
        registers=code.registers,
        spills=code.spills,
        stack=code.stack,
        local=code.local,
        shared=compiled.metadata.shared,
        loads=_by_width(code.accesses("LDG", "LD")),
        stores=_by_width(code.accesses("STG", "ST")),
        warps=compiled.metadata.num_warps,
        lanes=dict(lanes(shortest)),
    )


def _by_width(accesses: Counter[int]) -> dict[str, int]:
    return {str(bits): accesses[bits] for bits in sorted(accesses, reverse=True)}


@dataclass(frozen=True)
class KernelCost:
    """What a kernel costs on one target.

    Parameters
    ----------
    case, provider, kernel : str
        What is computed, who does it ("noisestep" or "torch.compile"), and the kernel's name.
    shape, dtype, layout : str
        Of the batch.
    capability : int
        90 for sm_90.
    code : Code
    elements_a_thread : float
        Elements of the batch over threads of the launch; where a program's block is larger than what is left of a
        sample, the idle threads count, so that padding shows.
    bytes_an_element : float
        In tensors of the batch's size.
    """

    case: str
    provider: str
    kernel: str
    shape: str
    dtype: str
    layout: str
    capability: int
    code: Code
    elements_a_thread: float
    bytes_an_element: float

    @property
    def an_element(self) -> float:
        """Static instructions an element."""
        return self.code.instructions / self.elements_a_thread

    @property
    def fewest_an_element(self) -> float:
        """Instructions an element on the shortest path."""
        return self.code.fewest / self.elements_a_thread

    @property
    def narrow_bytes_an_element(self) -> float:
        """Bytes an element that accesses of less than 16 bytes move."""
        both = Counter(self.code.loads) + Counter(self.code.stores)
        wide = sum(int(bits) // 8 * count for bits, count in both.items() if int(bits) >= 128)
        return self.bytes_an_element - wide / self.elements_a_thread

    @property
    def bound(self) -> Bound:
        """What holds the kernel back."""
        return bound(device(self.capability), self.code.lanes, self.elements_a_thread, self.bytes_an_element)

    @property
    def occupancy(self) -> float:
        """The share of an SM's warps that can be resident."""
        return occupancy(device(self.capability), self.code.registers, self.code.shared, self.code.warps)

    def record(self) -> dict[str, Any]:
        """As JSON has it: the code's numbers beside the rest, and the derived ones."""
        found = asdict(self)
        code = found.pop("code")
        return {
            **found,
            **code,
            "instructions_an_element": self.an_element,
            "fewest_an_element": self.fewest_an_element,
            "occupancy": self.occupancy,
            "bound": asdict(self.bound),
        }
