"""Every op, compiled for NVIDIA and AMD and run in the emulator, against the PyTorch path; no GPU is needed for that.

A few cases by default; with ``--emulation=each`` every case on a GPU of NVIDIA and one of AMD, which take turns; every
case on every target with ``--emulation=all``.
"""

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from descriptions import DESCRIPTIONS
from emulation.cases import AMD, NVIDIA, TARGETS, calls, in_turn, quick
from emulation.faults import faults_for

pytestmark = pytest.mark.emulation


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    chosen_by = metafunc.config.getoption("emulation")
    if {"target", "fault"} <= set(metafunc.fixturenames):
        targets = ("sm_90", "gfx942") if chosen_by == "quick" else TARGETS
        planted = [(target, fault.name) for target in targets for fault in faults_for(target)]
        metafunc.parametrize(("target", "fault"), planted)
    if {"target", "name"} <= set(metafunc.fixturenames):
        of = {"quick": quick, "each": in_turn, "all": lambda target: calls()}[chosen_by]
        metafunc.parametrize(("target", "name"), [(target, call.name) for target in TARGETS for call in of(target)])


def run_target(target: str, names: list[str]) -> tuple[dict[str, dict[str, Any]], str]:
    """What became of the cases, and what the process that ran them wrote to its standard error."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    # what is found here is found there; one process a core
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "emulation.run", target, *names]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"name"')]
    return {line["name"]: line for line in lines}, done.stderr


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest) -> Iterator[Callable[[str, str], dict[str, Any]]]:
    """What became of a case: the cases that were collected run in a process for each target, side by side."""
    wanted: dict[str, list[str]] = defaultdict(list)
    for item in request.session.items:
        if item.parent is request.node and "results" in item.fixturenames:
            chosen = item.callspec.params
            wanted[chosen["target"]].append(chosen.get("name") or f"fault: {chosen['fault']}")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        running = {target: pool.submit(run_target, target, names) for target, names in wanted.items()}

        def result(target: str, name: str) -> dict[str, Any]:
            found, errors = running[target].result()
            assert name in found, f"the process ended before this case: {errors}"
            return found[name]

        yield result


def test_compiled_kernels(results, target: str, name: str) -> None:
    error = results(target, name)["error"]
    assert error is None, error


def test_planted_faults_are_found(results, target: str, fault: str) -> None:
    found = results(target, f"fault: {fault}")["error"]
    assert found in ("AssertionError", "AccessError", "BarrierError"), found


def test_quick_cases_have_every_op_on_every_target() -> None:
    for target in TARGETS:
        assert {call.op for call in quick(target)} == set(DESCRIPTIONS)


def test_in_turn_every_case_runs_on_both_makes_and_each_target_has_every_op() -> None:
    for make in (NVIDIA, AMD):
        assert sorted(call.name for target in make for call in in_turn(target)) == sorted(call.name for call in calls())
    for target in TARGETS:
        assert {call.op for call in in_turn(target)} == set(DESCRIPTIONS)
