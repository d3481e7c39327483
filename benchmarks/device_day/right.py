"""Bits of the device against the CPU's; and what only a GPU can get wrong: streams, waits, graphs, compilation."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from noisestep.accelerated.address import FORWARD, REVERSE, NoiseAddress
from noisestep.accelerated.ops import advance, loss_and_gradient, noise, q_sample, reverse_step, simple_loss, vlb_terms
from noisestep.reference import noise as reference_noise
from torch import Tensor

from .. import gpu
from ..calls import schedule
from .day import Budget

Check = tuple[str, Callable[[], bool]]
CPU = torch.device("cpu")
# every word of the address has more than 32 bits or carries into the next
_SEED, _STEP, _SAMPLE = 2**63 + 5, 7, 2**40 + 2**32 - 2
_AT = NoiseAddress(_SEED, FORWARD, _STEP, _SAMPLE)
_CLIP = (-1.0, 1.0)
# a batch as in training, and one whose making takes the device a while
BATCH, LARGE_BATCH = (64, 4, 64, 64), (256, 4, 128, 128)
_LAYOUTS = ("contiguous", "channels_last", "sliced")


def rows(budget: Budget) -> Iterator[tuple[str, Any]]:
    """By the name of a check: true, or what is wrong."""
    checks = itertools.chain(_reference(), _matrix(budget.quick), _means(), _repeated(), _arguments())
    if gpu.PRESENT:
        checks = itertools.chain(checks, _streams_and_waits(), _graph(), _compiled())
    for name, check in checks:
        try:
            yield name, check() or "other bits"
        except Exception as error:
            yield name, f"{type(error).__name__}: {str(error)[:400]}"


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors, on any devices, have one dtype, one shape and the same bits; any NaN is like any other."""
    a, b = a.detach().cpu(), b.detach().cpu()
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    equal = a.contiguous().view(bits) == b.contiguous().view(bits)
    return bool((equal | (a.isnan() & b.isnan())).all())


def _reference() -> Iterator[Check]:
    """The noise is the reference's."""
    for shape in ((3, 5), (2, 3, 37, 41), (4, 4, 64, 64), (1, 1_000_003)):
        samples = np.arange(shape[0], dtype=np.uint64) + np.uint64(_SAMPLE)
        expected = torch.from_numpy(reference_noise.normal(_SEED, FORWARD, _STEP, samples, shape[1:]).copy())
        for dtype in (torch.float32, torch.bfloat16):

            def check(shape: Any = shape, dtype: Any = dtype, expected: Tensor = expected) -> bool:
                return same_bits(noise(_AT, shape, dtype=dtype, device=gpu.DEVICE), expected.to(dtype))

            yield f"noise {shape} {dtype}", check


def _matrix(quick: bool) -> Iterator[Check]:
    """Each op in each type, shape and layout: the device's bits are the CPU's."""
    dtypes = (torch.float32, torch.bfloat16, torch.float16)[: 2 if quick else 3]
    shapes = ((4, 4, 32, 32), (3, 3, 13, 9), (5, 1300))[: 2 if quick else 3]
    generator = torch.Generator().manual_seed(0)
    for dtype, shape, layout in itertools.product(dtypes, shapes, _LAYOUTS):
        x, output = (_laid_out(torch.randn(shape, generator=generator).to(dtype), layout) for _ in range(2))
        t = torch.randint(1, 1001, shape[:1], generator=generator)
        weight = torch.rand(shape[:1], generator=generator)
        case = f"{dtype} {shape} {layout}"

        def noised(device: torch.device, x: Tensor = x, t: Tensor = t) -> list[Tensor]:
            return [q_sample(schedule(device), x.to(device), t.to(device), _AT)]

        def stepped(device: torch.device, x: Tensor = x, output: Tensor = output, t: Tensor = t) -> list[Tensor]:
            x, output, t = (value.to(device) for value in (x, output, t))
            return [reverse_step(schedule(device), x, output, t, _AT, clip=_CLIP)]

        yield f"q_sample {case}", _on_both(noised)
        yield f"reverse_step {case}", _on_both(stepped)
        for reduction in ("none", "mean"):

            def loss(
                device: torch.device, output: Tensor = output, weight: Tensor = weight, reduction: str = reduction
            ) -> list[Tensor]:
                leaf = output.to(device).requires_grad_()
                found = simple_loss(leaf, _AT, weight=weight.to(device), reduction=reduction)
                return [found, *torch.autograd.grad(found.sum(), leaf)]

            yield f"simple_loss {reduction} and its gradient {case}", _on_both(loss)

        def together(device: torch.device, output: Tensor = output, weight: Tensor = weight) -> list[Tensor]:
            return list(loss_and_gradient(output.to(device), _AT, weight=weight.to(device)))

        yield f"loss_and_gradient {case}", _on_both(together)


