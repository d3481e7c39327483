"""Providers of an op side by side: each is compared with the float64 reference, and only then timed.

A provider is a function of the op's inputs and of noise. "noisestep", "noisestep eager" and "numpy" are told the
noise's address; the others are given noise where they are checked or differentiated, and make their own, with None in
its place, where they are timed.
"""

import functools
import itertools
import shutil
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cases import CASES, COMPILED, DEVICE, GRADIENT_CASES, UNIT, Case, address, gamma
from noisestep.accelerated import native
from noisestep.accelerated.launch import use_kernels
from noisestep.accelerated.noise import FORWARD
from timing import DeviceTimer, measure, measure_pairs, surroundings
from torch import Tensor

# those that are told where the noise is
ADDRESSED = ("numpy", "noisestep eager", "noisestep")

Provider = Callable[[SimpleNamespace, Any], Any]


@dataclass(frozen=True)
class Exact:
    """A result in float64, and how far others may be from it before they round to their own type.

    Parameters
    ----------
    value : ndarray
    bound : ndarray or float
        Of noisestep: what docs/ops.md promises.
    size : ndarray
        Of the terms that the value is the sum of. PyTorch's plain formula may be 16 roundings of the batch's type
        off these. diffusers has alpha_bar_t in the batch's type and takes 1 - alpha_bar_t and its root from that,
        which near alpha_bar_t = 1 leaves sqrt(u): it may be twice that off.
    peers : ndarray, optional
        What both of them may be off instead.
    """

    value: np.ndarray
    bound: np.ndarray | float
    size: np.ndarray
    peers: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Op:
    """An op, who provides it, and what the reference says of it.

    Parameters
    ----------
    name : str
    inputs : callable
        The tensors of a case, by name.
    forward : callable
        The exact result, from the inputs as float64 arrays.
    providers : mapping
    tensors : mapping
        For each direction, how many tensors of the batch's size the op reads and writes at the least.
    leaves, gradients : sequence of str, callable
        What has a gradient, and the exact one of each, from the inputs and the gradient of the result.
    stream : int
        Of the noise.
    """

    name: str
    inputs: Callable[[Case], dict[str, Tensor]]
    forward: Callable[[SimpleNamespace], Exact]
    providers: Mapping[str, Provider]
    tensors: Mapping[str, int]
    leaves: Sequence[str] = ()
    gradients: Callable[[SimpleNamespace, np.ndarray, Case], Sequence[Exact]] | None = None
    stream: int = FORWARD
    compare: Callable[[str, Tensor, Exact, Case], None] = field(default_factory=lambda: assert_near)


def plan(op: Op, cases: Sequence[Case] = CASES) -> Iterator[Any]:
    """The parameters (case, direction, provider) of an op's benchmark."""
    for case in cases:
        directions = ("forward", "backward", "both") if op.leaves and case in GRADIENT_CASES else ("forward",)
        for direction, provider in itertools.product(directions, op.providers):
            # float64 in C order and forward, whatever the batch
            if provider == "numpy" and (direction, case) != ("forward", Case(case.shape)):
                continue
            if provider == "torch.compile" and case not in COMPILED:
                continue
            on_device = DEVICE == "cuda" and provider != "numpy"
            yield pytest.param(
                case,
                direction,
                provider,
                id=f"{provider}-{direction}-{case}",
                marks=[pytest.mark.benchmark(timer=DeviceTimer())] if on_device else [],
            )


def run(benchmark: Any, op: Op, case: Case, direction: str, provider: str) -> None:
    """Check one provider of an op on a case, then time it."""
    _skip_what_is_missing(op, provider)
    with native.eager() if provider == "noisestep eager" else nullcontext():
        forward = direction == "forward"
        call = _forward(op, case, provider) if forward else _differentiated(op, case, direction, provider)
        on_device = DEVICE == "cuda" and provider != "numpy"
        benchmark.group = f"{op.name}, {direction}, {case}"
        median = measure(benchmark, call, on_device=on_device)
    moved = op.tensors[direction] * case.bytes
    benchmark.extra_info |= surroundings(DEVICE if on_device else "cpu") | {"bytes": moved}
    if median is not None:
        benchmark.extra_info["GB/s"] = round(moved / median / 1e9, 3)


def versus(benchmark: Any, say: Callable[[str], None], op: Op, case: Case, what: str) -> float:
    """The ratio of diffusers' time to noisestep's on a CPU, each with fresh noise, timed in turn; said in a line."""
    if DEVICE != "cpu":
        pytest.skip("this ratio is a CPU's, and there is a GPU: CUDA_VISIBLE_DEVICES= hides it")
    for provider in ("diffusers", "noisestep"):
        _skip_what_is_missing(op, provider)
    ours, theirs = (_forward(op, case, provider) for provider in ("noisestep", "diffusers"))
    pairs = measure_pairs(benchmark, ours, theirs, rounds=100, warmup=10)
    benchmark.extra_info |= surroundings("cpu")
    times = f"{pairs.ours * 1e6:.0f} µs against {pairs.theirs * 1e6:.0f} µs"
    say(f"noisestep against diffusers, {what}, {case.shape}: {pairs.ratio:.1f} x ({times})")
    return pairs.ratio


