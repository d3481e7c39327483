"""The address of a batch of random numbers, and the constants that turn its words into normals.

There is no RNG state: code that needs random numbers takes an address.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from noisestep.reference import noise as reference
from noisestep.reference._arguments import MOST_ELEMENTS, MOST_ROWS, as_int
from noisestep.reference.noise import (
    AUGMENTATION,
    DEQUANTISATION,
    DROPOUT,
    FORWARD,
    INITIAL,
    INPAINTING,
    LABEL_DROPOUT,
    NOISE_VERSION,
    PERMUTATION,
    PROBE,
    REVERSE,
    STEPS,
    STREAMS,
    TIMESTEP,
    VISIT,
)
from torch import Tensor

__all__ = [
    "AUGMENTATION",
    "DEQUANTISATION",
    "DROPOUT",
    "EVEN",
    "EXPONENT",
    "FORWARD",
    "INITIAL",
    "INPAINTING",
    "LABEL_DROPOUT",
    "LOG",
    "MOST_ELEMENTS",
    "MOST_ROWS",
    "NOISE_VERSION",
    "NOWHERE",
    "ODD",
    "PERMUTATION",
    "PROBE",
    "REVERSE",
    "STEPS",
    "TIMESTEP",
    "TINY",
    "VISIT",
    "Address",
    "NoiseAddress",
]

# plain floats, which Dynamo and Triton take as constants
LOG: tuple[float, ...] = tuple(reference.LOG.tolist())
EVEN: tuple[float, ...] = tuple(reference.EVEN.tolist())
ODD: tuple[float, ...] = tuple(reference.ODD.tolist())
EXPONENT = float(reference.EXPONENT)
TINY = float(reference.TINY)


@dataclass(frozen=True, eq=False)
class NoiseAddress:
    """The address of a batch of random numbers: eps = f(seed, stream, step, sample, element).

    Parameters
    ----------
    seed : int or Tensor
        An integer in [0, 2^64), or an int64 tensor with one element on the device of the batch, whose
        64 bits are the seed. An integer may be NumPy's, here and in the other parts.
    stream : int
        In [0, 16): `FORWARD`, `TIMESTEP`, `INITIAL`, `REVERSE`, `LABEL_DROPOUT`, `AUGMENTATION`,
        `PERMUTATION`, `DROPOUT`, `PROBE`, `DEQUANTISATION`, `INPAINTING`, or one of the free ones from 12.
    step : int or Tensor
        In [0, 2^28): the optimizer step in training, the timestep in sampling. A tensor is int64, with
        one element or one for each sample. The values of a tensor are not read: only their low 28 bits count.
    sample : int or Tensor
        The number of the batch's first sample, from which the others count on; or an int64 tensor,
        shape (B,), with the number of each.

    Raises
    ------
    TypeError, ValueError
        For a part of another type, dtype or rank, or an integer out of its range.
    """

    seed: int | Tensor
    stream: int
    step: int | Tensor
    sample: int | Tensor = 0

    def __post_init__(self) -> None:
        seed, stream, step, sample = self.seed, self.stream, self.step, self.sample
        if (
            type(seed) is type(stream) is type(step) is type(sample) is int
            and 0 <= seed < 1 << 64
            and 0 <= stream < STREAMS
            and 0 <= step < STEPS
            and 0 <= sample < 1 << 63
        ):
            return
        for name, part in (
            ("seed", _checked_part("seed", seed, 1 << 64, rows=False)),
            ("stream", _checked_part("stream", stream, STREAMS, rows=False, tensor=False)),
            ("step", _checked_part("step", step, STEPS, rows=True)),
            ("sample", _checked_part("sample", sample, 1 << 63, rows=True)),
        ):
            if part is not getattr(self, name):
                object.__setattr__(self, name, part)

    def arguments(self) -> "Address":
        """The address as the plain arguments of a registered op: (seed, its tensor, stream, step, ...).

        Returns
        -------
        seed, seed_tensor, stream, step, step_tensor, sample, sample_tensor
            The integer is 0 where the tensor is given; the tensor is None where the integer is.
            The seed is wrapped into the range of int64.
        """
        if type(self.step) is int and type(self.sample) is int and type(self.seed) is int and self.seed < 1 << 63:
            return self.seed, None, self.stream, self.step, None, self.sample, None
        seed, seed_tensor = _either(self.seed)
        return (
            seed - (1 << 64) if seed >= 1 << 63 else seed,
            seed_tensor,
            self.stream,
            *_either(self.step),
            *_either(self.sample),
        )


# an address as a registered op takes it; see NoiseAddress.arguments
Address: TypeAlias = tuple[int, Tensor | None, int, int, Tensor | None, int, Tensor | None]
NOWHERE: Address = (0, None, 0, 0, None, 0, None)


def _either(part: int | Tensor) -> tuple[int, Tensor | None]:
    return (0, part) if isinstance(part, Tensor) else (part, None)


def plain_int(name: str, value: Any, expected: str = "an int") -> int:
    """An integer of any library as a Python int; a symbolic one of a graph stays what it is."""
    if type(value) is int or isinstance(value, torch.SymInt):
        return value  # type: ignore[return-value]
    if isinstance(value, Tensor) and not value.is_cpu:
        raise TypeError(f"{name} must be {expected}, got a tensor on {value.device}, which the host would wait for")
    return as_int(name, value, expected)


def int_in(name: str, value: Any, low: int, end: int) -> int:
    """`plain_int` in low .. end - 1."""
    number = plain_int(name, value)
    if not low <= number < end:
        raise ValueError(f"{name} must lie in [{low}, {end}), got {number}")
    return number


def check_dense(name: str, x: Tensor) -> None:
    """x has one element for each place of its shape."""
    if x.layout != torch.strided or x.is_nested:
        found = "a nested one" if x.is_nested else f"one of layout {x.layout}"
        raise TypeError(f"{name} must be a dense tensor, got {found}")


def _checked_part(name: str, part: int | Tensor, end: int, *, rows: bool, tensor: bool = True) -> int | Tensor:
    if isinstance(part, Tensor):
        if not tensor:
            raise TypeError(f"{name} must be an int, got a tensor")
        check_dense(name, part)
        if part.dtype != torch.int64:
            raise TypeError(f"{name} must be an int or an int64 tensor, got a tensor of {part.dtype}")
        if part.ndim > 1 or (part.numel() != 1 and not rows):
            allowed = "one element or one for each sample" if rows else "one element"
            raise ValueError(f"{name} must have {allowed}, got shape {tuple(part.shape)}")
        return part
    number = plain_int(name, part, "an int or an int64 tensor" if tensor else "an int")
    if not 0 <= number < end:
        raise ValueError(f"{name} must lie in [0, {end}), got {number}")
    return number
