"""eps ~ N(0, I) at an address: `noisestep.reference.noise.normal`. Reads nothing, writes one tensor."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..address import NoiseAddress
from ..backends.triton.kernels import normals, stored
from ..backends.triton.launch import Layout, address_arguments, launch, use_kernels
from ..backends.triton.tiling import piece, pieces, program_of_row
from ..noise import normal_at
from .checks import check_address, check_dtype


@triton.jit(do_not_specialize=["seed_low", "seed_high", "step", "sample_low", "sample_high"])
def _kernel(
    eps_ptr,
    n,
    inner,
    seed_ptr,
    seed_low,
    seed_high,
    step_ptr,
    step,
    sample_ptr,
    sample_low,
    sample_high,
    STREAM: tl.constexpr,
    STEP_ROWS: tl.constexpr,
    WALK: tl.constexpr,
    CHANNELS: tl.constexpr,
    WIDE: tl.constexpr,
    WHOLE: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    row, program = program_of_row(WIDE)
    address = (seed_ptr, seed_low, seed_high, step_ptr, step, sample_ptr, sample_low, sample_high)
    made = normals(address, row, program, inner, STREAM, STEP_ROWS, WALK, CHANNELS, VECTOR, BLOCKS)
    for i in tl.static_range(pieces(WALK, VECTOR)):
        offset, place = piece(i, row, program, n, inner, WALK, CHANNELS, VECTOR, BLOCKS)
        mask = None if WHOLE else place < n
        tl.store(eps_ptr + offset, stored(made[i], eps_ptr), mask=mask)


@torch.library.custom_op("noisestep::noise", mutates_args=())
def _noise(
    shape: Sequence[int],
    seed: int,
    seed_tensor: Tensor | None,
    stream: int,
    step: int,
    step_tensor: Tensor | None,
    sample: int,
    sample_tensor: Tensor | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    address = (seed, seed_tensor, stream, step, step_tensor, sample, sample_tensor)
    eps = torch.empty(shape, dtype=dtype, device=device)
    if not use_kernels(eps):
        return normal_at(address, shape, device).to(dtype).contiguous()
    layout = Layout(eps, dtype)
    launch(_kernel, layout.grid, eps_ptr=eps, **layout.arguments(), **address_arguments(address))
    return eps


@_noise.register_fake
def _(shape, seed, seed_tensor, stream, step, step_tensor, sample, sample_tensor, dtype, device) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=device)


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
    if not isinstance(shape, Sequence) or not all(isinstance(n, int | torch.SymInt) for n in shape):
        raise TypeError(f"shape must be a sequence of int, got {shape!r}")
    shape, device = tuple(shape), torch.device(device)
    if not shape or min(shape) < 0:
        raise ValueError(f"shape must be (B, ...), none of it negative, got {shape}")
    check_dtype(dtype)
    check_address(address, shape[0], device)
    return _noise(shape, *address.arguments(), dtype, device)
