"""Guidance: by a classifier, in an interval, rescaled, for each sample by itself; the reference's laws, and tensors."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import assert_close, schedules
from noisestep.accelerated import Guidance
from noisestep.accelerated import sample as accelerated_sample
from noisestep.reference import (
    Schedule,
    classifier_mean,
    classifier_output,
    convert,
    guided,
    guided_steps,
    normal,
    predict_x_0,
    rescaled,
    reverse_mean,
    reverse_variance,
    sample,
)
from noisestep.reference.samplers.ddim import ddim
from noisestep.reference.samplers.ddpm import ddpm
from noisestep.reference.samplers.heun import heun
from sampler_laws import reference_sampler
from torch import Tensor

X = np.cos(np.arange(24.0)).reshape(2, 3, 4)
OUT = np.sin(3 * np.arange(24.0)).reshape(2, 3, 4)
# a mixture of two normal distributions, and which of them a classifier asks for
WEIGHTS, MEANS, VARIANCE, Y = np.array([0.4, 0.6]), np.array([-0.8, 0.5]), 0.09, 0


def parts(schedule, x, t):
    """Of x_t at one t: log densities of the parts up to a constant, and their scores; shape (..., 2)."""
    mean = schedule.sqrt_alpha_bar[t] * MEANS
    variance = schedule.alpha_bar[t] * VARIANCE + schedule.one_minus_alpha_bar[t]
    distance = x[..., None] - mean
    return np.log(WEIGHTS) - distance**2 / (2 * variance), -distance / variance


def mixture_score(schedule, x, t):
    log_p, scores = parts(schedule, x, t)
    p = np.exp(log_p - log_p.max(axis=-1, keepdims=True))
    return (p * scores).sum(-1) / p.sum(-1)


def classifier_gradient(schedule, x, t):
    """grad log p(y | x_t) of the exact classifier."""
    return parts(schedule, x, t)[1][..., Y] - mixture_score(schedule, x, t)


def test_a_scale_for_each_sample_is_that_scale_of_it():
    scales = np.array([0.0, 3.0])
    both = guided(X, OUT, scales)
    for row, scale in enumerate(scales):
        assert np.array_equal(both[row], guided(X, OUT, scale)[row])


@settings(max_examples=30)
@given(st.floats(0, 1), st.floats(-3, 8))
def test_rescaled_guidance_has_the_standard_deviation_that_it_promises(rescale, scale):
    strong = guided(X, OUT, scale)
    spread = rescaled(strong, X, rescale).reshape(2, -1).std(axis=1)
    before, asked = strong.reshape(2, -1).std(axis=1), X.reshape(2, -1).std(axis=1)
    assert_close(actual=spread, expected=rescale * asked + (1 - rescale) * before, roundings=64)
    # and is the same picture otherwise
    factor = (rescale * asked / before + 1 - rescale)[:, None, None]
    assert_close(actual=rescaled(strong, X, rescale), expected=factor * strong, roundings=64)


def test_no_rescaling_is_the_guided_output():
    assert np.array_equal(rescaled(OUT, X, 0.0), OUT)


@settings(max_examples=30)
@given(schedules())
def test_an_interval_that_covers_everything_is_every_step(schedule):
    assert guided_steps(schedule, 0.0, np.inf).tolist() == [False] + [True] * schedule.T
    assert not guided_steps(schedule, 0.0, 0.0).any()


def test_an_interval_is_one_of_sigma_whatever_the_steps():
    schedule = Schedule.from_name("cosine", 100)
    sigma = np.sqrt(1 / schedule.snr[1:])
    assert guided_steps(schedule, 0.5, 2.0)[1:].tolist() == ((sigma >= 0.5) & (sigma <= 2)).tolist()
    few = schedule.respace(10)
    assert np.array_equal(guided_steps(few, 0.5, 2.0), guided_steps(schedule, 0.5, 2.0)[few.timesteps])


@settings(max_examples=30)
@given(schedules().filter(lambda schedule: not schedule.zero_terminal_snr), st.data())
def test_a_classifier_moves_every_prediction_to_the_same_image(schedule, data):
    t, scale = data.draw(st.integers(1, schedule.T)), data.draw(st.floats(0, 5))
    eps = convert(schedule, X, OUT, t, source="x_0", target="eps")
    by_eps = predict_x_0(schedule, X, classifier_output(schedule, eps, t, X, scale), t, prediction="eps")
    signal, noise = schedule.sqrt_alpha_bar[t], schedule.sqrt_one_minus_alpha_bar[t]
    # x_0 is formed through eps and back, by numbers up to 1 / noise and then noise / signal
    size = (1 + scale) * 4 * (1 + 1 / signal) * (1 + 1 / noise)
    for kind in ("x_0", "v", "flow"):
        output = convert(schedule, X, OUT, t, source="x_0", target=kind)
        moved = classifier_output(schedule, output, t, X, scale, prediction=kind)
        actual = predict_x_0(schedule, X, moved, t, prediction=kind)
        assert_close(actual=actual, expected=by_eps, roundings=64, scale=np.float64(size))


@settings(max_examples=30)
@given(schedules().filter(lambda schedule: not schedule.zero_terminal_snr), st.data())
def test_the_exact_classifier_turns_the_noise_of_all_into_that_of_its_class(schedule, data):
    t = data.draw(st.integers(1, schedule.T))
    noise = schedule.sqrt_one_minus_alpha_bar[t]
    of_all = -noise * mixture_score(schedule, X, t)
    of_class = -noise * parts(schedule, X, t)[1][..., Y]
    actual = classifier_output(schedule, of_all, t, classifier_gradient(schedule, X, t))
    # the variance of a part is at least VARIANCE but for rounding, so that scores are below (|x| + 1) / 0.09
    assert_close(actual=actual, expected=of_class, roundings=16, scale=np.float64(noise * 3 * 2 / VARIANCE))


@pytest.mark.parametrize("option", [{"sampler": ddpm}, {"sampler": ddim}, {"sampler": heun}])
def test_more_steps_with_the_exact_classifier_sample_the_mean_and_variance_of_its_part(option):
    errors = []
    for steps in (10, 160):
        schedule = Schedule.from_name("cosine", steps)

        def network(x, t, schedule=schedule):
            t = int(t[0])
            of_all = -schedule.sqrt_one_minus_alpha_bar[t] * mixture_score(schedule, x, t)
            return classifier_output(schedule, of_all, t, classifier_gradient(schedule, x, t))

        x_0 = sample(schedule, network, (50, 40), seed=2, **option)
        errors.append((abs(x_0.mean() - MEANS[Y]), abs(x_0.var() / VARIANCE - 1)))
    # 2000 numbers: a standard error of the mean is 0.007, of the variance 3 %
    assert errors[1][0] < 4 * 0.007
    assert errors[1][1] < 0.12
    assert errors[0][1] > 0.2


def test_algorithm_1_samples_the_mean_and_variance_of_the_part_of_its_classifier():
    schedule, shape = Schedule.from_name("cosine", 200), (50, 40)
    x = normal(0, 15, 0, range(50), (40,)).astype(np.float64)
    variances = reverse_variance(schedule, "posterior")
    for t in range(200, 0, -1):
        eps = -schedule.sqrt_one_minus_alpha_bar[t] * mixture_score(schedule, x, t)
        mean = reverse_mean(schedule, x, eps, t)
        mean = classifier_mean(mean, variances[t], classifier_gradient(schedule, x, t))
        z = normal(0, 15, t, range(50), (40,))
        x = mean + np.sqrt(variances[t]) * z
    assert x.shape == shape
    assert abs(x.mean() - MEANS[Y]) < 4 * 0.007
    assert abs(x.var() / VARIANCE - 1) < 0.12


@settings(max_examples=30)
@given(st.integers(0, 2), st.floats(0, 5))
def test_both_algorithms_are_one_in_the_limit_of_small_steps(exponent, scale):
    # the mean of DDPM moves by s beta_t / sqrt(alpha_t) grad, or by s beta~_t grad
    schedule, t = Schedule(np.full(100, 10.0 ** -(exponent + 2))), 100
    one = classifier_mean(reverse_mean(schedule, X, OUT, t), schedule.beta[t], X, scale)
    two = reverse_mean(schedule, X, classifier_output(schedule, OUT, t, X, scale), t)
    moved = scale * schedule.beta[t] * np.abs(X)
    assert (np.abs(one - two) <= moved * schedule.beta[t] + 1e-14).all()


COSINE = Schedule.from_name("cosine", 40)
SHAPE = (1, 3, 4)
LABELS = torch.tensor([0, 3, 5])


class Labelled:
    """A network whose output depends on x, t and the label; it keeps the sizes of the batches that it was given."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, x, t, label):
        self.batches.append(len(x))
        there = torch.arange(12.0).reshape(3, 4)
        return torch.sin(x + 0.01 * t[:, None, None, None] + there * label[:, None, None, None])


