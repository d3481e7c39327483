"""`python -m benchmarks.cpu_time`: training's ops on a CPU beside plain PyTorch, and the bound's terms beside float32.

What is timed takes turns in one process, and the least of each counts, so that whatever else the machine does falls on
all alike. `--compile` has torch.compile's code for the plain formula, too, which takes minutes to compile.
"""

import itertools
import math
import os
import time
from collections.abc import Callable, Iterator

# PyTorch's OpenMP threads spin while they wait, and take the time of whatever runs next; read when PyTorch is loaded
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import click
import torch
from noisestep.accelerated import ops
from noisestep.accelerated.address import FORWARD, NoiseAddress
from noisestep.accelerated.schedule import DeviceSchedule
from torch import Tensor

SHAPES = ((128, 1, 8, 8), (1, 4, 64, 64), (16, 3, 32, 32), (64, 3, 64, 64))
DTYPES = ("float32", "bfloat16")
THREADS = (1, 2)
# seconds that a turn of a call takes at the least
_TURN = 1e-3
Calls = dict[str, Callable[[], object]]


def noised_loss(x_0: Tensor, t: Tensor, output: Tensor, signal: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """x_t and the loss by the plain formula, with noise of PyTorch's generator."""
    eps = torch.randn_like(x_0)
    x_t = signal[t].view(-1, 1, 1, 1) * x_0 + noise[t].view(-1, 1, 1, 1) * eps
    return x_t, torch.nn.functional.mse_loss(output, eps)


def training(schedule: DeviceSchedule, shape: tuple[int, ...], dtype: torch.dtype, compiled: bool) -> Calls:
    """x_t with fresh noise, the loss and its gradient."""
    x_0, output = (torch.randn(shape).to(dtype) for _ in range(2))
    t = torch.randint(1, schedule.T + 1, shape[:1])
    output.requires_grad_()
    signal, noise = (column.to(dtype) for column in schedule.forward_table().T.contiguous())
    step = itertools.count()

    def plain(formula: Callable[..., tuple[Tensor, Tensor]]) -> None:
        output.grad = None
        _, loss = formula(x_0, t, output, signal, noise)
        loss.backward()

    def simple_loss() -> None:
        output.grad = None
        address = NoiseAddress(0, FORWARD, next(step))
        ops.q_sample(schedule, x_0, t, address)
        ops.simple_loss(output, address).backward()

    def loss_and_gradient() -> None:
        address = NoiseAddress(0, FORWARD, next(step))
        ops.q_sample(schedule, x_0, t, address)
        ops.loss_and_gradient(output, address)

    calls: Calls = {"PyTorch": lambda: plain(noised_loss)}
    if compiled:
        torch.compiler.reset()
        code = torch.compile(noised_loss, dynamic=False)
        calls["torch.compile"] = lambda: plain(code)
    return {**calls, "simple_loss": simple_loss, "loss_and_gradient": loss_and_gradient}


def terms(schedule: DeviceSchedule, shape: tuple[int, ...]) -> Calls:
    """The terms of the bound, in float64 here and in float32 by the formula of improved-diffusion's `_vb_terms_bpd`."""
    t = torch.randint(2, schedule.T + 1, shape[:1])
    x_0, eps = torch.randint(0, 256, shape) * 2 / 255 - 1, torch.randn(shape)
    x_t, output = ops.q_sample(schedule, x_0, t, eps), eps + 0.05 * torch.randn(shape)
    table = schedule.reverse_table()
    log_variances = torch.tensor(schedule.schedule.posterior_log_variance, dtype=torch.float32)

    def plain() -> Tensor:
        c_0, c_1, c_2, c_3 = table[t][:, :4, None, None, None].unbind(1)
        log_variance = log_variances[t][:, None, None, None]
        true, mean = c_2 * x_0 + c_3 * x_t, c_2 * (c_0 * x_t + c_1 * output) + c_3 * x_t
        divergence = 0.5 * (true - mean) ** 2 * torch.exp(-log_variance)
        centred, inverse = x_0 - mean, torch.exp(-0.5 * log_variance)
        upper, lower = (0.5 * (1 + torch.erf((centred + edge) * inverse * 0.5**0.5)) for edge in (1 / 255, -1 / 255))
        inside = torch.where(x_0 < -0.999, upper, torch.where(x_0 > 0.999, 1 - lower, upper - lower))
        nats = torch.where(t[:, None, None, None] == 1, -inside.clamp(min=1e-12).log(), divergence)
        return nats.mean(dim=(1, 2, 3)) / math.log(2)

    def vlb_terms() -> Tensor:
        return ops.vlb_terms(schedule, x_0, x_t, output, t)

    torch.testing.assert_close(plain().double(), vlb_terms(), rtol=1e-2, atol=0)
    return {"PyTorch": plain, "vlb_terms": vlb_terms}


def microseconds(calls: Calls, turns: int) -> dict[str, float]:
    """The least of each, in turn."""
    counts = {}
    for name, call in calls.items():
        call()
        counts[name] = max(1, int(_TURN / _seconds(call, 1)))
    least = dict.fromkeys(calls, math.inf)
    for _ in range(turns):
        for name, call in calls.items():
            least[name] = min(least[name], _seconds(call, counts[name]) * 1e6)
    return least


def _seconds(call: Callable[[], object], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def table(rows: Iterator[tuple[tuple[str, ...], dict[str, float]]], heads: tuple[str, ...]) -> Iterator[str]:
    """Lines of markdown: what was timed, the microseconds of each, and how long ours take beside PyTorch's."""
    for i, (cells, times) in enumerate(rows):
        if i == 0:
            ours = [name for name in times if name not in ("PyTorch", "torch.compile")]
            names = [*heads, *times, *(f"{name} / PyTorch" for name in ours)]
            yield f"| {' | '.join(names)} |"
            yield "|" + " --- |" * len(names)
        ratios = (f"{times[name] / times['PyTorch']:.2f}" for name in ours)
        yield f"| {' | '.join((*cells, *(f'{time:.0f}' for time in times.values()), *ratios))} |"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--turns", type=click.IntRange(1), default=60, help="Of each call.")
@click.option("--compile", "compiled", is_flag=True, help="Time torch.compile's code, too.")
def main(turns: int, compiled: bool) -> None:
    """Microseconds of the training ops on a CPU beside plain PyTorch's, with one thread and with two."""
    schedule = DeviceSchedule.from_name("linear", 1000)

    def trained() -> Iterator[tuple[tuple[str, ...], dict[str, float]]]:
        for threads, dtype, shape in itertools.product(THREADS, DTYPES, SHAPES):
            torch.set_num_threads(threads)
            calls = training(schedule, shape, getattr(torch, dtype), compiled)
            yield (str(threads), dtype, str(shape)), microseconds(calls, turns)

    def bounded() -> Iterator[tuple[tuple[str, ...], dict[str, float]]]:
        for threads, shape in itertools.product(THREADS, SHAPES):
            torch.set_num_threads(threads)
            yield (str(threads), str(shape)), microseconds(terms(schedule, shape), turns)

    for line in table(trained(), ("threads", "dtype", "shape")):
        click.echo(line)
    click.echo()
    for line in table(bounded(), ("threads", "shape")):
        click.echo(line)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.cpu_time")
