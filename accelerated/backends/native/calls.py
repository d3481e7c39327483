"""Calls of the compiled library: tensors in, tensors out, as the PyTorch path of an op has them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...address import Address
from ...schedule import MOST_HISTORY
from ..eager import check_noisy, check_range
from . import build

# elements for which one more thread is worth its start
_GRAIN = 1 << 16
# as `ops.cpp` counts them
_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.uint8: 3, torch.float64: 4}
# what is computed in float32
_NARROW = frozenset(_TYPES) - {torch.float64}
# what D is: a step without history has a table of its own
_MEMORY = {None: 0, "x_0": 1, "eps": 2}
_TARGETS = {"eps": 0, "x_0": 1, "v": 2}
# the most elements of which q_sample keeps the noise for the loss
_KEPT = 1 << 22
_NONE = (0, 0)
_NO_TIMESTEPS = (0, 0, 0, 0, 0, 0)

# the noise that q_sample made last, and where it is from: the loss of the same batch takes it from here
_kept: tuple[Address, torch.Size, Tensor] | None = None


def takes(*tensors: Tensor | None) -> bool:
    """Whether native code runs an op on these: contiguous, of at most 32 bits, on a CPU."""
    for x in tensors:
        if x is not None and not (x.is_cpu and x.dtype in _NARROW and x.is_contiguous()):
            return False
    return build.library() is not None


def noise(address: Address, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Standard normals: `noisestep.reference.noise.normal`, rounded once."""
    eps = torch.empty(shape, dtype=dtype if dtype in _NARROW else torch.float32, device="cpu")
    place, _held = _place(address)
    _run("noise", eps, *place, *_tensor(eps))
    return eps.to(dtype)


def q_sample(
    x_0: Tensor,
    t: Tensor,
    table: Tensor,
    eps: Tensor | None,
    address: Address,
    dtype: torch.dtype,
    return_eps: bool,
) -> tuple[Tensor, Tensor | None]:
    """x_t, and eps where it is asked for."""
    global _kept
    x_t = torch.empty_like(x_0, dtype=dtype)
    eps_out = torch.empty_like(x_t) if return_eps else None
    made = None
    if eps is None and not return_eps and x_0.numel() <= _KEPT and _of_numbers(address):
        made = torch.empty_like(x_0, dtype=torch.float32)
    place, _held = _place(address)
    results = (*_tensor(x_t), *_tensor(eps_out), *_tensor(made))
    if _run("q_sample", x_0, *_tensor(x_0), *_tensor(eps), *place, *_timesteps(t, table), *results):
        check_range(t, table.shape[0] - 1)
    if made is not None:
        _kept = address, x_0.shape, made
    return x_t, eps_out


def simple_loss(
    output: Tensor,
    x_0: Tensor | None,
    t: Tensor | None,
    table: Tensor | None,
    weight: Tensor | None,
    eps: Tensor | None,
    address: Address,
    prediction: str,
    mean: bool,
    residual: bool,
    scale: float | None,
) -> tuple[Tensor, Tensor | None]:
    """The losses (B,) or their mean, and the weighted residual, or with a scale the gradient."""
    if eps is None and prediction != "x_0":
        eps = _take(address, output.shape)
    written = torch.empty_like(output) if residual else None
    losses = torch.empty(() if mean else output.shape[0], dtype=torch.float32, device="cpu")
    place, _held = _place(address)
    refused = _run(
        "simple_loss",
        output,
        *_tensor(output),
        _TARGETS[prediction],
        *_tensor(x_0),
        *_tensor(eps),
        *place,
        *(_NO_TIMESTEPS if t is None or table is None else _timesteps(t, table)),
        0 if weight is None else weight.data_ptr(),
        *_tensor(written),
        scale is not None,
        0.0 if scale is None else scale,
        mean,
        losses.data_ptr(),
    )
    if refused and t is not None and table is not None:
        check_noisy(t, table)
    return losses, written


def simple_loss_backward(grad: Tensor, residual: Tensor, mean: bool) -> Tensor:
    """The gradient of the losses or of their mean, from the weighted residual."""
    gradient = torch.empty_like(residual)
    stride = grad.stride(0) if grad.ndim else 0
    _run("simple_loss_backward", residual, grad.data_ptr(), stride, mean, *_tensor(residual), *_tensor(gradient))
    return gradient


