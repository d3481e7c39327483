"""Heun's method is the algorithm as it is printed, with the calls that it promises; and with noise before its steps."""

from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
import pytest
import torch
from laws import EPS
from noisestep.accelerated.samplers.editing import Edit
from noisestep.accelerated.samplers.guidance import Guidance
from noisestep.accelerated.samplers.loop import sample as sample_tensors
from noisestep.reference import Schedule, image_to_image, sample
from noisestep.reference.samplers.chain import Chain
from noisestep.reference.samplers.ddim import ddim
from noisestep.reference.samplers.heun import heun, heun_coefficients, raised_steps
from sampler_laws import MEAN, VARIANCE, cubic_schedule, gaussian_x_0, shrinkage

LINEAR = Schedule.from_name("linear", 1000).respace(12)
X_T = np.linspace(-2, 2, 6).reshape(3, 2)


def curved(x, t):
    return np.tanh(0.9 * x - 0.001 * t[:, None])


def test_it_is_algorithm_1_of_karras_with_sigma_1_over_k_and_s_k():
    # x = s(t) x_bar, where the time t of the paper is k = sqrt(SNR)
    time = np.sqrt(LINEAR.snr)[::-1]
    sigma, sigma_dot = lambda t: 1 / t, lambda t: -1 / t**2
    s, s_dot = lambda t: t, lambda t: 1.0

    def D(x_bar, i):
        step = LINEAR.T - i
        return curved(LINEAR.sqrt_alpha_bar[step] * x_bar, np.full(3, LINEAR.timesteps[step]))

    def slope(x, i):
        t = time[i]
        return (sigma_dot(t) / sigma(t) + s_dot(t) / s(t)) * x - sigma_dot(t) * s(t) / sigma(t) * D(x / s(t), i)

    x = X_T / LINEAR.sqrt_alpha_bar[-1] * s(time[0])
    trajectory = sample(LINEAR, curved, X_T.shape, sampler=heun, x_T=X_T, prediction="x_0", trajectory=True)
    for i in range(LINEAR.T - 1):
        d = slope(x, i)
        euler = x + (time[i + 1] - time[i]) * d
        x = x + (time[i + 1] - time[i]) * (d / 2 + slope(euler, i + 1) / 2)
        step = LINEAR.T - i - 1
        expected = LINEAR.sqrt_alpha_bar[step] * x / s(time[i + 1])
        np.testing.assert_allclose(trajectory[step], expected, rtol=0, atol=20 * LINEAR.T * EPS * np.abs(X_T).max())


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_n_steps_are_2_n_minus_1_calls_at_the_steps_that_they_join(steps):
    heard = []

    def listener(x, t):
        heard.append(int(t[0]))
        return curved(x, t)

    schedule = Schedule.from_name("linear", 100).respace(steps)
    sample(schedule, listener, X_T.shape, sampler=heun, x_T=X_T, prediction="v")
    told = schedule.timesteps[:0:-1].tolist()
    assert heard == [told[0], *(t for later in told[1:] for t in (later, later))]


def test_gaussian_data_follow_the_recursion_of_a_trapezium():
    schedule = cubic_schedule(25)
    sigma, g = shrinkage(schedule)
    factor = 1.0
    for t in range(schedule.T, 0, -1):
        ratio = sigma[t - 1] / sigma[t]
        euler = ratio + (1 - ratio) * g[t]
        # g is 1 at t = 0: the last step is Euler's
        factor *= ratio + (1 - ratio) * (g[t] + g[t - 1] * euler) / 2 if t > 1 else euler
    x_0 = sample(schedule, gaussian_x_0(schedule), X_T.shape, sampler=heun, x_T=X_T, prediction="x_0")
    expected = MEAN + factor * (X_T / schedule.sqrt_alpha_bar[-1] - MEAN)
    np.testing.assert_allclose(x_0, expected, rtol=0, atol=40 * schedule.T * EPS)


@pytest.mark.parametrize("prediction", ["x_0", "v"])
def test_a_chain_may_start_without_any_signal(prediction):
    schedule = Schedule.from_name("cosine", 100, zero_terminal_snr=True).respace(2)
    both = [
        sample(schedule, curved, X_T.shape, sampler=sampler, x_T=X_T, prediction=prediction, trajectory=True)
        for sampler in (heun, ddim)
    ]
    assert np.isfinite(both[0]).all()
    assert not np.allclose(both[0][1], both[1][1], atol=1e-3)


