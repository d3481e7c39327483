"""What another process runs: `python -m benchmarks.device_day.child warm|small|large [--quick]`."""

import contextlib
import sys

import torch
from noisestep.accelerated.address import FORWARD, NoiseAddress
from noisestep.accelerated.ops import (
    loss_and_gradient,
    noise,
    pairwise_sum,
    q_sample,
    reverse_step,
    simple_loss,
    vlb_terms,
)

from .. import gpu
from ..calls import schedule
from .device import timed
from .program_sizes import compile_sizes

# the launches of `large`, in turn: the last op has several
IN_TURN = ("noise", "q_sample", "reverse_step", "loss_and_gradient")


def warm(quick: bool) -> None:
    """Call all that will be timed, so that the caches of Triton and Inductor on disk have it."""
    for call in timed(quick):
        # a call that fails does so again where it is timed, and is reported there
        with torch.set_grad_enabled(call.grad), contextlib.suppress(Exception):
            call.run()
    if gpu.PRESENT:
        compile_sizes(quick)


def _ops(x: torch.Tensor) -> None:
    t, at = torch.full((len(x),), 500, device=gpu.DEVICE), NoiseAddress(0, FORWARD, 3)
    noise(at, x.shape, dtype=x.dtype, device=gpu.DEVICE)
    q_sample(schedule(gpu.DEVICE), x, t, at)
    reverse_step(schedule(gpu.DEVICE), x, x, t, at, clip=(-1, 1))
    loss_and_gradient(x, at)


def small() -> None:
    """One call of each op on rows whose ends fall inside a program, and inside an access."""
    x = torch.randn(3, 4, 33, 31, device=gpu.DEVICE)
    for layout in (torch.contiguous_format, torch.channels_last):
        for dtype in (torch.float32, torch.bfloat16):
            y = x.to(dtype).contiguous(memory_format=layout)
            _ops(y)
            leaf = y.requires_grad_()
            torch.autograd.grad(simple_loss(leaf, NoiseAddress(0, FORWARD, 3), reduction="none").sum(), leaf)
    vlb_terms(schedule(gpu.DEVICE), x, x, x, 500)
    pairwise_sum(x.flatten(1))


def large() -> None:
    """The ops in turn on a batch that does not fit into the cache."""
    _ops(torch.randn((64, 4, 512, 512) if gpu.PRESENT else (2, 4, 8, 8), device=gpu.DEVICE).bfloat16())


if __name__ == "__main__":
    what = sys.argv[1]
    if what == "warm":
        warm("--quick" in sys.argv)
    else:
        {"small": small, "large": large}[what]()
    gpu.synchronize()
