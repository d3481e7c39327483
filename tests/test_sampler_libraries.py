"""The samplers take the steps of k-diffusion's functions and of diffusers' schedulers that bear their names."""

import sys
import types
from functools import partial

import numpy as np
import pytest
import torch
from laws import EPS
from noisestep.accelerated.address import INITIAL, NoiseAddress
from noisestep.accelerated.ops import noise
from noisestep.reference import REVERSE, Schedule, normal, sample
from noisestep.reference.samplers.chain import Chain
from noisestep.reference.samplers.dpmpp_3m import dpmpp_3m_coefficients
from noisestep.reference.samplers.exponential import half_log_snr_steps, phi
from noisestep.reference.samplers.heun import heun, heun_coefficients, raised_steps
from sampler_laws import reference_sampler

SHAPE = (1, 4, 4)
CHAIN = Schedule.from_name("linear", 1000).respace(12)


def sigma_in(schedule):
    return np.sqrt(schedule.one_minus_alpha_bar / schedule.alpha_bar)


SIGMA = sigma_in(CHAIN)


@pytest.fixture
def k_diffusion(monkeypatch):
    # its evaluation wants CLIP, which wants a setuptools of another time; none of that is used here
    monkeypatch.setitem(sys.modules, "clip", types.ModuleType("clip"))
    return pytest.importorskip("k_diffusion.sampling", reason="needs k-diffusion: see docs/integrations.md")


def network(x, t):
    """x_0, for arrays and tensors, with a scale that its noise level has."""
    return (torch.tanh if isinstance(x, torch.Tensor) else np.tanh)(0.9 * x - 0.5 * float(CHAIN.snr[t]) ** 0.1)


def reference(name, **settings):
    """x_T, and all states of the reference, divided by sqrt(alpha_bar_t) as in k-diffusion."""
    step = {int(timestep): t for t, timestep in enumerate(CHAIN.timesteps)}
    states = sample(
        CHAIN,
        lambda x, t: network(x, step[t[0]]),
        (2, *SHAPE),
        sampler=partial(reference_sampler(name), **settings),
        seed=3,
        prediction="x_0",
        trajectory=True,
    )
    return states / CHAIN.sqrt_alpha_bar[:, None, None, None, None]


def by_k_diffusion(function, x, **options):
    """All their states and predictions, T first, from x at sigma_T."""
    states, predictions = [], []

    def denoise(x, sigma):
        t = int(np.argmin(np.abs(np.log(SIGMA[1:] / sigma[0].item())))) + 1
        return network(x * CHAIN.sqrt_alpha_bar[t], t)

    def listen(info):
        states.append(info["x"].numpy())
        predictions.append(info["denoised"].numpy())

    # sigma_T .. sigma_1 and 0
    sigmas = torch.from_numpy(SIGMA[::-1].copy())
    x_0 = function(denoise, torch.from_numpy(x.copy()), sigmas, callback=listen, disable=True, **options)
    return [*states, x_0.numpy()], predictions


def noise_of_the_reference(sigma, sigma_next):
    t = int(np.argmin(np.abs(SIGMA - float(sigma))))
    return torch.from_numpy(normal(3, REVERSE, int(CHAIN.timesteps[t]), [0, 1], SHAPE).astype(np.float64))


@pytest.mark.parametrize(
    ("name", "settings", "theirs", "options"),
    [
        ("ddim", {}, "sample_euler", {}),
        ("ddim", {"eta": 0.0}, "sample_euler_ancestral", {"eta": 0.0}),
        ("ddim", {"eta": 0.4}, "sample_euler_ancestral", {"eta": 0.4}),
        ("ddim", {"eta": 1.0}, "sample_euler_ancestral", {}),
        ("ddpm", {}, "sample_euler_ancestral", {}),
        ("dpmpp_2m", {}, "sample_dpmpp_2m", {}),
        ("dpmpp_2m_sde", {}, "sample_dpmpp_2m_sde", {}),
        ("dpmpp_2m_sde", {"eta": 0.4}, "sample_dpmpp_2m_sde", {"eta": 0.4}),
        ("deis", {}, "sample_lms", {"order": 3}),
    ],
)
def test_it_is_that_of_k_diffusion(k_diffusion, name, settings, theirs, options):
    states = reference(name, **settings)
    if "eta" in settings or name in ("ddpm", "dpmpp_2m_sde"):
        options = {"noise_sampler": noise_of_the_reference, **options}
    actual, _ = by_k_diffusion(getattr(k_diffusion, theirs), states[-1], **options)
    # a step makes some 50 roundings of numbers up to the largest state, which is the first
    bound = 50 * CHAIN.T * EPS * np.abs(states).max()
    np.testing.assert_allclose(actual, states[::-1], rtol=0, atol=bound)


def test_the_third_order_of_k_diffusion_lacks_half_of_a_term(k_diffusion):
    h, weights = half_log_snr_steps(CHAIN), dpmpp_3m_coefficients(CHAIN)
    states, D = by_k_diffusion(k_diffusion.sample_dpmpp_3m_sde, reference("dpmpp_3m")[-1], eta=0.0)
    for i in range(2, CHAIN.T - 1):
        t = CHAIN.T - i
        a, b, c_1, c_2, _ = weights[t]
        x_t, x_s = (CHAIN.sqrt_alpha_bar[t - k] * states[i + k] for k in (0, 1))
        ours = a * x_t + b * D[i] + c_1 * D[i - 1] + c_2 * D[i - 2]
        # the second divided difference over lambda, in units of h
        slopes = [(D[i - k] - D[i - k - 1]) * h[t] / h[t + k + 1] for k in (0, 1)]
        q = (slopes[0] - slopes[1]) * h[t] / (h[t + 1] + h[t + 2])
        half = CHAIN.sqrt_alpha_bar[t - 1] * h[t] * phi(3, h[t]) * q
        np.testing.assert_allclose(ours - half, x_s, rtol=0, atol=100 * EPS * np.abs(x_t).max())
        assert np.abs(half).max() > 1e-5


