"""eps ~ N(0, I) at an address: `noisestep.reference.noise.normal`. Reads nothing, writes one tensor."""

from collections.abc import Sequence
from math import prod

import torch
import triton.language as tl
from torch import Tensor

from ..address import MOST_ELEMENTS, MOST_ROWS, Address, NoiseAddress, int_in
from ..backends import eager, native
from ..backends.triton import kernels
from ..backends.triton.launch import ADDRESS, constants_of, kernel, layout_of, numbers_of, pointers_of
from ..backends.triton.tiling import access, accesses, program_of_row
from ..schedule import with_index
from .checks import check_address, check_dtype
from .registered import Registered


@kernel(numbers=ADDRESS)
def _kernel(
    eps_ptr, seed_ptr, step_ptr, sample_ptr,
    seed_low, seed_high, step, sample_low, sample_high,
    STREAM: tl.constexpr, STEP_ROWS: tl.constexpr, n, inner, TILING: tl.constexpr,
):  # fmt: skip
    row, program = program_of_row(TILING)
    address = (seed_ptr, seed_low, seed_high, step_ptr, step, sample_ptr, sample_low, sample_high)
    eps = kernels.normals(address, row, program, inner, STREAM, STEP_ROWS, TILING)
    for i in tl.static_range(accesses(TILING)):
        offset, number = access(i, row, program, n, inner, TILING)
        mask = None if TILING.whole else number < n
        tl.store(eps_ptr + offset, kernels.cast(eps[i], eps_ptr), mask=mask)


_noise = Registered("noise(SymInt[] shape, Address address, ScalarType dtype, Device device) -> Tensor")


@_noise.triton
def _(shape, address, dtype, device):
    eps = torch.empty(shape, dtype=dtype, device=device)
    layout = layout_of(eps, dtype)
    _kernel(layout, (eps, *pointers_of(address)), numbers_of(address), constants_of(address))
    return eps


@_noise.native
def _(shape, address, dtype, device):
    if device.type != "cpu" or not native.takes():
        return NotImplemented
    return native.noise(address, shape, dtype)


@_noise.eager
def _(shape, address, dtype, device):
    return eager.normal(address, shape, device).to(dtype).contiguous()


@_noise.fake
def _(shape, address, dtype, device):
    return torch.empty(shape, dtype=dtype, device=device)


def normal(address: Address, shape: Sequence[int], device: torch.device) -> Tensor:
    """Normals of float32 for the implementation of another op, on the backend that was chosen."""
    return _noise.run(shape, address, torch.float32, device)


def noise(
    address: NoiseAddress,
    shape: Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Standard normal noise eps ~ N(0, I) at an address (the chapter's "fresh Gaussian noise").

    Parameters
    ----------
    address : NoiseAddress
        Seed, stream, step and sample; row b of the result is the noise of the address's b-th sample.
    shape : sequence of int
        (B, ...), the batch first. Elements count in C order.
    dtype : torch.dtype
        float32, float16, bfloat16 or float64. The bits are those of float32, rounded once to nearest even.
    device : torch.device or str
        Where the noise is wanted, and where the address's tensors are.

    Returns
    -------
    Tensor, shape `shape`, contiguous

    Raises
    ------
    TypeError, ValueError
        For a shape with no batch axis, another dtype, or an address that does not fit.

    Examples
    --------
    >>> from noisestep.accelerated.address import FORWARD, NoiseAddress
    >>> noise(NoiseAddress(seed=0, stream=FORWARD, step=0), (2, 1, 8, 8)).shape
    torch.Size([2, 1, 8, 8])
    """
    if not isinstance(shape, Sequence) or isinstance(shape, str | bytes):
        raise TypeError(f"shape must be a sequence of int, got {shape!r}")
    if not shape:
        raise ValueError("shape must be (B, ...), got no axis")
    shape = (
        int_in("the batch size in shape", shape[0], 0, MOST_ROWS),
        *(int_in("a size of shape", n, 0, MOST_ELEMENTS + 1) for n in shape[1:]),
    )
    if prod(shape[1:]) > MOST_ELEMENTS:
        raise ValueError(f"shape must have at most {MOST_ELEMENTS} elements a sample, got {shape}")
    device = with_index(device)
    check_dtype(dtype)
    check_address(address, shape[0], device)
    return _noise(shape, address.arguments(), dtype, device)
