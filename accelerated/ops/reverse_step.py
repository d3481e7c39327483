"""x_{t-1} from x_t: `noisestep.reference.reverse`. Reads x_t and the output, writes x_{t-1} (and x_0 when asked)."""

from typing import Literal, get_args, overload

import torch
from torch import Tensor

from ..address import NOWHERE, NoiseAddress
from ..schedule import DeviceSchedule, Prediction, Variance
from .checks import (
    Number,
    check_batch,
    check_memory,
    check_noise,
    check_number,
    check_option,
    check_schedule,
    check_switch,
    check_timesteps,
    check_writable,
    compute_dtype,
)
from .registered import Registered
from .update import SCALARS, check_outputs, check_scalars, in_eager, in_native, in_triton, tensors_in

# what both registered ops take after x_t
_ARGUMENTS = (
    f"Tensor output, Tensor? unconditional, Tensor t, Tensor table, Tensor? eps, Address address, {SCALARS}, "
    "bool noisy, bool own_eps, bool learned, bool return_x_0"
)
_reverse_step = Registered(f"reverse_step(Tensor x_t, {_ARGUMENTS}) -> (Tensor, Tensor)")
_reverse_step_in_place = Registered(f"reverse_step_(Tensor(a!) x_t, {_ARGUMENTS}) -> Tensor")


def _of_backend(run, *, in_place):
    def implementation(
        x_t, output, unconditional, t, table, eps, address, guidance, low, high, temperature, noisy, own_eps, learned,
        return_x_0,
    ):  # fmt: skip
        scalars = guidance, low, high, temperature
        if in_place:
            read = dict(output=output, unconditional=unconditional, noise=eps) | tensors_in(scalars)
            check_memory("in_place=True", x_t, read)
        result = run(
            x_t, output, unconditional, (), t, table, eps, address, scalars, noisy, None, own_eps, learned, return_x_0,
            in_place,
        )  # fmt: skip
        return result if not in_place or result is NotImplemented else result[1]

    return implementation


for _op, _over_x_t in ((_reverse_step, False), (_reverse_step_in_place, True)):
    _op.triton(_of_backend(in_triton, in_place=_over_x_t))
    _op.native(_of_backend(in_native, in_place=_over_x_t))
    _op.eager(_of_backend(in_eager, in_place=_over_x_t))


def _fake_x_0(x_t, *rest):
    return torch.empty_like(x_t) if rest[-1] else None


_reverse_step.fake(lambda x_t, *rest: (torch.empty_like(x_t), _fake_x_0(x_t, *rest)))
_reverse_step_in_place.fake(_fake_x_0)