def draw(model=None, **options: Any) -> Tensor:
    options = {"steps": 6, "labels": LABELS, "null_label": 7, "seed": 3, **options}
    return accelerated_sample(model or Labelled(), COSINE, count=3, shape=SHAPE, **options).images


@pytest.mark.parametrize("guidance", [torch.tensor([0.0, 1.0, 3.0]), Guidance(2.5, rescale=0.7)])
@pytest.mark.parametrize("sampler", ["ddim", "heun"])
def test_guidance_on_tensors_is_that_of_the_reference(guidance, sampler):
    chain, model = COSINE.respace(6), Labelled()

    def network(x, t):
        x, t = torch.from_numpy(x), torch.from_numpy(t)
        conditional, unconditional = model(x, t, LABELS).numpy(), model(x, t, torch.full((3,), 7)).numpy()
        if isinstance(guidance, Tensor):
            return guided(conditional, unconditional, guidance.numpy())
        return rescaled(guided(conditional, unconditional, guidance.scale), conditional, guidance.rescale)

    expected = sample(
        chain, network, (3, *SHAPE), sampler=reference_sampler(sampler), seed=3, prediction="v", clip=(-1, 1)
    )
    actual = draw(guidance=guidance, sampler=sampler, prediction="v", steps=6)
    # an output is below 3 + 2 * 3, with some 20 roundings; a step of v enlarges x by at most 1 + slope * weight
    assert np.abs(actual.double().numpy() - expected).max() < 2**-24 * 9 * 20 * 8**3


