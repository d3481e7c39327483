"""From AMD's assembly, as LLVM writes it for one kernel, to its statements."""

import re
from dataclasses import dataclass

from ..machine import UnknownInstruction

# what the hardware must be set to for the arithmetic here to be its own: round to nearest even, keep subnormals
_MODE = {
    "float_round_mode_32": 0,
    "float_round_mode_16_64": 0,
    "float_denorm_mode_32": 3,
    "float_denorm_mode_16_64": 3,
    "fp16_overflow": 0,
    "private_segment_fixed_size": 0,
    "user_sgpr_dispatch_ptr": 0,
    "user_sgpr_queue_ptr": 0,
    "user_sgpr_dispatch_id": 0,
    "user_sgpr_private_segment_size": 0,
    "user_sgpr_kernarg_segment_ptr": 1,
    "user_sgpr_kernarg_preload_offset": 0,
    "system_sgpr_workgroup_info": 0,
    "system_vgpr_workitem_id": 0,
}
_ENCODINGS = ("e32", "e64", "dpp", "sdwa")
# instructions whose operands are not registers
_FREE_FORM = ("s_waitcnt", "s_delay_alu", "s_sendmsg", "s_nop", "s_clause")


@dataclass(frozen=True)
class Statement:
    """One operation; a line of gfx11 may hold two that read before either writes (``::``).

    Parameters
    ----------
    opcode : str
        Without its encoding.
    encoding : str
        "e32", "e64", "dpp", "sdwa" or "".
    operands : tuple of str
    modifiers : dict
        Name to value; a flag's value is "".
    """

    opcode: str
    encoding: str
    operands: tuple[str, ...]
    modifiers: dict[str, str]


@dataclass(frozen=True)
class Line:
    """What is issued at once."""

    parts: tuple[Statement, ...]
    text: str


@dataclass(frozen=True)
class Argument:
    """Where a kernel's argument stands among the others, in bytes."""

    offset: int
    size: int
    kind: str


@dataclass(frozen=True)
class Kernel:
    """What a kernel's text declares and does.

    Parameters
    ----------
    name : str
    lanes : int
        Of a wave: 32 or 64.
    user_registers : int
        Scalar registers before those that hold the number of the workgroup.
    workgroup : str
        The axes whose numbers follow there.
    arguments : list of Argument
    argument_bytes : int
    shared : int
        Bytes of LDS that the text itself asks for.
    lines : list of Line
    labels : dict
        Name to the index of the line that follows.
    """

    name: str
    lanes: int
    user_registers: int
    workgroup: str
    arguments: list[Argument]
    argument_bytes: int
    shared: int
    lines: list[Line]
    labels: dict[str, int]


def parse(text: str) -> Kernel:
    """The only kernel of a module.

    Parameters
    ----------
    text : str
        Assembly of code object version 5, as Triton makes it.

    Returns
    -------
    Kernel

    Raises
    ------
    UnknownInstruction
        For text that is not understood, or a mode of the hardware that is not emulated.
    """
    names = re.findall(r"^\s*\.amdhsa_kernel\s+(\S+)", text, re.M)
    if len(names) != 1:
        raise UnknownInstruction(f"a module with {len(names)} kernels; one is allowed")
    values = {key: int(value) for key, value in re.findall(r"^\s*\.amdhsa_(\w+)\s+(\d+)\s*$", text, re.M)}
    for key, wanted in _MODE.items():
        if values.get(key, wanted) != wanted:
            raise UnknownInstruction(f"only {key} {wanted} is emulated, not {values[key]}")
    arguments = re.findall(r"\.offset:\s+(\d+)\s+\.size:\s+(\d+)\s+\.value_kind:\s+(\w+)", text)
    begin = re.search(rf"^{re.escape(names[0])}:", text, re.M)
    if begin is None:
        raise UnknownInstruction(f"no label {names[0]}")
    lines, labels = _lines(text[begin.end() :].split(".Lfunc_end")[0])
    return Kernel(
        name=names[0],
        lanes=32 if values.get("wavefront_size32") else 64,
        user_registers=values["user_sgpr_count"],
        workgroup="".join(axis for axis in "xyz" if values.get(f"system_sgpr_workgroup_id_{axis}")),
        arguments=[Argument(int(offset), int(size), kind) for offset, size, kind in arguments],
        argument_bytes=values["kernarg_size"],
        shared=values["group_segment_fixed_size"],
        lines=lines,
        labels=labels,
    )


def _lines(body: str) -> tuple[list[Line], dict[str, int]]:
    lines: list[Line] = []
    labels: dict[str, int] = {}
    for raw in body.split("\n"):
        text = raw.split(";")[0].strip()
        if re.fullmatch(r"[\w.$]+:", text):
            labels[text[:-1]] = len(lines)
        elif text and not text.startswith("."):
            parts = tuple(_statement(part) for part in text.split(" :: "))
            lines.append(Line(parts, " ".join(text.split())))
    return lines, labels


def _statement(text: str) -> Statement:
    match = re.fullmatch(r"([a-z]\w+)\s*(.*)", text.strip())
    if not match:
        raise UnknownInstruction(f"not understood: {text}")
    opcode, rest = match.groups()
    if opcode.startswith(_FREE_FORM):
        return Statement(opcode, "", (), {})
    encoding = opcode.rpartition("_")[2] if opcode.endswith(_ENCODINGS) else ""
    opcode = opcode.removesuffix(f"_{encoding}") if encoding else opcode
    operands = [part.strip() for part in re.split(r",(?![^\[]*\])", rest)] if rest else []
    modifiers: dict[str, str] = {}
    if operands:
        # modifiers follow the last operand, after spaces
        operands[-1], *found = re.sub(r",\s+", ",", operands[-1]).split()
        for modifier in found:
            name, _, value = modifier.partition(":")
            modifiers[name] = value
    return Statement(opcode.replace("v_dual_", "v_"), encoding, tuple(operands), modifiers)
