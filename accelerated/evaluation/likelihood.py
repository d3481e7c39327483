"""How many bits a pixel of given images costs: `noisestep.reference.likelihood` on tensors."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from noisestep.reference._arguments import integer
from noisestep.reference.bound import prior_kl
from noisestep.reference.likelihood import Dequantisation, dequantisation_entropy
from noisestep.reference.reverse import reverse_coefficients
from torch import Tensor

from ..address import DEQUANTISATION, FORWARD, PROBE, TIMESTEP, NoiseAddress
from ..ops import integers, q_sample, vlb_terms, words
from ..schedule import DeviceSchedule, Prediction, Variance

# network(x_t, t), with t of shape (B,), int64
Network = Callable[[Tensor, Tensor], Tensor]


def sampled_bound(
    network: Network,
    schedule: DeviceSchedule,
    x_0: Tensor,
    grid: Sequence[int],
    *,
    seed: int = 0,
    numbers: Tensor,
    prediction: Prediction = "eps",
    clip: tuple[float, float] | None = None,
    variances: Sequence[Variance] = ("posterior",),
    levels: int = 256,
    progress: Callable[[], object] = lambda: None,
) -> Tensor:
    """The terms of `noisestep.reference.likelihood.sampled_bound`, for several variances at once.

    Parameters
    ----------
    network : callable
    schedule : DeviceSchedule
        On the device of x_0.
    x_0 : Tensor, shape (B, ...)
        float32 or float64, in [-1, 1]; the network computes in this type.
    grid : sequence of int, length S
        The highest t of each stratum, increasing from 1 to T.
    seed : int
    numbers : Tensor of int64, shape (B,)
        Number of each image, the `sample` of its addresses.
    prediction, clip, levels
        As in `noisestep.accelerated.ops.vlb_terms`.
    variances : sequence of {"posterior", "beta"}
        V of them.
    progress : callable
        Called after each stratum.

    Returns
    -------
    Tensor of float64, shape (V, S, B)
        In bits per dimension.
    """
    strata = []
    for stratum, (before, high) in enumerate(pairwise([0, *grid])):
        t = integers(NoiseAddress(seed, TIMESTEP, stratum, numbers), len(x_0), before + 1, high, device=x_0.device)
        model_t = schedule.timesteps[t]
        x_t = q_sample(schedule, x_0, t, NoiseAddress(seed, FORWARD, model_t, numbers))
        with torch.no_grad():
            output = network(x_t, model_t)
        options = dict(prediction=prediction, clip=clip, levels=levels)
        terms = [vlb_terms(schedule, x_0, x_t, output, t, variance=name, **options) for name in variances]  # type: ignore[arg-type]
        strata.append((high - before) * torch.stack(terms))
        progress()
    return torch.stack(strata, dim=1)


def ode_bits(
    network: Network,
    schedule: DeviceSchedule,
    x_0: Tensor,
    grid: Sequence[int],
    *,
    dequantisation: Dequantisation = "truncated_normal",
    probes: int = 1,
    seed: int = 0,
    numbers: Tensor,
    prediction: Prediction = "eps",
    clip: tuple[float, float] | None = None,
    levels: int = 256,
    progress: Callable[[], object] = lambda: None,
) -> Tensor:
    """`noisestep.reference.likelihood.ode_bits`: the negative log-likelihood by the probability-flow ODE.

    The state is kept in float64, and the network gets it in the type of x_0. J^T z takes the place of J z.

    Parameters
    ----------
    network : callable
        Differentiable in x_t.
    schedule : DeviceSchedule
        On the device of x_0.
    x_0 : Tensor, shape (B, ...)
        float32 or float64, in [-1, 1]; the network computes in this type.
    grid : sequence of int, length N + 1
        The steps at which the network is asked, increasing from 1 to T.
    dequantisation : {"truncated_normal", "uniform"}
    probes : int
        Directions of Hutchinson's estimate of the trace, or 0 for the exact trace, which takes n of them.
    seed : int
    numbers : Tensor of int64, shape (B,)
        Number of each image, the `sample` of its addresses.
    prediction, clip, levels
        As in `noisestep.accelerated.ops.vlb_terms`.
    progress : callable
        Called after each point of the grid.

    Returns
    -------
    Tensor of float64, shape (B,)
        In bits per dimension.
    """
    probes = integer("probes", probes, 0)
    device, n = x_0.device, math.prod(x_0.shape[1:])
    x_1 = _dequantise(schedule, x_0, NoiseAddress(seed, DEQUANTISATION, 0, numbers), dequantisation, levels)
    if probes:
        addresses = [NoiseAddress(seed, PROBE, probe, numbers) for probe in range(probes)]
        directions = [_signs(address, x_0.shape, device) for address in addresses]
    else:
        unit = torch.eye(n, dtype=torch.float64, device=device)
        directions = [e.reshape(x_0.shape[1:]).expand(x_0.shape) for e in unit]
    share = 1 / probes if probes else 1.0
    tables = schedule.schedule
    of_x, of_output = reverse_coefficients(tables, prediction=prediction)[:, :2].T.tolist()
    k, noise = np.sqrt(tables.snr).tolist(), tables.sqrt_one_minus_alpha_bar.tolist()
    u = [math.asinh(k[t]) for t in grid]

    def guess(x_t: Tensor, t: int) -> tuple[Tensor, Tensor, Tensor]:
        """The input and output of the network, and x_0 before it is clipped."""
        x = x_t.to(x_0.dtype)
        output = network(x, schedule.timesteps[t].expand(len(x)))
        return x, output, of_x[t] * x_t + of_output[t] * output.detach().double()

    def clipped(predicted: Tensor) -> Tensor:
        return predicted if clip is None else predicted.clamp(*clip)

    def guess_and_trace(x_t: Tensor, t: int) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = x_t.to(x_0.dtype).requires_grad_()
            output = network(leaf, schedule.timesteps[t].expand(len(leaf)))
        predicted = of_x[t] * x_t + of_output[t] * output.detach().double()
        guessed = clipped(predicted)
        # where x_0 is clipped it does not move
        moves = guessed == predicted
        trace = torch.zeros(len(x_t), dtype=torch.float64, device=device)
        for z in directions:
            weighted = torch.where(moves, z, 0.0)
            (slope,) = torch.autograd.grad(output, leaf, weighted.to(output.dtype), retain_graph=True)
            product = of_x[t] * weighted * z + of_output[t] * slope.double() * z
            trace += share * product.flatten(1).sum(dim=1)
        progress()
        return guessed, trace

    def guess_alone(x_t: Tensor, t: int) -> Tensor:
        with torch.no_grad():
            output = network(x_t.to(x_0.dtype), schedule.timesteps[t].expand(len(x_t)))
        return clipped(of_x[t] * x_t + of_output[t] * output.double())

    x_t = x_1
    guessed, trace = guess_and_trace(x_t, grid[0])
    log_det = (u[1] - u[0]) / 2 * trace
    for i, (t, s) in enumerate(pairwise(grid), start=1):
        y, step = x_t / noise[t], k[s] - k[t]
        euler = noise[s] * (y + step * guessed)
        x_t = noise[s] * (y + step * (guessed + guess_alone(euler, s)) / 2)
        guessed, trace = guess_and_trace(x_t, s)
        log_det = log_det + (u[min(i + 1, len(u) - 1)] - u[i - 1]) / 2 * trace
