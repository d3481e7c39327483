"""pairwise_sum: one order on every device, and no more rounding than its tree is deep."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from interpreter import assert_same_bits
from noisestep.accelerated.ops import pairwise_sum
from op_cases import LAYOUTS, UNIT, Case, assert_registered, assert_within, compiled, float64, gamma

sizes = st.integers(0, 40) | st.sampled_from((512, 1023, 1024, 1025, 2048, 3000))
sums = st.builds(
    Case,
    st.tuples(st.integers(0, 3), sizes),
    dtype=st.sampled_from(("float32", "float64")),
    layout=st.sampled_from(LAYOUTS),
)


def depth(n: int) -> int:
    """Additions that an element goes through: those within a chunk of 1024, and those of the chunks."""
    if n <= 1024:
        return max(n - 1, 0).bit_length()
    return 10 + depth(-(-n // 1024))


def by_definition(row: np.ndarray) -> np.floating:
    """Neighbours, then neighbouring sums, in chunks of 1024 that zeros fill up."""
    if len(row) > 1024:
        return by_definition(np.array([by_definition(row[i : i + 1024]) for i in range(0, len(row), 1024)]))
    sums = list(row) or [row.dtype.type(0)]
    while len(sums) > 1:
        sums += [row.dtype.type(0)] * (len(sums) % 2)
        sums = [a + b for a, b in zip(sums[0::2], sums[1::2], strict=True)]
    return sums[0]


@pytest.mark.property
@given(sums)
@example(Case((1, 2**20 + 1025)))
def test_the_order_is_the_one_that_is_written_down(case):
    values = case.tensor(1)
    expected = np.array([by_definition(row) for row in values.numpy()], values.numpy().dtype)
    assert_same_bits(actual=pairwise_sum(values), expected=torch.from_numpy(expected))


@pytest.mark.property
@given(sums)
def test_within_its_bound(case):
    values = case.tensor(1)
    (exact,) = float64(values)
    unit = UNIT[values.dtype]
    assert_within(
        actual=pairwise_sum(values),
        expected=np.array([math.fsum(row) for row in exact]),
        error=gamma(depth(values.shape[1]) + 1, unit) * np.abs(exact).sum(axis=1),
    )


def test_gradients():
    values = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(pairwise_sum, values)
    assert torch.autograd.gradgradcheck(lambda x: pairwise_sum(x).square(), values)


def test_registration():
    assert_registered(lambda: pairwise_sum(torch.randn(2, 5, requires_grad=True)))


def test_one_graph_for_every_content():
    traced = compiled(pairwise_sum)
    for _ in range(2):
        values = torch.randn(2, 5)
        assert_same_bits(actual=traced(values), expected=pairwise_sum(values))
