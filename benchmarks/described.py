"""What the tests know of every op: the benchmarks time, count and resize the calls that `tests/descriptions` has."""

import sys
from pathlib import Path

_TESTS = str(Path(__file__).parents[1] / "tests")
if _TESTS not in sys.path:
    sys.path.append(_TESTS)

from descriptions import DESCRIPTIONS, Description  # noqa: E402
from descriptions.description import split_options  # noqa: E402
from interpreter import assert_same_bits  # noqa: E402
from op_cases import UNIT, Case, device_schedule  # noqa: E402

__all__ = ["DESCRIPTIONS", "UNIT", "Case", "Description", "assert_same_bits", "device_schedule", "split_options"]