def test_it_is_the_stochastic_sampler_of_k_diffusion(k_diffusion, monkeypatch):
    # levels that are powers of one number, so that the raised ones are steps of the chain
    ratio = 1.05
    sigma = 0.02 * ratio ** np.arange(120)
    alpha_bar = 1 / (1 + sigma**2)
    trained = Schedule(1 - alpha_bar / np.concatenate([[1], alpha_bar[:-1]]))
    chain = trained.respace(np.arange(10, 121, 10))
    churn, s_max = (ratio**3 - 1) * chain.T, float(sigma_in(chain)[-2] * 1.01)
    image = np.linspace(-0.9, 0.8, 6).reshape(2, 3)
    start = Chain(chain, lambda x, t: image, 3.0 * image, "x_0", None, 0, np.arange(2), 1.0)
    noises = [np.sin(t + np.arange(6)).reshape(2, 3) for t in range(chain.T + 1)]
    monkeypatch.setattr(Chain, "z", lambda self, t: noises[t])
    options = dict(churn=churn, s_min=0.05, s_max=s_max, s_noise=1.01)
    states = [3.0 * image, *heun(start, trained=trained, **options)]
    # the network says the same everywhere, so that Heun's method over sigma and over 1 / sigma are one
    theirs, left = [], iter(range(chain.T, 0, -1))
    monkeypatch.setattr(torch, "randn_like", lambda x: torch.from_numpy(noises[next(left)]))
    x_0 = k_diffusion.sample_heun(
        lambda x, sigma: torch.from_numpy(image),
        torch.from_numpy(3.0 * image / chain.sqrt_alpha_bar[-1]),
        torch.from_numpy(sigma_in(chain)[::-1].copy()),
        disable=True,
        s_churn=churn,
        s_tmin=0.05,
        s_tmax=s_max,
        s_noise=1.01,
        callback=lambda info: theirs.append((info["x"].numpy(), float(info["sigma_hat"]))),
    )
    raised = raised_steps(chain, trained=trained, **options)
    known = sigma_in(trained)
    way_up = heun_coefficients(chain, trained=trained, **options)[2]
    for t, x_t, (x, sigma_hat) in zip(range(chain.T, 0, -1), states, theirs, strict=False):
        assert abs(known[raised[t]] / sigma_hat - 1) < 1e-12
        ours = (way_up[t, 0] * x_t + way_up[t, 2] * noises[t]) / trained.sqrt_alpha_bar[raised[t]]
        np.testing.assert_allclose(ours, x, rtol=0, atol=100 * chain.T * EPS * np.abs(x).max())
    assert np.count_nonzero(raised > chain.timesteps) == 10
    np.testing.assert_allclose(states[-1], x_0.numpy(), rtol=0, atol=100 * chain.T * EPS)


def alpha_bar_chain(scheduler):
    """Their chain: from their alpha_bar, which is a product of a thousand factors in float32."""
    timesteps = scheduler.timesteps.flip(0).tolist()
    alpha_bar = scheduler.alphas_cumprod.double().numpy()[timesteps]
    return Schedule(1 - alpha_bar / np.concatenate([[1], alpha_bar[:-1]]), [t + 1 for t in timesteps])


@pytest.mark.parametrize(
    ("name", "settings", "theirs", "options"),
    [
        ("unipc", {}, "UniPCMultistepScheduler", {}),
        ("unipc", {"order": 1}, "UniPCMultistepScheduler", {"solver_order": 1}),
        ("unipc", {"order": 3}, "UniPCMultistepScheduler", {"solver_order": 3}),
        ("dpmpp_2m_sde", {}, "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ],
)
@pytest.mark.parametrize(("beta_schedule", "prediction"), [("linear", "eps"), ("squaredcos_cap_v2", "x_0")])
def test_it_is_that_of_diffusers(name, settings, theirs, options, beta_schedule, prediction):
    diffusers = pytest.importorskip("diffusers", reason="needs diffusers", exc_type=ImportError)
    named = {"eps": "epsilon", "x_0": "sample"}[prediction]
    scheduler = getattr(diffusers, theirs)(
        beta_schedule=beta_schedule,
        prediction_type=named,
        timestep_spacing="trailing",
        final_sigmas_type="zero",
        **options,
    )
    scheduler.set_timesteps(10)
    schedule = alpha_bar_chain(scheduler)

    def output(x, t):
        return torch.tanh(0.9 * x - 0.001 * t.reshape(-1, 1, 1, 1).to(x.dtype))

    x = noise(NoiseAddress(3, INITIAL, 0), (2, *SHAPE))
    for t in scheduler.timesteps:
        z = torch.from_numpy(normal(3, REVERSE, int(t) + 1, [0, 1], SHAPE))
        fresh = {"variance_noise": z} if "algorithm_type" in options else {}
        x = scheduler.step(output(x, t + 1), t, x, **fresh).prev_sample
    expected = sample(
        schedule,
        lambda x, t: output(torch.from_numpy(x), torch.from_numpy(t)).numpy(),
        (2, *SHAPE),
        sampler=partial(reference_sampler(name), **settings),
        seed=3,
        prediction=prediction,
        trajectory=True,
    )
    # a step makes 20 roundings of float32, in tables and states, of numbers up to the largest state; where a later step
    # enlarges an error, it enlarges the states as well
    bound = 20 * schedule.T * 2.0**-24 * np.abs(expected).max()
    assert np.abs(x.numpy() - expected[0]).max() <= bound
