"""What the machine code of a kernel says: its instructions, their width, its registers, its control flow.

Read with `nvdisasm` and `cuobjdump`, which come in Triton's wheel.
"""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import triton

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
# "/*01a0*/  @!P1 IADD3 R0, R0, -R5, RZ ;"
_LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(@!?U?P[T\d]+\s+)?([A-Z][A-Z0-9_.]*)([^;]*);")
_LABEL = re.compile(r"^(\.L_\w+):")
_RESOURCE = re.compile(r"(\w+):(\d+)")
_ACCESS = re.compile(r"^(LDG|STG|LDS|STS|LDSM|STSM|LDL|STL|LD|ST|ATOMG|RED)\b")
# branches, calls and what prepares them; a predicated EXIT only ends threads that are done
_FLOW = ("BRA", "BRX", "JMP", "JMX", "CALL", "RET", "BREAK", "BSSY", "BSYNC")


@dataclass(frozen=True)
class Instruction:
    """One machine instruction: where it stands, whether it is predicated, its opcode with modifiers, its operands."""

    address: int
    predicated: bool
    opcode: str
    operands: str

    @property
    def base(self) -> str:
        """The opcode without modifiers."""
        return self.opcode.split(".", 1)[0]

    @property
    def width(self) -> int:
        """Bits that one thread moves in a memory access; 0 for anything else."""
        if not _ACCESS.match(self.base):
            return 0
        for part in self.opcode.split(".")[1:]:
            if part in ("U8", "S8"):
                return 8
            if part in ("U16", "S16"):
                return 16
            if part in ("64", "128", "256"):
                return int(part)
        return 32


@dataclass(frozen=True)
class MachineCode:
    """A disassembled kernel.

    Parameters
    ----------
    instructions : tuple of Instruction
        In order, NOPs left out, and the jump to itself that the assembler puts behind the last EXIT.
    registers, stack, shared, local : int
        A thread's registers, a thread's bytes of stack, a block's bytes of shared memory, a thread's of local memory.
    """

    instructions: tuple[Instruction, ...]
    registers: int
    stack: int
    shared: int
    local: int

    @property
    def opcodes(self) -> Counter[str]:
        """How often each opcode stands in the code."""
        return Counter(i.opcode for i in self.instructions)

    @property
    def spills(self) -> int:
        """Accesses to local memory: spilled registers, and arrays that are indexed at run time."""
        return sum(i.base in ("LDL", "STL") for i in self.instructions)

    @property
    def flow(self) -> list[str]:
        """Branches, loops and calls. None: every thread that has work executes each instruction exactly once."""
        return [i.opcode for i in self.instructions if i.base in _FLOW]

    def accesses(self, *bases: str) -> Counter[int]:
        """How many accesses of these kinds there are of each width in bits."""
        return Counter(i.width for i in self.instructions if i.base in bases)


def _run(tool: str, cubin: bytes, *flags: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([_TOOLS / tool, *flags, file.name], capture_output=True, text=True, check=True).stdout


def parse(text: str) -> tuple[Instruction, ...]:
    """The instructions of `nvdisasm -c`'s output."""
    found: list[Instruction] = []
    label = ""
    for line in text.splitlines():
        if match := _LABEL.match(line.strip()):
            label = match.group(1)
        if not (match := _LINE.search(line)):
            continue
        address, predicate, opcode, operands = match.groups()
        instruction = Instruction(int(address, 16), predicate is not None, opcode, operands.strip())
        trap = instruction.base == "BRA" and label and operands.strip().strip("`()") == label and not predicate
        if not opcode.startswith("NOP") and not (trap and found and found[-1].base == "EXIT"):
            found.append(instruction)
    return tuple(found)


def disassemble(cubin: bytes) -> MachineCode:
    """The machine code of a cubin with one kernel."""
    instructions = parse(_run("nvdisasm", cubin, "-c"))
    if not instructions:
        raise ValueError("nvdisasm printed no instruction that could be read")
    function = _run("cuobjdump", cubin, "-res-usage").partition(" Function ")[2]
    resource = {name: int(value) for name, value in _RESOURCE.findall(function)}
    return MachineCode(instructions, resource["REG"], resource["STACK"], resource["SHARED"], resource["LOCAL"])