@overload
def reverse_step(
    schedule: DeviceSchedule,
    x_t: Tensor,
    output: Tensor | tuple[Tensor, Tensor],
    t: Tensor | int,
    noise: NoiseAddress | Tensor | None,
    *,
    prediction: Prediction = "eps",
    clip: tuple[Number, Number] | None = None,
    variance: Variance = "posterior",
    eta: float | None = None,
    rederive_eps: bool = True,
    guidance: Number | None = None,
    temperature: Number = 1.0,
    in_place: bool = False,
    return_x_0: Literal[False] = False,
) -> Tensor: ...
@overload
def reverse_step(
    schedule: DeviceSchedule,
    x_t: Tensor,
    output: Tensor | tuple[Tensor, Tensor],
    t: Tensor | int,
    noise: NoiseAddress | Tensor | None,
    *,
    prediction: Prediction = "eps",
    clip: tuple[Number, Number] | None = None,
    variance: Variance = "posterior",
    eta: float | None = None,
    rederive_eps: bool = True,
    guidance: Number | None = None,
    temperature: Number = 1.0,
    in_place: bool = False,
    return_x_0: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def reverse_step(
    schedule: DeviceSchedule,
    x_t: Tensor,
    output: Tensor | tuple[Tensor, Tensor],
    t: Tensor | int,
    noise: NoiseAddress | Tensor | None,
    *,
    prediction: Prediction = "eps",
    clip: tuple[Number, Number] | None = None,
    variance: Variance = "posterior",
    eta: float | None = None,
    rederive_eps: bool = True,
    guidance: Number | None = None,
    temperature: Number = 1.0,
    in_place: bool = False,
    return_x_0: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """One step of the reverse process, x_t to x_{t-1} (the chapter's "The Reverse Sampling Process").

        x_{t-1} = 1/sqrt(alpha_t) (x_t - (1 - alpha_t)/sqrt(1 - alpha_bar_t) eps_theta) + sigma_t z,    no z at t = 1

    and its relatives: from predictions of x_0 or a velocity, with x_0 clipped, with another variance, guided, or
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
    noise : NoiseAddress, Tensor or None
        The address that z is made from, or z itself; None where the update adds none.
    prediction : {"eps", "x_0", "v", "flow"}
        What the network predicts.
    clip : (float or Tensor, float or Tensor), optional
        The range that the predicted x_0 is clipped to, low < high. Here and below a Tensor is one number for all
        samples, shape (), or one for each, (B,), of a floating dtype, on the device of x_t. The values of one on a
        GPU are not checked.
    variance : {"posterior", "beta", "zero", "learned_range"}
        sigma_t^2 of the chapter's update: the posterior's, beta_t, none, or between the first two as the network's
        second half says (Nichol & Dhariwal 2021, eq. 15, with outputs in [-1, 1]).
    eta : float, optional
        In [0, 1]: DDIM's update (Song et al. 2021, eq. 12 and 16) in place of the chapter's.
    rederive_eps : bool
        DDIM with `clip`: whether eps follows from the clipped x_0 or stays as predicted.
    guidance : float or Tensor, optional
        Classifier-free guidance: unconditional + guidance (conditional - unconditional).
    temperature : float or Tensor
        What z is multiplied by, at least 0: above 1 for more variety, below for less. The product of sigma_t and the
        temperature is rounded in the type that is computed in, float32 or float64.
    in_place : bool
        Write x_{t-1} over x_t, and return x_t. The output and the noise may be x_t itself, but not share some of its
        memory in another way.
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
    check_switch("rederive_eps", rederive_eps)
    check_switch("return_x_0", return_x_0)
    check_batch("x_t", x_t)
    check_schedule(schedule, x_t, "x_t")
    check_option("prediction", prediction, get_args(Prediction))
    check_option("variance", variance, ("posterior", "beta", "zero", "learned_range"))
    t = check_timesteps(t, schedule, x_t, "x_t")
    learned = variance == "learned_range" and eta is None
    scalars = check_scalars(x_t, clip, guidance, temperature)
    if eta is not None:
        eta = check_number("eta", eta, 0, 1)
    output, unconditional = check_outputs(output, x_t, guidance is not None, learned)
    table = schedule.reverse_table(
        prediction=prediction, variance=variance, eta=eta, rederive_eps=rederive_eps, dtype=compute_dtype(x_t)
    )
    noisy = schedule.is_noisy(variance=variance, eta=eta)
    if noise is None and noisy:
        raise ValueError(f"this update adds noise (variance={variance!r}, eta={eta}); noise must not be None")
    eps, address = (None, NOWHERE) if noise is None else check_noise(noise, x_t, "x_t")
    if not noisy:
        eps, address = None, NOWHERE
    own_eps = eta is not None and not rederive_eps
    arguments = (output, unconditional, t, table, eps, address, *scalars, noisy, own_eps, learned, return_x_0)
    if in_place:
        if x_t.requires_grad and torch.is_grad_enabled():
            raise ValueError("in_place=True would overwrite an x_t that requires a gradient; pass x_t.detach()")
        check_writable("x_t", x_t)
        x_s, x_0 = x_t, _reverse_step_in_place(x_t, *arguments)
    else:
        x_s, x_0 = _reverse_step(x_t, *arguments)
    return (x_s, x_0) if return_x_0 else x_s
