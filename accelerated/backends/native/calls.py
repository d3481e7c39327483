"""Calls of the compiled library: tensors in, tensors out, as the PyTorch path of an op has them."""

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..eager import CHUNK
from . import build

if TYPE_CHECKING:
    from ...address import Address as _Parts

# elements for which one more thread is worth its start
_GRAIN = 1 << 16
_TARGETS = {"eps": 0, "x_0": 1, "v": 2}


def takes(*tensors: Tensor | None) -> bool:
    """Whether native code runs an op on these: contiguous float32, or images of uint8, on a CPU."""
    for x in tensors:
        if x is not None and not (
            x.device.type == "cpu" and x.dtype in (torch.float32, torch.uint8) and x.is_contiguous()
        ):
            return False
    return build.library() is not None


def noise(address: "_Parts", shape: Sequence[int]) -> Tensor:
    """`noisestep.accelerated.noise.normal`."""
    eps = torch.empty(shape, dtype=torch.float32)
    _run("noise", eps, _Place(address), eps)
    return eps


def q_sample(
    x_0: Tensor, t: Tensor, table: Tensor, eps: Tensor | None, address: "_Parts", return_eps: bool
) -> tuple[Tensor, Tensor | None]:
    """x_t, and eps where it is asked for."""
    x_t = torch.empty_like(x_0, dtype=torch.float32)
    eps_out = torch.empty_like(x_t) if return_eps else None
    levels = x_0.dtype == torch.uint8
    _run("q_sample", x_t, x_0, levels, eps, _Place(address), _rows(t), table, len(table), x_t, eps_out)
    return x_t, eps_out


def simple_loss(
    output: Tensor,
    x_0: Tensor | None,
    t: Tensor | None,
    table: Tensor | None,
    weight: Tensor | None,
    eps: Tensor | None,
    address: "_Parts",
    prediction: str,
    with_residual: bool,
) -> tuple[Tensor, Tensor | None]:
    """The sums of squares (B, chunks), a chunk's added up, and the weighted residual."""
    n = prod(output.shape[1:])
    sums = output.new_empty((len(output), -(-n // CHUNK)))
    residual = torch.empty_like(output) if with_residual else None
    levels = x_0 is not None and x_0.dtype == torch.uint8
    _run(
        "simple_loss",
        output,
        output,
        _TARGETS[prediction],
        x_0,
        levels,
        eps,
        _Place(address),
        None if t is None else _rows(t),
        table,
        0 if table is None else len(table),
        None if weight is None else weight.contiguous(),
        residual,
        sums,
    )
    return sums, residual


def reverse_step(
    x_t: Tensor,
    output: Tensor,
    unconditional: Tensor | None,
    t: Tensor,
    table: Tensor,
    eps: Tensor | None,
    address: "_Parts",
    x_s: Tensor,
    *,
    noisy: bool,
    clip: bool,
    own_eps: bool,
    return_x_0: bool,
) -> Tensor | None:
    """Writes x_s, which may be x_t; returns x_0 where it is asked for."""
    x_0 = torch.empty_like(x_t) if return_x_0 else None
    steps = (x_t, output, unconditional, eps, _Place(address), _rows(t), table, *table.shape)
    _run("reverse_step", x_t, *steps, noisy, clip, own_eps, x_s, x_0)
    return x_0


class _Place:
    """An address for the library, and what it points to."""

    def __init__(self, address: "_Parts") -> None:
        seed, seed_tensor, stream, step, step_tensor, sample, sample_tensor = address
        if seed_tensor is not None:
            seed = int(seed_tensor)
        if step_tensor is not None and step_tensor.numel() == 1:
            step, step_tensor = int(step_tensor), None
        self.steps, self.samples = (None if x is None else x.contiguous() for x in (step_tensor, sample_tensor))
        self.address = build.Address(
            seed & 0xFFFFFFFFFFFFFFFF,
            stream,
            step,
            None if self.steps is None else self.steps.data_ptr(),
            sample,
            None if self.samples is None else self.samples.data_ptr(),
        )


def _rows(t: Tensor) -> Tensor:
    return t.to(torch.int64).contiguous()


def _run(name: str, batch: Tensor, *arguments: Any) -> None:
    """Call a function of the library on the rows of a batch; a tensor goes as where it lies in memory."""
    code = build.library()
    assert code is not None
    rows, n = len(batch), prod(batch.shape[1:])
    threads = max(1, min(torch.get_num_threads(), rows * n // _GRAIN))
    plain = [x.data_ptr() if isinstance(x, Tensor) else x.address if isinstance(x, _Place) else x for x in arguments]
    getattr(code, f"noisestep_{name}")(*plain, rows, n, threads)
