"""The arithmetic of the ops in PyTorch's own operations. It defines the bits that native code and the kernels match.

Random words travel in int64, since PyTorch has little arithmetic on uint32. The products of Philox wrap around in
int64, which leaves both of their halves intact.
"""

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor

from ..address import EVEN, EXPONENT, LOG, ODD, STEPS, TINY, Address
from ..schedule import ReverseRow, StepRow

# a sample is summed in chunks of this many elements; part of the definition of the ops that sum
CHUNK = 1024


def check_range(t: Tensor, T: int, first: int = 0) -> None:
    """t lies in first..T. Reads t, so only for tensors on the CPU, where that costs no synchronisation."""
    if t.numel() and not (int(t.min()) >= first and int(t.max()) <= T):
        raise ValueError(f"t must lie in {first}..{T}, got values from {int(t.min())} to {int(t.max())}")


def check_noisy(t: Tensor, table: Tensor) -> None:
    """t is a row of a forward table with noise in it: not 0 where the table begins with clean data. Reads t."""
    check_range(t, table.shape[0] - 1, first=int(table[0, 1] == 0))


def per_sample(rows: Tensor, x: Tensor) -> Tensor:
    """Coefficients (B,) with the trailing axes that let them multiply x (B, ...)."""
    return rows.reshape(-1, *(1,) * (x.ndim - 1))


def rows_at(table: Tensor, t: Tensor, x: Tensor) -> list[Tensor]:
    """Rows t, () or (B,), of a table by column, shaped for x. A t out of range reads the nearest row."""
    # with an index of no axis, PyTorch would read it back
    rows = table[t.reshape(-1).clamp(0, table.shape[0] - 1)]  # (B or 1, columns)
    return [per_sample(column, x) for column in rows.unbind(-1)]


