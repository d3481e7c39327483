"""How many bits a pixel of given images costs: `noisestep.reference.likelihood` on tensors."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from noisestep.reference._arguments import integer
from noisestep.reference.bound import prior_kl
from noisestep.reference.likelihood import Dequantisation, dequantisation_entropy
from noisestep.reference.prediction import Prediction
from noisestep.reference.reverse import reverse_coefficients
from torch import Tensor

from ..address import DEQUANTISATION, FORWARD, PROBE, STEPS, TIMESTEP, NoiseAddress
from ..ops import integers, q_sample, vlb_terms, words
from ..schedule import DeviceSchedule, Variance
from .likelihood_results import VARIANCES

# network(x_t, t), with t of shape (B,), int64
Network = Callable[[Tensor, Tensor], Tensor]


def measure(
    network: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    schedule: DeviceSchedule,
    images: Tensor,
    labels: Tensor | None,
    numbers: Tensor,
    grid: Sequence[int],
    *,
    seed: int = 0,
    dequantisation: Dequantisation = "truncated_normal",
    probes: int = 1,
    prediction: Prediction = "eps",
    clip: tuple[float, float] | None = None,
    batch_size: int = 100,
    progress: Callable[[float], object] = lambda images: None,
) -> Tensor:
    """Everything about the likelihood of images that `summarise` takes.

    The bound is sampled on the grid. The ODE is solved twice, on the grid and on every second step of it, whose
    difference tells the error.

    Parameters
    ----------
    network : callable
        `network(x_t, t, label)`.
    schedule : DeviceSchedule
    images : Tensor of uint8, shape (N, C, H, W)
    labels : Tensor of int64, shape (N,), or None
    numbers : Tensor of int64, shape (N,)
        Number of each image, the `sample` of its addresses.
    grid : sequence of int, length S
        Increasing from 1 to T.
    seed, dequantisation, probes, prediction, clip
        As in `ode_bits`.
    batch_size : int
        Images measured at a time.
    progress : callable
        Told how many images are done, in fractions, after each call of the network.

    Returns
    -------
    Tensor of float64, shape (N, columns), on the CPU
        A row an image; see `summarise`.
    """
    coarse = [*grid[:-1:2], grid[-1]]
    calls = 2 * len(grid) + len(coarse)
    device, rows, done = schedule.device, [], 0.0
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        x_0 = images[part].to(device).float() / 127.5 - 1
        label = None if labels is None else labels[part].to(device)

        def of_the_batch(x_t: Tensor, t: Tensor, label: Tensor | None = label) -> Tensor:
            return network(x_t, t, label)

        def after_a_call(count: int = len(x_0)) -> None:
            nonlocal done
            done += count / calls
            progress(done)

        options: dict[str, Any] = dict(
            numbers=numbers[part].to(device), seed=seed, prediction=prediction, clip=clip, progress=after_a_call
        )
        terms = sampled_bound(of_the_batch, schedule, x_0, grid, variances=VARIANCES, **options)
        bits = [
            ode_bits(of_the_batch, schedule, x_0, steps, dequantisation=dequantisation, probes=probes, **options)
            for steps in (grid, coarse)
        ]
        prior = torch.from_numpy(prior_kl(schedule.schedule, x_0.cpu().numpy()))
        columns = [prior, *(column.cpu() for column in (*terms.flatten(0, 1), *bits))]
        rows.append(torch.stack(columns, dim=1))
    return torch.cat(rows)


def sampled_bound(
    network: Network,
    schedule: DeviceSchedule,
    x_0: Tensor,
    grid: Sequence[int],
    *,
    numbers: Tensor,
    seed: int = 0,
    prediction: Prediction = "eps",
    clip: tuple[float, float] | None = None,
    variances: Sequence[Variance] = ("posterior",),
    levels: int = 256,
    progress: Callable[[], object] = lambda: None,
) -> Tensor:
    """The terms of `noisestep.reference.likelihood.sampled_bound`, of several variances with the same calls.

    Parameters
    ----------
    network : callable
    schedule : DeviceSchedule
        On the device of x_0.
    x_0 : Tensor, shape (B, ...)
        float32 or float64, in [-1, 1]; the network computes in this type.
    grid : sequence of int, length S
        The highest t of each stratum, increasing from 1 to T.
    numbers : Tensor of int64, shape (B,)
        Number of each image, the `sample` of its addresses.
    seed : int
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
        terms = [
            vlb_terms(schedule, x_0, x_t, output, t, prediction=prediction, clip=clip, variance=name, levels=levels)
            for name in variances
        ]
        strata.append((high - before) * torch.stack(terms))
        progress()
    return torch.stack(strata, dim=1)


