"""Editing: the laws of the reference, and the same edits on tensors."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import assert_close, schedules
from noisestep.accelerated import SAMPLERS as ALL_SAMPLERS
from noisestep.accelerated import Edit
from noisestep.accelerated import sample as accelerated_sample
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
from sampler_laws import MEAN, VARIANCE, gaussian_x_0, reference_sampler
from torch import Tensor

PAGE = (Path(__file__).parent.parent / "docs" / "editing.md").read_text(encoding="utf-8")
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


COSINE = Schedule.from_name("cosine", 40)
SHAPE = (2, 3, 4)
# three images, and a mask for each
PICTURES = torch.sin(torch.arange(72.0)).reshape(3, *SHAPE)
HOLES = torch.arange(36).reshape(3, 3, 4) % 3 == 0
ON_TENSORS: list[dict[str, Any]] = [{"sampler": "ddim", "eta": 0.5}, {"sampler": "ddpm"}]


def pointwise(x, t, label=None):
    return 0.9 * x - 0.001 * t[:, None, None, None]


def draw(**options: Any) -> Tensor:
    return accelerated_sample(
        pointwise, COSINE, **{"count": 3, "shape": SHAPE, "steps": 8, "prediction": "x_0", "seed": 3, **options}
    ).images


EDITS: list[dict[str, Any]] = [
    {"strength": 0.4},
    {"strength": 1.0},
    {"mask": HOLES},
    {"mask": HOLES[0], "resample": 3, "jump": 2},
    {"mask": HOLES, "strength": 0.6, "resample": 2, "jump": 1},
]


@pytest.mark.parametrize("option", ON_TENSORS)
@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_on_tensors_is_that_of_the_reference_in_any_batch(edit, option):
    edit = Edit(PICTURES, **edit)
    common = dict(first=2, temperature=1.1, **option)
    result = accelerated_sample(
        pointwise,
        COSINE,
        count=3,
        shape=SHAPE,
        steps=8,
        prediction="x_0",
        seed=3,
        edit=edit,
        trajectory=3,
        **common,
    )
    chain, images = COSINE.respace(8), PICTURES.double().numpy()
    options = dict(
        seed=3,
        numbers=2,
        prediction="x_0",
        clip=(-1, 1),
        trajectory=True,
        **{**option, "sampler": reference_sampler(option["sampler"])},
    )
    if edit.mask is None:
        expected = image_to_image(chain, pointwise, images, edit.strength, temperature=1.1, **options)[::-1]
    else:
        mask = np.broadcast_to(edit.mask.numpy()[..., None, :, :], images.shape)
        start = None
        if edit.strength is not None:
            chain = chain.respace(np.arange(1, start_step(8, edit.strength) + 1))
            eps = 1.1 * normal(3, INITIAL, 0, [2, 3, 4], SHAPE).astype(np.float64)
            start = q_sample(chain, images, chain.T, eps)
        expected = inpaint(
            chain,
            pointwise,
            images,
            mask,
            resample=edit.resample,
            jump=edit.jump,
            x_T=start,
            temperature=1.1,
            **options,
        )
    # some 20 roundings a move of numbers no larger than these; a step of x_0 enlarges nothing
    bound = 20 * len(expected) * 2**-24 * np.abs(expected).max()
    np.testing.assert_allclose(result.trajectory.numpy(), expected, rtol=0, atol=bound)
    assert bound < 1e-3
    assert torch.equal(draw(edit=edit, batch_size=2, **common), result.images)


def test_the_edges_of_an_edit_hold_to_the_bit_on_tensors_too():
    everything, nothing = torch.ones(3, 4, dtype=torch.bool), torch.zeros(3, 4, dtype=torch.bool)
    for option in ON_TENSORS:
        assert torch.equal(draw(edit=Edit(PICTURES[0], mask=everything), **option), draw(**option))
        kept = draw(edit=Edit(PICTURES[0], mask=nothing, resample=2, jump=3), **option)
        assert torch.equal(kept, PICTURES[:1].expand(3, *SHAPE))
        known = draw(edit=Edit(PICTURES, mask=HOLES), **option)
        assert torch.equal(known.masked_select(~HOLES[:, None]), PICTURES.masked_select(~HOLES[:, None]))
    ends_at_noise = Schedule.from_name("linear", 40, zero_terminal_snr=True)
    whole = accelerated_sample(pointwise, ends_at_noise, count=3, shape=SHAPE, prediction="v")
    edit = Edit(PICTURES, strength=1.0)
    again = accelerated_sample(pointwise, ends_at_noise, count=3, shape=SHAPE, prediction="v", edit=edit)
    assert torch.equal(again.images, whole.images)


def test_the_ends_of_an_interpolation_are_the_two_samples_to_the_bit():
    starts = torch.from_numpy(x_T_between(3, 5, 9, [0, 0.25, 0.5, 1], SHAPE)).float()
    for sampler in ("ddim", "heun"):
        between = draw(count=4, x_T=starts, sampler=sampler, first=20)
        assert torch.equal(between[:1], draw(count=1, first=5, sampler=sampler))
        assert torch.equal(between[3:], draw(count=1, first=9, sampler=sampler))


@pytest.mark.parametrize("name", [name for name, sampler in ALL_SAMPLERS.items() if not sampler.one_step])
def test_samplers_that_look_beyond_a_step_start_from_an_image_and_take_no_mask(name):
    assert draw(edit=Edit(PICTURES, strength=0.5), sampler=name).isfinite().all()
    with pytest.raises(ValueError, match=f"a mask changes x between two steps, and sampler {name} looks beyond one"):
        draw(edit=Edit(PICTURES, mask=HOLES), sampler=name)


REFUSED: list[tuple[Any, type[Exception], str]] = [
    (lambda: Edit(PICTURES), ValueError, "an edit needs a strength .*, a mask .* or both"),
    (lambda: Edit(PICTURES.to(torch.uint8), 0.5), TypeError, "images of an edit must be floating.*, got torch.uint8"),
    (lambda: Edit(PICTURES[0, 0], 0.5), ValueError, r"must be \(C, H, W\) or \(count, C, H, W\), got \(3, 4\)"),
    (lambda: Edit(PICTURES, 0.0), ValueError, r"strength must be in \(0, 1\], got 0.0"),
    (lambda: Edit(PICTURES, mask=HOLES.float()), TypeError, "mask must be bool, .*, got torch.float32"),
    (lambda: Edit(PICTURES, mask=HOLES, resample=129), ValueError, r"resample must lie in \[1, 129\), got 129"),
    (lambda: Edit(PICTURES, 0.5, resample=2), ValueError, "resample is 2; without a mask there is nothing to resample"),
    (
        lambda: draw(edit=Edit(PICTURES[:2], 0.5)),
        ValueError,
        r"edit have shape \(2, 2, 3, 4\); 3 samples of shape \(2, 3, 4\) need \(2, 3, 4\) or \(3, 2, 3, 4\)",
    ),
    (
        lambda: draw(edit=Edit(PICTURES, mask=HOLES[0, 0:2])),
        ValueError,
        r"mask has shape \(2, 4\); 3 samples of shape \(2, 3, 4\) need \(3, 4\) or \(3, 3, 4\)",
    ),
    (
        lambda: draw(edit=Edit(PICTURES, mask=HOLES, resample=2, jump=8)),
        ValueError,
        "jump is 8, and the chain has 8 steps",
    ),
    (lambda: draw(x_T=PICTURES[:2]), ValueError, r"x_T is torch.float32 of shape \(2, 2, 3, 4\); it must be floating"),
    (lambda: draw(x_T=PICTURES, edit=Edit(PICTURES, 0.5)), ValueError, "both say where to start; give one of them"),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_an_edit_that_does_not_fit_is_refused_before_any_work(call, error, message, monkeypatch):
    monkeypatch.setattr(f"{__name__}.pointwise", None)
    with pytest.raises(error, match=message):
        call()


def test_the_examples_of_the_page_run_one_after_the_other():
    names: dict[str, Any] = {}
    for example in re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE):
        exec(example, names)
    for name in ("varied", "filled", "between", "guided", "bright"):
        assert names[name].isfinite().all()
    assert names["bright"].mean() > names["varied"].mean()
    (calls,) = re.findall(r"50 steps with `--resample 10` are (\d+) calls", PAGE)
    walk = repaint_walk(50, resample=10, jump=10)
    assert int(calls) == sum(to < t for (t, _), (to, _) in pairwise(walk))


@pytest.mark.gpu
@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_replays_its_cuda_graph(edit):
    options = dict(edit=Edit(PICTURES, **edit), device="cuda", batch_size=2)
    assert torch.equal(draw(cuda_graph=True, **options), draw(**options))


BAD: list[tuple[Any, type[Exception], str]] = [
    (lambda: start_step(10, 0.0), ValueError, r"strength must be in \(0, 1\], got 0.0"),
    (lambda: start_step(10, 1.5), ValueError, r"strength must be in \(0, 1\], got 1.5"),
    (lambda: start_step(10, float("nan")), ValueError, r"strength must be in \(0, 1\], got nan"),
    (lambda: repaint_walk(10, resample=129), ValueError, r"resample must lie in \[1, 129\), got 129"),
    (lambda: repaint_walk(10, jump=0), ValueError, r"jump must lie in \[1, 268435456\), got 0"),
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
