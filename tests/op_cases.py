"""What the tests of the ops draw: shapes, types, memory layouts, schedules, addresses, and tensors made from a seed.

A drawn case holds plain values alone, so that what hypothesis prints of a failure is a call that repeats it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any, Literal

import numpy as np
import torch
from hypothesis import strategies as st
from interpreter import blocks_for
from laws import NAMED
from noisestep.accelerated.address import NoiseAddress
from noisestep.accelerated.schedule import DeviceSchedule
from noisestep.reference import Schedule
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

FLOATS = ("float32", "float16", "bfloat16", "float64")
LAYOUTS = ("contiguous", "channels_last", "transposed", "sliced")
PREDICTIONS = ("eps", "x_0", "v", "flow")
# roundings: half a unit in the last place of a number in [1, 2)
UNIT = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
# below these, numbers are a fixed distance apart
SMALLEST_NORMAL = {
    torch.float64: 2.0**-1022,
    torch.float32: 2.0**-126,
    torch.float16: 2.0**-14,
    torch.bfloat16: 2.0**-126,
}


@dataclass(frozen=True)
class Case:
    """A batch, and where its noise is."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    layout: str = "contiguous"
    schedule: str = "linear"
    zero_terminal_snr: bool = False
    T: int = 10
    one_t: bool = False
    seed: int = 0
    stream: int = 0
    step: int = 0
    sample: int = 0
    # the address: integers, tensors, or a tensor for the step alone
    in_tensors: bool | Literal["step"] = False
    # how kernels go through it: about so many programs a sample, or as many as they would have; with 64 bits; and from
    # memory that begins one element behind a multiple of 16 bytes
    programs: int | None = None
    wide: bool = False
    misaligned: bool = False
    # where its tensors are; their values are another device's own
    device: str = "cpu"

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    @property
    def device_schedule(self) -> DeviceSchedule:
        return device_schedule(self.schedule, self.T, self.zero_terminal_snr, self.device)

    @property
    def sees_signal(self) -> bool:
        """Whether eps tells something of x_0 at every t."""
        return not self.device_schedule.schedule.zero_terminal_snr

    def tensor(self, number: int, *, shape: tuple[int, ...] | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """Tensor `number` of the case, standard normal, or any of the levels of uint8."""
        shape, dtype = self.shape if shape is None else shape, dtype or self.torch_dtype
        how = dict(generator=torch.Generator(self.device).manual_seed(number), device=self.device)
        if dtype == torch.uint8:
            x = torch.randint(0, 256, shape, dtype=dtype, **how)
        else:
            x = torch.randn(shape, dtype=torch.float64, **how).to(dtype)
        return self.arranged(x)

    def arranged(self, x: Tensor) -> Tensor:
        """x where the case has its tensors in memory."""
        x = arranged(x, self.layout)
        return misaligned(x) if self.misaligned else x

    @property
    def how(self) -> dict[str, int | None]:
        """What `backend` is told to go through the batch in this way."""
        blocks = None if self.programs is None else blocks_for(self.shape, self.programs)
        return dict(blocks=blocks, axis=1 if self.wide else None)

    def t(self, first: int = 0) -> Tensor:
        """Timesteps in first..T, one for each sample or one for all."""
        generator = torch.Generator().manual_seed(99)
        return torch.randint(first, self.T + 1, () if self.one_t else self.shape[:1], generator=generator).to(
            self.device
        )

    def noise(self) -> NoiseAddress:
        """The address, of integers or of tensors."""
        if not self.in_tensors:
            return NoiseAddress(self.seed, self.stream, self.step, self.sample)
        batch = self.shape[0]
        rows = torch.arange(batch, device=self.device)
        step = torch.tensor(self.step, device=self.device) if self.one_t else (self.step + rows) % 2**28
        if self.in_tensors == "step":
            return NoiseAddress(self.seed, self.stream, step, self.sample)
        seed = torch.tensor(self.seed - (self.seed >> 63 << 64), device=self.device)
        # as many rows as samples, in no order
        sample = self.sample + rows.flip(0) * 3
        return NoiseAddress(seed, self.stream, step, sample)

    def reference_address(self) -> tuple[int, int, np.ndarray, np.ndarray]:
        """The same as `noisestep.reference.noise` takes it: seed, stream, and the step and sample of each row."""
        address, batch = self.noise(), self.shape[0]
        step, sample = address.step, address.sample
        steps = step.numpy() if isinstance(step, Tensor) else step
        if isinstance(sample, Tensor):
            samples = sample.numpy().astype(np.uint64)
        else:
            samples = np.arange(batch, dtype=np.uint64) + np.uint64(sample)
        return self.seed, self.stream, np.broadcast_to(steps, (batch,)), samples


def arranged(x: Tensor, layout: str) -> Tensor:
    """x with its elements in this order in memory; a layout that its rank does not have leaves it contiguous."""
    if layout == "channels_last" and x.ndim in (4, 5):
        return x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)
    if layout == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "sliced":
        wide = x.new_zeros((*x.shape[:-1], 2 * x.shape[-1] + 1))
        wide[..., 1::2] = x
        return wide[..., 1::2]
    return x.contiguous()


