"""The noise address on a device: the bits of `noisestep.reference.noise` from PyTorch operations.

32-bit words travel in int64, since PyTorch has little arithmetic on uint32. The products of Philox
wrap around in int64, which leaves both of their halves intact.
"""

from collections.abc import Sequence
from math import prod

import torch
from noisestep.reference.noise import permutation
from torch import Tensor

from .address import EVEN, EXPONENT, LOG, ODD, STEPS, TINY, Address, NoiseAddress
from .backends.native import calls as native

__all__ = ["normal", "permutation", "uniform", "uniform_integers", "words"]

_LOW = 0xFFFFFFFF


def _rows(part: int, tensor: Tensor | None, batch: int, device: torch.device, *, count: bool) -> Tensor:
    """A part of the address as an int64 column, one row a sample (or a single row for all)."""
    if tensor is None:
        if count:
            # past the last number of int64 the sum wraps around, to the same low and high words
            return (torch.arange(batch, device=device) + part)[:, None]  # (B, 1)
        return torch.full((1, 1), part, dtype=torch.int64, device=device)  # (1, 1)
    return tensor.reshape(-1, 1)


def words_at(address: Address, batch: int, count: int, device: torch.device) -> Tensor:
    """`words` with the address as `NoiseAddress.arguments` spells it."""
    seed, seed_tensor, stream, step, step_tensor, sample, sample_tensor = address
    key = _rows(seed, seed_tensor, batch, device, count=False)
    steps = _rows(step, step_tensor, batch, device, count=False) & (STEPS - 1)
    samples = _rows(sample, sample_tensor, batch, device, count=True)
    c0 = torch.arange(-(-count // 4), device=device)[None, :]  # (1, blocks)
    c1 = steps | (stream << 28)
    c2, c3 = samples & _LOW, (samples >> 32) & _LOW
    k0, k1 = key & _LOW, (key >> 32) & _LOW
    for _ in range(10):
        p0 = c0 * 0xD2511F53
        p1 = c2 * 0xCD9E8D57
        c0, c1, c2, c3 = ((p1 >> 32) & _LOW) ^ c1 ^ k0, p1 & _LOW, ((p0 >> 32) & _LOW) ^ c3 ^ k1, p0 & _LOW
        k0 = (k0 + 0x9E3779B9) & _LOW
        k1 = (k1 + 0xBB67AE85) & _LOW
    block = torch.stack(torch.broadcast_tensors(c0, c1, c2, c3), dim=-1)  # (B or 1, blocks, 4)
    return block.expand(batch, -1, -1).reshape(batch, block.shape[1] * 4)[:, :count]


def _fma(a: Tensor, b: Tensor, c: Tensor | float) -> Tensor:
    # the product is exact in float64; see reference.noise.fma for why the second rounding is harmless
    return (a.double() * b + c).float()


def _horner(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = _fma(value, x, coefficient)
    return value


def normal_pair(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Two standard normals from two words in int64: `noisestep.reference.noise.normal_pair`, bit for bit.

    Parameters
    ----------
    u, v : Tensor of int64, equal shapes
        In [0, 2^32).

    Returns
    -------
    z_0, z_1 : Tensor of float32
    """
    w = ((u.float().double() + 0.5) * 2.0**-32).float()
    bits = w.view(torch.int32)
    exponent = (bits - 0x3F2AAAAB) & -0x800000
    m = (bits - exponent).view(torch.float32) - 1.0
    square = _fma(_horner(m, LOG), m, TINY)
    square = (exponent.double() * EXPONENT + square).float()
    # torch.sqrt of float32 is a unit off on some CPUs; through float64 it is correctly rounded everywhere
    r = torch.sqrt(square.double()).float()
    x = ((v & 0x7FFFFF) | 0x3F800000).to(torch.int32).view(torch.float32) - 1.5
    even, odd = _horner(x * x, EVEN), _horner(x * x, ODD)
    cos, sin = _fma(-x, odd, even), _fma(x, odd, even)
    # bits 31 and 30 of the word are the signs: 1 - 2 bit is +1 or -1, and the product is exact
    return r * (cos * (1 - 2 * (v >> 31)).float()), r * (sin * (1 - 2 * ((v >> 30) & 1)).float())


def normal_at(address: Address, shape: Sequence[int], device: torch.device) -> Tensor:
    """`normal` with the address as `NoiseAddress.arguments` spells it, from native code where there is some."""
    if device.type == "cpu" and native.takes():
        return native.noise(address, shape)
    return _normal_from(words_at(address, shape[0], _even(shape), device), shape)


def _even(shape: Sequence[int]) -> int:
    count = prod(shape[1:])
    return count + count % 2


def _normal_from(pairs: Tensor, shape: Sequence[int]) -> Tensor:
    z = torch.stack(normal_pair(pairs[:, 0::2], pairs[:, 1::2]), dim=-1)
    return z.reshape(shape[0], _even(shape))[:, : prod(shape[1:])].reshape(shape)


# one node of a compiled graph: in Inductor's C++ the product of Philox would overflow, which C++ leaves undefined
@torch.library.custom_op("noisestep::words", mutates_args=())
def _words(
    seed: int,
    seed_tensor: Tensor | None,
    stream: int,
    step: int,
    step_tensor: Tensor | None,
    sample: int,
    sample_tensor: Tensor | None,
    batch: int,
    count: int,
    device: torch.device,
) -> Tensor:
    address = (seed, seed_tensor, stream, step, step_tensor, sample, sample_tensor)
    return words_at(address, batch, count, device).contiguous()


@_words.register_fake
def _(
    seed: int,
    seed_tensor: Tensor | None,
    stream: int,
    step: int,
    step_tensor: Tensor | None,
    sample: int,
    sample_tensor: Tensor | None,
    batch: int,
    count: int,
    device: torch.device,
) -> Tensor:
    return torch.empty((batch, count), dtype=torch.int64, device=device)


def words(address: NoiseAddress, batch: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """Random words 0 .. count - 1 of each sample: `noisestep.reference.noise.words`, bit for bit.

    Parameters
    ----------
    address : NoiseAddress
    batch : int
        B, the samples.
    count : int
        Words a sample.
    device : torch.device or str

    Returns
    -------
    Tensor of int64, shape (B, count)
        In [0, 2^32).
    """
    return _words(*address.arguments(), batch, count, torch.device(device))


def normal(address: NoiseAddress, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Standard normal noise: `noisestep.reference.noise.normal`, bit for bit, from PyTorch operations.

    Parameters
    ----------
    address : NoiseAddress
    shape : sequence of int
        (B, ...), the batch first.
    device : torch.device or str

    Returns
    -------
    Tensor of float32, shape `shape`
    """
    return _normal_from(words(address, shape[0], _even(shape), device), tuple(shape))


def uniform(address: NoiseAddress, batch: int, device: torch.device | str = "cpu") -> Tensor:
    """A uniform number in [0, 1) for each sample: `noisestep.reference.noise.uniform`, bit for bit.

    Parameters
    ----------
    address : NoiseAddress
    batch : int
        B, the samples.
    device : torch.device or str

    Returns
    -------
    Tensor of float32, shape (B,)
    """
    return (words(address, batch, 1, device)[:, 0] >> 8).float() * 2.0**-24


def uniform_integers(
    address: NoiseAddress, batch: int, low: int, high: int, device: torch.device | str = "cpu"
) -> Tensor:
    """A uniform integer in low .. high for each sample: `noisestep.reference.noise.integers`.

    Parameters
    ----------
    address : NoiseAddress
    batch : int
        B, the samples.
    low, high : int
        Both included; high - low + 1 is in [1, 2^31].
    device : torch.device or str

    Returns
    -------
    Tensor of int64, shape (B,)

    Raises
    ------
    ValueError
        For an empty or too wide range.
    """
    n = high - low + 1
    if not 1 <= n <= 1 << 31:
        raise ValueError(f"low={low}, high={high} span {n} integers; 1 to 2^31 are allowed")
    return low + ((words(address, batch, 1, device)[:, 0] * n) >> 32)
