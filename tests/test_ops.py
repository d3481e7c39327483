"""Every op, as tests/descriptions has it: kernels and native code give the bits of the eager backend.

Where an exponential is a library's, they are within a bound of the float64 reference instead.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import permutations, product
from typing import Any

import pytest
from descriptions import DESCRIPTIONS, Description
from descriptions.description import OF_A_CASE, split
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreter import kernels, on_device, run_kernel
from noisestep.accelerated import ops
from noisestep.accelerated.backends import backend
from noisestep.accelerated.backends.triton.launch import Kernel
from noisestep.accelerated.ops.registered import OPS
from op_cases import FLOATS, Case, assert_registered, cases, registered_calls

ROWS = [
    pytest.param(description, row, id=f"{name}-{i}", marks=pytest.mark.kernel(op=name))
    for name, description in DESCRIPTIONS.items()
    for i, row in enumerate(description.rows)
]
EACH = [pytest.param(d, id=name, marks=pytest.mark.kernel(op=name)) for name, d in DESCRIPTIONS.items()]


def as_native_code(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    with backend("native"):
        return call(*arguments, **options)


def as_kernels(case: Case) -> Callable[..., Any]:
    """Runs a call's kernels over the batch as the case says."""
    return partial(run_kernel, **case.how)


@st.composite
def calls(draw, description: Description) -> tuple[Case, dict[str, Any]]:
    """Any case, and a value for each of an op's other options."""
    factors = description.factors
    ranks = [len(shape) for shape in factors.get("shape", ((3,),))]
    case = draw(cases(factors.get("dtype", FLOATS), min(ranks), max(ranks) if max(ranks) < 3 else 5))
    options = {name: draw(st.sampled_from(values)) for name, values in factors.items() if name not in OF_A_CASE}
    return replace(case, wide=draw(st.sampled_from(factors.get("wide", (False,))))), options


@pytest.mark.parametrize(("description", "row"), ROWS)
def test_kernels_compute_what_the_eager_backend_does(description, row):
    case, options = split(row)
    description.check(case, options, as_kernels(case))


@pytest.mark.property
@pytest.mark.parametrize("description", EACH)
@settings(max_examples=6)
@given(data=st.data())
def test_kernels_compute_what_the_eager_backend_does_in_any_case(description, data):
    case, options = data.draw(calls(description))
    description.check(case, options, as_kernels(case))


@pytest.mark.property
@pytest.mark.kernel(op="native")
@pytest.mark.parametrize("description", DESCRIPTIONS.values(), ids=DESCRIPTIONS)
@settings(max_examples=30)
@given(data=st.data())
def test_native_code_computes_what_the_eager_backend_does(description, data):
    case, options = data.draw(calls(description))
    description.check(case, options, as_native_code)


@pytest.mark.parametrize("description", DESCRIPTIONS.values(), ids=DESCRIPTIONS)
@pytest.mark.parametrize("path", ["eager", "kernels"])
def test_registration(description, path):
    for row in description.few_rows:
        case, options = split(row)
        # large programs: the interpreter has fewer of them to run, many times over
        case = replace(case, programs=1, wide=False)
        arguments, keywords = description.prepare(case, **options)
        if path == "eager":
            assert_registered(partial(description.call, *arguments, **keywords))
            continue
        with kernels(**case.how):
            # a backend changes neither the gradient's formula nor what a graph is made of
            checks = ("test_schema", "test_faketensor")
            assert_registered(
                partial(description.call, *on_device(arguments), **on_device(keywords)), test_utils=checks
            )


def test_every_public_op_is_described():
    assert set(DESCRIPTIONS) == set(ops.__all__)


def test_every_registered_op_is_described():
    seen = set()
    for description in DESCRIPTIONS.values():
        for row in description.few_rows:
            case, options = split(row)
            arguments, keywords = description.prepare(case, **options)
            seen |= {name for name, _ in registered_calls(partial(description.call, *arguments, **keywords))}
    assert seen == set(OPS)


def test_every_kernel_is_launched():
    modules = [module for name, module in sys.modules.items() if name.startswith("noisestep.accelerated.ops.")]
    kernels = {kernel.function for module in modules for kernel in vars(module).values() if isinstance(kernel, Kernel)}
    launched = {launch.kernel for d in DESCRIPTIONS.values() for row in d.rows for launch in d.launches(*split(row))}
    assert launched == kernels


def test_every_pair_of_options_stands_in_a_row():
    for description in DESCRIPTIONS.values():
        factors, rows = description.factors, description.rows
        for a, b in permutations(factors, 2):
            met = {(row[a], row[b]) for row in rows}
            assert met == set(product(factors[a], factors[b]))
