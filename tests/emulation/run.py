"""Run cases and faults for one target: ``python -m emulation.run sm_90 noise-0 "fault: no barrier"``, from `tests/`.

A process of its own, since kernels that were imported for Triton's interpreter cannot be compiled. Prints a line of
JSON for each: its name, what was found wrong or null, and how many launches had a barrier.
"""

import gc
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import descriptions.q_sample as of_q_sample
import descriptions.reverse_step as of_reverse_step
import descriptions.simple_loss as of_simple_loss
import descriptions.vlb_terms as of_vlb_terms
import torch
from emulator.driver import on
from emulator.memory import EmulationError
from interpreter import assert_same_bits
from noisestep.accelerated.backends import Launch, backend
from noisestep.accelerated.ops import (
    advance,
    integers,
    loss_and_gradient,
    noise,
    pairwise_sum,
    q_sample,
    reverse_step,
    simple_loss,
    uniform,
    vlb_terms,
    words,
)
from op_cases import Case
from torch import Tensor

from . import block_sum
from .cases import FIRST, TARGETS, Call, calls
from .faults import Fault, faults_for

# a kernel with a barrier runs in so many random orders of the warps in the first cases of its op, in one in the others
ORDERS = 10

Run = Callable[..., Any]


@contextmanager
def emulated(target: str, *, axis: int | None = None, **settings: Any) -> Iterator[None]:
    """Calls of ops in here run their compiled kernels; fresh memory is NaN, so that a gap shows."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    # what fills torch.empty and its relatives
    torch.use_deterministic_algorithms(True)
    try:
        # each launch goes through Triton, which hands the emulator the tensors and not their addresses alone
        with on(target, **settings), backend("triton", hook=Launch.run, axis=axis):
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic)


def misaligned(value: Any) -> Any:
    """Tensors with the same values and strides, one element behind a multiple of 16 bytes."""
    if isinstance(value, tuple | list):
        return type(value)(map(misaligned, value))
    if not isinstance(value, Tensor) or value.numel() == 0 or 0 in value.stride():
        return value
    span = sum((n - 1) * step for n, step in zip(value.shape, value.stride(), strict=True)) + 1
    place = torch.empty(span + 1, dtype=value.dtype)[1:]
    return place.as_strided(value.shape, value.stride(), 1).copy_(value)


def check(call: Call, run: Run) -> None:
    """What a call computes when `run(op, *arguments, **options)` runs it is what the PyTorch path computes."""
    CHECKS[call.op](dict(call.options), run)


def _case(options: dict[str, Any]) -> Case:
    # a seed, a step and numbers of samples that fill their words
    fields: dict[str, Any] = dict(seed=2**63 + 2**33 + 5, stream=11, step=2**27 + 3, sample=2**40 + 2**32 - 2, T=30)
    for name in ("shape", "dtype", "layout", "in_tensors", "one_t"):
        if name in options:
            fields[name] = options.pop(name)
    return Case(**fields)


def _same(op: Run, run: Run, place: Run, *arguments: Any, **options: Any) -> None:
    arguments, options = place(arguments), {name: place(value) for name, value in options.items()}
    expected = op(*arguments, **options)
    assert_same_bits(actual=run(op, *arguments, **options), expected=expected)


def _place(options: dict[str, Any]) -> Run:
    return misaligned if options.pop("misaligned") else lambda value: value


def _check_noise(options: dict[str, Any], run: Run) -> None:
    options.pop("misaligned")
    case = _case(options)
    _same(noise, run, lambda value: value, case.noise(), case.shape, dtype=case.torch_dtype)


def _check_q_sample(options: dict[str, Any], run: Run) -> None:
    place, case = _place(options), _case(options)
    given = {name: options[name] for name in ("eps_dtype", "out", "return_eps")}
    arguments, keywords = of_q_sample.prepare(case, **given)
    _same(q_sample, run, place, *arguments, **keywords)


def _check_simple_loss(options: dict[str, Any], run: Run) -> None:
    place, case = _place(options), _case(options)
    gradient = options.pop("gradient")
    arguments, given = of_simple_loss.prepare(case, **options)
    if gradient:
        _same(of_simple_loss.loss_with_gradient, run, place, *arguments, reduction="none", **given)
        _same(of_simple_loss.loss_with_gradient, run, place, *arguments, **given)
    else:
        _same(simple_loss, run, place, *arguments, reduction="none", **given)
        _same(simple_loss, run, place, *arguments, **given)


def _check_loss_and_gradient(options: dict[str, Any], run: Run) -> None:
    place, case = _place(options), _case(options)
    arguments, given = of_simple_loss.prepare(case, **options)
    _same(loss_and_gradient, run, place, *arguments, **given)


def _check_random(op: Run) -> Callable[[dict[str, Any], Run], None]:
    def check_op(options: dict[str, Any], run: Run) -> None:
        batch = options.pop("batch")
        case = _case({**options, "shape": (batch,)})
        more = options.get("ends", (options["count"],) if "count" in options else ())
        _same(op, run, lambda value: value, case.noise(), batch, *more)

    return check_op


def _check_advance(options: dict[str, Any], run: Run) -> None:
    counter = torch.full(options["shape"], options["start"])
    run(advance, counter, options["by"])
    assert torch.equal(counter, torch.full(options["shape"], options["start"] + options["by"]))


def _check_pairwise_sum(options: dict[str, Any], run: Run) -> None:
    place, case = _place(options), _case(options)
    _same(pairwise_sum, run, place, case.tensor(1))


def _check_reverse_step(options: dict[str, Any], run: Run) -> None:
    place, case = _place(options), _case(options)
    eps_dtype, joined = options.pop("eps_dtype"), options.pop("joined")
    if len(case.shape) < 2 and options["variance"] == "learned_range":
        options["variance"] = "posterior"
    update = of_reverse_step.Update(**options)
    if update.learned:
        # the exponential is a library's: bits may differ, the bound may not
        inputs = of_reverse_step.arguments(case, update, eps_dtype, joined=joined)
        actual = run(reverse_step, *place(inputs), **vars(update))
        of_reverse_step.assert_near_the_reference(actual, inputs, update)
    else:
        arguments = of_reverse_step.arguments(case, update, eps_dtype, joined=joined)
        _same(reverse_step, run, place, *arguments, **vars(update))


def _check_vlb_terms(options: dict[str, Any], run: Run) -> None:
    place, one_t, case = _place(options), options["one_t"], _case(options)
    options = of_vlb_terms.fitting(case, options)
    # both terms: the decoder's at t = 1
    for t in (
        (torch.ones(case.shape[0], dtype=torch.int64), torch.full((case.shape[0],), 17))
        if one_t
        else (of_vlb_terms.timesteps(case),)
    ):
        inputs = of_vlb_terms.arguments(case, t, options["prediction"], options["variance"], options["levels"])
        given = int(t[0]) if one_t else t
        actual = run(vlb_terms, inputs[0], *place(inputs[1:]), given, **options)
        of_vlb_terms.assert_near_the_reference(actual, inputs, t, options)


CHECKS: dict[str, Callable[[dict[str, Any], Run], None]] = {
    "noise": _check_noise,
    "q_sample": _check_q_sample,
    "simple_loss": _check_simple_loss,
    "loss_and_gradient": _check_loss_and_gradient,
    "words": _check_random(words),
    "uniform": _check_random(uniform),
    "integers": _check_random(integers),
    "advance": _check_advance,
    "pairwise_sum": _check_pairwise_sum,
    "reverse_step": _check_reverse_step,
    "vlb_terms": _check_vlb_terms,
}


def has_barrier(text: str) -> bool:
    """Whether the warps of a program wait for each other in a compiled kernel."""
    return "bar.sync" in text or "s_barrier" in text


def run_call(call: Call, target: str) -> int:
    """Check a call in lockstep, and where a kernel has a barrier in random orders; how many launches had one."""
    options = dict(call.options)
    # so few programs on an axis of the grid take the code for 64-bit offsets
    axis = 1 if options.pop("wide", False) else None
    call = Call(call.op, call.number, options)
    seen: list[tuple[str, str, int]] = []
    check(call, _running(target, axis=axis, seen=seen))
    barriers = sum(has_barrier(text) for _, text, _ in seen)
    if call.number < FIRST:
        # what the manual leaves open of approximate instructions changes nothing
        check(call, _running(target, axis=axis, approximate=call.number))
    for seed in range((ORDERS if call.number < FIRST else 1) if barriers else 0):
        check(call, _running(target, axis=axis, sched="random", seed=seed))
    return barriers


def find(fault: Fault, target: str) -> str | None:
    """What the emulator finds of a fault: the kind of error, or None."""
    given: dict[str, Any] = dict(edit=fault.planted, shared=lambda size: int(size * fault.shared))
    if fault.shape_of_text is not None and fault.options is not None:
        seen: list[tuple[str, str, int]] = []
        check(Call("q_sample", 0, {**fault.options, "shape": fault.shape_of_text}), _running(target, seen=seen))
        given["edit"] = lambda text: seen[0][1]
    for seed in range(fault.orders or 1):
        run = _running(target, sched="random" if fault.orders else "lockstep", seed=seed, **given)
        try:
            if fault.options is None:
                block_sum.check(run)
            else:
                check(Call("q_sample", 0, fault.options), run)
        except (AssertionError, EmulationError) as error:
            return type(error).__name__
    return None


def _running(target: str, **settings: Any) -> Run:
    def run(op: Run, *arguments: Any, **rest: Any) -> Any:
        with emulated(target, **settings):
            return op(*arguments, **rest)

    return run


def main(target: str, *names: str) -> None:
    """Run the named cases and faults, or all of them."""
    if target not in TARGETS:
        raise SystemExit(f"target must be one of {', '.join(TARGETS)}, got {target!r}")
    known: dict[str, Call | Fault] = {call.name: call for call in calls()}
    known |= {f"fault: {fault.name}": fault for fault in faults_for(target)}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"no such case: {', '.join(unknown)}")
    # what is loaded stays: the collector need not look at it again while kernels are decoded
    gc.freeze()
    for name in names or known:
        error, barriers, chosen = None, 0, known[name]
        try:
            if isinstance(chosen, Fault):
                error = find(chosen, target)
            else:
                barriers = run_call(chosen, target)
        except Exception:
            error = f"{chosen}\n{traceback.format_exc()}"
        print(json.dumps({"name": name, "error": error, "barriers": barriers}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
