"""eps ~ N(0, I) at an address: `noisestep.reference.noise.normal`. Reads nothing, writes one tensor."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import check_address, check_dtype
from ..kernels import normals, offsets, place, stored
from ..launch import Layout, address_arguments, launch, use_kernels
from ..noise import Noise, normal_at


@triton.jit(do_not_specialize=["seed", "step", "sample"])
def _kernel(
    eps_ptr,
    n,
    programs_a_row,
    channels,
    inner,
    seed_ptr,
    seed,
    step_ptr,
    step,
    sample_ptr,
    sample,
    STREAM: tl.constexpr,
    STEP_ROWS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    row, first, element = place(programs_a_row, BLOCKS, WIDE)
    eps = normals(first, row, seed_ptr, seed, STREAM, step_ptr, step, sample_ptr, sample, STEP_ROWS, BLOCKS)
    offset = row * n + offsets(element, channels, inner, CHANNELS_LAST)
    tl.store(eps_ptr + offset, stored(eps, eps_ptr), mask=element < n)


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
    layout = Layout(eps)
    launch(_kernel, layout.programs, eps_ptr=eps, **layout.arguments(), **address_arguments(address))
    return eps


@_noise.register_fake
def _(shape, seed, seed_tensor, stream, step, step_tensor, sample, sample_tensor, dtype, device) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=device)


def noise(
    address: Noise,
    shape: Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Standard normal noise eps ~ N(0, I) at an address (the chapter's "fresh Gaussian noise").

    Parameters
    ----------
    address : Noise
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
    >>> from noisestep.accelerated.noise import FORWARD, Noise
    >>> noise(Noise(seed=0, stream=FORWARD, step=0), (2, 1, 8, 8)).shape
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
