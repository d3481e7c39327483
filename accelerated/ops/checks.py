"""What every op refuses before it launches anything, with both sides of the disagreement."""

import functools
import math
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from noisestep.reference._arguments import real
from torch import Tensor
from torch.autograd import forward_ad

from ..address import NOWHERE, Address, NoiseAddress, check_dense, plain_int
from ..schedule import DeviceSchedule, Steps, with_index

# a Python number, or a tensor of one for all samples, (), or one for each, (B,)
Number = float | Tensor

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type in which an op on x computes: float32, or float64 where x is float64."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def check_batch(name: str, x: object, *, dtypes: tuple[torch.dtype, ...] = FLOATS) -> Tensor:
    """x is a tensor (B, ...) of an allowed dtype."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(x).__name__}")
    check_dense(name, x)
    if x.dtype not in dtypes:
        raise TypeError(f"{name} must be one of {', '.join(map(_short, dtypes))}, got {_short(x.dtype)}")
    if x.ndim == 0:
        raise ValueError(f"{name} must have shape (B, ...), got a tensor with no axis")
    # an op would drop it without a word; there is a level only while one computes forward-mode derivatives
    if (
        forward_ad._current_level >= 0
        and not torch.compiler.is_compiling()
        and forward_ad.unpack_dual(x).tangent is not None
    ):
        raise NotImplementedError(f"{name} carries a forward-mode derivative; the ops have none, only backward")
    return x


def check_values_of(name: str, x: object) -> Tensor:
    """x is a dense tensor that has values, as one on "meta" has not."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(x).__name__}")
    check_dense(name, x)
    if x.is_meta:
        raise ValueError(f"{name} must have values, and is on meta")
    return x


def device_of_values(device: torch.device | str) -> torch.device:
    """`with_index`, of a device whose tensors have values."""
    device = with_index(device)
    if device.type == "meta":
        raise ValueError("device must be one whose tensors have values, got meta")
    return device


def check_labels(labels: object, count: int) -> None:
    """labels is None or a tensor of integers, one for each image."""
    if labels is None:
        return
    checked = check_values_of("labels", labels)
    if checked.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"labels must be int64 or int32, got {_short(checked.dtype)}")
    if checked.shape != (count,):
        raise ValueError(f"labels have shape {tuple(checked.shape)}; {count} images need ({count},)")


def check_constant(name: str, x: object) -> None:
    """x wants no gradient, because the op has none to give it."""
    if isinstance(x, Tensor) and x.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name} requires a gradient, and this op gives none to it; pass {name}.detach()")


def check_like(
    name: str,
    other: object,
    x: Tensor,
    x_name: str,
    *,
    shape: tuple[int, ...] | None = None,
    dtypes: tuple[torch.dtype, ...] = FLOATS,
) -> Tensor:
    """other is a tensor of x's shape (or `shape`) and an allowed dtype, on its device."""
    checked = check_batch(name, other, dtypes=dtypes)
    expected = tuple(x.shape) if shape is None else shape
    if tuple(checked.shape) != expected:
        raise ValueError(f"{name} must have shape {expected} to fit {x_name}, got {tuple(checked.shape)}")
    check_device(name, checked, x, x_name)
    return checked


def check_device(name: str, other: Tensor, x: Tensor, x_name: str) -> None:
    """other is on x's device."""
    if other.device != x.device:
        raise ValueError(f"{name} is on {other.device}, {x_name} on {x.device}; both must be on one device")


def check_schedule(schedule: object, x: Tensor, x_name: str) -> DeviceSchedule:
    """schedule is a DeviceSchedule on x's device."""
    if not isinstance(schedule, DeviceSchedule):
        raise TypeError(f"schedule must be a DeviceSchedule, got {type(schedule).__name__}")
    check_device("schedule", schedule.timesteps, x, x_name)
    return schedule


def check_timesteps(t: object, steps: Steps, x: Tensor, x_name: str) -> Tensor:
    """t is int64 or int32, one for all or one for each sample, on x's device. Returned as a tensor, () or (B,)."""
    if not isinstance(t, Tensor):
        return steps.at(plain_int("t", t, "an int or a tensor of integers"))
    check_dense("t", t)
    if t.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"t must be int64 or int32, got {_short(t.dtype)}")
    if t.ndim > 1 or (t.ndim == 1 and t.shape[0] != x.shape[0]):
        raise ValueError(f"t must have shape () or ({x.shape[0]},) to fit {x_name}, got {tuple(t.shape)}")
    check_device("t", t, x, x_name)
    return t