def test_scales_and_rescaling_hold_in_any_batch():
    scales = torch.tensor([0.0, 1.0, 3.0])
    together = draw(guidance=scales, prediction="v")
    assert torch.equal(draw(guidance=scales, prediction="v", batch_size=2), together)
    for row in (0, 2):
        # 1 for all images is no guidance at all, and rounds less
        assert torch.equal(together[row], draw(guidance=float(scales[row]), prediction="v")[row])
    rescaling = Guidance(scales, rescale=0.7)
    torch.testing.assert_close(draw(guidance=rescaling, batch_size=2), draw(guidance=rescaling), rtol=0, atol=1e-4)


def test_an_interval_that_covers_everything_is_ordinary_guidance_and_an_empty_one_is_none():
    for sampler in ("ddim", "heun"):
        everywhere = Guidance(3.0, interval=(0.0, math.inf))
        assert torch.equal(draw(guidance=everywhere, sampler=sampler), draw(guidance=3.0, sampler=sampler))
        nowhere = Guidance(3.0, interval=(1e9, math.inf))
        assert torch.equal(draw(guidance=nowhere, sampler=sampler), draw(sampler=sampler))


def test_the_network_is_asked_twice_only_inside_the_interval():
    model, chain = Labelled(), COSINE.respace(6)
    draw(model, guidance=Guidance(3.0, interval=(0.3, 2.0)))
    inside = guided_steps(chain, 0.3, 2.0)
    assert 0 < inside.sum() < 6
    assert model.batches == [6 if inside[t] else 3 for t in range(6, 0, -1)]


