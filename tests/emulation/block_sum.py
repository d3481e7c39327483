"""A kernel in which the warps of a program wait for each other, whatever those of the ops do: exact sums."""

import torch
import triton
import triton.language as tl

SIZE = 1024


@triton.jit
def _kernel(values_ptr, sums_ptr, SIZE: tl.constexpr):
    program = tl.program_id(0)
    values = tl.load(values_ptr + program * SIZE + tl.arange(0, SIZE))
    tl.store(sums_ptr + program, tl.sum(values, axis=0))


def check() -> None:
    """The sums of the compiled kernel are those of PyTorch."""
    # integers, whose sums are exact in any order
    values = torch.randint(-1000, 1000, (3, SIZE), generator=torch.Generator().manual_seed(1)).float()
    sums = torch.full((3,), torch.nan)
    _kernel[(3,)](values, sums, SIZE=SIZE, num_warps=4, enable_fp_fusion=False)
    expected = values.sum(dim=1)
    assert torch.equal(sums, expected), f"{sums} and {expected}"