def check_noise(noise: object, x: Tensor, x_name: str) -> tuple[Tensor | None, Address]:
    """noise is an address that fits x, or a tensor like x: (the tensor or None, the address's arguments)."""
    if isinstance(noise, NoiseAddress):
        check_address(noise, x.shape[0], x.device)
        return None, noise.arguments()
    if not isinstance(noise, Tensor):
        raise TypeError(f"noise must be a NoiseAddress or a tensor, got {type(noise).__name__}")
    return check_like("noise", noise, x, x_name), NOWHERE


def check_address(address: object, batch: int, device: torch.device) -> None:
    """address is a NoiseAddress whose tensors are on the device, with a row for each sample."""
    if not isinstance(address, NoiseAddress):
        raise TypeError(f"noise must be a NoiseAddress, got {type(address).__name__}")
    if type(address.seed) is type(address.step) is type(address.sample) is int:
        return
    for name, part, rows in (
        ("seed", address.seed, (1,)),
        ("step", address.step, (1, batch)),
        ("sample", address.sample, (batch,)),
    ):
        if not isinstance(part, Tensor):
            continue
        if part.device != device:
            raise ValueError(f"noise.{name} is on {part.device}, the batch on {device}; both must be on one device")
        if part.numel() not in rows:
            allowed = " or ".join(map(str, sorted(set(rows))))
            raise ValueError(
                f"noise.{name} must have {allowed} elements for a batch of {batch}, got shape {tuple(part.shape)}"
            )


def check_writable(name: str, x: Tensor) -> None:
    """x's memory holds its own numbers, and not their negatives, as that of a conjugate's imaginary part does."""
    # Dynamo has no graph for the question, and no such views
    if not torch.compiler.is_compiling() and x.is_neg():
        raise ValueError(f"{name} is a lazy negation, which cannot be written to; pass {name}.resolve_neg()")


def check_memory(option: str, written: Tensor, read: Mapping[str, Tensor | None]) -> None:
    """written can be written to while the others are read: each element has its own memory, or that of its like there.

    For an implementation, whose tensors have memory: no fakes, and none that functorch wraps.
    """
    reach = 0
    for stride, n in sorted(zip(written.stride(), written.shape, strict=True)):
        if n > 1 and written.numel():
            if stride <= reach:
                raise ValueError(
                    f"{option} needs a tensor with memory of its own for each element, got one whose elements overlap "
                    f"(shape {tuple(written.shape)}, strides {written.stride()})"
                )
            reach += stride * (n - 1)
    for name, other in read.items():
        if other is not None and not _one_layout(other, written) and share_memory(other, written):
            raise ValueError(
                f"{option} would write over elements of {name} that are still to be read, since the two share a part "
                f"of their memory; pass a copy of it"
            )


def share_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have a byte in common; those on "meta" have none."""
    if one.is_meta or not one.numel() or not other.numel() or not _storages_meet(one, other):
        return False
    return _overlap(one.data_ptr() - other.data_ptr(), _layout(one), _layout(other))


def _one_layout(one: Tensor, other: Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() and _layout(one) == _layout(other)


def _storages_meet(one: Tensor, other: Tensor) -> bool:
    # by their addresses: two arrays of NumPy that share memory become two storages
    one_memory, other_memory = one.untyped_storage(), other.untyped_storage()
    begin, other_begin = one_memory.data_ptr(), other_memory.data_ptr()
    return begin < other_begin + other_memory.nbytes() and other_begin < begin + one_memory.nbytes()


# shape, strides, bytes of an element
_Layout = tuple[tuple[int, ...], tuple[int, ...], int]


def _layout(x: Tensor) -> _Layout:
    return tuple(x.shape), x.stride(), x.element_size()


@functools.lru_cache(maxsize=64)
def _overlap(distance: int, one: _Layout, other: _Layout) -> bool:
    """Whether two tensors have a byte in common; the first begins so many bytes behind the second."""
    bytes_of_one, bytes_of_other = _bytes(max(distance, 0), *one), _bytes(max(-distance, 0), *other)
    common = min(len(bytes_of_one), len(bytes_of_other))
    return bool((bytes_of_one[:common] & bytes_of_other[:common]).any())


def _bytes(start: int, shape: tuple[int, ...], strides: tuple[int, ...], size: int) -> np.ndarray:
    """Which bytes are a tensor's, up to its last; bool."""
    last = start + size * sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    taken = np.zeros(last + size, bool)
    of_elements = np.lib.stride_tricks.as_strided(
        taken[start:], (*shape, size), (*(size * stride for stride in strides), 1)
    )
    of_elements[...] = True
    return taken


