"""The likelihood on tensors: the numbers of the reference, to the rounding of what computes them."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from noisestep import reference
from noisestep.accelerated.evaluation import likelihood
from noisestep.accelerated.evaluation.likelihood_results import Likelihood, summarise
from noisestep.accelerated.schedule import DeviceSchedule
from noisestep.reference import Schedule, likelihood_grid

SHAPE, B = (1, 3, 3), 4
SCHEDULES = {
    "cosine": Schedule.from_name("cosine", 40),
    "linear": Schedule.from_name("linear", 40, scaling="1000/T"),
    "zero terminal SNR": Schedule.from_name("cosine", 40, zero_terminal_snr=True),
}
WEIGHT = np.random.default_rng(3).standard_normal((9, 9)) / 4
X_0 = (2 * np.random.default_rng(4).integers(0, 256, (B, *SHAPE)) / 255 - 1).astype(np.float32)


class Network:
    """tanh(W x + t / 40), in PyTorch and in NumPy, with its derivative; some guesses are outside of [-1, 1]."""

    def torch(self, x, t):
        flat = x.flatten(1) @ torch.from_numpy(WEIGHT).to(x.dtype).T + t[:, None].to(x.dtype) / 40
        return (1.5 * torch.tanh(flat)).reshape(x.shape)

    def _inside(self, x, t):
        return np.tanh(x.reshape(len(x), -1) @ WEIGHT.T + t[:, None] / 40)

    def numpy(self, x, t):
        return 1.5 * self._inside(x, t).reshape(x.shape)

    def jvp(self, x, t, z):
        return (1.5 * (1 - self._inside(x, t) ** 2) * (z.reshape(len(z), -1) @ WEIGHT.T)).reshape(x.shape)


NET = Network()
CASES = [
    ("cosine", "eps", (-1, 1)),
    ("linear", "eps", None),
    ("linear", "v", (-1, 1)),
    ("zero terminal SNR", "x_0", None),
]


@pytest.mark.parametrize(("schedule", "prediction", "clip"), CASES)
def test_the_bound_is_the_references(schedule, prediction, clip):
    schedule, x_0 = SCHEDULES[schedule], X_0.astype(np.float64)
    options = dict(grid=likelihood_grid(schedule, 12).tolist(), seed=5, prediction=prediction, clip=clip, levels=256)
    actual = likelihood.sampled_bound(
        NET.torch, DeviceSchedule(schedule), torch.from_numpy(x_0), numbers=torch.arange(7, 7 + B),
        variances=("posterior", "beta"), **options,
    )  # fmt: skip
    for terms, variance in zip(actual, ("posterior", "beta"), strict=True):
        expected = reference.sampled_bound(schedule, NET.numpy, x_0, numbers=7, variance=variance, **options)
        # x_0 from eps loses as many digits as the noise is above the signal; a term divides by a small variance
        np.testing.assert_allclose(terms.numpy(), expected.terms, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("probes", [0, 2])
@pytest.mark.parametrize(("schedule", "prediction", "clip"), CASES)
def test_the_ode_is_the_references(schedule, prediction, clip, probes):
    schedule, x_0 = SCHEDULES[schedule], X_0.astype(np.float64)
    grid = likelihood_grid(schedule, 12).tolist()
    for name in ("truncated_normal", "uniform"):
        options = dict(grid=grid, dequantisation=name, probes=probes, seed=5, prediction=prediction, clip=clip)
        expected = reference.ode_bits(schedule, NET.numpy, NET.jvp, x_0, numbers=7, **options)
        numbers = torch.arange(7, 7 + B)
        actual = likelihood.ode_bits(
            NET.torch, DeviceSchedule(schedule), torch.from_numpy(x_0), numbers=numbers, **options
        )
        np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-10)


def test_a_network_in_float32_is_off_by_its_own_rounding():
    schedule = SCHEDULES["linear"]
    grid = likelihood_grid(schedule, 12).tolist()
    options = dict(grid=grid, probes=1, prediction="x_0")
    expected = reference.ode_bits(schedule, NET.numpy, NET.jvp, X_0, **options)
    actual = likelihood.ode_bits(
        NET.torch, DeviceSchedule(schedule), torch.from_numpy(X_0), numbers=torch.arange(B), **options
    )
    # nine products and a tanh, 16 roundings of 1.5: of a guess, which reaches x_T times noise k, and of the trace,
    # which counts u times; and the same again for what the next guesses make of it
    k = math.sqrt(schedule.snr[1])
    roundings = 16 * 1.5 * 2.0**-24 * (math.asinh(k) + 3 * k * schedule.sqrt_one_minus_alpha_bar[-1])
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=2 * roundings / math.log(2))
    assert not np.array_equal(actual.numpy(), expected)


GRID = [1, 2, 5, 9, 20, 40]
IMAGES = torch.from_numpy(np.random.default_rng(6).integers(0, 256, (7, *SHAPE)).astype(np.uint8))


def measured(batch_size=3, images=IMAGES, numbers=None, **options):
    def network(x, t, label):
        return NET.torch(x, t) + label.to(x.dtype)[:, None, None, None] / 100

    numbers = torch.arange(len(images)) if numbers is None else numbers
    schedule = DeviceSchedule(SCHEDULES["linear"])
    return likelihood.measure(
        network, schedule, images, 2 * numbers % 5, numbers, GRID, prediction="x_0", batch_size=batch_size, **options
    )


def test_what_is_measured_of_an_image_does_not_depend_on_the_others():
    told = []
    together = measured(progress=told.append)
    # the bound has six calls an image, and the ODE 6 points of the grid and 4
    assert len(told) == 3 * (6 + 6 + 4)
    assert told[-1] == pytest.approx(7)
    assert all(before < after for before, after in pairwise(told))
    alone = measured(images=IMAGES[4:5], numbers=torch.tensor([4]))
    # float32 products may add up in another order, and each term multiplies what that does to a guess
    np.testing.assert_allclose(alone.numpy(), together[4:5].numpy(), rtol=1e-4)
    assert together.shape == (7, 1 + 2 * 6 + 2)


def test_a_summary_has_the_means_and_their_errors():
    rows = measured().numpy()
    options = dict(held_out=50, grid=GRID, dequantisation="uniform", probes=1, clip_x0=True, seed=3)
    result = summarise(rows, **options)
    assert (result.images, result.held_out, result.grid) == (7, 50, tuple(GRID))
    assert result.prior == pytest.approx(rows[:, 0].mean())
    for variance, first in (("posterior", 1), ("beta", 7)):
        bound, terms = result.bound[variance], rows[:, first : first + 6]
        total = rows[:, 0] + terms.sum(axis=1)
        assert bound.total == pytest.approx(total.mean())
        assert bound.total == pytest.approx(result.prior + bound.middle + bound.decoder)
        assert bound.standard_error == pytest.approx(total.std(ddof=1) / math.sqrt(7))
        assert bound.decoder == pytest.approx(terms[:, 0].mean())
        assert bound.by_step == pytest.approx(terms.mean(axis=0) / [1, 1, 3, 4, 11, 20])
    assert result.ode.total == pytest.approx(rows[:, -2].mean())
    assert result.ode.standard_error == pytest.approx(rows[:, -2].std(ddof=1) / math.sqrt(7))
    assert result.ode.solver_error == pytest.approx(abs(rows[:, -2].mean() - rows[:, -1].mean()) / 3)
    assert Likelihood.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    for text in (
        "posterior",
        "uniform",
        f"{result.ode.total:.3f}",
        "7 of 50 held out",
        "one of each of 6 strata of the 40",
    ):
        assert text in result.table()
    assert "all 6" in summarise(rows, **{**options, "grid": [1, 2, 3, 4, 5, 6]}).table()
    with pytest.raises(ValueError, match=r"not a likelihood: missing keys \['seed'\], unknown keys \['fid'\]"):
        Likelihood.from_dict({**{key: x for key, x in result.to_dict().items() if key != "seed"}, "fid": 3})


def test_the_error_of_the_solver_is_that_of_every_second_step():
    rows = measured().numpy()
    x_0 = IMAGES.float() / 127.5 - 1

    def network(x, t):
        return NET.torch(x, t) + (2 * torch.arange(7) % 5).to(x.dtype)[:, None, None, None] / 100

    coarse = likelihood.ode_bits(
        network, DeviceSchedule(SCHEDULES["linear"]), x_0, [1, 5, 20, 40], numbers=torch.arange(7), prediction="x_0"
    )
    np.testing.assert_allclose(rows[:, -1], coarse.numpy(), rtol=1e-4)
