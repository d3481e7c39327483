"""What `reverse_step` and `multistep` share: one pass over x_t, from two linear combinations with a clip between them.

    x_0 = x_0_from_x x_t + x_0_from_out output,   clipped,    x_s = a x_t + b D + .. + sigma z

For each element it reads x_t, the output (two with guidance) and the history, and writes x_s and what is asked for.
"""

import functools
import math
from collections.abc import Sequence

import torch
import triton.language as tl
from torch import Tensor

from ..backends import eager, native
from ..backends.triton import kernels
from ..backends.triton.launch import (
    ADDRESS,
    constants_of,
    kernel,
    layout_of,
    numbers_of,
    pointers_of,
    rows_of,
    scalars_of,
)
from ..backends.triton.tiling import access, accesses, program_of_row
from ..schedule import COLUMNS, MOST_HISTORY, STEP_COLUMNS, ReverseRow, StepRow
from .checks import Number, check_clip_of_samples, check_like, check_scalar, check_values, output_shape
from .noise import normal

# (guidance, low, high, temperature): the numbers of a call that are in no table, None for what it does without
Scalars = tuple[Number | None, Number | None, Number | None, Number]
# as the registered ops take them
SCALARS = "Number guidance, Number low, Number high, Number temperature"
_WORDS = tuple(f"{name}_{part}" for name in ("guidance", "low", "high", "temperature") for part in ("low", "high"))
_NO_HISTORY = (None,) * MOST_HISTORY


@kernel(numbers=(*ADDRESS, *_WORDS))
def _kernel(
    x_t_ptr, output_ptr, unconditional_ptr, eps_ptr, history_1_ptr, history_2_ptr, history_3_ptr, history_4_ptr,
    x_s_ptr, kept_ptr, t_ptr, table_ptr, guidance_ptr, low_ptr, high_ptr, temperature_ptr,
    seed_ptr, step_ptr, sample_ptr, seed_low, seed_high, step, sample_low, sample_high,
    guidance_low, guidance_high, low_low, low_high, high_low, high_high, temperature_low, temperature_high,
    rows, NOISY: tl.constexpr, CLIP: tl.constexpr, OWN_EPS: tl.constexpr, LEARNED: tl.constexpr, MEMORY: tl.constexpr,
    C: tl.constexpr, PER_SAMPLE: tl.constexpr, T_ROWS: tl.constexpr, STREAM: tl.constexpr, STEP_ROWS: tl.constexpr,
    n, inner, TILING: tl.constexpr,
):  # fmt: skip
    """C is `schedule.COLUMNS` where MEMORY is None, and `schedule.STEP_COLUMNS` where it is "x_0" or "eps"."""
    row, program = program_of_row(TILING)
    compute: tl.constexpr = table_ptr.dtype.element_ty
    c = table_ptr + kernels.row_of_table(t_ptr, row, rows, T_ROWS, len(C))
    x_0_from_x, x_0_from_out, from_x = tl.load(c + C.x_0_from_x), tl.load(c + C.x_0_from_out), tl.load(c + C.from_x)
    if MEMORY is None:
        from_x_0, from_out = tl.load(c + C.from_x_0), tl.load(c + C.from_out)
        unclipped_from_x, unclipped_from_out = tl.load(c + C.unclipped_from_x), tl.load(c + C.unclipped_from_out)
        half_log_beta, half_log_posterior = tl.load(c + C.half_log_beta), tl.load(c + C.half_log_posterior)
    else:
        eps_from_x, eps_from_x_0 = tl.load(c + C.eps_from_x), tl.load(c + C.eps_from_x_0)
        unclipped_eps_from_x = tl.load(c + C.unclipped_eps_from_x)
        unclipped_eps_from_out = tl.load(c + C.unclipped_eps_from_out)
        from_prediction = tl.load(c + C.from_prediction)
        from_history_1, from_history_2 = tl.load(c + C.from_history_1), tl.load(c + C.from_history_2)
        from_history_3, from_history_4 = tl.load(c + C.from_history_3), tl.load(c + C.from_history_4)
    guidance = kernels.scalar(guidance_ptr, guidance_low, guidance_high, row, PER_SAMPLE[0], compute)
    low = kernels.scalar(low_ptr, low_low, low_high, row, PER_SAMPLE[1], compute)
    high = kernels.scalar(high_ptr, high_low, high_high, row, PER_SAMPLE[2], compute)
    temperature = kernels.scalar(temperature_ptr, temperature_low, temperature_high, row, PER_SAMPLE[3], compute)
    sigma = tl.load(c + C.sigma) * temperature
    # a learned variance has its own channels behind those of the prediction: pixel by pixel, or behind them all
    behind = n if TILING.order == "contiguous" else TILING.channels
    if NOISY and eps_ptr is None:
        address = (seed_ptr, seed_low, seed_high, step_ptr, step, sample_ptr, sample_low, sample_high)
        fresh = kernels.normals(address, row, program, inner, STREAM, STEP_ROWS, TILING)
    for i in tl.static_range(accesses(TILING)):
        offset, number = access(i, row, program, n, inner, TILING)
        mask = None if TILING.whole else number < n
        out_offset = offset
        if LEARNED and TILING.order == "contiguous":
            out_offset += row * n
        elif LEARNED:
            out_offset += offset - (offset - row * n).to(program.dtype) % TILING.channels
        x = kernels.upcast(tl.load(x_t_ptr + offset, mask=mask), compute)
        out = kernels.upcast(tl.load(output_ptr + out_offset, mask=mask), compute)
        if unconditional_ptr is not None:
            without = kernels.upcast(tl.load(unconditional_ptr + out_offset, mask=mask), compute)
            out = without + guidance * (out - without)
        if MEMORY == "eps" and not CLIP:
            kept = unclipped_eps_from_x * x + unclipped_eps_from_out * out
        elif CLIP or kept_ptr is not None or MEMORY is not None:
            kept = x_0_from_x * x + x_0_from_out * out
        if CLIP:
            kept = tl.clamp(kept, low, high, propagate_nan=tl.PropagateNan.ALL)
            if MEMORY == "eps":
                kept = eps_from_x * x + eps_from_x_0 * kept
        if MEMORY is not None:
            x_s = from_x * x + from_prediction * kept
            if history_1_ptr is not None:
                x_s += from_history_1 * kernels.upcast(tl.load(history_1_ptr + offset, mask=mask), compute)
            if history_2_ptr is not None:
                x_s += from_history_2 * kernels.upcast(tl.load(history_2_ptr + offset, mask=mask), compute)
            if history_3_ptr is not None:
                x_s += from_history_3 * kernels.upcast(tl.load(history_3_ptr + offset, mask=mask), compute)
            if history_4_ptr is not None:
                x_s += from_history_4 * kernels.upcast(tl.load(history_4_ptr + offset, mask=mask), compute)
        elif CLIP:
            x_s = from_x_0 * kept + from_x * x
            if OWN_EPS:
                x_s += from_out * out
        else:
            x_s = unclipped_from_x * x + unclipped_from_out * out
        if NOISY:
            scale = sigma
            if LEARNED:
                fraction = kernels.upcast(tl.load(output_ptr + out_offset + behind, mask=mask), compute)
                if unconditional_ptr is not None:
                    other = kernels.upcast(tl.load(unconditional_ptr + out_offset + behind, mask=mask), compute)
                    fraction = other + guidance * (fraction - other)
                share = (fraction + 1) * 0.5
                scale = sigma * tl.exp(share * half_log_beta + (1 - share) * half_log_posterior)
            eps = fresh[i] if eps_ptr is None else tl.load(eps_ptr + offset, mask=mask)
            x_s += scale * kernels.upcast(eps, compute)
        tl.store(x_s_ptr + offset, kernels.cast(x_s, x_s_ptr), mask=mask)
        if kept_ptr is not None:
            tl.store(kept_ptr + offset, kernels.cast(kept, kept_ptr), mask=mask)


