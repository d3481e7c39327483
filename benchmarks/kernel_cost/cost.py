"""The cost of one kernel: everything that the tables show of it."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from .bound import Bound, bound, lanes
from .devices import device, occupancy
from .sass import MachineCode, disassemble


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
    instructions : int
        Of a thread: each instruction of the program once, NOPs left out.
    elements_a_thread : float
        Elements of the batch over threads of the launch; where a program's block is larger than what is left of a
        sample, the idle threads count, so that padding shows.
    executed : float or None
        Instructions that a thread executes, by what `executed_by` says; None where it is not known.
    executed_by : str
    flow : int
        Branches, loops' ends and calls in the code.
    registers, spills, stack, local, shared : int
        See `sass.MachineCode`.
    loads, stores : dict of str to int
        Accesses to device memory: how many of each width in bits.
    bytes_an_element : float
        In tensors of the batch's size.
    warps : int
        Of a block.
    occupancy : float
    lanes : dict of str to float
        What a thread takes of each pipe.
    bound : Bound
    measured : float or None
        Seconds, where a GPU was there.
    """

    case: str
    provider: str
    kernel: str
    shape: str
    dtype: str
    layout: str
    capability: int
    instructions: int
    elements_a_thread: float
    executed: float | None
    executed_by: str
    flow: int
    registers: int
    spills: int
    stack: int
    local: int
    shared: int
    loads: dict[str, int]
    stores: dict[str, int]
    bytes_an_element: float
    warps: int
    occupancy: float
    lanes: dict[str, float]
    bound: Bound
    measured: float | None = None

    @property
    def an_element(self) -> float:
        """Static instructions an element."""
        return self.instructions / self.elements_a_thread

    @property
    def executed_an_element(self) -> float | None:
        """Executed instructions an element."""
        return None if self.executed is None else self.executed / self.elements_a_thread

    @property
    def wide_bytes_an_element(self) -> float:
        """Bytes an element that 16-byte accesses (or wider ones) move."""
        both = Counter(self.loads) + Counter(self.stores)
        return sum(int(bits) // 8 * count for bits, count in both.items() if int(bits) >= 128) / self.elements_a_thread

    def record(self) -> dict[str, Any]:
        """As JSON has it, the derived numbers included."""
        return asdict(self) | {
            "instructions_an_element": self.an_element,
            "executed_an_element": self.executed_an_element,
            "wide_bytes_an_element": self.wide_bytes_an_element,
        }


def executed(code: MachineCode) -> tuple[float | None, str]:
    """Instructions that a thread executes, and how that is known.

    Without a branch, a loop or a call every thread runs through the whole code (a predicated instruction is issued all
    the same), so that executed equals static. Otherwise the machine code alone does not say.
    """
    if code.flow:
        return None, f"{len(code.flow)} branches or calls"
    return len(code.instructions), "no branch: all of them"


def cost_of(
    compiled: Any,
    capability: int,
    *,
    case: str,
    provider: str,
    kernel: str,
    shape: str,
    dtype: str,
    layout: str,
    elements_a_thread: float,
    bytes_an_element: float,
) -> KernelCost:
    """The cost of a compiled kernel."""
    code = disassemble(compiled.asm["cubin"])
    gpu = device(capability)
    taken = lanes(code)
    count, how = executed(code)
    warps = compiled.metadata.num_warps
    return KernelCost(
        case=case,
        provider=provider,
        kernel=kernel,
        shape=shape,
        dtype=dtype,
        layout=layout,
        capability=capability,
        instructions=len(code.instructions),
        elements_a_thread=elements_a_thread,
        executed=count,
        executed_by=how,
        flow=len(code.flow),
        registers=code.registers,
        spills=code.spills,
        stack=code.stack,
        local=code.local,
        shared=compiled.metadata.shared,
        loads=_by_width(code.accesses("LDG", "LD")),
        stores=_by_width(code.accesses("STG", "ST")),
        bytes_an_element=bytes_an_element,
        warps=warps,
        occupancy=occupancy(gpu, code.registers, compiled.metadata.shared, warps),
        lanes=dict(taken),
        bound=bound(gpu, taken, elements_a_thread, bytes_an_element),
    )


def _by_width(accesses: Counter[int]) -> dict[str, int]:
    return {str(bits): accesses[bits] for bits in sorted(accesses, reverse=True)}
