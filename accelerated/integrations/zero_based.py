"""Tables for libraries that count timesteps 0..T - 1: where their t meets ours, 1..T."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..schedule import DeviceSchedule, outside_of_modes


class ZeroBased(DeviceSchedule):
    """A schedule whose tables begin with t = 1, so that row t of a library that counts from 0 is our row t + 1.

    An op that is handed it takes the library's t as it is, and refuses -1 and T. `vlb_terms` is the exception: it
    looks at t itself.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        with outside_of_modes():
            self._t = self._t[:-1]

    def _on_device(self, table: np.ndarray, dtype: torch.dtype) -> Tensor:
        return super()._on_device(table[1:], dtype)
