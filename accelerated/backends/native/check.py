"""Every function of a compiled library on a small batch, compared with the reference: a compiler may be wrong."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from noisestep import reference
from noisestep.reference.noise import FORWARD

from ...schedule import MOST_HISTORY, DeviceSchedule

# rows of some whole tiles and a part of one; an address whose parts need all of their bits; 2^64 - 59 is -59 there
_SHAPE = (2, 5 * 64 + 3)
_SEED, _STEP, _SAMPLE = 2**64 - 59, 7, 2**32 - 1
_BATCH, _ADDRESS = (*_SHAPE, 1), (-59, FORWARD, _STEP, 0, _SAMPLE, 0)
_NONE, _NUMBER = (0, 0), (0.0, 0, 0)
# of float32 arithmetic, a few roundings each
_CLOSE = 1e-5


def wrong(functions: Mapping[str, Callable[..., int]]) -> str | None:
    """The name of the first function whose result is not the reference's, or None."""
    schedule = reference.Schedule.from_name("linear", 10)
    tables = DeviceSchedule(schedule)
    t = np.array([3, 10])
    eps = reference.normal(_SEED, FORWARD, _STEP, [_SAMPLE, _SAMPLE + 1], _SHAPE[1:])
    x, y, image = (
        np.float32(0.9) * np.sin(np.arange(n, n + eps.size, dtype=np.float32)).reshape(_SHAPE) for n in (1, 2, 3)
    )
    weight = np.array([0.5, 2.0], np.float32)

    def timesteps(table: np.ndarray) -> tuple[int, ...]:
        return t.ctypes.data, 1, len(t), t.strides[0] // t.itemsize, table.ctypes.data, len(table)

    def run(name: str, *words: Any) -> None:
        if functions[name](*_BATCH, *words) != 0:
            raise RuntimeError(f"what the C++ compiler made refuses what is right in {name}")

    made = _empty()
    run("noise", *_ADDRESS, *_tensor(made))
    if made.tobytes() != eps.tobytes():
        return "noise"

    forward, made = tables.forward_table().numpy(), _empty()
    run("q_sample", *_tensor(image), *_NONE, *_ADDRESS, *timesteps(forward), *_tensor(made), *_NONE, *_NONE)
    if not _agree(made, reference.q_sample(schedule, image, t, eps)):
        return "q_sample"

    target = reference.velocity(schedule, image, eps, t)
    residual, losses, gradient = _empty(), np.full(2, np.nan, np.float32), _empty()
    inputs = (*_tensor(x), 2, *_tensor(image), *_NONE, *_ADDRESS, *timesteps(forward), weight.ctypes.data)
    run("simple_loss", *inputs, *_tensor(residual), 0, 0.0, 0, losses.ctypes.data)
    if not _agree(residual, weight[:, None] * (x - target)) or not _agree(
        losses, weight * reference.squared_error(x, target)
    ):
        return "simple_loss"
    run("simple_loss_backward", weight.ctypes.data, 1, 0, *_tensor(residual), *_tensor(gradient))
    if not _agree(gradient, weight[:, None] * residual * (2 / _SHAPE[1])):
        return "simple_loss_backward"

    reverse, made, predicted = tables.reverse_table(prediction="v").numpy(), _empty(), _empty()
    inputs = (*_tensor(x), *_tensor(y), *_tensor(image), *_NONE, *MOST_HISTORY * _NONE, *_ADDRESS, *timesteps(reverse))
    numbers = (1.5, 0, 0, -0.5, 0, 0, 0.5, 0, 0, 0.75, 0, 0)
    run("update", *inputs, *numbers, 1, 1, 0, 0, *_tensor(made), *_tensor(predicted))
    output, clip = reference.guided(y, image, 1.5), (-0.5, 0.5)
    # the temperature is a factor on the noise
    expected = reference.reverse_step(schedule, x, output, t, np.float32(0.75) * eps, prediction="v", clip=clip)
    x_0 = reference.predict_x_0(schedule, x, output, t, prediction="v", clip=clip)
    if not _agree(made, expected) or not _agree(predicted, x_0):
        return "update"

    wide, terms, t[0] = tables.reverse_table(prediction="v", dtype=torch.float64).numpy(), np.full(2, np.nan), 1
    inputs = (*_tensor(image), *_tensor(x), *_tensor(y), *timesteps(wide))
    run("vlb_terms", *inputs, 0, 0, 1, -0.5, 0.5, 1 / 255, terms.ctypes.data)
    expected = reference.vlb_terms(schedule, image, x, y, t, prediction="v", clip=clip)
    return None if _agree(terms, expected) else "vlb_terms"


def _empty() -> np.ndarray:
    return np.full(_SHAPE, np.nan, np.float32)


def _tensor(array: np.ndarray) -> tuple[int, int]:
    return array.ctypes.data, 0


def _agree(actual: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.allclose(actual, expected, rtol=_CLOSE, atol=_CLOSE))