def update(
    x_t: Tensor,
    output: Tensor,
    unconditional: Tensor | None,
    history: Sequence[Tensor],
    t: Tensor,
    table: Tensor,
    eps: Tensor | None,
    address: Address,
    scalars: Sequence[float | Tensor | None],
    x_s: Tensor,
    prediction: Tensor | None,
    *,
    noisy: bool,
    memory: str | None,
    own_eps: bool,
) -> None:
    """Writes x_s, which may be x_t, and the prediction where there is memory for it."""
    place, _held = _place(address)
    numbers, _held_too = _scalars(scalars)
    terms = [word for k in range(MOST_HISTORY) for word in _tensor(history[k] if k < len(history) else None)]
    inputs = (*_tensor(x_t), *_tensor(output), *_tensor(unconditional), *_tensor(eps), *terms, *place)
    options = (*numbers, noisy, scalars[1] is not None, own_eps, _MEMORY[memory])
    if _run("update", x_t, *inputs, *_timesteps(t, table), *options, *_tensor(x_s), *_tensor(prediction)):
        check_range(t, table.shape[0] - 1)


def vlb_terms(
    x_0: Tensor,
    x_t: Tensor,
    output: Tensor,
    t: Tensor,
    table: Tensor,
    variance: str,
    low: float | None,
    high: float | None,
    levels: int,
) -> Tensor:
    """The terms of the bound (B,), in bits per dimension, from tensors of any layout."""
    x_0, x_t, output = x_0.contiguous(), x_t.contiguous(), output.contiguous()
    terms = torch.empty(x_t.shape[0], dtype=torch.float64, device="cpu")
    inputs = (*_tensor(x_0), *_tensor(x_t), *_tensor(output), *_timesteps(t, table))
    clip = (True, low, high) if low is not None else (False, 0.0, 0.0)
    options = (variance == "beta", variance == "learned_range", *clip, 1 / (levels - 1))
    if _run("vlb_terms", x_t, *inputs, *options, terms.data_ptr()):
        check_range(t, table.shape[0] - 1)
    return terms


def _take(address: Address, shape: torch.Size) -> Tensor | None:
    """The noise of an address where q_sample has just made it; once, since the memory is wanted for other things."""
    global _kept
    kept = _kept
    if kept is None or not _of_numbers(address) or kept[:2] != (address, shape):
        return None
    _kept = None
    return kept[2]


def _of_numbers(address: Address) -> bool:
    return address[1] is None and address[4] is None and address[6] is None


def _place(address: Address) -> tuple[tuple[int, ...], tuple[Tensor | None, ...]]:
    """An address for the library, and the tensors that it points to, which must outlive the call."""
    seed, seed_tensor, stream, step, step_tensor, sample, sample_tensor = address
    if seed_tensor is step_tensor is sample_tensor is None:
        return (seed, stream, step, 0, sample, 0), ()
    if seed_tensor is not None:
        seed = int(seed_tensor)
    if step_tensor is not None and step_tensor.numel() == 1:
        step, step_tensor = int(step_tensor), None
    steps, samples = (None if x is None else x.contiguous() for x in (step_tensor, sample_tensor))
    places = (0 if x is None else x.data_ptr() for x in (steps, samples))
    return (seed, stream, step, next(places), sample, next(places)), (steps, samples)


def _scalars(values: Sequence[float | Tensor | None]) -> tuple[list[Any], list[Tensor]]:
    """Numbers for the library, each with the tensor and stride that stand for it if there are any; and the tensors."""
    words: list[Any] = []
    held = []
    for value in values:
        if isinstance(value, Tensor):
            rows = value.float()
            held.append(rows)
            words += (0.0, rows.data_ptr(), rows.stride(0) if rows.ndim else 0)
        else:
            words += (0.0 if value is None else value, 0, 0)
    return words, held


def _tensor(x: Tensor | None) -> tuple[int, int]:
    return _NONE if x is None else (x.data_ptr(), _TYPES[x.dtype])


def _timesteps(t: Tensor, table: Tensor) -> tuple[int, ...]:
    stride = t.stride(0) if t.ndim else 0
    return t.data_ptr(), t.dtype == torch.int64, t.numel(), stride, table.data_ptr(), table.shape[0]


def _run(name: str, batch: Tensor, *words: Any) -> int:
    """Call a function of the library on the rows of a batch; 1 where some t is not a row of the table."""
    threads = max(1, min(torch.get_num_threads(), batch.numel() // _GRAIN))
    rows = batch.shape[0]
    return build.functions()[name](rows, batch.numel() // max(1, rows), threads, *words)
