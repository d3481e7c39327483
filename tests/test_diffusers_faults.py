"""Where diffusers is wrong the schedulers are right, and with compatible=True they are diffusers to the bit."""

import numpy as np
import pytest
import torch
from diffusers_cases import CONFIGS, PAIRS, batch, generator
from noisestep.accelerated.integrations.diffusers import FusedDDIMScheduler, FusedDDPMScheduler
from noisestep.accelerated.integrations.diffusers.spacing import spaced_timesteps
from noisestep.reference import Schedule, ddim_step
from op_cases import UNIT

(DDPM, _), (DDIM, _) = PAIRS
X, OUTPUT = batch(), batch(seed=1)
VARIANCES = ["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range", "typo"]


def alpha_bar(scheduler):
    return np.cumprod(1 - scheduler.betas.double().numpy())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("schedule", "silent"), [("linear", 10), ("squaredcos_cap_v2", 21)])
def test_noise_in_half_precision_is_rounded_once(schedule, silent, dtype):
    x, eps, t = torch.zeros(1000, 1, dtype=dtype), torch.ones(1000, 1, dtype=dtype), torch.arange(1000)
    theirs, ours = DDPM(beta_schedule=schedule), FusedDDPMScheduler(beta_schedule=schedule)
    exact = np.sqrt(1 - alpha_bar(ours))
    actual = ours.add_noise(x, eps, t)[:, 0].double().numpy()
    # half a unit in the last place of the result, and the table's rounding
    assert (np.abs(actual - exact) <= (UNIT[dtype] + 2.0**-22) * exact).all()
    wrong = theirs.add_noise(x, eps, t)[:, 0].double().numpy()
    assert (np.abs(wrong - exact) > UNIT[dtype] * 2 * exact).sum() > 10
    if dtype == torch.bfloat16:
        assert (wrong == 0).sum() == silent
        assert (np.abs(wrong / exact - 1) > 0.01).sum() == (62 if schedule == "linear" else 132)


def test_fixed_large_log_is_fixed_large():
    assert DDPM(variance_type="fixed_large_log").step(OUTPUT, 500, X).prev_sample.isnan().all()
    results = [
        FusedDDPMScheduler(variance_type=name).step(OUTPUT, 500, X, generator=generator()).prev_sample
        for name in ("fixed_large", "fixed_large_log")
    ]
    assert torch.equal(*results)
    assert results[0].isfinite().all()


def test_trailing_has_as_many_steps_as_it_was_asked_for():
    theirs, too_many = DDPM(timestep_spacing="trailing"), []
    for steps in range(1, 1001):
        theirs.set_timesteps(steps)
        if len(theirs.timesteps) != steps:
            assert theirs.timesteps[-1] == -1
            too_many.append(steps)
        ours = spaced_timesteps("trailing", 1000, steps)
        assert ours == theirs.timesteps[:steps].tolist()
        assert ours[-1] >= 0
    assert len(too_many) == 62


def test_an_offset_leaves_the_first_step_in_the_chain():
    theirs, ours = DDPM(steps_offset=1), FusedDDPMScheduler(steps_offset=1)
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(1000)
    assert int(theirs.timesteps[0]) == 1000
    assert ours.timesteps.tolist() == list(range(999, -1, -1))
    ours.set_timesteps(10)
    assert ours.timesteps.tolist() == [901, 801, 701, 601, 501, 401, 301, 201, 101, 1]


@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
def test_ddim_leads_to_the_next_timestep(spacing):
    theirs, ours = DDIM(timestep_spacing=spacing), FusedDDIMScheduler(timestep_spacing=spacing)
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(30)
    steps = ours.timesteps.tolist()
    chain = Schedule(ours.betas.double().numpy()).respace([t + 1 for t in reversed(steps)])
    arrays = [array.double().numpy() for array in (X, OUTPUT)]
    off = []
    for k, t in enumerate(reversed(steps), start=1):
        exact = ddim_step(chain, *arrays, k, np.zeros(X.shape), clip=(-1, 1), rederive_eps=False)
        actual, wrong = (s.step(OUTPUT, t, X).prev_sample.double().numpy() for s in (ours, theirs))
        assert np.abs(actual - exact).max() <= 1e-5
        off.append(np.abs(wrong - exact).max())
    assert max(off) > 1e-3


