"""From the text of a PTX module to its statements."""

import re
from dataclasses import dataclass

from ..machine import UnknownInstruction

# types of registers, and how many bits each has
_WIDTH = {"pred": 1, "b16": 16, "b32": 32, "b64": 64, "f32": 32, "f64": 64, "u16": 16, "u32": 32, "u64": 64}
_WIDTH |= {"s16": 16, "s32": 32, "s64": 64}
# directives that change nothing that is computed
_IGNORED = (".loc", ".file", ".pragma", ".section")


@dataclass(frozen=True)
class Statement:
    """A line: ``@!%p1 add.s32 %r1, %r2, 4;``"""

    guard: str | None
    negated: bool
    opcode: str
    operands: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Module:
    """What a kernel's text declares and does.

    Parameters
    ----------
    name : str
    parameters : dict
        Name to type, in order.
    threads : int or None
        Threads of a program (``.reqntid``).
    registers : dict
        Name, or the part before the number, to bits.
    shared : dict
        Name to bytes; 0 for what the launch sizes.
    local : dict
        Name to bytes, of each thread.
    constants : dict
        Name to the bytes of a global variable.
    statements : list of Statement
    labels : dict
        Name to the index of the statement that follows.
    """

    name: str
    parameters: dict[str, str]
    threads: int | None
    registers: dict[str, int]
    shared: dict[str, int]
    local: dict[str, int]
    constants: dict[str, bytes]
    statements: list[Statement]
    labels: dict[str, int]

    def width(self, register: str) -> int:
        """Bits of a register, 1 for a predicate."""
        for name in (register, register.rstrip("0123456789")):
            if name in self.registers:
                return self.registers[name]
        raise UnknownInstruction(f"register {register} is not declared")


def parse(text: str) -> Module:
    """The only kernel of a module.

    Parameters
    ----------
    text : str
        Of a PTX module as Triton makes it.

    Returns
    -------
    Module

    Raises
    ------
    UnknownInstruction
        For text that is not understood.
    """
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)
    entries = list(re.finditer(r"\.entry\s+([\w$]+)\s*\((.*?)\)([^{]*)\{", text, re.S))
    if len(entries) != 1:
        raise UnknownInstruction(f"a module with {len(entries)} kernels; one is allowed")
    (entry,) = entries
    if re.search(r"\.func\b", text):
        raise UnknownInstruction("a module with a .func; calls are not emulated")
    body = text[entry.end() : _closing(text, entry.end())]
    threads = re.search(r"\.reqntid\s+(\d+)", entry[3])
    declared = r"\.%s\s+(?:\.align\s+\d+\s+)?\.b8\s+([\w$]+)\[(\d*)\]"
    statements, labels, registers = _statements(body)
    return Module(
        name=entry[1],
        parameters={
            name: kind
            for kind, name in re.findall(r"\.param\s+\.(\w+)(?:\s+\.ptr[^,]*?)?\s+([\w$]+)\s*(?:,|$)", entry[2].strip())
        },
        threads=int(threads[1]) if threads else None,
        registers=registers,
        shared={name: int(size or 0) for name, size in re.findall(declared % "shared", text)},
        local={name: int(size) for name, size in re.findall(declared % "local", body)},
        constants=_constants(text[: entry.start()]),
        statements=statements,
        labels=labels,
    )


def _closing(text: str, begin: int) -> int:
    depth = 1
    for brace in re.finditer(r"[{}]", text[begin:]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return begin + brace.start()
    raise UnknownInstruction("a kernel without an end")


def _constants(text: str) -> dict[str, bytes]:
    found = {}
    pattern = r"\.(?:global|const)\s+(?:\.align\s+\d+\s+)?\.b8\s+([\w$]+)\[(\d+)\](?:\s*=\s*\{([^}]*)\})?;"
    for name, size, initial in re.findall(pattern, text):
        values = bytes(int(value) for value in initial.split(",")) if initial else b""
        found[name] = values.ljust(int(size), b"\0")
    return found


def _statements(body: str) -> tuple[list[Statement], dict[str, int], dict[str, int]]:
    statements: list[Statement] = []
    labels: dict[str, int] = {}
    registers: dict[str, int] = {}
    # debug directives end with their line, all else with a semicolon
    kept = [line for line in body.split("\n") if not line.strip().startswith(_IGNORED)]
    for piece in _pieces("\n".join(kept)):
        if re.fullmatch(r"[\w$]+:", piece):
            labels[piece[:-1]] = len(statements)
        elif piece.startswith(".reg"):
            kind, names = re.fullmatch(r"\.reg\s+\.(\w+)\s+(.*)", piece, re.S).groups()  # type: ignore[union-attr]
            for name in names.split(","):
                registers[re.sub(r"<\d+>", "", name).strip()] = _WIDTH[kind]
        elif not re.match(r"\.(shared|local)\b", piece):
            statements.append(_statement(piece))
    return statements, labels, registers


def _pieces(body: str) -> list[str]:
    # braces hold vectors of operands where a comma, a bracket or an opcode stands before them, and scopes elsewhere
    vectors: list[str] = []

    def keep(match: re.Match[str]) -> str:
        vectors.append(re.sub(r"\s+", "", match[0]))
        return f"\x00{len(vectors) - 1}\x00"

    body = re.sub(r"\{[^{};]*\}", keep, body)
    body = re.sub(r"[{}]", ";", body)
    restored = re.sub(r"\x00(\d+)\x00", lambda match: vectors[int(match[1])], body)
    pieces = []
    for piece in restored.split(";"):
        piece = " ".join(piece.split())
        while label := re.match(r"([\w$]+:)(?!:)\s*", piece):
            pieces.append(label[1])
            piece = piece[label.end() :]
        if piece:
            pieces.append(piece)
    return pieces


def _statement(text: str) -> Statement:
    match = re.fullmatch(r"(?:@(!?)(%\w+)\s+)?([a-z][\w.:]*)\s*(.*)", text)
    if not match:
        raise UnknownInstruction(f"not understood: {text}")
    negated, guard, opcode, rest = match.groups()
    operands = [re.sub(r"\s+", "", operand) for operand in re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*", rest)]
    # shared::cta is what .shared means
    return Statement(guard, negated == "!", opcode.replace("::cta", ""), tuple(operands), text)
