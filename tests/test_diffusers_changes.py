"""What scripts change on a scheduler is seen, shapes broadcast as in diffusers, other processes are refused."""

import copy

import pytest
import torch
from diffusers_cases import FUSED, PAIRS, batch, diffusers, generator
from noisestep.accelerated.address import FORWARD, NoiseAddress
from noisestep.accelerated.integrations.diffusers import FusedDDIMScheduler, FusedDDPMScheduler
from noisestep.accelerated.ops import noise
from torch._subclasses.fake_tensor import FakeTensorMode

X, EPS = batch(), batch(seed=1)
T = torch.tensor([0, 20, 500, 999])


def write(name, at, value, how):
    """A script's line that writes to an attribute of a scheduler."""

    def change(scheduler):
        tensor = getattr(scheduler, name)
        {"index": tensor, "data": tensor.data, "numpy": tensor.numpy()}[how][at] = value

    return change


def rescaled(scheduler):
    scheduler.alphas_cumprod = scheduler.alphas_cumprod * 0.5


def copied(scheduler):
    scheduler.alphas_cumprod.copy_(scheduler.alphas_cumprod**2)


CHANGES = {
    "alphas_cumprod[-1]": write("alphas_cumprod", -1, 0.25, "index"),
    "alphas_cumprod.data[20]": write("alphas_cumprod", 20, 0.9, "data"),
    "alphas_cumprod.numpy()[20]": write("alphas_cumprod", 20, 0.9, "numpy"),
    "alphas_cumprod.copy_": copied,
    "alphas_cumprod =": rescaled,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
@pytest.mark.parametrize("made", ["as usual", "in inference_mode", "copied"])
def test_a_change_of_alphas_cumprod_is_seen(theirs, ours, change, made):
    one = theirs()
    with torch.inference_mode(made == "in inference_mode"):
        other = ours()
    other.add_noise(X, EPS, T)
    if made == "copied":
        other = copy.deepcopy(other)
        other.add_noise(X, EPS, T)
    for scheduler in (one, other):
        CHANGES[change](scheduler)
    for name in ("add_noise", "get_velocity"):
        expected = getattr(one, name)(X, EPS, T)
        # what their float32 of 1 - alpha_bar is off at the first step, sqrt(2^-24 / 1e-4)
        assert (getattr(other, name)(X, EPS, T) - expected).abs().max() <= 1e-3 * expected.abs().max()
    if change == "alphas_cumprod[-1]":
        assert other.add_noise(torch.ones(1, 1), torch.zeros(1, 1), torch.tensor([999])) == 0.5
        # what rises there is no step to leave
        other.set_timesteps(1000)
        with pytest.raises(ValueError, match=r"as they do at the first 999 timesteps, not at 999"):
            other.step(X, 999, X)
    for scheduler in (one, other):
        scheduler.set_timesteps(50)
    t = one.timesteps[-2]
    actual, expected = (s.step(EPS, t, X, generator=generator()).prev_sample for s in (other, one))
    assert (actual - expected).abs().max() <= 1e-3 * expected.abs().max()


@pytest.mark.parametrize("how", ["index", "data", "numpy"])
@pytest.mark.parametrize("fused", FUSED)
def test_a_change_of_timesteps_is_seen(fused, how):
    one, other = fused(), fused()
    other.set_timesteps(5)
    other.step(X, other.timesteps[0], X, generator=generator())
    write("timesteps", 0, 999, how)(other)
    write("timesteps", 1, 610, how)(other)
    one.set_timesteps(timesteps=[999, 610, 400, 200, 0])
    # a view of timesteps is known by its place, an int by its value
    for t, number in zip(other.timesteps, one.timesteps.tolist(), strict=True):
        expected = one.step(EPS, number, X, generator=generator()).prev_sample
        for spelled in (t, number):
            assert torch.equal(other.step(EPS, spelled, X, generator=generator()).prev_sample, expected)


def test_a_change_of_the_last_alpha_is_seen():
    scheduler, expected = FusedDDIMScheduler(), FusedDDIMScheduler(set_alpha_to_one=False)
    for s in (scheduler, expected):
        s.set_timesteps(10)
    scheduler.step(X, 0, EPS)
    scheduler.final_alpha_cumprod.fill_(float(scheduler.alphas_cumprod[0]))
    assert torch.equal(scheduler.step(X, 0, EPS).prev_sample, expected.step(X, 0, EPS).prev_sample)
    scheduler.final_alpha_cumprod = torch.tensor(0.9)
    with pytest.raises(ValueError, match=r"final_alpha_cumprod must be 1 or alphas_cumprod\[0\], 0.9998.*, got 0.8999"):
        scheduler.step(X, 0, EPS)


@pytest.mark.parametrize("fused", FUSED)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_rounded_schedule_is_refused(fused, dtype):
    scheduler, name = fused(), str(dtype).removeprefix("torch.")
    whole = scheduler.alphas_cumprod
    scheduler.alphas_cumprod = whole.to(dtype)
    with pytest.raises(TypeError, match=f"alphas_cumprod must be float32 or float64, got {name},"):
        scheduler.add_noise(X, EPS, T)
    scheduler.alphas_cumprod = whole.to(dtype).float()
    with pytest.raises(ValueError, match="alphas_cumprod is rounded to half precision: keep it in float32"):
        scheduler.add_noise(X, EPS, T)
    scheduler.alphas_cumprod = whole.clone()
    scheduler.add_noise(X, EPS, T)
    scheduler.alphas_cumprod.copy_(whole.to(dtype))
    with pytest.raises(ValueError, match="is rounded to half precision"):
        scheduler.add_noise(X, EPS, T)
    # of a few steps they may be meant
    scheduler.alphas_cumprod = torch.tensor([0.5, 0.25])
    assert scheduler.add_noise(torch.ones(1), torch.zeros(1), torch.tensor([1])) == 0.5


def test_a_scheduler_that_was_made_in_a_mode_is_an_ordinary_one():
    expected = FusedDDPMScheduler()
    for mode in (FakeTensorMode(), torch.inference_mode(), torch.device("meta")):
        with mode:
            scheduler = FusedDDPMScheduler()
        x = X.clone().requires_grad_()
        scheduler.add_noise(x, EPS, T).sum().backward()
        assert x.grad.isfinite().all()
        assert torch.equal(scheduler.add_noise(X, EPS, T), expected.add_noise(X, EPS, T))
        assert torch.equal(scheduler.step(X, 5, X, seed=1).prev_sample, expected.step(X, 5, X, seed=1).prev_sample)


# shapes of x_0, noise and timesteps; the first two are Kandinsky 2.2's inpainting and differential diffusion
BROADCAST = [
    ((1, 3, 4, 4), (2, 3, 4, 4), (1,)),
    ((1, 3, 4, 4), (1, 3, 4, 4), (5,)),
    ((1, 3, 4, 4), (2, 3, 4, 4), (2,)),
    ((2, 3, 4, 4), (1, 3, 4, 4), (2,)),
    ((2, 3, 4, 4), (3, 4, 4), (2,)),
    ((2, 3, 4, 4), (2, 1, 4, 4), (2,)),
    ((2, 3, 4, 4), (1,), (1,)),
    ((3, 4, 4), (2, 3, 4, 4), (1,)),
    ((2, 3, 4, 4), (2, 3, 4, 4), (2, 1)),
    ((1, 3, 4, 4), (1, 3, 4, 4), (1,)),
    ((2, 3), (2, 3), (1,)),
]


@pytest.mark.parametrize("shapes", BROADCAST, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shapes_broadcast_as_in_diffusers(shapes, dtype):
    theirs, ours = (kind() for kind in PAIRS[0])
    draw = generator()
    x_0, eps = (torch.randn(shape, generator=draw) for shape in shapes[:2])
    t = torch.randint(0, 1000, shapes[2], generator=draw)
    for name in ("add_noise", "get_velocity"):
        expected = getattr(theirs, name)(x_0, eps, t)
        actual = getattr(ours, name)(x_0.to(dtype), eps.to(dtype), t)
        assert actual.shape == expected.shape
        assert actual.dtype == dtype
        bound = 1e-3 if dtype == torch.float32 else 2.0**-7
        assert (actual - expected).abs().max() <= bound * expected.abs().max()
    x_0.requires_grad_()
    ours.add_noise(x_0, eps, t).sum().backward()
    (expected,) = torch.autograd.grad(theirs.add_noise(x_0, eps, t).sum(), x_0)
    assert (x_0.grad - expected).abs().max() <= 1e-3 * expected.abs().max()


def test_noise_at_an_address_broadcasts_with_timesteps():
    scheduler, address = FusedDDPMScheduler(), NoiseAddress(0, FORWARD, 3)
    eps = noise(address, (4, *X.shape[1:]))
    assert torch.equal(scheduler.add_noise(X[:1], address, T), scheduler.add_noise(X[:1], eps, T))


@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 3, 4, 4), (3, 3, 4, 4), (1,)),
        ((2, 3, 4, 4), (2, 3, 4, 4), (3,)),
        # the timesteps would lie along another axis than the noises
        ((3, 4, 4), (2, 3, 4, 4), (2,)),
        ((3, 4, 4), (2, 3, 4, 4), (3,)),
    ],
    ids=str,
)
def test_shapes_that_are_not_one_timestep_a_sample_are_refused(shapes):
    x_0, eps, t = torch.zeros(shapes[0]), torch.zeros(shapes[1]), torch.zeros(shapes[2], dtype=torch.int64)
    with pytest.raises(ValueError, match="original_samples, noise and timesteps must broadcast, with one timestep for"):
        FusedDDPMScheduler().add_noise(x_0, eps, t)


