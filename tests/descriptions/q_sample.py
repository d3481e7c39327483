"""q_sample: bits as on the eager backend, which keeps its distance from the reference (test_q_sample.py)."""

import torch
from noisestep.accelerated.ops import q_sample
from op_cases import FLOATS, Case

from .description import ADDRESS, BOTH, GIVEN_EPS, INPUTS, LAYOUTS, PLACE, Description


def prepare(
    case: Case, *, eps_dtype: str | None = None, out: str | None = None, return_eps: bool = False, levels: bool = False
) -> tuple[tuple, dict]:
    """The arguments of q_sample: (schedule, x_0, t, noise), and its options; with `levels`, x_0 is of uint8."""
    eps = case.noise() if eps_dtype is None else case.tensor(2, dtype=getattr(torch, eps_dtype))
    x_0 = case.tensor(1, dtype=torch.uint8 if levels else None)
    out = case.dtype if levels else out
    options = dict(dtype=out and getattr(torch, out), return_eps=return_eps)
    return (case.device_schedule, x_0, case.t(), eps), options


Description(
    "q_sample",
    q_sample,
    prepare,
    {
        **PLACE,
        "dtype": INPUTS,
        "layout": LAYOUTS,
        **ADDRESS,
        **GIVEN_EPS,
        "out": (None, *FLOATS),
        "return_eps": BOTH,
    },
    counted={"q_sample": {}, "q_sample, uint8 images": {"levels": True}},
    budgets={"q_sample": {"bfloat16": 38, "float32": 42}},
)
