"""What the description of an op says, and how a call of the op is checked by it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import combinations, product
from typing import Any

import torch
from interpreter import assert_same_bits
from noisestep.accelerated.backends import Launch, backend
from op_cases import FLOATS, PREDICTIONS, Case

# by the op's name, every description
DESCRIPTIONS: dict[str, "Description"] = {}

Run = Callable[..., Any]

# values of options that many ops have. Shapes: one program a sample and several, whole vectors of every type, several
# vectors of channels, odd numbers of everything, one element a sample
SHAPES = ((2, 3, 19, 23), (2, 4, 16, 16), (3, 3, 5, 7), (2, 3, 8, 8), (2, 12, 5, 12), (5,))
LAYOUTS = ("contiguous", "channels_last", "sliced")
INPUTS = (*FLOATS, "uint8")
BOTH = (False, True)
PLACE: dict[str, Sequence[Any]] = {"shape": SHAPES, "misaligned": BOTH, "wide": BOTH, "programs": (None, 2, 1)}
ADDRESS: dict[str, Sequence[Any]] = {"in_tensors": (False, True, "step"), "one_t": BOTH}
GIVEN_EPS: dict[str, Sequence[Any]] = {"eps_dtype": (None, "float32", "bfloat16", "float64")}
# the numbers of a call: Python's, or in tensors
SCALARS: dict[str, Sequence[Any]] = {"scalars": ("numbers", "float32 for all", "float64 for each", "bfloat16 for each")}
# the kernels know a flow as v with another table
PREDICTION: dict[str, Sequence[Any]] = {"prediction": [name for name in PREDICTIONS if name != "flow"]}

# the factors that are fields of a case
OF_A_CASE = {field.name for field in fields(Case)}
# a seed, a step and numbers of samples that fill their words
_FULL = dict(shape=(3,), seed=2**63 + 2**33 + 5, stream=11, step=2**27 + 3, sample=2**40 + 2**32 - 2, T=30)


@dataclass(frozen=True, eq=False, repr=False)
class Description:
    """A public op, and how what its kernels compute is checked.

    Parameters
    ----------
    name : str
    call : function
        What is compared: the op, or a function that calls it and takes a gradient.
    prepare : function
        ``prepare(case, **options)`` makes the arguments of `call`, a tuple and a dict.
    factors : mapping
        Each option with its values: fields of `Case`, and what else `prepare` takes.
    near : function, optional
        ``near(actual, case, **options)`` fails where a result is not within its bound of the reference.
    exact : function
        ``exact(case, **options)``: whether a kernel has the bits of the eager backend, and not merely `near`.
    elementwise : bool
        Whether nothing is summed: no shared memory is due then.
    counted : mapping
        The calls on a batch whose cost is counted, by their name in the tables: the options of each.
    count_dtypes, count_layouts : sequence of str
        Those that make a kernel of their own.
    budgets : mapping
        By the name of a counted call and the dtype, the most instructions an element (`benchmarks.kernel_cost`).
    timed : mapping
        The options of the call that is timed; `benchmarks.baselines` has what it is compared with.
    """

    name: str
    call: Run
    prepare: Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]
    factors: Mapping[str, Sequence[Any]]
    near: Callable[..., None] | None = None
    exact: Callable[..., bool] = lambda case, **options: True
    elementwise: bool = True
    counted: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    count_dtypes: Sequence[str] = ("bfloat16", "float32")
    count_layouts: Sequence[str] = ("contiguous", "channels_last")
    budgets: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    timed: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        DESCRIPTIONS[self.name] = self

    def __repr__(self) -> str:
        return self.name

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Calls in which every two values of two options meet: for each, a value of each option."""
        return list(pairwise(self.factors))

    @cached_property
    def few_rows(self) -> list[dict[str, Any]]:
        """Those of `rows` in which a value stands for the first time."""
        met: set[tuple[str, Any]] = set()
        chosen = []
        for row in self.rows:
            if not row.items() <= met:
                chosen.append(row)
            met |= row.items()
        return chosen

    def check(self, case: Case, options: Mapping[str, Any], run: Run) -> None:
        """What `run(call, *arguments, **keywords)` gives is right, where it runs kernels."""
        arguments, keywords = self.prepare(case, **options)
        actual = run(self.call, *arguments, **keywords)
        if self.exact(case, **options):
            assert_same_bits(actual=actual, expected=self.eager(case, options))
        if self.near is not None:
            self.near(actual, case, **options)

    def eager(self, case: Case, options: Mapping[str, Any]) -> Any:
        """What the call gives on the eager backend."""
        # made anew for each call, which may write to them
        arguments, keywords = self.prepare(case, **options)
        with backend("eager"):
            return self.call(*arguments, **keywords)

    def launches(self, case: Case, options: Mapping[str, Any]) -> list[Launch]:
        """The launches of kernels that the call would make on a GPU."""
        arguments, keywords = self.prepare(case, **options)
        found: list[Launch] = []
        with backend("triton", hook=found.append, **case.how):
            self.call(*arguments, **keywords)
        return found


def split(row: Mapping[str, Any]) -> tuple[Case, dict[str, Any]]:
    """The case of a row, and its other options."""
    of_case, rest = split_options(row)
    return Case(**{**_FULL, **of_case}), rest


def split_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options that are fields of a case, and the others."""
    of_case = {name: value for name, value in options.items() if name in OF_A_CASE}
    return of_case, {name: value for name, value in options.items() if name not in of_case}


def in_tensors(case: Case, scalars: str, number: float, *, spread: float) -> Any:
    """A number as `SCALARS` has it; one for each sample grows by `spread` from one to the next."""
    if scalars == "numbers":
        return number
    dtype, _, rows = scalars.split()
    if rows == "all":
        return torch.tensor(number, dtype=getattr(torch, dtype), device=case.device)
    values = number + spread * torch.arange(case.shape[0], dtype=torch.float64, device=case.device)
    return values.to(getattr(torch, dtype))


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
