"""Faults planted in the emulator itself, each of which its tests must find."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from .. import floats, integers, memory
from .. import machine as scheduler
from . import test_amd_opcodes as amd
from . import test_machine as machine
from . import test_ptx_conversions as conversions
from . import test_ptx_floats as ptx
from . import test_ptx_integers as whole

# where, what stands there instead, and the test that turns red
FAULTS: dict[str, tuple[str, Any, Callable[[], None]]] = {
    "an fma rounded twice": (
        "emulator.ptx.floating.odd_sum",
        lambda a, b: a + b,
        lambda: ptx.test_single_precision_fma_rounds_once("rn", True),
    ),
    "an fma of float64 without the product's rest": (
        "emulator.floats._two_product",
        lambda a, b: (a * b, 0.0 * a * b),
        lambda: ptx.test_double_precision(True),
    ),
    "subnormal numbers kept": (
        "emulator.ptx.floating.flush",
        lambda x: x,
        lambda: ptx.test_single_precision("add", "rn", False),
    ),
    "rounding to nearest, away from zero in ties": (
        "emulator.floats._ROUND",
        {**floats._ROUND, "rn": lambda x: np.trunc(x + np.copysign(0.5, x))},
        lambda: conversions.test_conversions_to_narrower_numbers("f32", "bf16", "rn"),
    ),
    "a directed rounding the other way": (
        "emulator.floats._ROUND",
        {**floats._ROUND, "rm": np.ceil},
        lambda: ptx.test_single_precision("mul", "rm", True),
    ),
    "the lower half of a product": (
        "emulator.ptx.integer.high_product",
        lambda a, b: a * b,
        lambda: whole.test_integer_arithmetic("mul.hi", "u32"),
    ),
    "a shift whose distance wraps around": (
        "emulator.ptx.integer.shift_left",
        lambda x, k: x << (k % np.uint32(8 * x.dtype.itemsize)).astype(x.dtype),
        lambda: whole.test_logic_and_shifts(32),
    ),
    "a bit field without its sign": (
        "emulator.amd.vector_integer.extract",
        lambda x, p, n: integers.extract(x.view(np.uint32), p, n).view(x.dtype),
        amd.test_signed_integers,
    ),
    "-0 as large as +0": ("emulator.floats.minimum", np.fmin, lambda: ptx.test_signs_and_extremes("f32")),
    "a fused step of a division rounded twice": (
        "emulator.amd.vector_float.fma32",
        lambda a, b, c: a * b + c,
        lambda: amd.test_the_steps_of_a_division_make_a_correctly_rounded_one("f32", None),
    ),
    "no bounds": (
        "emulator.memory.Global._refuse",
        lambda *arguments: None,
        machine.test_out_of_bounds_by_one_element,
    ),
    "guards that may be read": (
        "emulator.memory.GUARD",
        0,
        machine.test_two_arrays_are_not_neighbours,
    ),
    "no alignment": (
        "emulator.memory.Memory._checked",
        lambda self, address, size, where, align: self.offsets(address, size, where),
        machine.test_misaligned,
    ),
    "memory that begins as zeros": (
        "emulator.memory.POISON",
        0,
        machine.test_what_was_never_written_is_not_a_number,
    ),
    "barriers that let through": (
        "emulator.machine.Machine._release",
        lambda self: self.state.__setitem__(self.state == scheduler._WAITING, scheduler._READY),
        machine.test_divergent_barriers,
    ),
    "one order of warps": (
        "emulator.machine.Schedule.pick",
        lambda self, ready, warp: ready,
        machine.test_a_missing_barrier_is_seen_in_random_orders_alone,
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_the_emulator_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, instead, check = FAULTS[name]
    check()
    monkeypatch.setattr(where, instead)
    # whatever is wrong is said: by a comparison, or by an error that does not come
    with pytest.raises((AssertionError, pytest.fail.Exception, memory.EmulationError, IndexError)):
        check()