OTHERS = {
    "flow matching": lambda: diffusers.FlowMatchEulerDiscreteScheduler().config,
    "flow matching, Heun": lambda: diffusers.FlowMatchHeunDiscreteScheduler().config,
    "flow sigmas": lambda: diffusers.UniPCMultistepScheduler(use_flow_sigmas=True).config,
    "flow matching through another": lambda: (
        diffusers.EulerDiscreteScheduler.from_config(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).config).config
    ),
    "EDM": lambda: diffusers.EDMEulerScheduler().config,
    "EDM, continuous": lambda: diffusers.EulerDiscreteScheduler(timestep_type="continuous").config,
    "EDM, multistep": lambda: diffusers.EDMDPMSolverMultistepScheduler().config,
    "rectified flow": lambda: diffusers.LTXEulerAncestralRFScheduler().config,
    "variance exploding": lambda: diffusers.ScoreSdeVeScheduler().config,
    "shifted": lambda: diffusers.CogVideoXDDIMScheduler().config,
    "file": lambda: {"_class_name": "ScoreSdeVeScheduler", "num_train_timesteps": 2000},
}


@pytest.mark.parametrize("source", OTHERS)
@pytest.mark.parametrize("fused", FUSED)
def test_configs_of_other_processes_are_refused(fused, source):
    config = OTHERS[source]()
    message = (
        f"{fused.__qualname__} takes the config of a scheduler whose noise levels are those of a beta_schedule, got"
    )
    with pytest.raises(ValueError, match=message):
        fused.from_config(config)


@pytest.mark.parametrize("fused", FUSED)
def test_configs_with_betas_are_taken(fused):
    for name in (
        "UnCLIPScheduler",
        "LCMScheduler",
        "TCDScheduler",
        "EulerDiscreteScheduler",
        "UniPCMultistepScheduler",
    ):
        assert fused.from_config(getattr(diffusers, name)().config).config.num_train_timesteps == 1000
    assert fused.from_config({"num_train_timesteps": 10}).config.num_train_timesteps == 10
