"""DPM-Solver++ 2M is that of its paper and of diffusers, and DDIM where it has nothing to remember."""

import numpy as np
import pytest
import torch
from laws import EPS
from noisestep.accelerated.address import INITIAL, NoiseAddress
from noisestep.accelerated.ops import noise
from noisestep.accelerated.samplers.loop import sample as sample_tensors
from noisestep.reference import Schedule, sample
from noisestep.reference.samplers.ddim import ddim
from noisestep.reference.samplers.dpmpp_2m import dpmpp_2m
from sampler_laws import MEAN, cubic_schedule, gaussian_x_0, shrinkage

SHAPE = (1, 8, 8)
X_T = np.linspace(-2, 2, 6).reshape(3, 2)


def curved(x, t):
    return np.tanh(0.9 * x - 0.001 * t[:, None])


@pytest.mark.parametrize(
    ("beta_schedule", "theirs", "ours"),
    [
        ("linear", "epsilon", "eps"),
        ("scaled_linear", "epsilon", "eps"),
        ("linear", "sample", "x_0"),
        ("squaredcos_cap_v2", "sample", "x_0"),
        ("squaredcos_cap_v2", "v_prediction", "v"),
    ],
)
def test_it_is_that_of_diffusers(beta_schedule, theirs, ours):
    diffusers = pytest.importorskip("diffusers", reason="needs diffusers", exc_type=ImportError)
    scheduler = diffusers.DPMSolverMultistepScheduler(beta_schedule=beta_schedule, prediction_type=theirs)
    timesteps = list(range(999, 0, -100))
    scheduler.set_timesteps(timesteps=timesteps)
    # from their alpha_bar, which is a product of a thousand factors in float32
    alpha_bar = scheduler.alphas_cumprod.double().numpy()[timesteps[::-1]]
    schedule = Schedule(1 - alpha_bar / np.concatenate([[1], alpha_bar[:-1]]), [t + 1 for t in timesteps[::-1]])

    def network(x, t, label=None):
        return torch.tanh(0.9 * x - 0.001 * t.reshape(-1, 1, 1, 1).to(x.dtype))

    x = noise(NoiseAddress(3, INITIAL, 0), (4, *SHAPE))
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t + 1), t, x).prev_sample
    options = {"seed": 3, "prediction": ours}
    expected = sample(
        schedule,
        lambda x, t: network(torch.from_numpy(x), torch.from_numpy(t)).numpy(),
        (4, *SHAPE),
        sampler=dpmpp_2m,
        trajectory=True,
        **options,
    )
    tensors = sample_tensors(network, schedule, count=4, shape=SHAPE, sampler="dpmpp_2m", clip=False, **options).images
    # a step makes 20 roundings of float32, in tables and states, of numbers up to the largest state; where a later step
    # enlarges an error, it enlarges the states as well
    bound = 20 * len(timesteps) * 2.0**-24 * np.abs(expected).max()
    assert np.abs(x.numpy() - expected[0]).max() <= bound
    assert np.abs(tensors.numpy() - expected[0]).max() <= bound
    # a wrong weight is far outside
    by_ddim = sample_tensors(network, schedule, count=4, shape=SHAPE, sampler="ddim", clip=False, **options).images
    assert np.abs(by_ddim.numpy() - expected[0]).max() > 4 * bound


def test_its_first_step_is_that_of_ddim_and_the_others_are_not():
    schedule = Schedule.from_name("linear", 1000).respace(6)
    ours, theirs = (
        sample(schedule, curved, X_T.shape, sampler=sampler, x_T=X_T, prediction="v", trajectory=True)
        for sampler in (dpmpp_2m, ddim)
    )
    np.testing.assert_allclose(ours[5], theirs[5], rtol=0, atol=16 * EPS * np.abs(X_T).max())
    assert (np.abs(ours[4] - theirs[4]) > 1e-3).any()


def test_gaussian_data_follow_the_recursion_of_two_terms():
    schedule = cubic_schedule(25)
    sigma, g = shrinkage(schedule)
    # x_t / sqrt(alpha_bar_t) - MEAN of two steps, in units of the first
    before, now = 0.0, 1.0
    for t in range(schedule.T, 0, -1):
        ratio, c = sigma[t - 1] / sigma[t], 0.0
        if 1 < t < schedule.T:
            c = np.log(sigma[t] / sigma[t - 1]) / np.log(sigma[t + 1] / sigma[t]) / 2
        D = g[t] * now if c == 0 else (1 + c) * g[t] * now - c * g[t + 1] * before
        before, now = now, ratio * now + (1 - ratio) * D
    x_0 = sample(schedule, gaussian_x_0(schedule), X_T.shape, sampler=dpmpp_2m, x_T=X_T, prediction="x_0")
    expected = MEAN + now * (X_T / schedule.sqrt_alpha_bar[-1] - MEAN)
    np.testing.assert_allclose(x_0, expected, rtol=0, atol=40 * schedule.T * EPS)