def _on_both(call: Callable[[torch.device], list[Tensor]]) -> Callable[[], bool]:
    return lambda: all(map(same_bits, call(gpu.DEVICE), call(CPU)))


def _laid_out(x: Tensor, layout: str) -> Tensor:
    if layout == "channels_last" and x.ndim == 4:
        return x.contiguous(memory_format=torch.channels_last)
    return torch.stack([x, x], -1)[..., 0] if layout == "sliced" else x


def _means() -> Iterator[Check]:
    """Batches that are no power of two: PyTorch on CUDA multiplies by the reciprocal of a number it divides by."""
    generator = torch.Generator().manual_seed(0)
    for batch in (3, 5, 6, 7, 10, 12, 48, 96, 100):
        output = torch.randn(batch, 64, generator=generator)
        yield (
            f"mean over {batch}",
            _on_both(lambda device, output=output: [simple_loss(output.to(device), _AT)]),  # type: ignore[misc]
        )


def _repeated() -> Iterator[Check]:
    """The same call again has the same bits."""
    x = torch.randn(BATCH, device=gpu.DEVICE)
    t = torch.randint(1, 1001, BATCH[:1], device=gpu.DEVICE)

    def noised() -> bool:
        first = q_sample(schedule(gpu.DEVICE), x, t, _AT)
        return all(torch.equal(first, q_sample(schedule(gpu.DEVICE), x, t, _AT)) for _ in range(20))

    yield "q_sample, 20 times", noised
    yield "simple_loss, 50 times", lambda: len({simple_loss(x, _AT).item() for _ in range(50)}) == 1

    def together() -> bool:
        leaf = x.clone().requires_grad_()
        loss = simple_loss(leaf, _AT)
        expected = loss, *torch.autograd.grad(loss, leaf)
        return all(map(same_bits, loss_and_gradient(x, _AT), expected))

    yield "loss_and_gradient has the bits of simple_loss and autograd", together


def _arguments() -> Iterator[Check]:
    """Images of uint8, a device by its type alone, and float64."""
    levels = torch.arange(256, dtype=torch.uint8).reshape(4, 64)
    yield "q_sample uint8", _on_both(lambda device: [q_sample(schedule(device), levels.to(device), 500, _AT)])

    def by_type() -> bool:
        step = torch.tensor(3, device=gpu.DEVICE)
        expected = noise(NoiseAddress(0, FORWARD, 3), (2, 8))
        return same_bits(noise(NoiseAddress(0, FORWARD, step), (2, 8), device=gpu.DEVICE.type), expected)

    yield "noise with its step in a tensor, on a device named by its type", by_type
    x = torch.randn(4, 4, 64, 64)

    def close() -> bool:
        found, expected = (vlb_terms(schedule(device), *(x.to(device),) * 3, 7).cpu() for device in (gpu.DEVICE, CPU))
        # exp, log and erf of two libraries: not the same bits
        return torch.allclose(found, expected, rtol=1e-10)

    yield "vlb_terms, relative error at most 1e-10", close


