"""What the counted calls of an op take, exactly: launches, instructions and bytes. No GPU is needed."""

from collections.abc import Collection

from .described import DESCRIPTIONS
from .kernel_cost import ours
from .kernel_cost.budgets import CAPABILITY, SHAPE
from .kernel_cost.cache import Cache
from .kernel_cost.cases import CASES, SHAPES, batch
from .kernel_cost.specialise import capture

Counts = dict[str, dict[str, float]]


def counts(ops: Collection[str], cache: Cache | None = None) -> Counts:
    """Of each call that the descriptions of these ops count, by its name and dtype.

    Returns
    -------
    dict
        {"q_sample, bfloat16": {"launches", "instructions an element", "bytes an element"}}, for the budgets' GPU and
        shape, contiguous.
    """
    cache = cache or Cache()
    named = {name for op in ops if op in DESCRIPTIONS for name in DESCRIPTIONS[op].counted}
    found: Counts = {}
    for case in CASES:
        for dtype in case.dtypes if case.name in named else ():
            kernels = list(ours.of_a_batch(cache, case, SHAPE, dtype, "contiguous", (CAPABILITY,)))
            found[f"{case.name}, {dtype}"] = {
                "launches": len(capture(case.prepare(batch(SHAPES[SHAPE], dtype, "contiguous")))),
                "instructions an element": sum(kernel.an_element for kernel in kernels),
                "bytes an element": sum(kernel.bytes_an_element for kernel in kernels),
            }
    return found
