"""x_{t-1} from x_t: `noisestep.reference.reverse`. Reads x_t and the output, writes x_{t-1} (and x_0 when asked)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..arithmetic import rows_at, stored
from ..checks import (
    check_batch,
    check_like,
    check_noise,
    check_option,
    check_range,
    check_schedule,
    check_timesteps,
    compute_dtype,
)
from ..noise import NOWHERE, Noise, normal_at
from ..schedule import DeviceSchedule, Prediction, Variance


@torch.library.custom_op("noisestep::reverse_step", mutates_args=())
def _reverse_step(
    x_t: Tensor,
    output: Tensor,
    unconditional: Tensor | None,
    t: Tensor,
    table: Tensor,
    eps: Tensor | None,
    seed: int,
    seed_tensor: Tensor | None,
    stream: int,
    step: int,
    step_tensor: Tensor | None,
    sample: int,
    sample_tensor: Tensor | None,
    noisy: bool,
    guidance: float,
    low: float | None,
    high: float | None,
    learned: bool,
    return_x_0: bool,
) -> tuple[Tensor, Tensor]:
    if not t.is_cuda:
        check_range(t, table.shape[0] - 1)
    c_0, c_1, c_2, c_3, c_4, c_5, joint_x_t, joint_output, half_log_beta, half_log_posterior = rows_at(table, t, x_t)
    x, out = x_t.to(table.dtype), output.to(table.dtype)
    if unconditional is not None:
        without = unconditional.to(table.dtype)
        out = without + guidance * (out - without)
    if learned:
        out, place = out.chunk(2, dim=1)
        share = (place + 1) * 0.5
        c_5 = c_5 * torch.exp(share * half_log_beta + (1 - share) * half_log_posterior)
    x_0 = c_0 * x + c_1 * out if return_x_0 or low is not None else None
    if low is None:
        x_s = joint_x_t * x + joint_output * out
    else:
        x_0 = x_0.clamp(low, high)
        x_s = (c_2 * x_0 + c_3 * x) + c_4 * out
    if noisy:
        if eps is None:
            address = (seed, seed_tensor, stream, step, step_tensor, sample, sample_tensor)
            eps = normal_at(*address, shape=x_t.shape, device=x_t.device)
        x_s = x_s + c_5 * eps.to(table.dtype)
    predicted = stored(x_0, x_t, x_t.dtype) if return_x_0 else x_t.new_empty(0)
    return stored(x_s, x_t, x_t.dtype), predicted


@_reverse_step.register_fake
def _(
    x_t,
    output,
    unconditional,
    t,
    table,
    eps,
    seed,
    seed_tensor,
    stream,
    step,
    step_tensor,
    sample,
    sample_tensor,
    noisy,
    guidance,
    low,
    high,
    learned,
    return_x_0,
):
    return torch.empty_like(x_t), torch.empty_like(x_t) if return_x_0 else x_t.new_empty(0)


def reverse_step(
    schedule: DeviceSchedule,
    x_t: Tensor,
    output: Tensor | tuple[Tensor, Tensor],
    t: Tensor | int,
    noise: Noise | Tensor | None,
    *,
    prediction: Prediction = "eps",
    clip: tuple[float, float] | None = None,
    variance: Variance = "posterior",
    eta: float | None = None,
    rederive_eps: bool = True,
    guidance: float | None = None,
    return_x_0: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """One step of the reverse process, x_t to x_{t-1} (the chapter's "The Reverse Sampling Process").

        x_{t-1} = 1/sqrt(alpha_t) (x_t - (1 - alpha_t)/sqrt(1 - alpha_bar_t) eps_theta) + sigma_t z,    no z at t = 1

    and its relatives: from predictions of x_0 or v, with x_0 clipped, with another variance, guided, or
    DDIM's. Every coefficient is a row of a table; nothing is read back to the host. For fewer steps than
    the network was trained on, pass the `DeviceSchedule` of a respaced schedule. Not differentiable.

    Parameters
    ----------
    schedule : DeviceSchedule
        On the device of x_t.
    x_t : Tensor, shape (B, ...)
        float32, float16, bfloat16 or float64, any rank and memory layout.
    output : Tensor, shape (B, ...), or a pair of them
        The network's prediction; twice the channels (axis 1) with ``variance="learned_range"``. With
        `guidance`: the pair (unconditional, conditional), or both joined on axis 0 in that order.
    t : Tensor of int64 or int32, shape (B,) or (), or int
        A timestep for each sample, in 0..T; t = 0 leaves x_t alone. Checked on a CPU. On a GPU it is not read back: a t
        out of range takes the nearest row of the table.
    noise : Noise, Tensor or None
        The address that z is made from, or z itself; None where the update adds none.
    prediction : {"eps", "x_0", "v"}
        What the network predicts.
    clip : (float, float), optional
        The range that the predicted x_0 is clipped to.
    variance : {"posterior", "beta", "zero", "learned_range"}
        sigma_t^2 of the chapter's update: the posterior's, beta_t, none, or between the first two as the network's
        second half says (Nichol & Dhariwal 2021, eq. 15, with outputs in [-1, 1]).
    eta : float, optional
        In [0, 1]: DDIM's update (Song et al. 2021, eq. 12 and 16) in place of the chapter's.
    rederive_eps : bool
        DDIM with `clip`: whether eps follows from the clipped x_0 or stays as predicted.
    guidance : float, optional
        Classifier-free guidance: unconditional + guidance (conditional - unconditional).
    return_x_0 : bool
        Also return the predicted x_0, clipped where asked.

    Returns
    -------
    x_{t-1} : Tensor, shape (B, ...)
        Dtype and memory layout of x_t.
    x_0 : Tensor, shape (B, ...)
        Only with ``return_x_0=True``.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit together, with both sides of the disagreement.
    """
    check_batch("x_t", x_t)
    check_schedule(schedule, x_t, "x_t")
    check_option("prediction", prediction, ("eps", "x_0", "v"))
    check_option("variance", variance, ("posterior", "beta", "zero", "learned_range"))
    t = check_timesteps(t, x_t, "x_t")
    learned = variance == "learned_range" and eta is None
    low, high = _check_clip(clip)
    output, unconditional = _check_outputs(output, x_t, guidance, learned)
    table = schedule.reverse_table(
        prediction=prediction, variance=variance, eta=eta, rederive_eps=rederive_eps, dtype=compute_dtype(x_t)
    )
    noisy = schedule.is_noisy(variance=variance, eta=eta)
    if noise is None and noisy:
        raise ValueError(f"this update adds noise (variance={variance!r}, eta={eta}); noise must not be None")
    eps, address = (None, NOWHERE) if not noisy else check_noise(noise, x_t, "x_t")
    x_s, x_0 = _reverse_step(
        x_t,
        output,
        unconditional,
        t,
        table,
        eps,
        *address,
        noisy,
        1.0 if guidance is None else float(guidance),
        low,
        high,
        learned,
        return_x_0,
    )
    return (x_s, x_0) if return_x_0 else x_s


def _check_clip(clip: Sequence[float] | None) -> tuple[float | None, float | None]:
    if clip is None:
        return None, None
    if not isinstance(clip, Sequence) or len(clip) != 2 or not clip[0] < clip[1]:
        raise ValueError(f"clip must be (low, high) with low < high, or None, got {clip!r}")
    return float(clip[0]), float(clip[1])


def _check_outputs(output: object, x_t: Tensor, guidance: float | None, learned: bool) -> tuple[Tensor, Tensor | None]:
    """The network's output, and the unconditional one where there is guidance, with the shapes they must have."""
    shape = tuple(x_t.shape)
    if learned:
        if x_t.ndim < 2:
            raise ValueError(f'variance="learned_range" needs x_t of shape (B, C, ...), got {shape}')
        shape = (shape[0], 2 * shape[1], *shape[2:])
    if guidance is None:
        check_like("output", output, x_t, "x_t", shape=shape)
        return output, None
    if isinstance(output, Tensor):
        check_like("output", output, x_t, "x_t with guidance", shape=(2 * shape[0], *shape[1:]))
        output = output.chunk(2)
    if not isinstance(output, Sequence) or len(output) != 2:
        raise TypeError(
            "with guidance, output must be a tensor of two batches or a pair (unconditional, conditional), "
            f"got {type(output).__name__}"
        )
    for name, part in zip(("unconditional", "conditional"), output, strict=True):
        check_like(f"the {name} output", part, x_t, "x_t", shape=shape)
    return output[1], output[0]