def _streams_and_waits() -> Iterator[Check]:
    device = gpu.DEVICE

    def on_another_stream() -> bool:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            # the kernel must come after this one, which takes a while
            x = torch.randn(LARGE_BATCH, device=device)
            found = q_sample(schedule(device), x, 500, _AT)
        stream.synchronize()
        return same_bits(found, q_sample(schedule(device), x, 500, _AT))

    yield "another stream", on_another_stream
    x = torch.randn(BATCH, device=device)
    t, one_t = torch.randint(1, 1001, BATCH[:1], device=device), torch.full((), 500, device=device)

    def every_op() -> None:
        q_sample(schedule(device), x, t, _AT)
        reverse_step(schedule(device), x.clone(), x, one_t, NoiseAddress(0, REVERSE, one_t), clip=_CLIP, in_place=True)
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(simple_loss(leaf, _AT), leaf)
        loss_and_gradient(x, _AT)
        noise(NoiseAddress(0, FORWARD, one_t), (2, 8), device=device)
        vlb_terms(schedule(device), x, x, x, t)
        advance(one_t, -1)

    def quiet() -> bool:
        every_op()
        gpu.synchronize()
        with gpu.waiting_forbidden():
            every_op()
        return True

    yield "no op waits for the device", quiet


def _training_step() -> tuple[Callable[..., Tensor], dict[str, Tensor]]:
    """The loss of one weight w, with its noise and its data at a step in a tensor."""
    device = gpu.DEVICE
    tensors = dict(
        x=torch.randn(BATCH, device=device),
        t=torch.randint(1, 1001, BATCH[:1], device=device),
        step=torch.zeros((), dtype=torch.int64, device=device),
        w=torch.randn(1, device=device),
    )

    tables = schedule(device)

    def loss(x: Tensor, t: Tensor, step: Tensor, w: Tensor) -> Tensor:
        at = NoiseAddress(3, FORWARD, step)
        return simple_loss(q_sample(tables, x, t, at) * w, at)

    return loss, tensors


def _graph() -> Iterator[Check]:
    def replayed() -> bool:
        loss, tensors = _training_step()

        def one() -> list[Tensor]:
            leaf = tensors["w"].detach().requires_grad_()
            found = loss(**tensors | {"w": leaf})
            gradient = torch.autograd.grad(found, leaf)
            advance(tensors["step"])
            return [found.detach(), *gradient]

        graph, results = gpu.capture(one)
        tensors["step"].zero_()
        replays = []
        for _ in range(3):
            graph.replay()
            replays.append([value.item() for value in results])
        tensors["step"].zero_()
        eager = [[value.item() for value in one()] for _ in range(3)]
        return replays == eager and len({found[0] for found in eager}) == 3

    yield "replays of a captured training step: fresh noise, the eager bits", replayed


def _compiled() -> Iterator[Check]:
    def step(mode: str | None) -> bool:
        torch._dynamo.reset()
        loss, tensors = _training_step()
        compiled = torch.compile(loss, fullgraph=True, mode=mode)

        def numbers(function: Callable[..., Tensor]) -> list[float]:
            leaf = tensors["w"].detach().requires_grad_()
            found = function(**tensors | {"w": leaf})
            return [found.item(), *(g.item() for g in torch.autograd.grad(found, leaf))]

        for number in range(4):
            tensors["step"].fill_(number)
            torch.compiler.cudagraph_mark_step_begin()
            found, expected = numbers(compiled), numbers(loss)
            # the products of the gradient are added up in another order
            if not all(math.isclose(*pair, rel_tol=1e-5) for pair in zip(found, expected, strict=True)):
                return False
        return True

    yield "torch.compile of a training step", lambda: step(None)
    yield "torch.compile of a training step, reduce-overhead", lambda: step("reduce-overhead")

    def reverse() -> bool:
        torch._dynamo.reset()
        x, t = torch.randn(4, 4, 64, 64, device=gpu.DEVICE), torch.full((), 500, device=gpu.DEVICE)
        tables = schedule(gpu.DEVICE)

        def walk(x: Tensor, t: Tensor) -> Tensor:
            # a network whose bits compilation does not change
            return reverse_step(tables, x, -x, t, NoiseAddress(0, REVERSE, t), clip=_CLIP)

        return same_bits(torch.compile(walk, fullgraph=True)(x, t), walk(x, t))

    yield "torch.compile of a reverse step", reverse
