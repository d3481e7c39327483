"""The calls whose kernels are counted: every op, with the options that change its code, as tests/descriptions says."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .. import described
from ..described import DESCRIPTIONS, Description, split_options
from .specialise import layouts

# a training batch of CIFAR-10 images, and latents of 512 x 512 images, so many that a GPU is full: a small batch takes
# smaller programs, whose start counts for more
SHAPES = {"images": (64, 3, 32, 32), "latents": (128, 4, 64, 64)}
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
LAYOUTS = ("contiguous", "channels_last")


Call: TypeAlias = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """A call of an op on a batch x.

    Parameters
    ----------
    name : str
        As the tables show it.
    prepare : function
        Takes x, in the layout and dtype that are asked for, makes what else is needed, and returns the call.
    elementwise : bool
        Whether nothing is summed: no shared memory is due then.
    dtypes, layouts : tuple of str
        Those that make a kernel of their own.
    """

    name: str
    prepare: Callable[[Tensor], Call]
    elementwise: bool = True
    dtypes: tuple[str, ...] = tuple(DTYPES)
    layouts: tuple[str, ...] = LAYOUTS


def _prepare(description: Description, options: Mapping[str, Any]) -> Callable[[Tensor], Call]:
    of_case, rest = split_options(options)

    def prepare(x: Tensor) -> Call:
        layout = "contiguous" if x.is_contiguous() else "channels_last"
        case = described.Case(tuple(x.shape), str(x.dtype).removeprefix("torch."), layout, T=1000, step=17, **of_case)
        arguments, keywords = description.prepare(case, **rest)
        return lambda: description.call(*arguments, **keywords)

    return prepare


CASES = tuple(
    Case(name, _prepare(op, options), op.elementwise, dtypes=tuple(op.count_dtypes), layouts=tuple(op.count_layouts))
    for op in DESCRIPTIONS.values()
    for name, options in op.counted.items()
)


def batch(shape: tuple[int, ...], dtype: str, layout: str) -> Tensor:
    """A batch to count with. Its values are never read."""
    return layouts(torch.zeros(shape, dtype=DTYPES[dtype]), layout)