def check_weight(weight: object, x: Tensor, x_name: str) -> Tensor:
    """weight is floating, one for each sample of x, on its device. Returned in the type that the op computes in."""
    return check_like("weight", weight, x, x_name, shape=(x.shape[0],)).to(compute_dtype(x)).contiguous()


def check_dtype(dtype: object) -> None:
    """dtype is one that an op can store."""
    if not isinstance(dtype, torch.dtype) or dtype not in FLOATS:
        raise TypeError(f"dtype must be one of {', '.join(map(_short, FLOATS))}, got {dtype}")


def check_option(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """value is one of the allowed names."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def check_switch(name: str, value: object) -> None:
    """value is True or False: anything else has a truth of its own, or none."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def check_number(name: str, value: object, low: float, high: float) -> float:
    """value is a finite number in low..high, of Python or NumPy. Returned as a float."""
    if isinstance(value, Tensor):
        raise TypeError(f"{name} must be a number, got a tensor")
    # a graph of torch.compile has Python's numbers alone
    number: float = value if type(value) in (int, float) else real(name, value)  # type: ignore[assignment]
    # an integer may be beyond a float's range
    if not (low <= number <= high and abs(number) <= sys.float_info.max):
        raise ValueError(f"{name} must be finite and lie in {low:g}..{high:g}, got {value}")
    return float(number)


def check_clip(clip: object) -> tuple[float, float] | None:
    """clip is None or (low, high), of Python's or NumPy's numbers."""
    if clip is None:
        return None
    if isinstance(clip, Sequence) and len(clip) == 2 and not any(isinstance(end, Tensor | str) for end in clip):
        low, high = (end if type(end) in (int, float) else real("clip", end) for end in clip)
        if low < high:
            return float(low), float(high)
    raise ValueError(f"clip must be (low, high) with low < high, or None, got {clip!r}")


def check_clip_of_samples(clip: object, x: Tensor, x_name: str) -> tuple[Number, Number] | None:
    """clip is None or (low, high), each of Python's numbers or a tensor as `check_scalar` allows."""
    if clip is None:
        return None
    # the usual case, at once
    if type(clip) is tuple and tuple(map(type, clip)) == (float, float) and clip[0] < clip[1]:
        return clip
    if isinstance(clip, Sequence) and len(clip) == 2 and any(isinstance(end, Tensor) for end in clip):
        low, high = (
            check_scalar(f"clip's {name} end", end, x, x_name, -math.inf)
            for name, end in zip(("low", "high"), clip, strict=True)
        )
        return low, high
    return check_clip(clip)


def check_scalar(name: str, value: object, x: Tensor, x_name: str, low: float) -> Number:
    """value is a finite number of at least `low`, or a floating tensor, one for all samples or one for each.

    The values in a tensor are not read here: `check_values` is for an implementation.
    """
    if type(value) is float or not isinstance(value, Tensor):
        return check_number(name, value, low, math.inf)
    check_dense(name, value)
    if value.dtype not in FLOATS:
        raise TypeError(f"{name} must be one of {', '.join(map(_short, FLOATS))}, got {_short(value.dtype)}")
    if value.ndim > 1 or (value.ndim == 1 and value.shape[0] != x.shape[0]):
        raise ValueError(
            f"{name} must be a number or have shape () or ({x.shape[0]},) to fit {x_name}, got {tuple(value.shape)}"
        )
    check_constant(name, value)
    check_device(name, value, x, x_name)
    return value


def check_values(name: str, value: object, low: float) -> None:
    """The numbers in a tensor are finite and at least `low`; looked at on a CPU, where it costs no synchronisation."""
    if isinstance(value, Tensor) and value.is_cpu and value.numel():
        least, most = float(value.min()), float(value.max())
        if not (low <= least and math.isfinite(least) and math.isfinite(most)):
            raise ValueError(f"{name} must be finite and lie in {low:g}..inf, got values from {least:g} to {most:g}")


def output_shape(x_t: Tensor, learned: bool) -> tuple[int, ...]:
    """The shape of the network's output for x_t: its own, or twice the channels where the variance is learned."""
    shape = tuple(x_t.shape)
    if not learned:
        return shape
    if x_t.ndim < 2:
        raise ValueError(f'variance="learned_range" needs x_t of shape (B, C, ...), got {shape}')
    return (shape[0], 2 * shape[1], *shape[2:])


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