def ode_bits(
    network: Network,
    schedule: DeviceSchedule,
    x_0: Tensor,
    grid: Sequence[int],
    *,
    numbers: Tensor,
    seed: int = 0,
    dequantisation: Dequantisation = "truncated_normal",
    probes: int = 1,
    prediction: Prediction = "eps",
    clip: tuple[float, float] | None = None,
    levels: int = 256,
    progress: Callable[[], object] = lambda: None,
) -> Tensor:
    """The negative log-likelihood by the probability-flow ODE: `noisestep.reference.likelihood.ode_bits`.

    x_t is kept in float64, and the network gets it in the type of x_0. Products J^T z take the place of J z.

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
    numbers : Tensor of int64, shape (B,)
        Number of each image, the `sample` of its addresses.
    seed : int
    dequantisation : {"truncated_normal", "uniform"}
    probes : int
        Directions of Hutchinson's estimate of the trace; or 0 for the exact trace, which takes n directions.
    prediction, clip, levels
        As in `noisestep.accelerated.ops.vlb_terms`.
    progress : callable
        Called after each step of the grid.

    Returns
    -------
    Tensor of float64, shape (B,)
        In bits per dimension.
    """
    probes, n = integer("probes", probes, 0, STEPS), math.prod(x_0.shape[1:])
    if probes:
        directions = [_signs(NoiseAddress(seed, PROBE, probe, numbers), x_0) for probe in range(probes)]
    else:
        unit = torch.eye(n, dtype=torch.float64, device=x_0.device)
        directions = [e.reshape(x_0.shape[1:]).expand(x_0.shape) for e in unit]
    share = 1 / probes if probes else 1.0
    of_x, of_output = reverse_coefficients(schedule.schedule, prediction=prediction)[:, :2].T.tolist()
    k, noise = np.sqrt(schedule.schedule.snr).tolist(), schedule.schedule.sqrt_one_minus_alpha_bar.tolist()
    u = [math.asinh(k[t]) for t in grid]

    def guess(x_t: Tensor, t: int, *, differentiable: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The network's input and output, and x_0 before it is clipped."""
        with torch.set_grad_enabled(differentiable):
            # in float64 to() would return x_t itself
            x = x_t.detach().to(x_0.dtype).requires_grad_(differentiable)
            output = network(x, schedule.timesteps[t].expand(len(x)))
        return x, output, of_x[t] * x_t + of_output[t] * output.detach().double()

    def clipped(guessed: Tensor) -> Tensor:
        return guessed if clip is None else guessed.clamp(*clip)

    def guess_and_trace(x_t: Tensor, t: int) -> tuple[Tensor, Tensor]:
        x, output, guessed = guess(x_t, t, differentiable=True)
        # where x_0 is clipped it does not move
        moves = clipped(guessed) == guessed
        trace = torch.zeros(len(x_t), dtype=torch.float64, device=x_0.device)
        for z in directions:
            moved = torch.where(moves, z, 0.0)
            (slope,) = torch.autograd.grad(output, x, moved.to(output.dtype), retain_graph=True)
            product = z * (of_x[t] * moved + of_output[t] * slope.double())
            trace += share * product.flatten(1).sum(dim=1)
        progress()
        return clipped(guessed), trace

    x_t = _dequantise(schedule, x_0, NoiseAddress(seed, DEQUANTISATION, 0, numbers), dequantisation, levels)
    x_theta, trace = guess_and_trace(x_t, grid[0])
    log_det = (u[1] - u[0]) / 2 * trace
    for i, (t, s) in enumerate(pairwise(grid), start=1):
        y, step = x_t / noise[t], k[s] - k[t]
        *_, ahead = guess(noise[s] * (y + step * x_theta), s, differentiable=False)
        x_t = noise[s] * (y + step * (x_theta + clipped(ahead)) / 2)
        x_theta, trace = guess_and_trace(x_t, s)
        log_det += (u[min(i + 1, len(u) - 1)] - u[i - 1]) / 2 * trace
    log_prior = -(x_t.square().flatten(1).sum(dim=1) + n * math.log(2 * math.pi)) / 2
    log_density = log_prior + n * math.log(noise[-1] / noise[1]) + log_det
    entropy = dequantisation_entropy(schedule.schedule, dequantisation=dequantisation, levels=levels)
    return -(log_density / n + entropy) / math.log(2)


def _dequantise(
    schedule: DeviceSchedule, x_0: Tensor, address: NoiseAddress, dequantisation: Dequantisation, levels: int
) -> Tensor:
    """x_1 in float64: `noisestep.reference.likelihood.dequantise` with the uniform numbers of an address."""
    signal = float(schedule.schedule.sqrt_alpha_bar[1])
    noise = float(schedule.schedule.sqrt_one_minus_alpha_bar[1])
    count, half_bin = math.prod(x_0.shape[1:]), 1 / (levels - 1)
    share = (words(address, len(x_0), count, device=x_0.device).double() + 0.5) / 2**32
    from_middle = share.reshape(x_0.shape) - 0.5
    if dequantisation == "uniform":
        return signal * (x_0.double() + 2 * from_middle * half_bin)
    tau = signal * half_bin / noise
    # the quantile of the left half, whose tail is known to full precision
    below = 0.5 - from_middle.abs() * math.erf(tau / math.sqrt(2))
    e = from_middle.sign() * (-torch.special.ndtri(below)).clamp(max=tau)
    return signal * x_0.double() + noise * e


def _signs(address: NoiseAddress, x_0: Tensor) -> Tensor:
    """Signs of the shape of x_0, float64: `noisestep.reference.likelihood.rademacher`."""
    n = math.prod(x_0.shape[1:])
    packed = words(address, len(x_0), -(-n // 32), device=x_0.device)
    bits = packed[:, :, None] >> torch.arange(32, device=x_0.device) & 1
    return 1 - 2 * bits.flatten(1)[:, :n].reshape(x_0.shape).double()