@pytest.mark.parametrize("variance", ["fixed_large", "learned_range"])
def test_the_last_image_has_no_noise_on_it(variance):
    config = {"variance_type": variance, "timestep_spacing": "trailing", "clip_sample": False}
    output = torch.cat([OUTPUT, torch.ones_like(OUTPUT)], dim=1) if "learned" in variance else OUTPUT
    results = []
    for scheduler in (DDPM(**config), FusedDDPMScheduler(**config)):
        scheduler.set_timesteps(10)
        source = generator()
        results.append(scheduler.step(output, scheduler.timesteps[-1], X, generator=source))
        assert not torch.equal(source.get_state(), generator().get_state())
    assert int(scheduler.timesteps[-1]) == 99
    assert (results[0].prev_sample - results[0].pred_original_sample).std() > 0.3
    # the mean of the last step is the predicted x_0
    assert (results[1].prev_sample - results[1].pred_original_sample).abs().max() <= 1e-6 * 8


def test_coefficients_of_small_t_are_not_those_of_float32():
    ours, theirs = FusedDDPMScheduler(clip_sample=False), DDPM(clip_sample=False)
    chain = Schedule(ours.betas.double().numpy())
    actual, wrong = (
        s.step(torch.zeros(1, 1), 1, torch.ones(1, 1), generator=generator()).prev_sample.double()
        for s in (ours, theirs)
    )
    z = torch.randn(1, 1, generator=generator()).double()
    exact = 1 / np.sqrt(chain.alpha[2]) + np.sqrt(chain.posterior_variance[2]) * z
    assert (actual - exact).abs() <= 4 * 2.0**-24
    assert (wrong - exact).abs() > 16 * 2.0**-24


@pytest.mark.parametrize("config", [*CONFIGS, {"timestep_spacing": "linspace"}, {"timestep_spacing": "trailing"}])
@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_compatible_is_diffusers_to_the_bit(theirs, ours, config):
    one, other = theirs(**config), ours(**config, compatible=True)
    for steps in (7, 61):
        for scheduler in (one, other):
            scheduler.set_timesteps(steps)
        assert torch.equal(one.timesteps, other.timesteps)
        for t in one.timesteps[::5]:
            results = [
                s.step(OUTPUT, t, X, generator=generator(), **({"eta": 0.5} if theirs is DDIM else {}))
                for s in (one, other)
            ]
            for name in ("prev_sample", "pred_original_sample"):
                assert torch.equal(results[0][name].nan_to_num(), results[1][name].nan_to_num())
            for dtype in (torch.float32, torch.bfloat16):
                arguments = X.to(dtype), OUTPUT.to(dtype), t[None]
                assert torch.equal(one.add_noise(*arguments), other.add_noise(*arguments))
                assert torch.equal(one.get_velocity(*arguments), other.get_velocity(*arguments))


@pytest.mark.parametrize("variance", VARIANCES)
def test_compatible_has_every_variance_of_diffusers(variance):
    output = torch.cat([OUTPUT, OUTPUT.abs()], dim=1) if "learned" in variance else OUTPUT
    results = [
        s.step(output, 500, X, generator=generator()).prev_sample
        for s in (DDPM(variance_type=variance), FusedDDPMScheduler(variance_type=variance, compatible=True))
    ]
    assert torch.equal(results[0].nan_to_num(), results[1].nan_to_num())
    assert results[0].isnan().all() == (variance == "fixed_large_log")


def test_compatible_follows_timesteps_as_diffusers_does():
    one, other = DDPM(), FusedDDPMScheduler(compatible=True)
    for scheduler in (one, other):
        scheduler.set_timesteps(timesteps=[900, 30, 2])
    assert [int(one.previous_timestep(t)) for t in one.timesteps] == [
        int(other.previous_timestep(t)) for t in one.timesteps
    ]
    with pytest.raises(ValueError, match=r"must lie in 1..1000"):
        other.set_timesteps(0)
