"""Editing: the laws of the reference, and the same edits on tensors."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import assert_close, schedules
from noisestep.reference import (
    INITIAL,
    INPAINTING,
    REVERSE,
    Schedule,
    ddim_step,
    image_to_image,
    inpaint,
    normal,
    q_sample,
    q_step,
    repaint_walk,
    reverse_step,
    sample,
    slerp,
    start_step,
    x_T_between,
)
from noisestep.reference.noise import VISIT
from noisestep.reference.samplers.ddim import ddim
from noisestep.reference.samplers.ddpm import ddpm
from sampler_laws import MEAN, VARIANCE, gaussian_x_0

LINEAR = Schedule.from_name("linear", 20, start=1e-3, end=0.3)
IMAGES = np.sin(np.arange(24.0)).reshape(2, 3, 4)
MASK = np.arange(24).reshape(2, 3, 4) % 3 == 0
SAMPLERS: list[dict[str, Any]] = [{"sampler": ddpm}, {"sampler": ddim}, {"sampler": ddim, "eta": 0.6}]
WALKS: list[dict[str, int]] = [{}, {"resample": 3, "jump": 2}, {"resample": 2, "jump": 19}]


def model(x, t):
    return 0.1 * x + 0.01 * t[:, None, None]


def knows(images):
    """A network that predicts the image that it is meant to."""
    return lambda x, t: images


@pytest.mark.parametrize("T", [1, 3, 7, 50, 997, 1000])
def test_a_strength_of_k_steps_in_T_starts_at_step_k(T):
    for k in range(1, T + 1):
        assert start_step(T, k / T) == k
        assert start_step(T, (k - 0.5) / T) == k
    assert start_step(T, 1e-300) == 1


@settings(max_examples=25)
@given(schedules(max_size=12), st.floats(0, 1, exclude_min=True), st.sampled_from(SAMPLERS))
def test_a_perfect_network_returns_its_image_from_any_strength(schedule, strength, option):
    heard = []

    def network(x, t):
        heard.append(int(t[0]))
        return IMAGES

    x_0 = image_to_image(schedule, network, IMAGES, strength, prediction="x_0", **option)
    assert heard == list(range(start_step(schedule.T, strength), 0, -1))
    assert_close(actual=x_0, expected=IMAGES, roundings=8)


@pytest.mark.parametrize("option", SAMPLERS)
def test_strength_1_is_plain_sampling_where_nothing_of_the_image_is_left_in_x_T(option):
    schedule = Schedule.from_name("linear", 20, zero_terminal_snr=True)
    options = dict(seed=3, numbers=5, prediction="v", temperature=1.2, **option)
    plain = sample(schedule, model, IMAGES.shape, **options)
    assert np.array_equal(image_to_image(schedule, model, IMAGES, 1.0, **options), plain)


def test_the_chain_of_an_image_starts_at_its_own_marginal():
    states = image_to_image(LINEAR, model, IMAGES, 0.35, seed=3, numbers=5, trajectory=True)
    eps = normal(3, INITIAL, 0, [5, 6], (3, 4))
    assert len(states) == 8
    assert np.array_equal(states[7], q_sample(LINEAR, IMAGES, 7, eps.astype(np.float64)))
    # from there on it is the whole chain's
    z = normal(3, REVERSE, 7, [5, 6], (3, 4)).astype(np.float64)
    assert np.array_equal(states[6], reverse_step(LINEAR, states[7], model(states[7], np.full(2, 7)), 7, z))


@pytest.mark.parametrize("option", SAMPLERS)
def test_images_of_a_gaussian_keep_its_mean_and_variance_by_the_linear_recursion(option):
    # x_0 out is affine in x_0, the noise of the start and the z's: what each counts for is read off one at a time
    schedule, t_0 = Schedule.from_name("cosine", 100), 40
    network = gaussian_x_0(schedule)
    mean, variance = schedule.sqrt_alpha_bar[t_0] * MEAN, schedule.alpha_bar[t_0] * VARIANCE
    variance += schedule.one_minus_alpha_bar[t_0]
    own = {key: value for key, value in option.items() if key != "sampler"}
    update = reverse_step if option["sampler"] is ddpm else ddim_step
    points, z = np.array([[0.0], [1.0], [0.0]]), np.array([[0.0], [0.0], [1.0]])
    for t in range(t_0, 0, -1):
        shift, at_one, noisy = update(schedule, points, network(points, np.full(3, t)), t, z, prediction="x_0", **own)[
            :, 0
        ]
        mean, variance = (at_one - shift) * mean + shift, (at_one - shift) ** 2 * variance + (noisy - shift) ** 2
    # the recursion itself comes back to the data but for the error of its steps, of first order
    assert abs(mean - MEAN) < 1 / 50
    assert abs(variance / VARIANCE - 1) < 0.15
    count = 20000
    images = MEAN + np.sqrt(VARIANCE) * normal(7, 15, 0, range(count // 20), (20,)).astype(np.float64)
    x_0 = image_to_image(schedule, network, images, 0.4, seed=1, prediction="x_0", **option)
    # five standard errors of a mean, and of a variance, whose own is sqrt(2 / n) of it
    assert abs(x_0.mean() - mean) < 5 * np.sqrt(variance / count)
    assert abs(x_0.var() / variance - 1) < 5 * np.sqrt(2 / count)


@given(st.integers(1, 40), st.integers(1, 128), st.integers(1, 40))
def test_a_walk_goes_step_by_step_and_takes_every_stretch_as_often_as_asked(T, resample, jump):
    if resample > 1 and jump >= T:
        with pytest.raises(ValueError, match=f"jump is {jump}, and the chain has {T} steps"):
            repaint_walk(T, resample=resample, jump=jump)
        return
    walk = repaint_walk(T, resample=resample, jump=jump)
    assert walk[0] == (T, 0)
    assert walk[-1] == (0, 0)
    assert len(set(walk)) == len(walk)
    assert all(abs(a - b) == 1 for (a, _), (b, _) in pairwise(walk))
    # u of the address has 8 bits
    assert max(u for _, u in walk) < 256
    down = [b for (a, _), (b, _) in pairwise(walk) if b < a]
    stretches = (T - 1) // jump if resample > 1 else 0
    for t in range(T):
        assert down.count(t) == (resample if 1 <= t < 1 + stretches * jump else 1)


def test_the_walk_is_that_of_the_authors():
    # their list for 6 steps, jumps of 2 and 2 resamplings, whose noisiest image is 5 and whose clean one is -1
    theirs = [5, 4, 3, 2, 3, 4, 3, 2, 1, 0, 1, 2, 1, 0, -1]
    assert [t - 1 for t, _ in repaint_walk(6, resample=2, jump=2)] == theirs


@settings(max_examples=25)
@given(schedules(max_size=8), st.sampled_from(SAMPLERS), st.data())
def test_a_perfect_network_returns_its_image_from_any_mask(schedule, option, data):
    jump = data.draw(st.integers(1, max(1, schedule.T - 1)))
    resample = data.draw(st.integers(1, 3)) if jump < schedule.T else 1
    walk = dict(resample=resample, jump=jump)
    x_0 = inpaint(schedule, knows(IMAGES), IMAGES, MASK, prediction="x_0", **walk, **option)
    assert_close(actual=x_0, expected=IMAGES, roundings=8)
    assert np.array_equal(x_0[~MASK], IMAGES[~MASK])


@pytest.mark.parametrize("option", SAMPLERS)
@pytest.mark.parametrize("walk", WALKS)
def test_what_is_known_stays_and_what_is_not_is_plain_sampling(option, walk):
    options = dict(seed=3, numbers=5, temperature=1.2, clip=(-1, 1), **option)
    nothing = inpaint(LINEAR, model, IMAGES, np.zeros_like(MASK), **walk, **options)
    assert np.array_equal(nothing, IMAGES)
    if walk:
        return
    everything = inpaint(LINEAR, model, IMAGES, np.ones_like(MASK), trajectory=True, **options)
    assert np.array_equal(everything[::-1], sample(LINEAR, model, IMAGES.shape, trajectory=True, **options))


def test_repaint_is_its_algorithm_with_noise_from_its_addresses():
    schedule, seed, numbers = LINEAR.respace(4), 9, [4, 5]
    states = inpaint(
        schedule, model, IMAGES, MASK, resample=2, jump=2, seed=seed, numbers=4, temperature=0.5, trajectory=True
    )
    asked = schedule.timesteps

    def noise(stream, t, visit):
        return normal(seed, stream, int(asked[t]) + VISIT * visit, numbers, (3, 4)).astype(np.float64)

    def down(x, t, visit, visit_there):
        z = 0.5 * noise(REVERSE, t, visit)
        made = reverse_step(schedule, x, model(x, np.full(2, asked[t])), t, z)
        return np.where(MASK, made, q_sample(schedule, IMAGES, t - 1, noise(INPAINTING, t - 1, visit_there)))

    def up(x, t, visit_there):
        return q_step(schedule, x, t + 1, noise(INPAINTING, t + 1, visit_there))

    x = [0.5 * normal(seed, INITIAL, 0, numbers, (3, 4)).astype(np.float64)]
    x.append(down(x[-1], 4, 0, 0))
    x.append(down(x[-1], 3, 0, 0))
    x.append(down(x[-1], 2, 0, 0))
    x.append(up(x[-1], 1, 1))
    x.append(up(x[-1], 2, 1))
    x.append(down(x[-1], 3, 1, 2))
    x.append(down(x[-1], 2, 2, 1))
    x.append(down(x[-1], 1, 1, 0))
    assert np.array_equal(states, np.stack(x))


def test_resampling_once_is_replacement():
    once = inpaint(LINEAR, model, IMAGES, MASK, resample=1, jump=3)
    assert np.array_equal(once, inpaint(LINEAR, model, IMAGES, MASK, resample=1, jump=7))
    assert not np.array_equal(once, inpaint(LINEAR, model, IMAGES, MASK, resample=2, jump=3))


def pair_x_0(schedule, correlation):
    """E[x_0 | x_t] of pairs of unit normals with a correlation."""
    covariance = np.array([[1, correlation], [correlation, 1]])

    def network(x, t):
        a, s_2 = schedule.sqrt_alpha_bar[t[0]], schedule.one_minus_alpha_bar[t[0]]
        return x @ (a * covariance @ np.linalg.inv(a**2 * covariance + s_2 * np.eye(2))).T

    return network


def test_resampling_brings_the_unknown_pixel_nearer_to_what_the_known_one_says():
    # of a pair with correlation 0.9 the first is known to be 1.5: the second is N(1.35, 0.19)
    schedule, count = Schedule.from_name("cosine", 20), 500
    images, mask = np.tile([1.5, 0.0], (count, 1)), np.tile([False, True], (count, 1))
    errors = []
    for resample in (1, 8):
        x_0 = inpaint(schedule, pair_x_0(schedule, 0.9), images, mask, resample=resample, jump=1, prediction="x_0")
        errors.append(abs(x_0[:, 1].mean() - 0.9 * 1.5))
    # a standard error is sqrt(0.19 / 500) = 0.02
    assert errors[0] > 0.3
    assert errors[1] < 0.15


@settings(max_examples=25)
@given(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 2**63), min_size=2, max_size=2, unique=True))
def test_the_ends_of_an_arc_are_the_two_starts_to_the_bit(seed, numbers):
    k, other = numbers
    between = x_T_between(seed, k, other, [0, 0.5, 1], (2, 3))
    assert np.array_equal(between[[0, 2]], normal(seed, INITIAL, 0, numbers, (2, 3)))


def test_an_arc_keeps_the_length_and_divides_the_angle():
    a, b = np.array([[3.0, 0.0]]), np.array([[1.5, 1.5 * np.sqrt(3)]])
    angles = np.array([0, 1, 2, 3]) / 3 * np.pi / 3
    expected = 3 * np.stack([np.cos(angles), np.sin(angles)], axis=-1)[:, None]
    assert_close(actual=slerp(a, b, np.arange(4) / 3), expected=expected, roundings=16, scale=np.float64(3))


BAD: list[tuple[Any, type[Exception], str]] = [
    (lambda: start_step(10, 0.0), ValueError, r"strength must be in \(0, 1\], got 0.0"),
    (lambda: start_step(10, 1.5), ValueError, r"strength must be in \(0, 1\], got 1.5"),
    (lambda: start_step(10, float("nan")), ValueError, r"strength must be in \(0, 1\], got nan"),
    (lambda: repaint_walk(10, resample=129), ValueError, r"resample must lie in \[1, 129\), got 129"),
    (lambda: repaint_walk(10, jump=0), ValueError, "jump must be at least 1, got 0"),
    (lambda: image_to_image(LINEAR, model, np.zeros((2, 3), np.uint8), 0.5), TypeError, "images must be floating"),
    (lambda: inpaint(LINEAR, model, IMAGES, MASK[0]), ValueError, r"shape of the images, \(2, 3, 4\), got \(3, 4\)"),
    (lambda: inpaint(LINEAR, model, IMAGES, MASK * 1.0), TypeError, "mask must be bool, True where .*, got float64"),
    (lambda: inpaint(LINEAR, model, IMAGES, MASK, x_T=IMAGES[:1]), ValueError, r"x_T \(1, 3, 4\), images \(2, 3, 4\)"),
    (lambda: slerp(IMAGES, IMAGES, 0.5), ValueError, "a and b lie on one line"),
    (lambda: slerp(IMAGES, -2 * IMAGES, 0.5), ValueError, "a and b lie on one line"),
    (lambda: slerp(IMAGES, np.cos(IMAGES), 1.5), ValueError, r"fraction must be in \[0, 1\], got 1.5"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_arguments_of_an_edit_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_resampling_needs_room_in_the_address_for_its_visits():
    beyond = Schedule([0.1, 0.2], timesteps=[1, VISIT])
    inpaint(beyond, model, IMAGES, MASK)
    with pytest.raises(ValueError, match="resampling needs timesteps below 1048576, got 1048576"):
        inpaint(beyond, model, IMAGES, MASK, resample=2, jump=1)