def mixture_classifier(chain):
    """The gradient of the log of a mixture's posterior by autograd, as a user would write it."""

    def gradient(x, t, label):
        x.requires_grad_()
        a = torch.tensor(COSINE.alpha_bar)[t][:, None, None, None].sqrt()
        log_p = torch.stack([-((x.double() - a * mean) ** 2) for mean in MEANS]) / (2 * (a**2 * VARIANCE + 1 - a**2))
        log_posterior = torch.log_softmax(log_p + torch.log(torch.from_numpy(WEIGHTS))[:, None, None, None, None], 0)
        return torch.autograd.grad(log_posterior[Y].sum(), x)[0]

    return gradient


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v", "flow"])
def test_a_classifier_on_tensors_is_that_of_the_reference(prediction):
    chain = COSINE.respace(6)

    def network(x, t):
        row = int(np.searchsorted(chain.timesteps, t[0]))
        return classifier_output(chain, 0.5 * x, row, classifier_gradient(chain, x, row), prediction=prediction)

    expected = sample(chain, network, (3, *SHAPE), sampler=ddim, seed=3, prediction=prediction, clip=(-1, 1))
    actual = draw(lambda x, t, label: 0.5 * x, classifier=mixture_classifier(chain), prediction=prediction)
    # x_0 of eps divides by sqrt(alpha_bar), 0.013 at the first step of six, where nearly all is clipped
    assert np.abs(actual.double().numpy() - expected).max() < 2**-24 * 20 * 100 * 8


def test_a_classifier_and_guidance_add_up():
    moved = draw(lambda x, t, label: 0.5 * x, classifier=mixture_classifier(COSINE), guidance=2.0)
    # both outputs are the same, so that guidance has nothing to add but a rounding
    alone = draw(lambda x, t, label: 0.5 * x, classifier=mixture_classifier(COSINE))
    torch.testing.assert_close(moved, alone, rtol=0, atol=1e-4)


REFUSED: list[tuple[Any, str]] = [
    (lambda: draw(guidance=torch.ones(2)), r"guidance has shape \(2,\); 3 images need \(3,\)"),
    (
        lambda: draw(guidance=torch.ones(3, 1)),
        r"tensor of shape \(count,\), got torch.float32 of shape \(3, 1",
    ),
    (lambda: draw(guidance=torch.ones(3), labels=None), "guidance is a tensor; it needs labels, and a model trained"),
    (lambda: draw(guidance=math.nan), "guidance must be finite, got nan"),
    (lambda: Guidance(2.0, interval=(3, 1)), "0 <= low <= high, got 3 and 1"),
    (lambda: Guidance(2.0, rescale=2.0), r"the rescale of guidance must be in \[0, 1\], got 2.0"),
    (
        lambda: draw(classifier=lambda x, t, label: x[:1]),
        r"gradient has shape \(1, 1, 3, 4\); x has shape",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_guidance_that_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.gpu
def test_guidance_replays_its_cuda_graphs():
    for guidance in (torch.tensor([0.0, 1.0, 3.0]), Guidance(3.0, interval=(0.3, 2.0), rescale=0.5)):
        for sampler in ("ddim", "heun"):
            options = dict(guidance=guidance, sampler=sampler, device="cuda", batch_size=2)
            model = lambda x, t, label: torch.sin(x + 0.01 * t[:, None, None, None] + label[:, None, None, None])  # noqa: E731
            assert torch.equal(draw(model, cuda_graph=True, **options), draw(model, **options))
    with pytest.raises(ValueError, match="cuda_graph=True cannot capture a classifier"):
        draw(classifier=lambda x, t, label: x, device="cuda", cuda_graph=True)


BAD: list[tuple[Any, str]] = [
    (lambda: rescaled(X, OUT, 1.5), r"rescale must be in \[0, 1\], got 1.5"),
    (lambda: rescaled(X, OUT[:1], 0.5), r"guided \(2, 3, 4\), conditional \(1, 3, 4\)"),
    (lambda: guided(X, OUT, [1.0, 2.0, 3.0]), r"scale must be one number or \(2,\) of them, got shape \(3,\)"),
    (lambda: guided_steps(Schedule([0.1]), 2.0, 1.0), "0 <= low <= high, got 2.0 and 1.0"),
    (lambda: guided_steps(Schedule([0.1]), float("nan"), 1.0), "0 <= low <= high, got nan and 1.0"),
    (
        lambda: classifier_output(Schedule([0.1]), OUT, 1, X, prediction="mu"),
        "prediction must be one of eps, x_0, v, flow",
    ),
    (
        lambda: classifier_output(Schedule([0.1, 1.0], zero_terminal_snr=True), OUT, 1, X, prediction="v"),
        "alpha_bar_T is 0",
    ),
    (lambda: classifier_mean(X, -1.0, X), "variance must be at least 0, got -1.0"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_arguments_of_guidance_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
