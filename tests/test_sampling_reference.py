"""The loop from x_T to x_0: published sums, one image in any batch, and a Gaussian with known moments."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from laws import EPS, assert_close, schedules
from noisestep.reference import INITIAL, REVERSE, Schedule, convert, ddim_step, normal, reverse_step, sample
from noisestep.reference.samplers.ddim import ddim
from noisestep.reference.samplers.ddpm import ddpm
from noisestep.reference.samplers.dpmpp_2m import dpmpp_2m
from noisestep.reference.samplers.heun import heun

LINEAR = Schedule.from_name("linear", 1000)
SHORT = Schedule.from_name("linear", 20)
# diffusers' deterministic sample and model, its t counting from 0
DUMMY = (np.arange(768) / 768).reshape(3, 8, 8, 4).transpose(3, 0, 1, 2)
# the published sums come from float32 tables: a product of 1000 factors, each half a unit in the last place off
FLOAT32_TABLES = 1000 * 2.0**-24 / EPS


def dummy_model(x, t):
    return x * ((t - 1) / t)[:, None, None, None]


@pytest.mark.parametrize(("prediction", "golden"), [("eps", 172.0067), ("v", 52.5302)])
def test_ten_ddim_steps_give_diffusers_sum(prediction, golden):
    schedule = LINEAR.respace([1 + 100 * k for k in range(10)])
    x_0 = sample(
        schedule,
        dummy_model,
        DUMMY.shape,
        sampler=ddim,
        x_T=DUMMY,
        prediction=prediction,
        clip=(-1, 1),
        rederive_eps=False,
    )
    assert_close(actual=np.abs(x_0).sum(), expected=golden, roundings=FLOAT32_TABLES)


@pytest.mark.parametrize(("prediction", "golden"), [("eps", 258.9606), ("v", 202.0296)])
def test_a_thousand_ddpm_steps_give_diffusers_sum(prediction, golden):
    # with the noise of its generator, one draw for every step that has any
    generator = torch.Generator().manual_seed(0)
    x = DUMMY
    for t in range(1000, 0, -1):
        z = torch.randn(DUMMY.shape, generator=generator).double().numpy() if t > 1 else np.zeros(DUMMY.shape)
        output = dummy_model(x, np.full(4, t))
        x = reverse_step(LINEAR, x, output, t, z, prediction=prediction, clip=(-1, 1))
    assert_close(actual=np.abs(x).sum(), expected=golden, roundings=FLOAT32_TABLES)


def model(x, t):
    return 0.1 * x + 0.01 * t[:, None]


STEPS = {ddpm: reverse_step, ddim: ddim_step}


@pytest.mark.parametrize(
    ("sampler", "option"),
    [(ddpm, {}), (ddpm, {"variance": "beta"}), (ddim, {"eta": 0.5}), (ddim, {"clip": (-1, 1)})],
)
def test_the_loop_is_its_steps_with_noise_from_its_address(sampler, option):
    schedule = SHORT.respace(7)
    options = {"sampler": sampler, "seed": 9, "numbers": 4, **option}
    trajectory = sample(schedule, model, (3, 5), trajectory=True, **options)
    assert trajectory.shape == (8, 3, 5)
    numbers = np.arange(4, 7)
    assert np.array_equal(trajectory[7], normal(9, INITIAL, 0, numbers, (5,)))
    step = STEPS[sampler]
    for t in range(7, 0, -1):
        told = schedule.timesteps[t]
        z = normal(9, REVERSE, int(told), numbers, (5,))
        output = model(trajectory[t], np.full(3, told))
        assert np.array_equal(trajectory[t - 1], step(schedule, trajectory[t], output, t, z, **option))
    assert np.array_equal(sample(schedule, model, (3, 5), **options), trajectory[0])


def test_an_image_is_the_same_in_any_batch():
    together = sample(SHORT, model, (6, 5), seed=3)
    for order in ([2], [5, 0, 2], [2, 3]):
        some = sample(SHORT, model, (len(order), 5), seed=3, numbers=order)
        assert np.array_equal(some, together[order])
    assert not np.array_equal(sample(SHORT, model, (6, 5), seed=4), together)


def every_prediction(schedule, x_t, t, kind):
    """The output of a network that takes x_0 to be tanh(x_t) / 2, in the terms that it is asked for."""
    rows = np.searchsorted(schedule.timesteps, t)
    return convert(schedule, x_t, np.tanh(x_t) / 2, rows, source="x_0", target=kind)


def settings(sampler, **settings):
    """Options of the loop with a sampler and any of its settings."""
    return st.fixed_dictionaries(
        {"sampler": st.just(sampler), "clip": st.sampled_from([None, (-1, 1), (-0.2, 0.3)])},
        optional={"temperature": st.floats(0, 2), **settings},
    )


options = st.one_of(
    settings(ddpm, variance=st.sampled_from(["beta", "posterior", "zero"])),
    settings(ddim, eta=st.floats(0, 1), rederive_eps=st.booleans()),
    settings(heun),
    settings(dpmpp_2m),
)


@st.composite
def chains(draw):
    """Any subset of the steps of any schedule that eps can be predicted on."""
    schedule = draw(schedules(max_size=12).filter(lambda schedule: not schedule.zero_terminal_snr))
    return schedule.respace(sorted(draw(st.sets(st.integers(1, schedule.T), min_size=1))))


@given(chains(), st.sampled_from(["eps", "x_0", "v", "flow", "mu"]), options, st.integers(0, 2**64 - 1), st.data())
def test_image_k_alone_is_image_k_of_any_batch(schedule, kind, option, seed, data):
    numbers = data.draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5))
    k = data.draw(st.integers(0, len(numbers) - 1))

    def network(x_t, t):
        return every_prediction(schedule, x_t, t, kind)

    def draw(numbers):
        return sample(schedule, network, (len(numbers), 2, 3), seed=seed, numbers=numbers, prediction=kind, **option)

    together = draw(numbers)
    assert np.isfinite(together).all()
    assert np.array_equal(draw([numbers[k]])[0], together[k])


@given(chains(), st.sampled_from(["eps", "v", "flow", "mu"]), options, st.integers(0, 2**64 - 1))
def test_the_same_guess_gives_the_same_image_whatever_the_network_predicts(schedule, kind, option, seed):
    trajectories = [
        sample(
            schedule,
            lambda x_t, t, kind=kind: every_prediction(schedule, x_t, t, kind),
            (2, 3),
            seed=seed,
            prediction=kind,
            trajectory=True,
            **option,
        )
        for kind in ("x_0", kind)
    ]
    # a step forms x_0 anew from eps, v, a flow or mu, and eps anew from x_0: the error of x_0 grows by their slopes
    signal, noise = schedule.sqrt_alpha_bar[1:], schedule.sqrt_one_minus_alpha_bar[1:]
    slope = 1 / signal if kind == "eps" else 1 / schedule.posterior_mean_coef_x_0[1:] if kind == "mu" else 1 / noise
    size = (1 + slope.max()) * (1 + 1 / noise.min()) * max(1, np.abs(trajectories[0]).max())
    # the guess has a slope of up to 1/2 in x_t, and the update one of up to sqrt(1 / alpha): what one step leaves
    # grows by at most that in each later one
    growth = np.prod(1 + 1 / np.sqrt(schedule.alpha[1:]))
    roundings = 64 * schedule.T * growth
    # where that is more than a billionth of the image, nothing would be shown
    assume(roundings * size * EPS < 1e-9)
    assert_close(actual=trajectories[1], expected=trajectories[0], roundings=roundings, scale=np.float64(size))


@given(schedules(max_size=12), st.data())
def test_a_perfect_network_returns_its_image_by_any_subset_of_the_steps(schedule, data):
    kept = sorted(data.draw(st.sets(st.integers(1, schedule.T), min_size=1)))
    image = np.array([[0.5, -1.0, 0.25]])
    option = data.draw(st.sampled_from([{}, {"variance": "beta"}, {"sampler": ddim}, {"sampler": ddim, "eta": 0.6}]))
    heard = []

    def network(x_t, t):
        heard.append(int(t[0]))
        return np.broadcast_to(image, x_t.shape)

    x_0 = sample(schedule.respace(kept), network, (4, 3), prediction="x_0", **option)
    assert heard == kept[::-1]
    # the last step gives x_0 with a coefficient of 1 to a rounding, and no noise
    assert_close(actual=x_0, expected=np.broadcast_to(image, (4, 3)), roundings=8)


def test_the_model_hears_the_original_steps():
    heard = []

    def listener(x, t):
        assert t.dtype == np.int64
        assert t.shape == (2,)
        heard.append(int(t[0]))
        return x

    sample(LINEAR.respace(4), listener, (2, 3))
    assert heard == [1000, 750, 500, 250]


MEAN, VARIANCE = 0.3, 0.04


@pytest.mark.parametrize(
    ("sampler", "option"),
    [(ddpm, {"variance": "beta"}), (ddpm, {"variance": "posterior"}), (ddim, {}), (ddim, {"eta": 0.7})],
)
def test_a_gaussian_is_sampled_with_the_moments_of_the_linear_recursion(sampler, option):
    schedule = Schedule.from_name("cosine", 30)
    signal, clean = schedule.sqrt_alpha_bar, schedule.one_minus_alpha_bar

    def best_eps(x, t):
        t = t[:, None]
        return np.sqrt(clean[t]) * (x - signal[t] * MEAN) / (signal[t] ** 2 * VARIANCE + clean[t])

    # what one step does to a mean and a variance, read off at 0, at 1, and at 0 with noise 1
    mean, variance = 0.0, 1.0
    points, z = np.array([[0.0], [1.0], [0.0]]), np.array([[0.0], [0.0], [1.0]])
    step = STEPS[sampler]
    for t in range(30, 0, -1):
        shift, at_one, noisy = step(schedule, points, best_eps(points, np.full(3, t)), t, z, **option)[:, 0]
        mean, variance = (at_one - shift) * mean + shift, (at_one - shift) ** 2 * variance + (noisy - shift) ** 2
    count = 20000
    x_0 = sample(schedule, best_eps, (count // 20, 20), sampler=sampler, seed=1, **option)
    # five standard errors of a mean, and of a variance, whose own is sqrt(2 / n) of it
    assert abs(x_0.mean() - mean) < 5 * np.sqrt(variance / count)
    assert abs(x_0.var() / variance - 1) < 5 * np.sqrt(2 / count)


@pytest.mark.parametrize(
    ("option", "error", "message"),
    [
        ({"numbers": [1, 2]}, ValueError, r"numbers must be one number or 3 of them, got shape \(2,\)"),
        ({"numbers": 0.5}, TypeError, "numbers must be an int, got 0.5"),
        ({"x_T": np.zeros((2, 5))}, ValueError, r"x_T \(2, 5\), shape \(3, 5\)"),
        ({"variance": "typo"}, ValueError, "variance must be one of beta, posterior, zero"),
        ({"prediction": "typo"}, ValueError, "prediction must be one of"),
        ({"sampler": ddim, "eta": 2.0}, ValueError, "eta must be in"),
        ({"eta": 0.5}, TypeError, r"ddpm\(\) got an unexpected keyword argument 'eta'"),
        ({"sampler": "ddim"}, TypeError, "sampler must be a function such as .*ddim.ddim, got 'ddim'"),
    ],
)
def test_bad_arguments_are_refused(option, error, message):
    with pytest.raises(error, match=message):
        sample(SHORT, model, (3, 5), **option)


def test_a_model_that_changes_the_shape_is_refused():
    with pytest.raises(ValueError, match=r"x_t \(3, 5\), output \(3, 1\)"):
        sample(SHORT, lambda x, t: x[:, :1], (3, 5))