def test_the_second_call_counts_half():
    signal, noise = LINEAR.sqrt_alpha_bar, LINEAR.sqrt_one_minus_alpha_bar
    of_x_0 = signal[1:-1] - noise[1:-1] * signal[2:] / noise[2:]
    _, (a, b, c, sigma), up = (table.T for table in heun_coefficients(LINEAR))
    np.testing.assert_allclose(b[1:-1], of_x_0 / 2, rtol=0, atol=4 * EPS)
    assert np.all(c == -b)
    assert np.all(a == 1)
    assert np.all(sigma == 0)
    assert b[0] == b[-1] == 0
    assert b.max() <= 0.5
    assert np.array_equal(up, np.tile([[1], [0], [0]], LINEAR.T + 1))


# the noise of EDM's stochastic sampler

COSINE = Schedule.from_name("cosine", 1000)


def sigma_of(schedule):
    return np.sqrt(schedule.one_minus_alpha_bar / schedule.alpha_bar)


@pytest.mark.parametrize("churn", [0.0, 2.0, 1e3])
def test_the_noise_is_raised_to_the_nearest_step_that_the_network_knows(churn):
    chain, s_min, s_max = COSINE.respace(20), 0.2, 5.0
    raised = raised_steps(chain, trained=COSINE, churn=churn, s_min=s_min, s_max=s_max)
    sigma, known = sigma_of(chain), sigma_of(COSINE)
    gamma = min(churn / 20, sqrt(2) - 1)
    for t in range(21):
        own = chain.timesteps[t]
        if not s_min <= sigma[t] <= s_max or t in (0, 20):
            assert raised[t] == own
            continue
        off = np.abs(np.log(known[1:] / ((1 + gamma) * sigma[t])))
        assert raised[t] == 1 + np.argmin(off) >= own
    assert (raised > chain.timesteps).any() == (churn > 0)


@dataclass(frozen=True)
class OneNoiseARow(Chain):
    """z of step t is 1 in row t, and 0 elsewhere."""

    def z(self, t):
        z = np.zeros_like(self.x_T)
        z[t] = 1
        return z


@pytest.mark.parametrize("s_noise", [1.0, 1.01])
def test_gaussian_data_keep_their_variance_where_noise_is_added(s_noise):
    trained, churn = cubic_schedule(500), 2.0
    errors = []
    for steps in (50, 100):
        chain = trained.respace(steps)
        raised = raised_steps(chain, trained=trained, churn=churn)
        # algorithm 2 on x / sqrt(alpha_bar) - MEAN: E[x_0 | x_t] is g times it
        (sigma, g), (sigma_above, g_above) = shrinkage(chain), (x[raised] for x in shrinkage(trained))
        variance = 1 / chain.alpha_bar[-1]
        for t in range(chain.T, 0, -1):
            variance += (sigma_above[t] ** 2 - sigma[t] ** 2) * s_noise**2
            ratio = sigma[t - 1] / sigma_above[t]
            euler = ratio + (1 - ratio) * g_above[t]
            factor = ratio + (1 - ratio) * (g_above[t] + g[t - 1] * euler) / 2 if t > 1 else euler
            variance *= factor**2
        # x_0 is a sum of x_T and of each z, times numbers that tell the variance: rows 0 and T + 1 have x_T = 0 and 1
        x_T = np.zeros((steps + 2, 1))
        x_T[-1] = 1
        start = OneNoiseARow(chain, gaussian_x_0(trained), x_T, "x_0", None, 0, np.arange(steps + 2), 1.0)
        *_, x_0 = heun(start, trained=trained, churn=churn, s_noise=s_noise)
        moments = ((x_0[1:] - x_0[0]) ** 2).sum()
        assert abs(moments - variance) < 1e-12
        errors.append(abs(variance - VARIANCE))
        assert (raised > chain.timesteps).sum() > steps // 2
    if s_noise == 1:
        # it is the variance of the data but for an error of second order
        assert errors[1] < 0.01 * VARIANCE
        assert abs(np.log2(errors[0] / errors[1]) - 2) < 0.15


def in_both(x, t, label=None):
    library = torch if isinstance(x, torch.Tensor) else np
    return library.tanh(0.9 * x - 0.001 * t.reshape(-1, 1, 1, 1))


CHURNED = {"churn": 6.0, "s_min": 0.1, "s_max": 50.0, "s_noise": 1.003}


