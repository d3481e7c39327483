"""Providers of an op side by side: each is compared with the float64 reference, and only then timed.

A provider is a function of the op's inputs and of noise. "noisestep", "noisestep eager" and "numpy" are told the
noise's address, another one for each call that is timed; the others are given that noise where they are checked, and
draw their own, with None in its place, where they are timed.
"""

import functools
import itertools
import shutil
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from bounds import ADDRESSED, Exact, assert_near
from cases import CASES, COMPILED, DEVICE, GRADIENT_CASES, Case, address
from noisestep.accelerated.backends import native
from noisestep.accelerated.backends.triton.launch import use_kernels
from timing import DeviceTimer, measure, measure_pairs, surroundings
from torch import Tensor

Provider = Callable[[SimpleNamespace, Any], Any]


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
    stream : int, optional
        Of the noise, where a call draws some.
    compare : callable
        What a result must pass, and a gradient.
    """

    name: str
    inputs: Callable[[Case], dict[str, Tensor]]
    forward: Callable[[SimpleNamespace], Exact]
    providers: Mapping[str, Provider]
    tensors: Mapping[str, int]
    leaves: Sequence[str] = ()
    gradients: Callable[[SimpleNamespace, np.ndarray, Case], Sequence[Exact]] | None = None
    stream: int | None = None
    compare: Callable[[str, Tensor, Exact, Case], None] = assert_near


def plan(op: Op, cases: Sequence[Case] = CASES) -> list[Any]:
    """The parameters (case, direction, provider) of an op's benchmark."""
    parameters = []
    for case in cases:
        directions = ("forward", "backward", "both") if op.leaves and case in GRADIENT_CASES else ("forward",)
        for direction, provider in itertools.product(directions, op.providers):
            # the reference works in float64 and C order, and has no backward
            if provider == "numpy" and (direction, case) != ("forward", Case(case.shape)):
                continue
            if provider == "torch.compile" and case not in COMPILED:
                continue
            marks = [pytest.mark.benchmark(timer=DeviceTimer())] if _on_device(provider) else []
            name = f"{provider}-{direction}-{case}"
            parameters.append(pytest.param(case, direction, provider, id=name, marks=marks))
    return parameters


def run(benchmark: Any, op: Op, case: Case, direction: str, provider: str) -> None:
    """Check one provider of an op on a case, then time it."""
    _skip_what_is_missing(op, provider)
    forward = direction == "forward"
    with native.eager() if provider == "noisestep eager" else nullcontext(), torch.set_grad_enabled(not forward):
        call = _forward(op, case, provider) if forward else _differentiated(op, case, direction, provider)
        benchmark.group = f"{op.name}, {direction}, {case}"
        median = measure(benchmark, call, on_device=_on_device(provider))
    moved = op.tensors[direction] * case.bytes
    benchmark.extra_info |= asdict(case) | surroundings(DEVICE if _on_device(provider) else "cpu") | {"bytes": moved}
    if median is not None:
        benchmark.extra_info["GB/s"] = round(moved / median / 1e9, 3)


def versus(benchmark: Any, say: Callable[[str], None], op: Op, case: Case, what: str) -> float:
    """The ratio of diffusers' time to noisestep's on a CPU, each with fresh noise, timed in turn; said in a line."""
    if DEVICE != "cpu":
        pytest.skip("this ratio is a CPU's, and there is a GPU: CUDA_VISIBLE_DEVICES= hides it")
    for provider in ("diffusers", "noisestep"):
        _skip_what_is_missing(op, provider)
    with torch.no_grad():
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

    def noise(step: int | None) -> Any:
        if op.stream is None:
            return None
        if addressed:
            return address(op.stream, next(steps) if step is None else step)
        return None if step is None else case.eps(op.stream)

    def call(step: int | None = None) -> Any:
        return function(x, noise(step))

    op.compare(provider, _tensor(call(0)), _exact(op, case), case)
    # noise of its own takes it another way than noise that is given
    first, second = _tensor(call()), _tensor(call())
    if op.stream is not None:
        assert not torch.equal(first, second), f"{provider} is wrong, and not timed: the same noise in two calls"
    return call


def _tensor(result: Any) -> Tensor:
    return torch.as_tensor(result[0] if isinstance(result, tuple) else result)


def _differentiated(op: Op, case: Case, direction: str, provider: str) -> Callable[[], object]:
    x = SimpleNamespace(**op.inputs(case))
    leaves = [getattr(x, name).requires_grad_() for name in op.leaves]
    # noise that has a gradient is given
    noise = getattr(x, "eps", None)
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


def _on_device(provider: str) -> bool:
    return DEVICE == "cuda" and provider != "numpy"


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
