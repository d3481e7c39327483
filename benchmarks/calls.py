"""What is timed: each op as its description calls it, beside eager PyTorch, torch.compile, diffusers, and a copy."""

import importlib.util
import itertools
import shutil
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from noisestep.accelerated import ops
from noisestep.accelerated.address import NoiseAddress
from noisestep.accelerated.backends import backend
from noisestep.accelerated.schedule import DeviceSchedule
from torch import Tensor

from . import gpu
from .baselines import BASELINES, T
from .described import DESCRIPTIONS, UNIT, Case, assert_same_bits, device_schedule, split_options

OURS, EAGER, COMPILED, DIFFUSERS = "noisestep", "eager", "torch.compile", "diffusers"
# one pass over memory: by the driver's copy, and by a kernel
PASSES: dict[str, Callable[[Tensor], Tensor]] = {"copy": torch.clone, "multiply": lambda x: x * 2.0}
DTYPES = ("bfloat16", "float16", "float32")
# sets of inputs take turns where all of them are to be larger than any cache, but no more of them than these
_LARGER_THAN_CACHES, _MOST_SETS = 1 << 28, 32


@dataclass(frozen=True)
class Call:
    """A function of no arguments that is timed.

    Parameters
    ----------
    op, provider : str
    case : Case
    run : function
    grad : bool
        Whether it needs autograd.
    bytes : int
        What the function has to read and write at the least.
    """

    op: str
    provider: str
    case: Case
    run: Callable[[], Any]
    grad: bool
    bytes: int

    @property
    def waits(self) -> bool:
        """Whether the host waits for the device in it: diffusers compares timesteps on the host."""
        return (self.op, self.provider) == ("reverse_step", DIFFUSERS)


def schedule(device: torch.device) -> DeviceSchedule:
    """The linear schedule of 1000 steps on a device."""
    return device_schedule("linear", T, device=str(device))


def case_of(shape: Sequence[int], dtype: str = "float32", layout: str = "contiguous") -> Case:
    """A batch on the device that is timed."""
    return Case(tuple(shape), dtype, layout, T=T, device=str(gpu.DEVICE))


def cases(op: str, shapes: Sequence[Sequence[int]], dtypes: Sequence[str] = DTYPES) -> Iterator[Case]:
    """The batches of these shapes that an op has a form for; rows alone of an op whose calls have no other axes."""
    factors = DESCRIPTIONS[op].factors if op in DESCRIPTIONS else {"shape": shapes, "dtype": dtypes}
    ranks = max(map(len, factors.get("shape", ((),))))
    known = [dtype for dtype in dtypes if dtype in factors.get("dtype", ())] or ["float32"]
    for shape in dict.fromkeys(tuple(shape)[:1] if ranks < 2 else tuple(shape) for shape in shapes):
        yield from (case_of(shape, dtype) for dtype in known)


def name_of(op: str, case: Case) -> str:
    """A case as tables and filters have it: 64x4x64x64-bfloat16."""
    words = ["x".join(map(str, case.shape))]
    if op not in DESCRIPTIONS or "dtype" in DESCRIPTIONS[op].factors:
        words.append(case.dtype)
    return "-".join(words + [case.layout] * (case.layout != "contiguous"))


def providers(op: str, *, compiled: bool) -> list[str]:
    """Who computes an op on this machine; torch.compile takes seconds for each call."""
    if op in PASSES:
        return ["torch"]
    found = [OURS, EAGER]
    if compiled and missing_compiler() is None:
        found.insert(1, COMPILED)
    if BASELINES[op].in_diffusers is not None and importlib.util.find_spec("diffusers"):
        found.append(DIFFUSERS)
    return found


def missing_compiler() -> str | None:
    """Why torch.compile cannot be timed here, or None."""
    headers = Path(sysconfig.get_paths()["include"], "Python.h").exists()
    if gpu.PRESENT or (headers and any(map(shutil.which, ("g++", "clang++", "c++")))):
        return None
    return "torch.compile needs a C++ compiler and Python.h on a CPU"


def make(op: str, provider: str, case: Case, *, sets: int = 1) -> Call:
    """One provider's call on a case; with several sets of inputs, they take turns."""
    if op in PASSES:
        batches = [case.tensor(1) for _ in range(sets)]
        runs = [lambda x=x: PASSES[op](x) for x in batches]
        return Call(op, provider, case, _in_turn(runs), False, 2 * batches[0].nbytes)
    inputs = [_prepare(op, replace(case, step=case.step + i)) for i in range(sets)]
    moved = BASELINES[op].moved * _batch(op, *inputs[0]).nbytes
    return Call(
        op, provider, case, _in_turn([_bind(op, provider, *i) for i in inputs]), BASELINES[op].differentiated, moved
    )