@pytest.mark.parametrize("prediction", ["eps", "x_0"])
def test_noise_is_added_on_tensors_as_in_the_reference(prediction):
    told = []

    def network(x, t, label=None):
        told.append(int(t[0]))
        return in_both(x, t)

    options = dict(sampler="heun", prediction=prediction, steps=8, seed=4, **CHURNED)
    result = sample_tensors(network, COSINE, count=2, shape=(1, 2, 3), trajectory=2, **options)
    chain, asked = COSINE.respace(8), told[:]
    told.clear()
    expected = sample(
        chain, network, (2, 1, 2, 3), sampler=heun, seed=4, prediction=prediction, clip=(-1, 1), trajectory=True,
        trained=COSINE, **CHURNED,
    )[::-1]  # fmt: skip
    raised = raised_steps(chain, trained=COSINE, **CHURNED)
    assert asked == told == [1000, *(t for k in range(7, 0, -1) for t in (chain.timesteps[k], raised[k]))]
    # a step makes 30 roundings of float32, of numbers up to the largest state, of which x_0 of eps at T has clipped all
    bound = 30 * 8 * 2.0**-24 * np.abs(expected).max()
    np.testing.assert_allclose(result.trajectory.double().numpy(), expected, rtol=0, atol=bound)
    alone = sample_tensors(network, COSINE, count=1, first=1, shape=(1, 2, 3), **options).images
    assert torch.equal(alone[0], result.images[1])


def test_noise_is_added_from_an_image_too():
    images = torch.linspace(-1, 1, 12).reshape(2, 1, 2, 3)
    options = dict(sampler="heun", prediction="x_0", steps=8, seed=4, **CHURNED)
    edit = Edit(images, strength=0.5)
    actual = sample_tensors(in_both, COSINE, count=2, shape=(1, 2, 3), edit=edit, **options).images
    expected = image_to_image(
        COSINE.respace(8), in_both, images.double().numpy(), 0.5, seed=4, sampler=heun, prediction="x_0", clip=(-1, 1),
        trained=COSINE, **CHURNED,
    )  # fmt: skip
    np.testing.assert_allclose(actual.double().numpy(), expected, rtol=0, atol=30 * 4 * 2.0**-24 * 2)


def test_a_classifier_and_an_interval_are_those_of_the_raised_step():
    # with a slope of the classifier that each step's coefficient tells, and guidance in between two levels
    chain, labels = COSINE.respace(8), torch.tensor([0, 1])
    raised = raised_steps(chain, trained=COSINE, **CHURNED)
    sigma, sigma_above = sigma_of(chain), sigma_of(COSINE)[raised]
    batches = []

    def network(x, t, label):
        batches.append((len(x), int(t[0])))
        return in_both(x, t)

    t = 4
    # guided at the step that the noise is raised to, and not at the step itself
    interval = (sqrt(sigma[t] * sigma_above[t]), sigma_above[t])
    sample_tensors(
        network, COSINE, count=2, shape=(1, 2, 3), labels=labels, null_label=2, prediction="x_0", steps=8,
        sampler="heun", guidance=Guidance(2.0, interval), **CHURNED,
    )  # fmt: skip
    assert [step for size, step in batches if size == 4] == [raised[t]]
    seen = []

    def gradient(x, t, label):
        seen.append(int(t[0]))
        return torch.ones_like(x)

    def draw(**options):
        return sample_tensors(
            lambda x, t, label: 0 * x, COSINE, count=1, shape=(1, 1, 1), steps=2, prediction="x_0", clip=False,
            sampler="heun", x_T=torch.zeros(1, 1, 1, 1), temperature=0.0, churn=0.6, trajectory=1, **options,
        ).trajectory.flatten()  # fmt: skip

    assert draw().abs().max() == 0
    moved, two = draw(classifier=gradient), COSINE.respace(2)
    up = raised_steps(two, trained=COSINE, churn=0.6)[1]
    assert seen == [1000, 500, up]
    assert up > 500
    # the last step is the predicted x_0, which the gradient moves by sigma^2 sqrt(alpha_bar)
    moves = COSINE.one_minus_alpha_bar / COSINE.sqrt_alpha_bar
    assert abs(moved[-1].item() / moves[up] - 1) < 1e-6


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"churn": -1.0}, "churn must be at least 0, got -1.0"),
        ({"churn": inf}, "churn must be finite, got inf"),
        ({"s_min": -0.1}, "s_min must be at least 0, got -0.1"),
        ({"s_noise": float("nan")}, "s_noise must be finite, got nan"),
        ({"s_min": 2.0, "s_max": 1.0}, "s_max must be at least s_min = 2.0, got 1.0"),
        ({"trained": COSINE.respace(7)}, r"Schedule\(T=12, .*\) has steps that Schedule\(T=7, .*\) has not"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting, message):
    for call in (heun_coefficients, raised_steps):
        with pytest.raises(ValueError, match=message):
            call(LINEAR, **setting)
