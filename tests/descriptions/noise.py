"""noise: the reference's bits, rounded once."""

import torch
from interpreter import assert_same_bits
from noisestep.accelerated.ops import noise
from noisestep.reference import noise as reference
from op_cases import FLOATS, Case
from torch import Tensor

from .description import ADDRESS, PLACE, Description


def _prepare(case: Case) -> tuple[tuple, dict]:
    return (case.noise(), case.shape), dict(dtype=case.torch_dtype, device=torch.device(case.device))


def _near(actual: Tensor, case: Case) -> None:
    expected = torch.from_numpy(reference.normal(*case.reference_address(), case.shape[1:]))
    assert_same_bits(actual=actual, expected=expected.to(case.torch_dtype), strides=False)


Description(
    "noise",
    noise,
    _prepare,
    {**{name: values for name, values in PLACE.items() if name != "misaligned"}, "dtype": FLOATS, **ADDRESS},
    near=_near,
    counted={"noise": {}},
    count_layouts=("contiguous",),
    budgets={"noise": {"bfloat16": 36, "float32": 38}},
)
