"""Words, uniform numbers and integers at an address: `noisestep.reference.noise`. Reads nothing, writes a row each."""

import torch
import triton.language as tl
from torch import Tensor

from ..address import MOST_ELEMENTS, MOST_ROWS, NoiseAddress, int_in, plain_int
from ..backends import eager
from ..backends.triton import kernels
from ..backends.triton.launch import ADDRESS, constants_of, kernel, numbers_of, pointers_of
from ..schedule import with_index
from .checks import check_address
from .registered import Registered

# words that a program makes
_SIZE = 128


@kernel(numbers=(*ADDRESS, "low", "span"))
def _kernel(
    out_ptr, seed_ptr, step_ptr, sample_ptr,
    seed_low, seed_high, step, sample_low, sample_high, low, span,
    batch, count, STREAM: tl.constexpr, STEP_ROWS: tl.constexpr, KIND: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    row = place // count
    word = place - row * count
    mask = row < batch
    address = (seed_ptr, seed_low, seed_high, step_ptr, step, sample_ptr, sample_low, sample_high)
    # a row beyond the batch would read beyond the address's tensors
    row = tl.minimum(row, batch - 1)
    c1, c2, c3, k0, k1 = kernels.counter_and_key(address, row, STREAM, STEP_ROWS)
    zero = tl.zeros((SIZE,), tl.uint32)
    w0, w1, w2, w3 = kernels.philox4x32((word // 4).to(tl.uint32), c1 + zero, c2 + zero, c3 + zero, k0, k1)
    at = word % 4
    value = tl.where(at == 0, w0, tl.where(at == 1, w1, tl.where(at == 2, w2, w3)))
    if KIND == "uniform":
        tl.store(out_ptr + place, (value >> 8).to(tl.float32) * (1.0 / (1 << 24)), mask=mask)
    elif KIND == "integers":
        product = value.to(tl.uint64) * span.to(tl.uint32, bitcast=True).to(tl.uint64)
        tl.store(out_ptr + place, (product >> 32).to(tl.int64) + low, mask=mask)
    else:
        tl.store(out_ptr + place, value.to(tl.int64), mask=mask)


def _launch(address, batch, count, device, kind, dtype, low=0, span=0):
    out = torch.empty((batch, count), dtype=dtype, device=device)
    _kernel(
        (-(-batch * count // _SIZE), 1, 1),
        (out, *pointers_of(address)),
        (*numbers_of(address), low, span),
        (batch, count, *constants_of(address), kind, _SIZE),
        warps=4,
    )
    return out


_words = Registered("words(Address address, SymInt batch, SymInt count, Device device) -> Tensor")


@_words.triton
def _(address, batch, count, device):
    return _launch(address, batch, count, device, "words", torch.int64)


@_words.eager
def _(address, batch, count, device):
    return eager.words(address, batch, count, device).contiguous()


@_words.fake
def _(address, batch, count, device):
    return torch.empty((batch, count), dtype=torch.int64, device=device)


_uniform = Registered("uniform(Address address, SymInt batch, Device device) -> Tensor")


@_uniform.triton
def _(address, batch, device):
    return _launch(address, batch, 1, device, "uniform", torch.float32)[:, 0]


@_uniform.eager
def _(address, batch, device):
    return (eager.words(address, batch, 1, device)[:, 0] >> 8).float() * 2.0**-24


@_uniform.fake
def _(address, batch, device):
    return torch.empty(batch, dtype=torch.float32, device=device)


_integers = Registered("integers(Address address, SymInt batch, SymInt low, SymInt span, Device device) -> Tensor")


@_integers.triton
def _(address, batch, low, span, device):
    # the span is at most 2^31: as the bits of an int32 it is -2^31
    return _launch(address, batch, 1, device, "integers", torch.int64, low, span - (span >> 31 << 32))[:, 0]


@_integers.eager
def _(address, batch, low, span, device):
    return low + ((eager.words(address, batch, 1, device)[:, 0] * span) >> 32)


@_integers.fake
def _(address, batch, low, span, device):
    return torch.empty(batch, dtype=torch.int64, device=device)


def words(address: NoiseAddress, batch: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """Random words 0 .. count - 1 of each sample: `noisestep.reference.noise.words`, bit for bit.

    Parameters
    ----------
    address : NoiseAddress
    batch : int
        B, the samples, in [0, 2^31).
    count : int
        Words a sample, in [0, 2^34].
    device : torch.device or str

    Returns
    -------
    Tensor of int64, shape (B, count)
        In [0, 2^32).

    Raises
    ------
    TypeError, ValueError
        For an address that does not fit the batch and the device.
    """
    batch, device = _checked(address, batch, device)
    count = int_in("count", count, 0, MOST_ELEMENTS + 1)
    return _words(address.arguments(), batch, count, device)


def uniform(address: NoiseAddress, batch: int, device: torch.device | str = "cpu") -> Tensor:
    """A uniform number in [0, 1) for each sample: `noisestep.reference.noise.uniform`, bit for bit.

    Parameters and errors are those of `words`.

    Returns
    -------
    Tensor of float32, shape (B,)
    """
    batch, device = _checked(address, batch, device)
    return _uniform(address.arguments(), batch, device)


def integers(address: NoiseAddress, batch: int, low: int, high: int, device: torch.device | str = "cpu") -> Tensor:
    """A uniform integer in low .. high for each sample: `noisestep.reference.noise.integers`, bit for bit.

    Parameters
    ----------
    address : NoiseAddress
    batch : int
        B, the samples.
    low, high : int
        In [-2^31, 2^31), both included; low is at most high.
    device : torch.device or str

    Returns
    -------
    Tensor of int64, shape (B,)

    Raises
    ------
    TypeError, ValueError
        For an empty or too wide range, or an address that does not fit.
    """
    low, high = plain_int("low", low), plain_int("high", high)
    span = high - low + 1
    if not (1 <= span <= 1 << 31 and -(1 << 31) <= low < 1 << 31):
        raise ValueError(
            f"low={low}, high={high} span {span} integers; 1 to 2^31 are allowed, and low must lie in [-2^31, 2^31)"
        )
    batch, device = _checked(address, batch, device)
    return _integers(address.arguments(), batch, low, span, device)


def _checked(address: NoiseAddress, batch: int, device: torch.device | str) -> tuple[int, torch.device]:
    batch, device = int_in("batch", batch, 0, MOST_ROWS), with_index(device)
    check_address(address, batch, device)
    return batch, device
