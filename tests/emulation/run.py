"""Run cases and faults for one target: ``python -m emulation.run sm_90 noise-0 "fault: no barrier"``, from `tests/`.

A process of its own, since kernels that were imported for Triton's interpreter cannot be compiled. Prints a line of
JSON for each: its name, what was found wrong or null, and how many launches had a barrier.
"""

import gc
import json
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from descriptions import DESCRIPTIONS
from descriptions.description import Run, split
from emulator.driver import on
from emulator.memory import EmulationError
from noisestep.accelerated.backends import Launch, backend

from . import block_sum
from .cases import FIRST, TARGETS, Call, calls
from .faults import Fault, faults_for

# a kernel with a barrier runs in so many random orders of the warps in the first cases of its op, in one in the others
ORDERS = 10


@contextmanager
def emulated(target: str, *, blocks: int | None = None, axis: int | None = None, **settings: Any) -> Iterator[None]:
    """Calls of ops in here run their compiled kernels; fresh memory is NaN, so that a gap shows."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    # what fills torch.empty and its relatives
    torch.use_deterministic_algorithms(True)
    try:
        # each launch goes through Triton, which hands the emulator the tensors and not their addresses alone
        with on(target, **settings), backend("triton", hook=Launch.run, blocks=blocks, axis=axis):
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic)


def check(op: str, row: Mapping[str, Any], target: str, **settings: Any) -> None:
    """What a call computes in the emulator is right."""
    case, options = split(row)

    def run(call: Run, *arguments: Any, **rest: Any) -> Any:
        with emulated(target, **case.how, **settings):
            return call(*arguments, **rest)

    DESCRIPTIONS[op].check(case, options, run)


def has_barrier(text: str) -> bool:
    """Whether the warps of a program wait for each other in a compiled kernel."""
    return "bar.sync" in text or "s_barrier" in text


def run_call(call: Call, target: str) -> int:
    """Check a call in lockstep, and where a kernel has a barrier in random orders; how many launches had one."""
    seen: list[tuple[str, str, int]] = []
    check(call.op, call.options, target, seen=seen)
    barriers = sum(has_barrier(text) for _, text, _ in seen)
    if call.number < FIRST:
        # what the manual leaves open of approximate instructions changes nothing
        check(call.op, call.options, target, approximate=call.number)
    for seed in range((ORDERS if call.number < FIRST else 1) if barriers else 0):
        check(call.op, call.options, target, sched="random", seed=seed)
    return barriers


def find(fault: Fault, target: str) -> str | None:
    """What the emulator finds of a fault: the kind of error, or None."""
    given: dict[str, Any] = dict(edit=fault.planted, shared=lambda size: int(size * fault.shared))
    if fault.shape_of_text is not None and fault.options is not None:
        seen: list[tuple[str, str, int]] = []
        check("q_sample", {**fault.options, "shape": fault.shape_of_text}, target, seen=seen)
        given["edit"] = lambda text: seen[0][1]
    for seed in range(fault.orders or 1):
        settings = dict(sched="random" if fault.orders else "lockstep", seed=seed, **given)
        try:
            if fault.options is None:
                with emulated(target, **settings):
                    block_sum.check()
            else:
                check("q_sample", fault.options, target, **settings)
        except (AssertionError, EmulationError) as error:
            return type(error).__name__
    return None


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