def misaligned(x: Tensor) -> Tensor:
    """The same values and strides, one element behind a multiple of 16 bytes."""
    if x.numel() == 0 or 0 in x.stride():
        return x
    span = sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True)) + 1
    place = torch.empty(span + 1, dtype=x.dtype, device=x.device)[1:]
    return place.as_strided(x.shape, x.stride(), 1).copy_(x)


def gamma(roundings: float, unit: float) -> float:
    """A bound of the relative error of so many roundings in a row (Higham 2002, lemma 3.1)."""
    return roundings * unit / (1 - roundings * unit)


@cache
def device_schedule(name: str, T: int, zero_terminal_snr: bool = False, device: str = "cpu") -> DeviceSchedule:
    return DeviceSchedule(Schedule.from_name(name, T, zero_terminal_snr=zero_terminal_snr), device)


@st.composite
def shapes(draw, smallest_rank: int = 1, largest_rank: int = 5, largest: int = 1500) -> tuple[int, ...]:
    """(B, ...) of ranks 1 to 5, odd sizes and none included, at most so many elements a sample."""
    rank = draw(st.integers(smallest_rank, largest_rank))
    dims = st.sampled_from((1, 2, 3, 5, 8, 13, 0, 700))
    shape = draw(st.tuples(st.integers(0, 3), *(dims,) * (rank - 1)).filter(lambda s: prod(s[1:]) <= largest))
    return tuple(shape)


@st.composite
def cases(
    draw, dtypes: Sequence[str] = FLOATS, smallest_rank: int = 1, largest_rank: int = 5, largest: int = 1500
) -> Case:
    name, zero = draw(st.sampled_from(NAMED))
    return Case(
        shape=draw(shapes(smallest_rank, largest_rank, largest)),
        dtype=draw(st.sampled_from(dtypes)),
        layout=draw(st.sampled_from(LAYOUTS)),
        schedule=name,
        zero_terminal_snr=zero,
        # below 21 steps the linear ends scaled by 1000/T would leave (0, 1)
        T=draw(st.integers(21, 60)),
        one_t=draw(st.booleans()),
        seed=draw(st.integers(0, 2**64 - 1)),
        stream=draw(st.integers(0, 15)),
        step=draw(st.integers(0, 2**28 - 1)),
        sample=draw(st.integers(0, 2**63 - 20)),
        in_tensors=draw(st.sampled_from((False, True, "step"))),
        programs=draw(st.sampled_from((1, 2, 5))),
    )


def float64(*tensors: Tensor) -> list[np.ndarray]:
    """Tensors as the reference takes them."""
    return [tensor.detach().double().numpy() for tensor in tensors]


def assert_within(*, actual: Tensor, expected: np.ndarray, error: np.ndarray | float) -> None:
    """|actual - expected| <= error + half a unit in the last place of actual's type.

    `error` bounds what the op has before it rounds for the last time; the result may then be that much larger too.
    """
    dtype = actual.dtype
    (value,) = float64(actual)
    assert value.shape == expected.shape
    error = np.broadcast_to(error, expected.shape)
    # a unit of the larger of the two covers the step across a power of two
    half_unit = UNIT[dtype] * np.maximum(np.abs(expected) + error, SMALLEST_NORMAL[dtype])
    off = np.abs(value - expected)
    # written so that a NaN is outside
    outside = ~(off <= error + half_unit)
    if outside.any():
        i = np.unravel_index(np.argmax(outside), outside.shape)
        raise AssertionError(
            f"{outside.sum()} of {outside.size} outside; at {i}: {value[i]!r} for {expected[i]!r}, "
            f"{off[i]:.3g} off with {error[i] + half_unit[i]:.3g} allowed"
        )


def registered_calls(call: Callable[[], Any]) -> list[tuple[str, tuple[Any, ...]]]:
    """The registered ops that a call runs, by name, with the arguments of each."""
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.namespace == "noisestep":
                seen.append((func.overloadpacket.__name__, args))
            return func(*args, **(kwargs or {}))

    with Watch():
        call()
    return seen


def assert_registered(call: Callable[[], Any], **options: Any) -> None:
    """Every registered op that a call runs keeps PyTorch's rules: `torch.library.opcheck`, whose options these are."""
    calls = registered_calls(call)
    assert calls
    for name, arguments in calls:
        if name.endswith("_backward"):
            # has no derivative of its own, which the checks would ask for
            arguments = tuple(part.detach() if isinstance(part, Tensor) else part for part in arguments)
        torch.library.opcheck(getattr(torch.ops.noisestep, name).default, arguments, **options)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function in one graph, which may be compiled once and never again."""
    torch._dynamo.reset()
    traced = torch.compile(function, fullgraph=True, backend="aot_eager")
    first = True

    def call(*arguments: Any) -> Any:
        nonlocal first
        with torch._dynamo.config.patch(error_on_recompile=not first):
            first = False
            return traced(*arguments)

    return call