def compiled(formula: Callable[..., Any]) -> Callable[..., Any]:
    """The formula by torch.compile, for one shape, as a user whose batches are all alike would have it."""
    return torch.compile(formula, dynamic=False)


def _forward(op: Op, case: Case, provider: str) -> Callable[[], object]:
    inputs = SimpleNamespace(**op.inputs(case))
    # to numpy, the reference itself, in the type that it works in
    x = _float64(inputs) if provider == "numpy" else inputs
    function, addressed = op.providers[provider], provider in ADDRESSED
    steps = itertools.count(1)
    with torch.no_grad():
        result = function(x, address(op.stream, 0) if addressed else case.eps(op.stream))
        result = result[0] if isinstance(result, tuple) else result
        op.compare(provider, torch.as_tensor(result), _exact(op, case), case)

    @torch.no_grad()
    def call() -> object:
        return function(x, address(op.stream, next(steps)) if addressed else None)

    # with noise of its own it takes another way than with noise that is given
    call()
    return call


def _differentiated(op: Op, case: Case, direction: str, provider: str) -> Callable[[], object]:
    x = SimpleNamespace(**op.inputs(case))
    leaves = [getattr(x, name).requires_grad_() for name in op.leaves]
    addressed = provider in ADDRESSED and "eps" not in op.leaves
    noise = address(op.stream, 0) if addressed else getattr(x, "eps", None)
    function = op.providers[provider]
    result = function(x, noise)
    grad = torch.randn(result.shape, generator=torch.Generator().manual_seed(9)).to(result.device, result.dtype)
    gradients = torch.autograd.grad(result, leaves, grad, retain_graph=True)
    expected = op.gradients(_float64(x), grad.double().cpu().numpy(), case)
    for actual, exact in zip(gradients, expected, strict=True):
        op.compare(provider, actual, exact, case)
    if direction == "backward":
        return lambda: torch.autograd.grad(result, leaves, grad, retain_graph=True)
    return lambda: torch.autograd.grad(function(x, noise), leaves, grad)


@functools.lru_cache(maxsize=2)
def _exact(op: Op, case: Case) -> Exact:
    return op.forward(_float64(SimpleNamespace(**op.inputs(case))))


def _float64(inputs: SimpleNamespace) -> SimpleNamespace:
    arrays = {name: x.detach().cpu() for name, x in vars(inputs).items()}
    return SimpleNamespace(**{name: (x.double() if x.is_floating_point() else x).numpy() for name, x in arrays.items()})


def assert_near(provider: str, actual: Tensor, exact: Exact, case: Case) -> None:
    """A result is within its provider's bound (`Exact`), and half a unit in the last place of its own type."""
    unit = UNIT[case.torch_dtype]
    if provider in ADDRESSED:
        error = exact.bound
    elif exact.peers is not None:
        error = exact.peers
    else:
        error = exact.size * (2 * unit**0.5 if provider == "diffusers" else gamma(16, unit))
    value = actual.detach().double().cpu().numpy()
    assert value.shape == exact.value.shape, f"{provider}: shape {value.shape} for {exact.value.shape}"
    # below the smallest normal number, units in the last place are a fixed distance apart
    tiny = torch.finfo(actual.dtype).smallest_normal
    allowed = error + UNIT[actual.dtype] * np.maximum(np.abs(exact.value) + error, tiny)
    off = np.abs(value - exact.value)
    # written so that a NaN is outside
    outside = ~(off <= allowed)
    assert not outside.any(), (
        f"{provider} is wrong, and not timed: {outside.sum()} of {outside.size}, by {off.max():.3g}"
    )


def _skip_what_is_missing(op: Op, provider: str) -> None:
    if provider == "diffusers":
        pytest.importorskip("diffusers", reason="no diffusers: pip install 'noisestep[bench]'")
    if provider == "torch.compile" and DEVICE == "cpu":
        headers = Path(sysconfig.get_paths()["include"], "Python.h").exists()
        if not (headers and any(map(shutil.which, ("g++", "clang++", "c++")))):
            pytest.skip("torch.compile needs a C++ compiler and Python.h on a CPU")
    if provider.startswith("noisestep") and DEVICE == "cpu":
        if use_kernels(torch.empty(0)):
            pytest.skip("TRITON_INTERPRET=1: the interpreter's time means nothing")
        if provider == "noisestep" and "noisestep eager" in op.providers and native.library() is None:
            pytest.skip("no native code (no C++ compiler, or NOISESTEP_NATIVE=0): see noisestep eager")
    if provider == "noisestep eager" and DEVICE == "cuda":
        pytest.skip("the PyTorch path of an op is for a CPU")
