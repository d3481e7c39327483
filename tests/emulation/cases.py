"""Which calls of the ops are compiled and emulated: every pair of values of two options stands in some case.

Plain values only, since the process that lists the cases is not the one that runs them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

# of each op, the cases that are tried in many orders of the warps and with errors of approximate instructions
FIRST = 3
TARGETS = ("gfx1100", "gfx942", "sm_100", "sm_90", "sm_80")

_FLOATS = ("float32", "bfloat16", "float16", "float64")
_INPUTS = (*_FLOATS, "uint8")
_PREDICTIONS = ("eps", "v", "x_0")
# one program a sample and several, whole vectors of every type, odd numbers of everything, one element a sample
_SHAPES = ((2, 3, 37, 41), (2, 4, 32, 32), (3, 3, 5, 7), (2, 3, 16, 16), (2, 4, 5, 12), (5,))
_LAYOUTS = ("contiguous", "channels_last", "sliced")
_BOTH = (False, True)
_BATCHES = (5, 1, 700)
# where tensors stand in memory, the sizes that need 64 bits, and the address
_PLACE = {"shape": _SHAPES, "misaligned": _BOTH, "wide": _BOTH}
_ADDRESS = {"in_tensors": _BOTH, "one_t": _BOTH, "eps_dtype": (None, "float32", "bfloat16", "float64")}

FACTORS: dict[str, dict[str, Sequence[Any]]] = {
    "noise": {**_PLACE, "dtype": _FLOATS, "in_tensors": _BOTH, "one_t": _BOTH},
    "q_sample": {
        **_PLACE,
        "dtype": _INPUTS,
        "layout": _LAYOUTS,
        **_ADDRESS,
        "out": (None, "float32", "bfloat16", "float16", "float64"),
        "return_eps": _BOTH,
    },
    "simple_loss": {
        **_PLACE,
        "dtype": _FLOATS,
        "layout": _LAYOUTS,
        **_ADDRESS,
        "prediction": _PREDICTIONS,
        "x_0_dtype": _INPUTS,
        "weighted": _BOTH,
        "gradient": (True, False),
    },
    "loss_and_gradient": {
        **_PLACE,
        "dtype": _FLOATS,
        "layout": _LAYOUTS,
        **_ADDRESS,
        "prediction": _PREDICTIONS,
        "x_0_dtype": _INPUTS,
        "weighted": _BOTH,
        "scale": (1.0, 0.3),
    },
    "words": {"batch": _BATCHES, "in_tensors": _BOTH, "one_t": _BOTH, "count": (1, 4, 7)},
    "uniform": {"batch": _BATCHES, "in_tensors": _BOTH, "one_t": _BOTH},
    "integers": {
        "batch": _BATCHES,
        "in_tensors": _BOTH,
        "one_t": _BOTH,
        "ends": ((0, 9), (-5, 5), (-(2**31), -1), (7, 7)),
    },
    "advance": {"shape": ((), (1,), (1, 1)), "start": (0, 5, 2**40, -(2**40)), "by": (1, -1, 2**31 - 1, -(2**31))},
    "pairwise_sum": {
        "shape": ((3, 4096), (2, 1), (2, 7), (3, 1500)),
        "misaligned": _BOTH,
        "dtype": ("float32", "float64"),
    },
    "reverse_step": {
        **_PLACE,
        "dtype": _FLOATS,
        "layout": _LAYOUTS,
        **_ADDRESS,
        "prediction": _PREDICTIONS,
        "variance": ("posterior", "learned_range", "beta", "zero"),
        "eta": (None, None, 0.0, 0.3),
        "clip": (None, (-1, 1)),
        "rederive_eps": (True, False),
        "guidance": (None, 7.5),
        "joined": _BOTH,
        "return_x_0": _BOTH,
    },
    "vlb_terms": {
        **_PLACE,
        "dtype": _FLOATS,
        "layout": _LAYOUTS,
        "one_t": _BOTH,
        "prediction": _PREDICTIONS,
        "variance": ("posterior", "learned_range", "beta"),
        "clip": (None, (-1, 1)),
        "levels": (256, 2),
    },
}


@dataclass(frozen=True)
class Call:
    """A call of an op with a value for each of its options."""

    op: str
    number: int
    options: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What the test of this call is called."""
        return f"{self.op}-{self.number}"


def pairwise(factors: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Rows of values in which every two values of two factors meet, few of them and always the same."""
    names = list(factors)
    unmet = dict.fromkeys(
        ((a, i), (b, j))
        for a, b in combinations(names, 2)
        for i, j in product(range(len(factors[a])), range(len(factors[b])))
    )
    count = 0
    while unmet:
        row = dict(next(iter(unmet)))
        for name in names:
            if name not in row:
                # the value that meets most values for the first time; of equal ones another each time
                size = len(factors[name])
                met = [sum(_pair(names, (name, i), other) in unmet for other in row.items()) for i in range(size)]
                row[name] = max(((i + count) % size for i in range(size)), key=met.__getitem__)
        for pair in combinations(((name, row[name]) for name in names), 2):
            unmet.pop(pair, None)
        count += 1
        yield {name: factors[name][row[name]] for name in names}


def _pair(names: list[str], one: tuple[str, int], other: tuple[str, int]) -> tuple[tuple[str, int], tuple[str, int]]:
    return (one, other) if names.index(one[0]) < names.index(other[0]) else (other, one)


def calls() -> list[Call]:
    """All cases, the same for each target."""
    return [Call(op, i, row) for op, factors in FACTORS.items() for i, row in enumerate(pairwise(factors))]


def quick(target: str) -> list[Call]:
    """The cases that every run of the tests has: some of those that are tried in one order of the warps."""
    count = 2 if target in ("sm_90", "gfx942") else 1
    return [call for call in calls() if FIRST <= call.number < FIRST + count]
