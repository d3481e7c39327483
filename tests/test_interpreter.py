"""What the tests correct in Triton's interpreter is what a GPU computes, and only `kernels()` asks for it."""

from fractions import Fraction

import numpy as np
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from interpreter import DEVICE, bfloat16_bits, fma, kernels, run_kernel
from noise_oracle import fma as exact_fma
from noisestep.accelerated.backends import chosen

float32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


def test_bfloat16_is_rounded_as_torch_rounds():
    # every upper half, with the lower halves around a tie
    upper = np.arange(1 << 16, dtype=np.uint32)[:, None] << np.uint32(16)
    x = (upper | np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)).view(np.float32)
    expected = torch.from_numpy(x).to(torch.bfloat16)
    actual = torch.from_numpy(bfloat16_bits(x).view(np.int16)).view(torch.bfloat16)
    assert torch.equal(actual.isnan(), expected.isnan())
    same = actual.view(torch.int16) == expected.view(torch.int16)
    assert (same | actual.isnan()).all()


@given(float32, float32, float32)
# the sum lies halfway between two float32, but for what float64 has no room for
@example(1 + 2.0**-12, 1 + 2.0**-12, 2.0**-60)
@example(1 + 2.0**-12, 1 + 2.0**-12, -(2.0**-60))
def test_fma_rounds_once(x, y, z):
    exact = Fraction(x) * Fraction(y) + Fraction(z)
    # beyond the normal range the noise has no numbers
    assume(exact == 0 or 2.0**-126 <= abs(exact) < 2.0**127)
    actual = fma(*(np.array([value], np.float32) for value in (x, y, z)))
    assert Fraction(float(actual[0])) == exact_fma(Fraction(x), Fraction(y), Fraction(z))


def test_kernels_run_only_where_they_are_asked_for():
    x = torch.ones(1)
    assert chosen(x.device) == "native"
    with kernels():
        assert chosen(DEVICE) == "triton"
        # an element that nobody writes shows
        assert torch.empty(3).isnan().all()
    assert chosen(x.device) == "native"
    assert not torch.are_deterministic_algorithms_enabled()
    assert run_kernel(lambda x: x + 1, x).tolist() == [2]
