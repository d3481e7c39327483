"""Integers of every kind, wherever a public function takes one: the number that they show, or a clear refusal."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from public_calls import RETURNED, calls, public_names, results

KINDS: dict[str, Callable[[int], Any]] = {
    **{kind.__name__: kind for kind in (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32)},
    **{kind.__name__: kind for kind in (np.int64, np.uint64)},
    "array of no axis": lambda number: np.array(number, np.int16),
    "tensor": lambda number: torch.tensor(number, dtype=torch.int64),
    "small tensor": lambda number: torch.tensor(number, dtype=torch.uint8),
}
REFUSED: dict[str, Any] = {
    "True": True,
    "NumPy's True": np.bool_(True),
    "an array of True": np.array(True),
    "a tensor of True": torch.tensor(True),
    "a float": 2.0,
    "NumPy's float": np.float32(2),
    "text": "2",
    "bytes": b"2",
    "None in a list": [None],
    "complex": 2 + 0j,
    "2^64": 1 << 64,
    "10^40": 10**40,
    "-10^40": -(10**40),
}
EXCEPT = {
    # "2" is a section of 2 steps
    ("ref.Schedule.respace", "kept"): {"text"},
    ("acc.invert", "steps"): {"text"},
    ("acc.sample", "steps"): {"text"},
}


def integers_in(arguments: dict[str, Any]) -> Iterator[tuple[str, int | None]]:
    """Which arguments are integers, and where in a tuple of a shape they stand."""
    for name, value in arguments.items():
        if type(value) is int:
            yield name, None
        if type(value) is tuple and value and all(type(part) is int for part in value):
            yield from ((name, i) for i in range(len(value)))


def put(arguments: dict[str, Any], name: str, i: int | None, value: Any) -> dict[str, Any]:
    if i is None:
        return {name: value}
    parts = list(arguments[name])
    parts[i] = value
    return {name: tuple(parts)}


CASES = [(name, *place) for name, call in calls().items() for place in integers_in(call.arguments)]


def test_every_public_function_is_called():
    assert public_names() - set(calls()) <= RETURNED


def test_every_call_is_a_valid_one():
    for call in calls().values():
        call()


@pytest.mark.parametrize(("name", "argument", "i"), CASES)
def test_an_integer_of_any_kind_is_the_number_that_it_shows(name, argument, i):
    call = calls()[name]
    number = call.arguments[argument] if i is None else call.arguments[argument][i]
    expected = results(call())
    for kind, make in KINDS.items():
        if number < 0 and kind.startswith(("uint", "small")):
            continue
        if kind.endswith("tensor") and name == "acc.NoiseAddress":
            # the stream is a part of the kernel, and the others stay tensors, of int64 alone
            continue
        found = results(call(**put(call.arguments, argument, i, make(number))))
        assert len(found) == len(expected), kind
        for actual, wanted in zip(found, expected, strict=True):
            np.testing.assert_array_equal(actual, wanted, strict=True, err_msg=kind)


@pytest.mark.parametrize(("name", "argument", "i"), CASES)
def test_what_is_no_integer_is_refused_with_both_sides(name, argument, i):
    call = calls()[name]
    for kind, value in REFUSED.items():
        if kind in EXCEPT.get((name, argument), ()):
            continue
        with pytest.raises((TypeError, ValueError)) as caught:
            call(**put(call.arguments, argument, i, value))
        said = str(caught.value)
        assert ("got" in said and "must" in said) or str(value) in said, (kind, said)
