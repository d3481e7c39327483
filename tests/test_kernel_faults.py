"""Every planted fault still has its place in the kernels. `python tests/kernel_faults.py` plants them, in minutes."""

from collections import Counter

import pytest
from descriptions import DESCRIPTIONS
from kernel_faults import FAULTS, ROOT


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.op}: {fault.name}")
def test_the_text_to_replace_stands_exactly_once(fault):
    text = (ROOT / fault.file).read_text()
    if fault.file.endswith(".py"):
        compile(fault.planted(text), fault.file, "exec")
    assert fault.planted(text) != text


def test_every_op_and_native_code_have_faults():
    count = Counter(fault.op for fault in FAULTS)
    assert set(count) == {*DESCRIPTIONS, "native"}
    assert min(count.values()) >= 3


def test_a_text_that_is_gone_is_reported():
    with pytest.raises(ValueError, match=r"stands 0 times in accelerated/backends/triton/kernels\.py, not once"):
        FAULTS[0].planted("")
