"""An integer of NumPy is taken wherever one of Python is, with the same result; a bool is not one."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from noisestep.accelerated.address import FORWARD, NoiseAddress
from noisestep.accelerated.data import load_images, stratified_split
from noisestep.accelerated.evaluation.evaluate import evaluate
from noisestep.accelerated.models import UNetConfig
from noisestep.accelerated.ops import (
    advance,
    integers,
    loss_and_gradient,
    noise,
    q_sample,
    reverse_step,
    uniform,
    vlb_terms,
    words,
)
from noisestep.accelerated.samplers.loop import sample
from noisestep.accelerated.schedule import DeviceSchedule
from noisestep.accelerated.training.config import to_json, train_config
from op_cases import device_schedule

D = device_schedule("linear", 50)
X = torch.linspace(-1, 1, 24).reshape(2, 3, 4)
NO = NoiseAddress(0, FORWARD, 0)
IMAGES = np.arange(60 * 4, dtype=np.uint8).reshape(60, 1, 2, 2)
Number = Callable[[int], Any]


def network(x: torch.Tensor, t: torch.Tensor, label: torch.Tensor | None) -> torch.Tensor:
    return x / 2


def drawn(i: Number, **options: Any) -> torch.Tensor:
    numbers = {"count": i(2), "first": i(250), "seed": i(3), "steps": i(4), "batch_size": i(1), "trajectory": i(2)}
    samples = sample(network, D.schedule, shape=(i(1), i(2), i(2)), **numbers | options)
    return torch.cat([samples.images.flatten(), samples.trajectory.flatten()])


def settings(**numbers: Any) -> str:
    return to_json(train_config(numbers))


CALLS: dict[str, Callable[[Number], Any]] = {
    "seed": lambda i: noise(NoiseAddress(i(7), FORWARD, 0), (2, 3)),
    "stream": lambda i: noise(NoiseAddress(7, i(2), 0), (2, 3)),
    "step": lambda i: noise(NoiseAddress(7, FORWARD, i(200)), (2, 3)),
    "sample": lambda i: noise(NoiseAddress(7, FORWARD, 0, i(255)), (2, 3)),
    "shape": lambda i: noise(NO, (i(2), i(3))),
    "words": lambda i: words(NO, i(2), i(3)),
    "uniform": lambda i: uniform(NO, i(2)),
    "integers": lambda i: integers(NO, i(2), i(100), i(200)),
    "t of q_sample": lambda i: q_sample(D, X, i(5), NO),
    "t of reverse_step": lambda i: reverse_step(D, X, X, i(5), NO),
    "t of the loss": lambda i: loss_and_gradient(X, NO, prediction="v", schedule=D, t=i(5), x_0=X)[1],
    "t and levels": lambda i: vlb_terms(D, X, X, X, i(1), levels=i(250)),
    "by": lambda i: advance(torch.tensor(3), i(2)),
    "T": lambda i: DeviceSchedule.from_name("linear", i(200)).forward_table(),
    "samples": drawn,
    "size": lambda i: load_images("digits", size=i(9)).images,
    "sides and channels": lambda i: load_images("digits", size=(i(9), i(7)), channels=i(3)).images,
    "split": lambda i: np.concatenate(stratified_split(i(200), seed=i(3))),
    "configuration": lambda i: settings(
        steps=i(50), seed=i(3), batch_size=i(8), log_every=i(2), schedule={"T": i(20)}, data={"size": (i(8), i(9))}
    ),
    "network": lambda i: str(UNetConfig.for_image(i(3), i(32), i(32), i(10)).to_dict()),
    "widths": lambda i: str(UNetConfig(channels=[i(32), i(64)], attention=(i(1),), blocks=i(1), head=i(32)).to_dict()),
    "evaluation": lambda i: str(evaluate(IMAGES[:20], None, IMAGES[20:40], None, IMAGES[40:], None, k=i(3), seed=i(2))),
}


def same(actual: Any, expected: Any) -> bool:
    if isinstance(expected, torch.Tensor):
        return torch.equal(actual, expected)
    return np.array_equal(actual, expected)


@pytest.mark.parametrize("name", CALLS)
def test_an_integer_of_numpy_is_an_integer(name: str) -> None:
    call = CALLS[name]
    expected = call(int)
    # all are below 256, and what is made of them may not wrap around there
    for kind in (np.int64, np.uint8):
        assert same(actual=call(kind), expected=expected), kind.__name__


@pytest.mark.parametrize("name", CALLS)
def test_a_bool_is_not_an_integer(name: str) -> None:
    for kind in (bool, np.bool_):
        with pytest.raises((TypeError, ValueError)):
            CALLS[name](kind)


REALS: dict[str, Callable[[Number], Any]] = {
    "eta": lambda f: reverse_step(D, X, X, 5, NO, eta=f(0.5)),
    "no eta": lambda f: reverse_step(D, X, X, 5, None, eta=f(0)),
    "guidance": lambda f: reverse_step(D, X, (X, -X), 5, NO, guidance=f(0.5)),
    "temperature": lambda f: reverse_step(D, X, X, 5, NO, temperature=f(0.5)),
    "clip": lambda f: reverse_step(D, X, X, 5, NO, clip=(f(-0.5), f(0.5))),
    "clip of the bound": lambda f: vlb_terms(D, X, X, X, 5, clip=(f(-0.5), f(0.5))),
    "scale": lambda f: loss_and_gradient(X, NO, scale=f(0.5))[1],
}


@pytest.mark.parametrize("name", REALS)
def test_a_number_of_numpy_is_a_number(name: str) -> None:
    call = REALS[name]
    expected = call(float)
    for kind in (np.float64, np.float32, np.float16, np.array):
        assert same(actual=call(kind), expected=expected), kind.__name__
    for kind in (bool, np.bool_, str):
        with pytest.raises((TypeError, ValueError)):
            call(kind)


def test_an_address_holds_integers_of_python() -> None:
    # in uint64, 2^64 - 1 - 2^64 is no number
    address = NoiseAddress(np.uint64(2**64 - 1), np.int8(1), np.int32(2), np.int64(3))
    parts = [address.seed, address.stream, address.step, address.sample]
    assert [type(part) for part in parts] == [int] * 4
    assert torch.equal(noise(address, (2, 3)), noise(NoiseAddress(2**64 - 1, 1, 2, 3), (2, 3)))


def test_a_configuration_of_numpys_numbers_is_that_of_pythons() -> None:
    numbers = {"seed": np.uint64(2**64 - 1), "learning_rate": np.float32(0.5), "compile": np.bool_(False)}
    config = train_config(numbers)
    assert [type(getattr(config, name)) for name in numbers] == [int, float, bool]
    assert config.seed == 2**64 - 1
