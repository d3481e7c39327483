"""Integers of every kind mean the same number: NumPy's small ones do not wrap around inside the reference."""

import re

import numpy as np
import pytest
from noisestep.reference import (
    FORWARD,
    LABEL_DROPOUT,
    REVERSE,
    Schedule,
    beta_schedule,
    discretised_normal_log_likelihood,
    integers,
    jsd_beta,
    normal,
    permutation,
    sample,
    uniform,
    words,
)
from noisestep.reference._arguments import integer
from noisestep.reference.network import initial_parameters, timestep_embedding
from noisestep.reference.picture import image_grid
from noisestep.reference.training import batches

KINDS = (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64)
LINEAR = Schedule.from_name("linear", 10)
HALF = np.full((2, 3), 0.5)


def flat(parameters):
    return np.concatenate([array.ravel() for array in parameters.values()])


# what is computed from integers, each of which fits in eight bits while what is made of them does not
CALLS = {
    "words": lambda i: words(i(100), i(LABEL_DROPOUT), i(100), i(100), i(100)),
    "normal": lambda i: normal(i(100), i(REVERSE), i(100), i(100), (i(100), i(3))),
    "uniform": lambda i: uniform(i(100), i(REVERSE), [i(100), i(7)], [i(1), i(2)]),
    "integers": lambda i: integers(i(0), i(1), i(0), i(5), i(0), i(127)),
    "permutation": lambda i: permutation(i(1), i(2), i(127)),
    "batches": lambda i: next(batches(i(1), i(100), i(90))),
    "betas": lambda i: np.concatenate([beta_schedule(name, i(127)) for name in ("jsd", "linear", "cosine", "sigmoid")]),
    "respace": lambda i: LINEAR.respace(i(4)).timesteps,
    "timesteps": lambda i: Schedule([0.1, 0.2], np.array([3, 100], np.dtype(i))).timesteps,
    "levels": lambda i: discretised_normal_log_likelihood(HALF, HALF, 0.0, levels=i(100)),
    "grid": lambda i: image_grid(np.zeros((4, 1, 2, 2)), i(2), zoom=i(100)),
    "weights": lambda i: flat(initial_parameters(i(1), i(1), i(120), i(100))),
    "embedding": lambda i: timestep_embedding([3], i(100)),
    "sample": lambda i: sample(LINEAR, lambda x, t: x, (i(2), i(100), i(2)), seed=i(1), numbers=i(127)),
    "numbers": lambda i: sample(LINEAR, lambda x, t: x, (2, 3), numbers=np.array([9, 4], np.dtype(i))),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_integer_of_any_kind_is_the_number_it_shows(call, kind):
    np.testing.assert_array_equal(call(kind), call(int), strict=True)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: jsd_beta(2.0), TypeError, "T must be an int, got 2.0"),
        (lambda: jsd_beta(np.bool_(True)), TypeError, "T must be an int, got"),
        (lambda: normal(0.5, 0, 0, 0, (1,)), TypeError, "seed must be an int, got 0.5"),
        (lambda: normal(0, True, 0, 0, (1,)), TypeError, "stream must be an int, got True"),
        (lambda: normal(0, 0, 0, "7", (1,)), TypeError, "sample must be an integer or a row of integers in [0, 1844"),
        (lambda: normal(0, np.array([0, 1]), 0, 0, (1,)), TypeError, "stream must be an int, got array([0, 1])"),
        (lambda: normal(0, FORWARD, 0, 0, (2.0,)), TypeError, "a size of shape must be an int, got 2.0"),
        (lambda: normal(0, FORWARD, 0, 0, (-1,)), ValueError, "a size of shape must lie in [0, 17179869185), got -1"),
        (lambda: integers(0, 1, 0, 0, 1.0, 5), TypeError, "low must be an int, got 1.0"),
        (lambda: integers(0, 1, 0, 0, 6, 5), ValueError, "low=6, high=5 span 0 integers"),
        (lambda: normal(0, FORWARD, [[1]], 0, (1,)), ValueError, "step must be an integer or a row of integers in"),
        (lambda: normal(0, FORWARD, [3, -1], 0, (1,)), ValueError, "step must lie in [0, 268435456), got [3, -1]"),
        (lambda: permutation(0, [1, 2], 5), TypeError, "epoch must be an int, got [1, 2]"),
        (lambda: permutation(0, 0, 2.5), TypeError, "n must be an int, got 2.5"),
        (lambda: normal(0, FORWARD, [True], 0, (1,)), TypeError, "step must be an integer or a row of integers in"),
        (lambda: sample(LINEAR, lambda x, t: x, (2, 3), numbers=-1), ValueError, "numbers must lie in [0, 1844"),
        (lambda: sample(LINEAR, lambda x, t: x, (2, 3), numbers=2**64 - 1), ValueError, "numbers must lie in [0, "),
        (lambda: sample(LINEAR, lambda x, t: x, (2.0, 3)), TypeError, "the batch size must be an int, got 2.0"),
        (lambda: discretised_normal_log_likelihood(HALF, HALF, 0.0, levels=2.5), TypeError, "levels must be an int"),
        (lambda: image_grid(np.zeros((1, 1, 2, 2)), 0), ValueError, "columns must lie in [1, 65536), got 0"),
        (lambda: image_grid(np.zeros((1, 1, 2, 2)), 1, zoom=1.5), TypeError, "zoom must be an int, got 1.5"),
        (lambda: LINEAR.respace(np.array([2, 1], np.uint8)), ValueError, "kept steps must be increasing numbers"),
        (lambda: Schedule([0.1, 0.2], np.array([2, 1], np.uint8)), ValueError, "timesteps must be 2 increasing"),
        (lambda: next(batches(0, 0, 1)), ValueError, "count must lie in [1, 2147483648), got 0"),
        (lambda: next(batches(0, 5, 0)), ValueError, "batch must lie in [1, 2147483648), got 0"),
    ],
)
def test_what_is_no_integer_or_out_of_range_is_refused(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_samples_beyond_63_bits_have_numbers_too():
    last = 2**64 - 3
    expected = normal(0, FORWARD, 0, np.array([2**64 - 2, 1], np.uint64), (4,))
    np.testing.assert_array_equal(normal(0, FORWARD, 0, [2**64 - 2, 1], (4,)), expected)
    together = sample(LINEAR, lambda x, t: x, (3, 5), numbers=last)
    np.testing.assert_array_equal(sample(LINEAR, lambda x, t: x, (1, 5), numbers=[last + 2])[0], together[2])


def test_an_integer_without_an_end_has_a_least_value():
    assert integer("k", np.uint8(1), 1) == 1
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        integer("k", 0, 1)
