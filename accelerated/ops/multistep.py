"""One linear multistep step: `noisestep.reference.multistep`. Reads x_t, the output and the history, writes x_s and D.

    table = schedule.step_table(coefficients, prediction="eps", memory="x_0")
    x_s = multistep(table, x_t, output, [D_before, ...], t, noise, clip=(-1, 1), keep=D)

with row t of the coefficients (a, b, c_1, .., c_K, sigma) and x_s = a x_t + b D + c_1 h_1 + .. + c_K h_K + sigma z.
Kernel and arithmetic are those of `update`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..address import NOWHERE, NoiseAddress
from ..schedule import MOST_HISTORY, StepTable
from .checks import (
    Number,
    check_batch,
    check_constant,
    check_device,
    check_like,
    check_memory,
    check_noise,
    check_timesteps,
    check_writable,
    compute_dtype,
    share_memory,
)
from .registered import Registered
from .update import SCALARS, check_outputs, check_scalars, in_eager, in_native, in_triton, tensors_in

_HISTORY = ", ".join(f"Tensor? history_{k + 1}" for k in range(MOST_HISTORY))
# what the registered ops take after x_t
_ARGUMENTS = (
    f"Tensor output, Tensor? unconditional, {_HISTORY}, Tensor t, Tensor table, Tensor? eps, Address address, "
    f"{SCALARS}, bool noisy, str memory"
)
# vmap takes no op that writes to an argument: without any, it is one of its own
_multistep = Registered(f"multistep(Tensor x_t, {_ARGUMENTS}) -> Tensor")
_multistep_keeping = Registered(f"multistep_keeping(Tensor x_t, {_ARGUMENTS}, Tensor(a!) keep) -> Tensor")
_multistep_in_place = Registered(f"multistep_(Tensor(a!) x_t, {_ARGUMENTS}, Tensor(b!)? keep) -> ()")


def _of_backend(run, *, in_place):
    def implementation(
        x_t, output, unconditional, h_1, h_2, h_3, h_4, t, table, eps, address, guidance, low, high, temperature,
        noisy, memory, keep=None,
    ):  # fmt: skip
        history = [h for h in (h_1, h_2, h_3, h_4) if h is not None]
        scalars = guidance, low, high, temperature
        read = dict(output=output, unconditional=unconditional, noise=eps) | tensors_in(scalars)
        read |= {f"history[{k}]": h for k, h in enumerate(history)}
        if in_place:
            check_memory("in_place=True", x_t, read)
        if keep is not None:
            check_memory("keep", keep, {**read, "x_t": x_t})
            if in_place and share_memory(keep, x_t):
                raise ValueError("with in_place=True, keep and x_t would both be written to memory that they share")
        result = run(
            x_t, output, unconditional, history, t, table, eps, address, scalars, noisy, memory, False, False,
            False if keep is None else keep, in_place,
        )  # fmt: skip
        return result if result is NotImplemented else result[0]

    return implementation


for _op in (_multistep, _multistep_keeping, _multistep_in_place):
    _over_x_t = _op is _multistep_in_place
    _op.triton(_of_backend(in_triton, in_place=_over_x_t))
    _op.native(_of_backend(in_native, in_place=_over_x_t))
    _op.eager(_of_backend(in_eager, in_place=_over_x_t))
    _op.fake(lambda x_t, *rest: torch.empty_like(x_t))


def multistep(
    table: StepTable,
    x_t: Tensor,
    output: Tensor | tuple[Tensor, Tensor],
    history: Sequence[Tensor],
    t: Tensor | int,
    noise: NoiseAddress | Tensor | None,
    *,
    clip: tuple[Number, Number] | None = None,
    guidance: Number | None = None,
    temperature: Number = 1.0,
    keep: Tensor | None = None,
    in_place: bool = False,
) -> Tensor:
    """One step of a linear multistep method: `noisestep.reference.multistep.linear_step`.

        x_0 = the prediction, clipped;    D = x_0, or the eps that belongs to it

        x_s = a x_t + b D + c_1 h_1 + .. + c_K h_K + sigma z

    DDIM, DPM-Solver++, UniPC, DEIS, iPNDM, Euler and Heun are tables of coefficients. D is formed first, whether there
    is a clip or not, used as it is, and rounded to the dtype of `keep` when it is written there. The terms are added
    from left to right. Not differentiable.

    Parameters
    ----------
    table : StepTable
        Of `DeviceSchedule.step_table`, on the device of x_t: the coefficients, what the network predicts, what D is.
    x_t : Tensor, shape (B, ...)
        float32, float16, bfloat16 or float64, any rank and memory layout. What the network was called with: D is made
        from x_t and the output.
    output : Tensor, shape (B, ...), or a pair of them
        The network's prediction. With `guidance`: the pair (unconditional, conditional), or both joined on axis 0.
    history : sequence of K Tensor, shape (B, ...)
        h_1 .. h_K, each of a floating dtype of its own: D of the calls before, or whatever else the coefficients are
        for, such as the x of the step before. A term whose coefficient is 0 is added all the same: it must be finite.
    t : Tensor of int64 or int32, shape (B,) or (), or int
        Row of the table, in 0..T, for each sample or for all; t = 0 leaves x_t alone. Checked on a CPU. On a GPU it is
        not read back: a t out of range takes the nearest row.
    noise : NoiseAddress, Tensor or None
        The address that z is made from, or z itself; None where no step of the table adds noise.
    clip : (float or Tensor, float or Tensor), optional
        The range that the predicted x_0 is clipped to, low < high. Here and below a Tensor is one number for all
        samples, shape (), or one for each, (B,), of a floating dtype, on the device of x_t. The values of one on a
        GPU are not checked.
    guidance : float or Tensor, optional
        Classifier-free guidance: unconditional + guidance (conditional - unconditional).
    temperature : float or Tensor
        What z is multiplied by, at least 0.
    keep : Tensor, shape (B, ...), optional
        Where to write D, in its own floating dtype. It may be one of the history, which is read before: with a
        ring of K tensors nothing is allocated and nothing copied.
    in_place : bool
        Write x_s over x_t, and return x_t. What is read may be x_t itself, but not share some of its memory in another
        way; the same holds for `keep`.

    Returns
    -------
    Tensor, shape (B, ...)
        x_s, in the dtype and memory layout of x_t.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit together, with both sides of the disagreement.
    """
    check_batch("x_t", x_t)
    if not isinstance(table, StepTable):
        raise TypeError(f"table must be a StepTable, got {type(table).__name__}")
    columns = table.table(compute_dtype(x_t))
    check_device("table", columns, x_t, "x_t")
    t = check_timesteps(t, table, x_t, "x_t")
    scalars = check_scalars(x_t, clip, guidance, temperature)
    output, unconditional = check_outputs(output, x_t, guidance is not None)
    if not isinstance(history, Sequence) or len(history) != table.history:
        given = f"{len(history)}" if isinstance(history, Sequence) else type(history).__name__
        raise ValueError(f"history must be a sequence of {table.history} tensors, as the table has it, got {given}")
    for k, h in enumerate(history):
        check_like(f"history[{k}]", h, x_t, "x_t")
    if noise is None and table.noisy:
        raise ValueError("this table adds noise; noise must not be None")
    eps, address = (None, NOWHERE) if noise is None else check_noise(noise, x_t, "x_t")
    if not table.noisy:
        eps, address = None, NOWHERE
    if keep is not None:
        check_like("keep", keep, x_t, "x_t")
        check_constant("keep", keep)
        check_writable("keep", keep)
    arguments = (
        output, unconditional, *history, *(None,) * (MOST_HISTORY - len(history)), t, columns, eps, address, *scalars,
        table.noisy, table.memory,
    )  # fmt: skip
    if not in_place:
        return _multistep(x_t, *arguments) if keep is None else _multistep_keeping(x_t, *arguments, keep)
    if x_t.requires_grad and torch.is_grad_enabled():
        raise ValueError("in_place=True would overwrite an x_t that requires a gradient; pass x_t.detach()")
    check_writable("x_t", x_t)
    _multistep_in_place(x_t, *arguments, keep)
    return x_t
