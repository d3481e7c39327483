"""How far a result may be from the float64 reference, by whose it is."""

from dataclasses import dataclass

import numpy as np
import torch
from cases import Case
from torch import Tensor

# those that are told where the noise is
ADDRESSED = ("numpy", "noisestep eager", "noisestep")
# roundings: half a unit in the last place of a number in [1, 2)
UNIT = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


@dataclass(frozen=True)
class Exact:
    """A result in float64, and how far others may be from it before they round to their own type.

    Parameters
    ----------
    value : ndarray
    bound : ndarray or float
        Of noisestep: what docs/ops.md promises.
    size : ndarray
        Of the terms that the value is the sum of. PyTorch's plain formula may be 16 roundings of the batch's type
        off these. diffusers has alpha_bar_t in the batch's type and takes 1 - alpha_bar_t and its root from that,
        which near alpha_bar_t = 1 leaves sqrt(u): it may be twice that off.
    peers : ndarray, optional
        What both of them may be off instead.
    """

    value: np.ndarray
    bound: np.ndarray | float
    size: np.ndarray
    peers: np.ndarray | None = None


def assert_near(provider: str, actual: Tensor, exact: Exact, case: Case) -> None:
    """A result is within its provider's bound (`Exact`), and half a unit in the last place of its own type."""
    unit = UNIT[case.torch_dtype]
    if provider in ADDRESSED:
        error = exact.bound
    elif exact.peers is not None:
        error = exact.peers
    else:
        error = exact.size * (2 * unit**0.5 if provider == "diffusers" else gamma(16, unit))
    value = actual.detach().double().cpu().numpy()
    assert value.shape == exact.value.shape, f"{provider}: shape {value.shape} for {exact.value.shape}"
    # below the smallest normal number, units in the last place are a fixed distance apart
    tiny = torch.finfo(actual.dtype).smallest_normal
    allowed = error + UNIT[actual.dtype] * np.maximum(np.abs(exact.value) + error, tiny)
    off = np.abs(value - exact.value)
    # written so that a NaN is outside
    outside = ~(off <= allowed)
    assert not outside.any(), (
        f"{provider} is wrong, and not timed: {outside.sum()} of {outside.size}, by {off.max():.3g}"
    )


def gamma(roundings: float, unit: float = UNIT[torch.float32]) -> float:
    """A bound of the relative error of so many roundings in a row, in float32 where no other unit is given."""
    return roundings * unit / (1 - roundings * unit)


def depth(n: int) -> int:
    """Additions that an element goes through in a `pairwise_sum` of n."""
    if n <= 1024:
        return max(n - 1, 0).bit_length()
    return 10 + depth(-(-n // 1024))


def wide(column: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A number for each sample, with the axes that let it multiply x."""
    return column.reshape(-1, *(1,) * (x.ndim - 1))