# The update on each backend. memory is None where the table has the columns of `ReverseRow`, and "x_0" or "eps" where
# it has those of `StepRow`. x_s is written over x_t (in_place) or to new memory; D, which is x_0 where memory is None,
# to the tensor `kept`, to new memory (True) or nowhere (False). They return x_s and D.


def in_triton(
    x_t, output, unconditional, history, t, table, eps, address, scalars, noisy, memory, own_eps, learned, kept,
    in_place,
):  # fmt: skip
    layout = layout_of(x_t, x_t.dtype)
    x = layout.reads(x_t)
    # an element is read by the thread that writes it, and before it does
    x_s = x if in_place else layout.write(x_t, x_t.dtype)
    written = None
    if kept is not False:
        written = layout.write(x_t, x_t.dtype) if kept is True else layout.read(kept)
    t, t_rows = rows_of(t)
    pointers, words, per_sample = scalars_of(scalars)
    _kernel(
        layout,
        (
            x, layout.read(output), layout.read(unconditional), layout.read(eps),
            *map(layout.read, history), *_NO_HISTORY[len(history) :],
            x_s, written, t, table, *pointers, *pointers_of(address),
        ),
        (*numbers_of(address), *words),
        (
            table.shape[0], noisy, scalars[1] is not None, own_eps, learned, memory,
            COLUMNS if memory is None else STEP_COLUMNS, per_sample, t_rows, *constants_of(address),
        ),
    )  # fmt: skip
    if kept is True:
        written = layout.finished(written, x_t)
    elif written is not None and written is not kept:
        written = kept.copy_(written)
    if not in_place:
        return layout.finished(x_s, x_t), written
    if x is not x_t:
        x_t.copy_(x)
    return x_t, written


