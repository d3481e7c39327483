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
_LABEL = re.compile(r"^(\.(?:L_\w+|text\.\w+)):")
_TARGET = re.compile(r"`\((\.[\w.]+)\)")
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
    labels : dict of str to int
        Which instruction each label stands before.
    registers, stack, shared, local : int
        A thread's registers, a thread's bytes of stack, a block's bytes of shared memory, a thread's of local memory.
    """

    instructions: tuple[Instruction, ...]
    labels: dict[str, int]
    registers: int
    stack: int
    shared: int
    local: int

    @property
    def spills(self) -> int:
        """Accesses to local memory: spilled registers, and arrays that are indexed at run time."""
        return sum(i.base in ("LDL", "STL") for i in self.instructions)

    @property
    def flow(self) -> list[str]:
        """Branches, loops and calls. None: every thread that has work executes each instruction exactly once."""
        return [i.opcode for i in self.instructions if i.base in _FLOW]

    @property
    def shortest(self) -> tuple[Instruction, ...]:
        """The instructions on the shortest path to an EXIT that every thread takes: what a thread executes at least.

        A predicated EXIT is taken by threads that have no work, and passed here; a call is its CALL alone.
        """
        came_from: dict[int, int | None] = {0: None}
        queue = [0]
        for i in queue:
            instruction = self.instructions[i]
            if instruction.base == "EXIT" and not instruction.predicated:
                path = []
                at: int | None = i
                while at is not None:
                    path.append(self.instructions[at])
                    at = came_from[at]
                return tuple(reversed(path))
            for following in self._following(i):
                if following < len(self.instructions) and following not in came_from:
                    came_from[following] = i
                    queue.append(following)
        raise ValueError("no path through the code leads to an EXIT")

    def _following(self, i: int) -> list[int]:
        instruction = self.instructions[i]
        if instruction.base not in ("BRA", "BRX", "JMP", "JMX"):
            return [i + 1]
        target = _TARGET.search(instruction.operands)
        if target is None:
            raise ValueError(f"where does {instruction.opcode} {instruction.operands} lead?")
        # a predicate may stand among the operands as well, and a divergence branch is taken by some threads
        always = not instruction.predicated and target.start() == 0 and instruction.opcode != "BRA.DIV"
        return [self.labels[target.group(1)]] if always else [i + 1, self.labels[target.group(1)]]

    def accesses(self, *bases: str) -> Counter[int]:
        """How many accesses of these kinds there are of each width in bits."""
        return Counter(i.width for i in self.instructions if i.base in bases)


def _run(tool: str, cubin: bytes, *flags: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([_TOOLS / tool, *flags, file.name], capture_output=True, text=True, check=True).stdout


def parse(text: str) -> tuple[tuple[Instruction, ...], dict[str, int]]:
    """The instructions of `nvdisasm -c`'s output, and which of them each label stands before."""
    found: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if match := _LABEL.match(line.strip()):
            labels[match.group(1)] = len(found)
        if not (match := _LINE.search(line)):
            continue
        address, predicate, opcode, operands = match.groups()
        instruction = Instruction(int(address, 16), predicate is not None, opcode, operands.strip())
        target = _TARGET.fullmatch(instruction.operands)
        trap = (
            instruction.base == "BRA"
            and target
            and not predicate
            and labels.get(target.group(1)) == len(found)
            and found
            and found[-1].base == "EXIT"
        )
        if not opcode.startswith("NOP") and not trap:
            found.append(instruction)
    return tuple(found), labels


def disassemble(cubin: bytes) -> MachineCode:
    """The machine code of a cubin with one kernel."""
    instructions, labels = parse(_run("nvdisasm", cubin, "-c"))
    if not instructions:
        raise ValueError("nvdisasm printed no instruction that could be read")
    function = _run("cuobjdump", cubin, "-res-usage").partition(" Function ")[2]
    resource = {name: int(value) for name, value in _RESOURCE.findall(function)}
    return MachineCode(instructions, labels, resource["REG"], resource["STACK"], resource["SHARED"], resource["LOCAL"])
