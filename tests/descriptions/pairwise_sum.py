"""pairwise_sum: the order of the additions is fixed, and with it the bits."""

from noisestep.accelerated.ops import pairwise_sum
from op_cases import LAYOUTS, Case

from .description import BOTH, Description


def _prepare(case: Case) -> tuple[tuple, dict]:
    return (case.tensor(1).flatten(1),), {}


Description(
    "pairwise_sum",
    pairwise_sum,
    _prepare,
    {
        "shape": ((3, 2048), (2, 1), (2, 7), (3, 1500), (2, 1025), (2, 0)),
        "misaligned": BOTH,
        "layout": LAYOUTS,
        "dtype": ("float32", "float64"),
    },
    elementwise=False,
    counted={"pairwise_sum": {}},
    count_dtypes=("float32",),
    count_layouts=("contiguous",),
)