def in_native(
    x_t, output, unconditional, history, t, table, eps, address, scalars, noisy, memory, own_eps, learned, kept,
    in_place,
):  # fmt: skip
    given = kept if isinstance(kept, Tensor) else None
    if learned or not native.takes(x_t, output, unconditional, eps, given, *history):
        return NotImplemented
    _check_values(scalars)
    x_s = x_t if in_place else torch.empty_like(x_t)
    written = torch.empty_like(x_t) if kept is True else given
    inputs = (x_t, output, unconditional, history, t, table, eps, address, scalars)
    native.update(*inputs, x_s, written, noisy=noisy, memory=memory, own_eps=own_eps)
    return x_s, written


def in_eager(
    x_t, output, unconditional, history, t, table, eps, address, scalars, noisy, memory, own_eps, learned, kept,
    in_place,
):  # fmt: skip
    if t.is_cpu:
        eager.check_range(t, table.shape[0] - 1)
    _check_values(scalars)
    guidance, low, high, temperature = (
        None if value is None else eager.scalar(value, x_t, table.dtype) for value in scalars
    )
    row = eager.rows_at(table, t, x_t)
    x, out = x_t.to(table.dtype), output.to(table.dtype)
    if unconditional is not None:
        without = unconditional.to(table.dtype)
        out = without + guidance * (out - without)
    bound = None if low is None else functools.partial(torch.clamp, min=low, max=high)
    if noisy and eps is None:
        eps = normal(address, x_t.shape, x_t.device)
    noise = None
    if memory is None:
        c = ReverseRow(*row)
        c = c._replace(sigma=c.sigma * temperature)
        sigma = c.sigma
        if learned:
            out, fraction = out.chunk(2, dim=1)
            sigma = eager.sigma_in_range(c, fraction)
        if noisy:
            noise = sigma * eps.to(table.dtype)
        x_s, prediction = eager.reverse_update(c, x, out, noise, bound=bound, own_eps=own_eps)
    else:
        c = StepRow(*row)
        if noisy:
            noise = (c.sigma * temperature) * eps.to(table.dtype)
        history = [h.to(table.dtype) for h in history]
        x_s, prediction = eager.multistep_update(c, x, out, history, noise, bound=bound, memory=memory)
    # D first: in place, x_s may be written over what it is made of
    written = eager.cast(prediction, x_t, x_t.dtype) if kept is True else None
    if isinstance(kept, Tensor):
        written = kept.copy_(prediction)
    return x_t.copy_(x_s) if in_place else eager.cast(x_s, x_t, x_t.dtype), written


def _check_values(scalars: Scalars) -> None:
    """The values of tensors on the CPU, where they cost no synchronisation, as those of Python numbers are checked."""
    guidance, low, high, temperature = scalars
    check_values("guidance", guidance, -math.inf)
    check_values("temperature", temperature, 0.0)
    if low is not None and high is not None and (isinstance(low, Tensor) or isinstance(high, Tensor)):
        below = torch.as_tensor(low < high)
        if below.is_cpu and not bool(below.all()):
            raise ValueError(f"clip must be (low, high) with low < high, or None, got ({low!r}, {high!r})")


def check_scalars(x_t: Tensor, clip: object, guidance: object, temperature: object) -> Scalars:
    """Numbers that fit x_t: their types, shapes and devices, and the values of those that are Python's."""
    low, high = check_clip_of_samples(clip, x_t, "x_t") or (None, None)
    temperature = check_scalar("temperature", temperature, x_t, "x_t", 0.0)
    if guidance is not None:
        guidance = check_scalar("guidance", guidance, x_t, "x_t", -math.inf)
    return guidance, low, high, temperature


def tensors_in(scalars: Scalars) -> dict[str, Tensor]:
    """Those that are tensors, by name."""
    names = ("guidance", "clip's low end", "clip's high end", "temperature")
    return {name: value for name, value in zip(names, scalars, strict=True) if isinstance(value, Tensor)}


def check_outputs(output: object, x_t: Tensor, guided: bool, learned: bool = False) -> tuple[Tensor, Tensor | None]:
    """The network's output, and the unconditional one where there is guidance, with the shapes they must have."""
    shape = output_shape(x_t, learned)
    if not guided:
        return check_like("output", output, x_t, "x_t", shape=shape), None
    if isinstance(output, Tensor):
        check_like("output", output, x_t, "x_t with guidance", shape=(2 * shape[0], *shape[1:]))
        output = output.chunk(2)
    if not isinstance(output, Sequence) or len(output) != 2:
        raise TypeError(
            "with guidance, output must be a tensor of two batches or a pair (unconditional, conditional), "
            f"got {type(output).__name__}"
        )
    unconditional, conditional = (
        check_like(f"the {name} output", part, x_t, "x_t", shape=shape)
        for name, part in zip(("unconditional", "conditional"), output, strict=True)
    )
    return conditional, unconditional
