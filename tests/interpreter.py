"""How the tests run the Triton kernels: compiled on a GPU, and in Triton's interpreter everywhere else.

Triton decides whether it interprets a kernel when the kernel is defined. So `import_ops` defines the kernels with
TRITON_INTERPRET=1 and takes the variable away again: everything outside of `kernels()` runs as it does without, in
subprocesses too.

Two conversions of the interpreter differ from what a GPU computes, and are corrected here, in the test process:

- float32 to bfloat16 truncates, where compiled code rounds to nearest even;
- ``tl.fma`` rounds the product and the sum before Triton 3.9, where the instruction rounds once.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from math import prod
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
VARIABLE = "TRITON_INTERPRET"


def import_ops() -> None:
    """Import noisestep's kernels so that they can run here."""
    if GPU:
        return
    if "triton" in sys.modules:
        raise RuntimeError("triton was imported before the tests could ask for its interpreter")
    # which reads the variable, too: what runs outside of `kernels` is native code
    import_module("noisestep.accelerated.backends")
    os.environ[VARIABLE] = "1"
    try:
        import triton.language as tl
        from triton.runtime import interpreter

        import_module("noisestep.accelerated.ops")
    finally:
        del os.environ[VARIABLE]
    original_convert = interpreter._convert_float
    original_fma = interpreter.InterpreterBuilder.create_fma

    def convert(data: np.ndarray, source: Any, target: Any, rounding: Any) -> np.ndarray:
        if source == tl.float32 and target == tl.bfloat16 and rounding != interpreter._ir.ROUNDING_MODE.RTZ:
            return bfloat16_bits(data.view(np.float32))
        return original_convert(data, source, target, rounding)

    def create_fma(self: Any, x: Any, y: Any, z: Any) -> Any:
        if z.data.dtype != np.float32:
            return original_fma(self, x, y, z)
        return interpreter.TensorHandle(fma(x.data, y.data, z.data), z.dtype.scalar)

    interpreter._convert_float = convert
    interpreter.InterpreterBuilder.create_fma = create_fma


def bfloat16_bits(x: np.ndarray) -> np.ndarray:
    """float32 rounded to the nearest bfloat16, ties to even; its bits as uint16."""
    bits = x.view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FC0), rounded)


def fma(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """x y + z of float32, rounded once."""
    product = np.multiply(x, y, dtype=np.float64)
    total = product + z
    # Knuth's TwoSum: what the sum has lost; where it has, the last bit is made odd, so that the rounding to
    # float32 that follows cannot meet a tie that is none
    back = total - product
    lost = (product - (total - back)) + (z - back)
    even = np.atleast_1d(total).view(np.int64).reshape(np.shape(total)) & 1 == 0
    total = np.where((lost != 0) & even, np.nextafter(total, np.copysign(np.inf, lost)), total)
    return np.asarray(total, np.float32)


def blocks_for(shape: Sequence[int], programs: int) -> int:
    """The blocks a program with which a sample of a batch (B, ...) is spread over about so many programs."""
    return 1 << (max(1, prod(shape[1:]) // (4 * programs)).bit_length() - 1)


@contextmanager
def kernels(*, blocks: int | None = None, axis: int | None = None) -> Iterator[None]:
    """Calls of ops in here run their kernels, on a CPU interpreted; fresh memory is NaN, so that a gap shows.

    `blocks` and `axis` are those of `noisestep.accelerated.backends.backend`.
    """
    from noisestep.accelerated.backends import backend

    deterministic = torch.are_deterministic_algorithms_enabled()
    # what fills torch.empty and its relatives
    torch.use_deterministic_algorithms(True)
    try:
        # Triton reads the variable once more when its interpreter runs
        with backend("triton", blocks=blocks, axis=axis), mock.patch.dict(os.environ, {} if GPU else {VARIABLE: "1"}):
            assert torch.empty(1).isnan()
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic)


def on_device(value: Any) -> Any:
    """The same on the device that kernels run on; a tensor keeps its strides."""
    from noisestep.accelerated.address import NoiseAddress
    from noisestep.accelerated.schedule import DeviceSchedule

    if isinstance(value, Tensor):
        if value.device == DEVICE:
            return value
        # an expanded tensor has several elements in one place, which nothing can be copied to
        if 0 in value.stride():
            return value.to(DEVICE)
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=DEVICE).copy_(value)
    if isinstance(value, torch.device):
        return DEVICE
    if isinstance(value, DeviceSchedule):
        return value.to(DEVICE)
    if isinstance(value, NoiseAddress):
        return NoiseAddress(*(on_device(part) for part in (value.seed, value.stream, value.step, value.sample)))
    if isinstance(value, tuple | list):
        return type(value)(map(on_device, value))
    return value


def run_kernel(
    op: Callable[..., Any], *arguments: Any, blocks: int | None = None, axis: int | None = None, **options: Any
) -> Any:
    """What the op's kernel gives, back on the CPU; `blocks` and `axis` are those of `kernels`."""
    with kernels(blocks=blocks, axis=axis):
        result = op(*map(on_device, arguments), **{name: on_device(value) for name, value in options.items()})
    return tuple(part.cpu() for part in result) if isinstance(result, tuple) else result.cpu()


def assert_same_bits(*, actual: Any, expected: Any, strides: bool = True) -> None:
    """Tensors, or tuples of them, of one dtype and shape, equal to the bit, and in one memory layout (`strides`)."""
    if isinstance(expected, tuple):
        assert len(actual) == len(expected)
        for a, b in zip(actual, expected, strict=True):
            assert_same_bits(actual=a, expected=b, strides=strides)
        return
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    if strides and expected.numel():
        # an axis of one element may have any
        a, b = ([step for step, n in zip(x.stride(), x.shape, strict=True) if n > 1] for x in (actual, expected))
        assert a == b, f"strides {actual.stride()} and {expected.stride()}"
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[actual.element_size()]
    differ = actual.contiguous().view(integers) != expected.contiguous().view(integers)
    # a NaN is a NaN, whatever its payload
    differ &= ~(actual.isnan() & expected.isnan())
    where = differ.nonzero()
    assert not len(where), (
        f"{len(where)} of {differ.numel()} differ, first at {where[0].tolist()}: "
        f"{actual[tuple(where[0])].item()!r} and {expected[tuple(where[0])].item()!r}"
    )
