"""words, uniform and integers: the reference's bits."""

from math import prod

import numpy as np
import torch
from interpreter import assert_same_bits
from noisestep.accelerated.ops import integers, uniform, words
from noisestep.reference import noise as reference
from op_cases import Case
from torch import Tensor

from .description import ADDRESS, Description

# a program has 128 words: less than one, several, and one that a row begins in the middle of
_BATCHES = ((5,), (1,), (300,), (128,))


def _words(case: Case) -> tuple[tuple, dict]:
    return (case.noise(), case.shape[0], prod(case.shape[1:])), dict(device=torch.device(case.device))


def _words_near(actual: Tensor, case: Case) -> None:
    expected = reference.words(*case.reference_address(), prod(case.shape[1:]))
    assert_same_bits(actual=actual, expected=torch.from_numpy(expected.astype(np.int64)))


def _uniform(case: Case) -> tuple[tuple, dict]:
    return (case.noise(), case.shape[0]), dict(device=torch.device(case.device))


def _uniform_near(actual: Tensor, case: Case) -> None:
    expected = reference.uniform(*case.reference_address())
    assert_same_bits(actual=actual, expected=torch.from_numpy(expected), strides=False)


def _integers(case: Case, *, ends: tuple[int, int]) -> tuple[tuple, dict]:
    return (case.noise(), case.shape[0], *ends), dict(device=torch.device(case.device))


def _integers_near(actual: Tensor, case: Case, *, ends: tuple[int, int]) -> None:
    expected = reference.integers(*case.reference_address(), *ends)
    assert_same_bits(actual=actual, expected=torch.from_numpy(expected), strides=False)


Description(
    "words",
    words,
    _words,
    {"shape": ((3, 37), (2, 130), (5, 1), (2, 64), (2, 0)), **ADDRESS},
    near=_words_near,
)
Description("uniform", uniform, _uniform, {"shape": _BATCHES, **ADDRESS}, near=_uniform_near)
Description(
    "integers",
    integers,
    _integers,
    # the widest spans, and a single number
    {"shape": _BATCHES, **ADDRESS, "ends": ((0, 9), (-(2**31), -1), (0, 2**31 - 1), (2**31 - 1,) * 2, (-5, 2**30))},
    near=_integers_near,
    timed={"ends": (1, 1000)},
)