def sets_of(case: Case) -> int:
    """How many sets of inputs are larger than any cache, together."""
    tensor = torch.Size(case.shape).numel() * case.torch_dtype.itemsize
    return min(max(2, -(-_LARGER_THAN_CACHES // tensor)), _MOST_SETS)


def calls(op: str, case: Case, *, compiled: bool) -> Iterator[Call]:
    """Every provider of an op on a case."""
    return (make(op, provider, case) for provider in providers(op, compiled=compiled))


def _in_turn(runs: Sequence[Callable[[], Any]]) -> Callable[[], Any]:
    if len(runs) == 1:
        return runs[0]
    following = itertools.cycle(runs).__next__
    return lambda: following()()


def _prepare(op: str, case: Case) -> tuple[tuple[Any, ...], dict[str, Any]]:
    description = DESCRIPTIONS[op]
    of_case, options = split_options(description.timed)
    return description.prepare(replace(case, **of_case), **options)


def _bind(op: str, provider: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Callable[..., Any]:
    """A provider's function with its arguments; a competitor's takes noise, or draws its own."""
    baseline = BASELINES[op]
    if provider == OURS:
        call = DESCRIPTIONS[op].call
        return lambda: call(*arguments, **options)
    if provider == DIFFUSERS:
        assert baseline.in_diffusers is not None
        make = baseline.in_diffusers(*arguments, **options)
        return lambda eps=None: make(eps)
    formula = _compiled(op) if provider == COMPILED else baseline.formula
    tensors = baseline.tensors(*arguments, **options)
    if not baseline.differentiated:
        return lambda eps=None: formula(*tensors, eps)

    def loss_and_gradient(eps: Tensor | None = None) -> tuple[Tensor, Tensor]:
        # a leaf of this call, on whatever stream it runs
        leaf = tensors[0].detach().requires_grad_()
        loss = formula(leaf, *tensors[1:], eps)
        return loss.detach(), torch.autograd.grad(loss, leaf)[0]

    return loss_and_gradient


@cache
def _compiled(op: str) -> Callable[..., Any]:
    # for one shape, as a user whose batches are all alike would have it
    return torch.compile(BASELINES[op].formula, dynamic=False)


def _batch(op: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
    return BASELINES[op].tensors(*arguments, **options)[0]


def check(op: str, provider: str, case: Case) -> None:
    """What will be timed is right: our bits are the eager backend's, and others are near them.

    Raises
    ------
    AssertionError
        If they are not; with the provider's name.
    """
    if op in PASSES or provider == COMPILED:
        # torch.compile has the formula that eager PyTorch is checked with
        return
    description, baseline = DESCRIPTIONS[op], BASELINES[op]
    expected = _expected(op, case)
    arguments, options = _prepare(op, case)
    run = _bind(op, provider, arguments, options)
    with torch.set_grad_enabled(baseline.differentiated):
        if provider == OURS:
            actual = run()
            of_case, rest = split_options(description.timed)
            if description.exact(replace(case, **of_case), **rest):
                assert_same_bits(actual=actual, expected=expected)
                return
        else:
            at = next((a for a in arguments if isinstance(a, NoiseAddress) and not baseline.random), None)
            actual = run(_noise(at, _batch(op, arguments, options)))
    _assert_near(op, provider, actual, expected, UNIT[case.torch_dtype])


@lru_cache(maxsize=1)
def _expected(op: str, case: Case) -> Any:
    arguments, options = _prepare(op, case)
    with backend("eager"), torch.set_grad_enabled(BASELINES[op].differentiated):
        return DESCRIPTIONS[op].call(*arguments, **options)


def _noise(at: NoiseAddress | None, like: Tensor) -> Tensor | None:
    return None if at is None else ops.noise(at, like.shape, dtype=like.dtype, device=like.device)


def _assert_near(op: str, provider: str, actual: Any, expected: Any, unit: float) -> None:
    """Each number is within so many roundings of the largest."""
    name, baseline = f"{provider} of {op} is not timed", BASELINES[op]
    # diffusers has alpha_bar_t in the batch's type, and takes the root of 1 - alpha_bar_t: near 1 that leaves sqrt(u)
    relative = 2 * unit**0.5 if provider == DIFFUSERS else baseline.roundings * unit
    actual, expected = (x if isinstance(x, tuple) else (x,) for x in (actual, expected))
    for a, b in zip(actual, expected, strict=True):
        assert a.shape == b.shape, f"{name}: its shape is {tuple(a.shape)}, and ours {tuple(b.shape)}"
        if not baseline.random:
            off, largest = (x.abs().max().item() for x in (a.double() - b.double(), b.double()))
            # written so that a NaN is outside
            assert off <= relative * largest, f"{name}: it is off by {off:.3g} of {largest:.3g}"
