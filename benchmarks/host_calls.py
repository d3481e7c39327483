"""The calls whose host time is measured, and the process that times them: `python -m benchmarks.host_calls`.

The process reads a name a line and answers with the least microseconds of that call, so that whoever asks can take
turns between several of them.
"""

import json
import sys
import timeit
from collections.abc import Callable
from typing import Any

import torch
from noisestep.accelerated import ops
from noisestep.accelerated.address import FORWARD, REVERSE, NoiseAddress
from noisestep.accelerated.schedule import DeviceSchedule
from noisestep.reference import Schedule

from . import stub_driver

SHAPE = (4, 3, 8, 8)
# a turn: the least of so many rounds of so many calls
_ROUNDS, _CALLS, _WARMUP = 100, 8, 40
Calls = dict[str, Callable[[], Any]]


def calls() -> tuple[Calls, Calls]:
    """Each op on one small batch, and the plain formula in its place where there is one, by the same name."""
    schedule = DeviceSchedule(Schedule.from_name("linear", 1000))
    x, output, eps = (torch.randn(SHAPE) for _ in range(3))
    t, one_t, counter = torch.randint(1, 1001, SHAPE[:1]), torch.tensor(500), torch.zeros((), dtype=torch.int64)
    forward, reverse = schedule.forward_table(), schedule.reverse_table(clip=(-1, 1))

    def noised() -> Any:
        signal, noise = forward[t].reshape(len(x), 2, 1, 1, 1).unbind(1)
        return signal * x + noise * torch.randn_like(x)

    def stepped() -> Any:
        c = reverse[one_t[None]].squeeze(0)
        x_0 = (c[0] * x + c[1] * output).clamp(-1, 1)
        return c[2] * x_0 + c[3] * x + c[5] * torch.randn_like(x)

    def gradient(loss: Callable[[Any], Any]) -> Any:
        leaf = output.detach().requires_grad_()
        return torch.autograd.grad(loss(leaf), leaf)

    def at(stream: int = FORWARD) -> NoiseAddress:
        return NoiseAddress(0, stream, 3)

    ours = {
        "noise": lambda: ops.noise(at(), SHAPE),
        "q_sample": lambda: ops.q_sample(schedule, x, t, at()),
        "reverse_step": lambda: ops.reverse_step(schedule, x, output, one_t, at(REVERSE), clip=(-1, 1)),
        "advance": lambda: ops.advance(counter),
        "simple_loss and backward": lambda: gradient(lambda leaf: ops.simple_loss(leaf, at())),
        "loss_and_gradient": lambda: ops.loss_and_gradient(output, at()),
        "pairwise_sum": lambda: ops.pairwise_sum(x[0, 0]),
        "vlb_terms": lambda: ops.vlb_terms(schedule, x, x, output, t),
        "words": lambda: ops.words(at(), 4, 8),
        "uniform": lambda: ops.uniform(at(), 8),
        "integers": lambda: ops.integers(at(), 8, 1, 1000),
    }
    mse_loss = torch.nn.functional.mse_loss
    plain = {
        "noise": lambda: torch.randn(SHAPE),
        "q_sample": noised,
        "reverse_step": stepped,
        "advance": lambda: counter.add_(1),
        "simple_loss and backward": lambda: gradient(lambda leaf: mse_loss(leaf, eps)),
        "loss_and_gradient": lambda: gradient(lambda leaf: mse_loss(leaf, eps)),
        "pairwise_sum": lambda: x[0, 0].sum(-1),
        "uniform": lambda: torch.rand(8),
        "integers": lambda: torch.randint(1, 1001, (8,)),
    }
    return ours, plain


def _launches(call: Callable[[], Any]) -> int:
    before = stub_driver.launches()
    call()
    return stub_driver.launches() - before


def _serve() -> None:
    torch.set_num_threads(1)
    ours, plain = calls()
    with stub_driver.installed():
        # another checkout may lack an op
        ours = {name: call for name, call in ours.items() if hasattr(ops, name.split()[0])}
        launches = {name: _launches(call) for name, call in ours.items()}
        print(json.dumps({"launches": launches, "plain": list(plain)}), flush=True)
        for line in sys.stdin:
            which, _, name = line.strip().partition(" ")
            call = (ours if which == "ours" else plain)[name]
            with torch.set_grad_enabled("loss" in name):
                timeit.timeit(call, number=_WARMUP)
                print(min(timeit.repeat(call, number=_CALLS, repeat=_ROUNDS)) / _CALLS * 1e6, flush=True)


if __name__ == "__main__":
    _serve()
