"""From a kernel's instructions to the pipe that holds it back.

Each instruction takes an issue slot and lanes of one pipe. What NVIDIA does not document is taken on the slow side, and
said in `lanes_of`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .devices import Device
from .sass import Instruction

_FMA_HEAVY = ("IMAD", "IDP", "HFMA2", "HADD2", "HMUL2", "HMNMX2", "VIADDMNMX")
_FMA = ("FFMA", "FMUL", "FADD", "FFMA2", "FMUL2", "FADD2", "FSWZADD")
_XU = ("MUFU", "I2F", "F2I", "F2F", "I2I", "FRND", "POPC", "FLO", "BREV")
_FP64 = ("DFMA", "DMUL", "DADD", "DSETP", "DMNMX", "DSEL")
_LSU = ("LDG", "STG", "LDS", "STS", "LDSM", "STSM", "LDL", "STL", "LD", "ST", "ATOMG", "RED", "SHFL", "S2R")
# issued, and then off the pipes that are counted here: constants, uniform registers, control flow, barriers
_NO_PIPE = (
    *("LDC", "LDCU", "ULDC", "S2UR", "R2UR", "CS2R", "BRA", "BRX", "JMP", "EXIT", "CALL", "RET", "BREAK", "BSSY"),
    *("BSYNC", "BAR", "DEPBAR", "MEMBAR", "WARPSYNC", "YIELD", "NANOSLEEP", "ERRBAR", "CCTL", "ELECT", "ACQBULK"),
    *("PREEXIT", "BMOV", "VOTE", "VOTEU", "NOP"),
)


def lanes_of(instruction: Instruction) -> tuple[str, float]:
    """The pipe of an instruction, and how many lanes a thread takes there.

    Assumed where the documents are silent: a product of 64 bits (IMAD.WIDE, IMAD.HI) takes two lanes; packed
    conversions (F2FP, I2FP) run on the ALU, all others on the XU; a pair of floats (FFMA2) takes two lanes; an access
    takes a lane for each 4 bytes of a thread, which is right for neighbouring threads on neighbouring bytes.
    """
    base = instruction.base
    if base in _FP64:
        return "fp64", 1
    if base in _FMA:
        return "fma", 2 if base.endswith("2") else 1
    if base in _FMA_HEAVY:
        return "fma heavy", 2 if ".WIDE" in instruction.opcode or ".HI" in instruction.opcode else 1
    if base in _XU:
        return "xu", 1
    if base in _LSU:
        return "lsu", max(1, instruction.width / 32)
    if base in _NO_PIPE or base.startswith("U"):
        return "", 0
    return "alu", 1


def lanes(instructions: Iterable[Instruction]) -> Counter[str]:
    """Lanes of each pipe that a thread takes with these instructions, and its issue slots."""
    taken: Counter[str] = Counter()
    for instruction in instructions:
        pipe, count = lanes_of(instruction)
        taken["issue"] += 1
        if pipe:
            taken[pipe] += count  # type: ignore[assignment]
    # whatever runs on the heavy half takes a lane of the whole
    taken["fma"] += taken["fma heavy"]
    return taken


@dataclass(frozen=True)
class Bound:
    """What holds a kernel back on a device, and how far.

    Parameters
    ----------
    by : str
        The pipe, "issue" or "memory": the one that takes longest.
    clocks : dict of str to float
        Clocks of one SM an element that each pipe takes; memory too, in the same unit.
    rate : float
        Elements a second, if nothing else held it back.
    """

    by: str
    clocks: dict[str, float]
    rate: float


def bound(gpu: Device, taken: Mapping[str, float], elements_a_thread: float, bytes_an_element: float) -> Bound:
    """The bound of a kernel: clocks an element = lanes a thread / (elements a thread x lanes of the pipe)."""
    clocks = {pipe: taken.get(pipe, 0) / (elements_a_thread * width) for pipe, width in gpu.lanes.items()}
    clocks["memory"] = bytes_an_element / gpu.bandwidth * gpu.clocks
    by = max(clocks, key=lambda name: clocks[name])
    return Bound(by, clocks, gpu.clocks / clocks[by])