def scalar(value: float | Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """A number of a call, or a tensor () or (B,) of them, rounded to the type that an op computes in, shaped for x."""
    if isinstance(value, Tensor):
        return per_sample(value.to(dtype), x)
    return torch.full((), value, dtype=dtype, device=x.device)


def reverse_row(table: Tensor, t: Tensor, x: Tensor) -> ReverseRow[Tensor]:
    """Row t of a reverse table, by name."""
    return ReverseRow(*rows_at(table, t, x))


def reverse_update(
    c: ReverseRow[Tensor],
    x: Tensor,
    out: Tensor,
    noise: Tensor | None,
    *,
    bound: Callable[[Tensor], Tensor] | None,
    own_eps: bool,
) -> tuple[Tensor, Tensor]:
    """x_{t-1} and the predicted x_0, from what `reverse_row` gave: the arithmetic of a reverse step.

    Parameters
    ----------
    x, out : Tensor, shape (B, ...)
        x_t and the network's prediction, in the dtype of the table.
    noise : Tensor, shape (B, ...), optional
        sigma z.
    bound : callable, optional
        What clips x_0.
    own_eps : bool
        Whether eps stays as predicted where x_0 is clipped.
    """
    x_0 = c.x_0_from_x * x + c.x_0_from_out * out
    if bound is not None:
        x_0 = bound(x_0)
        x_s = c.from_x_0 * x_0 + c.from_x * x
        if own_eps:
            x_s = x_s + c.from_out * out
    else:
        x_s = c.unclipped_from_x * x + c.unclipped_from_out * out
    return (x_s if noise is None else x_s + noise), x_0


def multistep_update(
    c: StepRow[Tensor],
    x: Tensor,
    out: Tensor,
    history: Sequence[Tensor],
    noise: Tensor | None,
    *,
    bound: Callable[[Tensor], Tensor] | None,
    memory: str,
) -> tuple[Tensor, Tensor]:
    """x_s and D, from row t of a `StepTable`: the arithmetic of a linear multistep step.

    Parameters
    ----------
    x, out, *history : Tensor, shape (B, ...)
        In the dtype of the table.
    noise : Tensor, shape (B, ...), optional
        sigma z.
    bound : callable, optional
        What clips x_0.
    memory : {"x_0", "eps"}
        What D is.
    """
    if memory == "eps" and bound is None:
        prediction = c.unclipped_eps_from_x * x + c.unclipped_eps_from_out * out
    else:
        prediction = c.x_0_from_x * x + c.x_0_from_out * out
    if bound is not None:
        prediction = bound(prediction)
        if memory == "eps":
            prediction = c.eps_from_x * x + c.eps_from_x_0 * prediction
    x_s = c.from_x * x + c.from_prediction * prediction
    weights = (c.from_history_1, c.from_history_2, c.from_history_3, c.from_history_4)
    for weight, term in zip(weights, history, strict=False):
        x_s = x_s + weight * term
    return (x_s if noise is None else x_s + noise), prediction


def sigma_in_range(c: ReverseRow[Tensor], fraction: Tensor) -> Tensor:
    """sigma of a learned variance; fraction, in [-1, 1], says where it lies between the logs of the two ends."""
    share = (fraction + 1) * 0.5
    return c.sigma * torch.exp(share * c.half_log_beta + (1 - share) * c.half_log_posterior)


def unit_range(x_0: Tensor, dtype: torch.dtype) -> Tensor:
    """Images in the type that an op computes in; uint8 levels 0..255 become [-1, 1], (2 k - 255) / 255."""
    if x_0.dtype != torch.uint8:
        return x_0.to(dtype)
    return (2.0 * x_0.to(dtype) - 255.0) * (1 / 255)


def cast(value: Tensor, like: Tensor, dtype: torch.dtype) -> Tensor:
    """value rounded once to dtype, in the memory layout that `torch.empty_like(like)` has."""
    if value.dtype == dtype and value.stride() == torch.empty_like(like, device="meta").stride():
        return value
    return torch.empty_like(like, dtype=dtype).copy_(value)


def like_input(result: Tensor, like: Tensor) -> Tensor:
    """The result in the memory layout that `torch.empty_like(like)` has; a copy only where it has another."""
    return cast(result, like, result.dtype)


def pairwise_sum(values: Tensor) -> Tensor:
    """Sums over the last axis in an order fixed for good, so that every device gives the same bits.

    Neighbours are added, then neighbouring sums, within chunks of 1024 elements that zeros fill up; the
    chunks' sums are added in the same way.

    Parameters
    ----------
    values : Tensor, shape (B, n)

    Returns
    -------
    Tensor, shape (B,)
    """
    batch, n = values.shape
    size = chunk_size(n)
    chunks = max(1, -(-n // size))
    sums = torch.nn.functional.pad(values, (0, chunks * size - n)).reshape(batch, chunks, size)
    while sums.shape[-1] > 1:
        sums = sums[..., 0::2] + sums[..., 1::2]
    return sums[:, 0, 0] if chunks == 1 else pairwise_sum(sums[..., 0])


def mean(losses: Tensor) -> Tensor:
    """The mean of losses (B,), their sum in the fixed order."""
    return divide(pairwise_sum(losses[None])[0], len(losses))


def divide(x: Tensor, by: int) -> Tensor:
    """x / by, correctly rounded: on a GPU, PyTorch multiplies by the reciprocal of a Python number."""
    return x / torch.full((), by, dtype=x.dtype, device=x.device)


def chunk_size(n: int) -> int:
    """How many of n elements are summed at once: a power of two, at most 1024. Zeros would not change a sum's bits."""
    return min(CHUNK, 1 << max(n - 1, 0).bit_length())


# --- random numbers ---------------------------------------------------------------------------------------------------

_LOW = 0xFFFFFFFF


def _rows(part: int, tensor: Tensor | None, batch: int, device: torch.device, *, count: bool) -> Tensor:
    """A part of the address as an int64 column, one row a sample (or a single row for all)."""
    if tensor is None:
        if count:
            # past the last number of int64 the sum wraps around, to the same low and high words
            return (torch.arange(batch, device=device) + part)[:, None]  # (B, 1)
        return torch.full((1, 1), part, dtype=torch.int64, device=device)  # (1, 1)
    return tensor.reshape(-1, 1)


def words(address: Address, batch: int, count: int, device: torch.device) -> Tensor:
    """Words 0 .. count - 1 of each sample, (batch, count) of int64: `noisestep.reference.noise.words`."""
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
    x = ((v & 0x7FFFFF) | 0x3F800001).to(torch.int32).view(torch.float32) - 1.5
    even, odd = _horner(x * x, EVEN), _horner(x * x, ODD)
    cos, sin = _fma(-x, odd, even), _fma(x, odd, even)
    # bits 31 and 30 of the word are the signs: 1 - 2 bit is +1 or -1, and the product is exact
    return r * (cos * (1 - 2 * (v >> 31)).float()), r * (sin * (1 - 2 * ((v >> 30) & 1)).float())


def normal(address: Address, shape: Sequence[int], device: torch.device) -> Tensor:
    """Standard normals (B, ...) of float32: `noisestep.reference.noise.normal`."""
    n = prod(shape[1:])
    pairs = words(address, shape[0], n + n % 2, device)
    z = torch.stack(normal_pair(pairs[:, 0::2], pairs[:, 1::2]), dim=-1)
    return z.reshape(shape[0], n + n % 2)[:, :n].reshape(shape)
