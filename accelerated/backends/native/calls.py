"""Calls of the compiled library: tensors in, tensors out, as the PyTorch path of an op has them."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from ...address import Address
from ..eager import CHUNK, check_range
from . import build

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


def noise(address: Address, shape: Sequence[int]) -> Tensor:
    """Standard normals of float32: `noisestep.reference.noise.normal`."""
    eps = torch.empty(shape, dtype=torch.float32)
    _run("noise", eps, _Place(address), eps)
    return eps


def q_sample(
    x_0: Tensor, t: Tensor, table: Tensor, eps: Tensor | None, address: Address, return_eps: bool
) -> tuple[Tensor, Tensor | None]:
    """x_t, and eps where it is asked for."""
    x_t = torch.empty_like(x_0, dtype=torch.float32)
    eps_out = torch.empty_like(x_t) if return_eps else None
    levels = x_0.dtype == torch.uint8
    _run("q_sample", x_t, x_0, levels, eps, _Place(address), *_rows(t, table, x_0), x_t, eps_out)
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
    batch, n = len(output), prod(output.shape[1:])
    written = torch.empty_like(output) if residual else None
    losses = output.new_empty(() if mean else batch)
    # the sums of the chunks, then one loss for each row
    sums = output.new_empty(batch * (-(-n // CHUNK) + 1))
    levels = x_0 is not None and x_0.dtype == torch.uint8
    rows = (None, None, 0) if t is None or table is None else _rows(t, table, output)
    _run(
        "simple_loss",
        output,
        output,
        _TARGETS[prediction],
        x_0,
        levels,
        eps,
        _Place(address),
        *rows,
        weight,
        written,
        scale is not None,
        0.0 if scale is None else scale,
        sums,
        mean,
        losses,
    )
    return losses, written


def reverse_step(
    x_t: Tensor,
    output: Tensor,
    unconditional: Tensor | None,
    t: Tensor,
    table: Tensor,
    eps: Tensor | None,
    address: Address,
    x_s: Tensor,
    *,
    noisy: bool,
    clip: bool,
    own_eps: bool,
    return_x_0: bool,
) -> Tensor | None:
    """Writes x_s, which may be x_t; returns x_0 where it is asked for."""
    x_0 = torch.empty_like(x_t) if return_x_0 else None
    place = (x_t, output, unconditional, eps, _Place(address), *_rows(t, table, x_t))
    _run("reverse_step", x_t, *place, noisy, clip, own_eps, x_s, x_0)
    return x_0


class _Place:
    """An address for the library, and what it points to."""

    def __init__(self, address: Address) -> None:
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


def _rows(t: Tensor, table: Tensor, x: Tensor) -> tuple[Tensor, Tensor, int]:
    """Timesteps, one for each row of x, each of which is checked to lie in the table; the table; and its length."""
    t = t.to(torch.int64).expand(len(x)).contiguous()
    rows = len(table)
    if build.code().noisestep_first_outside(t.data_ptr(), len(t), rows) >= 0:
        check_range(t, rows - 1)
    return t, table, rows


def _run(name: str, batch: Tensor, *arguments: Any) -> None:
    """Call a function of the library on the rows of a batch; a tensor goes as where it lies in memory."""
    rows, n = len(batch), prod(batch.shape[1:])
    threads = max(1, min(torch.get_num_threads(), rows * n // _GRAIN))
    plain = [x.data_ptr() if isinstance(x, Tensor) else x.address if isinstance(x, _Place) else x for x in arguments]
    getattr(build.code(), f"noisestep_{name}")(*plain, rows, n, threads)
