"""Faults in compiled text, each of which the emulator must find: by other bits, or by an access that it refuses."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# a shape of odd numbers, one of whole vectors, and what the calls have in common
_ODD, _WHOLE = (3, 3, 5, 7), (2, 4, 16, 16)
_Q_SAMPLE = dict(
    misaligned=False,
    dtype="float32",
    layout="contiguous",
    in_tensors=False,
    one_t=False,
    eps_dtype=None,
    out=None,
    return_eps=False,
)


@dataclass(frozen=True)
class Fault:
    """A change to the text of a compiled kernel, or to its launch.

    Parameters
    ----------
    name : str
    backend : {"cuda", "hip"}
    changes : tuple of (str, str)
        A pattern and what stands in its place; each must be found.
    options : dict or None
        Of `q_sample`; None for the kernel of `block_sum.py`.
    shared : float
        The share of its shared memory that the launch gives.
    orders : int
        Random orders of the warps to try; 0 for lockstep.
    shape_of_text : tuple of int, optional
        The text is that of a call with this shape, and with it its promises.
    """

    name: str
    backend: str
    changes: tuple[tuple[str, str], ...] = ()
    options: Mapping[str, Any] | None = None
    shared: float = 1.0
    orders: int = 0
    shape_of_text: tuple[int, ...] | None = None

    def planted(self, text: str) -> str:
        """The text with the fault in it."""
        for pattern, replacement in self.changes:
            text, count = re.subn(pattern, replacement, text)
            if not count:
                raise ValueError(f"{self.name}: nothing in the text matches {pattern}")
        return text


def _q(shape: tuple[int, ...], **more: Any) -> dict[str, Any]:
    return {**_Q_SAMPLE, "shape": shape, **more}


def _faults(backend: str, changes: dict[str, tuple[list[tuple[str, str]], dict[str, Any] | None]]) -> list[Fault]:
    return [Fault(name, backend, tuple(change), options) for name, (change, options) in changes.items()]


_FMA = r"(fma\.rn\.f32(?:x2)?\s+%\w+, %\w+, )(%\w+), (%\w+)"
_PTX = _faults(
    "cuda",
    {
        "a mask off by one": ([(r"setp\.([lg])t\.s32", r"setp.\1e.s32")], _q(_ODD)),
        "swapped operands": ([(_FMA, r"\1\3, \2")], _q(_ODD)),
        "another Philox constant": ([(r"-766435501|3528531795", "3528531797")], _q(_ODD)),
        "another key": ([(r"-1640531527|2654435769", "2654435768")], _q(_ODD)),
        "swapped halves": ([(r"\{_, ?(%\w+)\}", r"{\1, _}")], _q(_ODD)),
        "rounding towards zero": ([(r"mul\.rn\.f32", "mul.rz.f32")], _q(_ODD)),
        "truncation to bfloat16": ([(r"cvt\.rn\.bf16", "cvt.rz.bf16")], _q(_ODD, dtype="bfloat16")),
        "swapped pointers": (
            [(r"_param_0\]", "_param_x]"), (r"_param_1\]", "_param_0]"), (r"_param_x\]", "_param_1]")],
            _q(_ODD),
        ),
        "a pointer off by an element": (
            [(r"(ld\.param\.b64\s+(%\w+), \[_kernel_param_0\];)", r"\1 add.s64 \2, \2, 4;")],
            _q(_WHOLE),
        ),
        "another shuffle": ([(r"(shfl\.sync\.bfly\.b32\s+%\w+, %\w+, )16,", r"\g<1>8,")], None),
    },
)
_LANES = r"(v_(?:pk_fma_f32|fma_f32|fmaak_f32) \S+, \S+, )(\S+), (\S+)"
_AMD = _faults(
    "hip",
    {
        "a mask off by one": ([(r"v_cmp_([lg])t_i32", r"v_cmp_\1e_i32")], _q(_ODD)),
        "swapped operands": ([(_LANES, r"\1\3, \2")], _q(_ODD)),
        "another Philox constant": ([(r"0xd2511f53", "0xd2511f55")], _q(_ODD)),
        "truncation to bfloat16": ([(r"0x7fff\b", "0")], _q(_ODD, dtype="bfloat16")),
        "another lane": ([(r"row_xmask:1\b|quad_perm:\[1,0,3,2\]", "quad_perm:[2,3,0,1]")], None),
        "an offset off by an element": ([(r"((?:global|buffer)_store_\w+ .*)", r"\1 offset:4")], _q(_WHOLE)),
    },
)
FAULTS = [*_PTX, *_AMD]
for _backend, _barrier in (("cuda", r"bar\.sync\s+0;"), ("hip", r"\n\s*s_barrier")):
    FAULTS += [
        # only random orders can show it
        Fault("no barrier", _backend, ((_barrier, ""),), orders=10),
        Fault("a broken promise of divisibility", _backend, options=_q((2, 3, 19, 23)), shape_of_text=_WHOLE),
        Fault("too little shared memory", _backend, shared=0.5),
    ]


def faults_for(target: str) -> list[Fault]:
    """The faults in the kind of text that a target has."""
    return [fault for fault in FAULTS if (fault.backend == "cuda") == target.startswith("sm_")]
