"""Every op beside its competitors, each checked before it is timed; on a GPU also a copy of the same batch.

The calls are those of `tests/descriptions`, the competitors those of `baselines`.
"""

import pytest
import torch

from benchmarks import calls, gpu
from benchmarks.described import DESCRIPTIONS, Case
from benchmarks.timing import CLOCKS, measure, surroundings

SHAPES = ((4, 4, 64, 64), (64, 4, 64, 64), (64, 4, 256, 256)) if gpu.PRESENT else ((4, 4, 64, 64), (16, 3, 32, 32))
DTYPES = calls.DTYPES if gpu.PRESENT else ("bfloat16", "float32")
LATENTS = (64, 4, 64, 64)
# torch.compile takes seconds for each
COMPILED = LATENTS if gpu.PRESENT else (16, 3, 32, 32)


def plan(shapes=SHAPES):
    """The parameters (op, case, provider, clock) of the benchmark."""
    for op in (*DESCRIPTIONS, *calls.PASSES):
        cases = list(calls.cases(op, shapes, DTYPES))
        if gpu.PRESENT and op in DESCRIPTIONS and "channels_last" in DESCRIPTIONS[op].factors.get("layout", ()):
            cases.append(calls.case_of(LATENTS, "float32", "channels_last"))
        for case in cases:
            compiled = case.shape in (COMPILED, COMPILED[:1])
            for provider in calls.providers(op, compiled=compiled):
                for clock in ("device", "host") if gpu.PRESENT else ("cpu",):
                    yield op, case, provider, clock


@pytest.mark.parametrize(
    ("op", "case", "provider", "clock"),
    [
        pytest.param(
            *row,
            id="-".join((row[2], row[3], row[0], calls.name_of(*row[:2]))),
            marks=pytest.mark.benchmark(timer=CLOCKS[row[3]]()),
        )
        for row in plan()
    ],
)
def test_op(benchmark, op: str, case: Case, provider: str, clock: str):
    calls.check(op, provider, case)
    call = calls.make(op, provider, case, sets=calls.sets_of(case) if clock == "device" else 1)
    with torch.set_grad_enabled(call.grad):
        call.run()
        median = measure(benchmark, call.run, clock, waits=call.waits)
    name = calls.name_of(op, case)
    benchmark.group = f"{op}, {name}, {clock}"
    benchmark.extra_info |= surroundings(clock) | {"op": op, "case": name, "provider": provider, "clock": clock}
    if median is not None and clock != "host":
        benchmark.extra_info["GB/s"] = round(call.bytes / median / 1e9, 3)
