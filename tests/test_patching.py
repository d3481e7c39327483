"""`patched`: the same losses and samples for the same noise, during training too, and nothing left behind."""

import copy
import types

import numpy as np
import pytest
import torch
from noisestep.accelerated.integrations import patched
from noisestep.accelerated.integrations.improved_diffusion import ModelMeanType, ModelVarType
from torch import Tensor, nn

# tables of float32 from betas of float32, and products and sums in another order
CLOSE = {"rtol": 2e-5, "atol": 2e-5}


@pytest.fixture(scope="module")
def ddp():
    return pytest.importorskip(
        "denoising_diffusion_pytorch.denoising_diffusion_pytorch",
        reason="needs denoising-diffusion-pytorch: pip install 'noisestep[integrations]'",
    )


class Network(nn.Module):
    """What denoising-diffusion-pytorch and improved-diffusion ask of a network, and no more."""

    channels = out_dim = 3
    self_condition = False
    random_or_learned_sinusoidal_cond = False

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.time = nn.Conv2d(3, outputs, 3, padding=1), nn.Linear(1, outputs)

    def forward(self, x: Tensor, t: Tensor, x_self_cond: Tensor | None = None) -> Tensor:
        return self.convolution(x) + self.time(t[:, None].float() / 1000)[..., None, None]


def diffusion_of(ddp, **options):
    return ddp.GaussianDiffusion(Network(), image_size=8, **{"timesteps": 50, **options})


def images(count: int = 6) -> Tensor:
    return torch.rand((count, 3, 8, 8), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v"])
@pytest.mark.parametrize(
    "options", [{}, {"min_snr_loss_weight": True}, {"offset_noise_strength": 0.1}, {"immiscible": True}]
)
def test_training_by_denoising_diffusion_pytorch_goes_on_as_it_would(ddp, objective, options):
    losses = {}
    for fused in (False, True):
        diffusion = diffusion_of(ddp, objective=objective, beta_schedule="cosine", **options)
        optimizer = torch.optim.Adam(diffusion.parameters(), lr=1e-3)

        def train(diffusion=diffusion, optimizer=optimizer):
            torch.manual_seed(3)
            for _ in range(5):
                loss = diffusion(images())
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                yield float(loss.detach())

        if fused:
            with patched(diffusion):
                losses[fused] = list(train())
        else:
            losses[fused] = list(train())
    assert losses[True] == pytest.approx(losses[False], rel=2e-5)
    assert len(set(losses[True])) == 5


@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v"])
@pytest.mark.parametrize("steps", [None, 10])
def test_samples_of_denoising_diffusion_pytorch_are_the_same(ddp, objective, steps):
    diffusion = diffusion_of(ddp, objective=objective, sampling_timesteps=steps)
    torch.manual_seed(0)
    expected = diffusion.sample(batch_size=2)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    with patched(diffusion) as same:
        assert same is diffusion
        actual = diffusion.sample(batch_size=2)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(torch.get_rng_state(), state)


def test_losses_of_each_sample_and_half_precision(ddp):
    diffusion = diffusion_of(ddp)
    t, noise = torch.arange(6) * 9, torch.randn(6, 3, 8, 8)
    expected = diffusion.p_losses(images(), t, noise, loss_reduction="none")
    with patched(diffusion):
        torch.testing.assert_close(diffusion.p_losses(images(), t, noise, loss_reduction="none"), expected, **CLOSE)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = diffusion.p_losses(images(), t, noise)
    assert half.dtype == torch.float32
    # the network's output in bfloat16, of numbers about 1
    torch.testing.assert_close(half, expected.mean(), rtol=2**-6, atol=0)


def test_everything_is_as_it_was_after_the_with(ddp):
    diffusion = diffusion_of(ddp)
    before = dict(vars(diffusion))
    with pytest.raises(RuntimeError, match="to have 3 channels"), patched(diffusion):
        diffusion.p_losses(torch.zeros(1, 5, 8, 8), torch.tensor([1]))
    assert vars(diffusion) == before
    # what a script had put there itself comes back
    diffusion.q_sample = mine = lambda x_start, t, noise=None: x_start
    with patched(diffusion), patched(diffusion):
        assert diffusion.q_sample is not mine
    assert diffusion.q_sample is mine


def test_a_copy_made_meanwhile_uses_its_own_network(ddp):
    diffusion = diffusion_of(ddp)
    x, t, noise = images(), torch.arange(6), torch.randn(6, 3, 8, 8)
    with patched(diffusion):
        average = copy.deepcopy(diffusion)
        expected = diffusion.p_losses(x, t, noise)
        with torch.no_grad():
            average.model.convolution.weight.zero_()
        assert average.p_losses(x, t, noise) != expected
        assert diffusion.p_losses(x, t, noise) == expected


@pytest.mark.parametrize("target", [nn.Linear(1, 1), object(), types.SimpleNamespace(betas=1)])
def test_what_is_not_known_is_refused(target):
    message = f"or a diffusers pipeline with a DDPM or DDIM scheduler, got {type(target).__name__}"
    with pytest.raises(TypeError, match=message), patched(target):
        pass


class Improved:
    """The methods of improved-diffusion that are patched, written out plainly: float64 tables, rounded at the end."""

    def __init__(self, mean: str, variance: str) -> None:
        self.betas = np.linspace(1e-3, 0.2, 20)
        self.model_mean_type, self.model_var_type = (types.SimpleNamespace(name=name) for name in (mean, variance))
        self.alpha_bar = np.cumprod(1 - self.betas)
        self.before = np.append(1.0, self.alpha_bar[:-1])

    def rows(self, array, t):
        return torch.from_numpy(array)[t].reshape(-1, 1, 1, 1)

    def _scale_timesteps(self, t):
        return t

    def q_sample(self, x_start, t, noise=None):
        noise = torch.randn_like(x_start) if noise is None else noise
        return (self.rows(self.alpha_bar**0.5, t) * x_start + self.rows((1 - self.alpha_bar) ** 0.5, t) * noise).float()

    def training_losses(self, model, x_start, t, noise=None):
        noise = torch.randn_like(x_start) if noise is None else noise
        target = noise if self.model_mean_type.name == "EPSILON" else x_start
        return {"loss": (model(self.q_sample(x_start, t, noise), t)[:, :3] - target).square().flatten(1).mean(1)}

    def x_0(self, model, x, t, clip_denoised, denoised_fn):
        output = model(x, t)
        x_0, place = output[:, :3].double(), output[:, 3:]
        if self.model_mean_type.name == "EPSILON":
            x_0 = (x - self.rows((1 - self.alpha_bar) ** 0.5, t) * x_0) / self.rows(self.alpha_bar**0.5, t)
        x_0 = x_0 if denoised_fn is None else denoised_fn(x_0)
        return x_0.clamp(-1, 1) if clip_denoised else x_0, place.double()

    def p_sample(self, model, x, t, clip_denoised=True, denoised_fn=None, cond_fn=None):
        x_0, place = self.x_0(model, x, t, clip_denoised, denoised_fn)
        rest = 1 - self.alpha_bar
        small = self.betas * (1 - self.before) / rest
        small[0] = small[1]
        log = {"FIXED_SMALL": np.log(small), "FIXED_LARGE": np.log(self.betas)}
        share = (place + 1) / 2
        if self.model_var_type.name == "LEARNED_RANGE":
            chosen = share * self.rows(log["FIXED_LARGE"], t) + (1 - share) * self.rows(log["FIXED_SMALL"], t)
        else:
            chosen = self.rows(log[self.model_var_type.name], t)
        mean = self.rows(self.betas * self.before**0.5 / rest, t) * x_0
        mean = mean + self.rows((1 - self.before) * (1 - self.betas) ** 0.5 / rest, t) * x
        noise = torch.randn_like(x) * (t > 0).reshape(-1, 1, 1, 1)
        return {"sample": (mean + (chosen / 2).exp() * noise).float(), "pred_xstart": x_0.float()}

    def ddim_sample(self, model, x, t, clip_denoised=True, denoised_fn=None, cond_fn=None, eta=0.0):
        x_0, _ = self.x_0(model, x, t, clip_denoised, denoised_fn)
        now, before = self.rows(self.alpha_bar, t), self.rows(self.before, t)
        eps = (x - now.sqrt() * x_0) / (1 - now).sqrt()
        sigma = eta * ((1 - before) / (1 - now) * (1 - now / before)).sqrt()
        noise = torch.randn_like(x) * (t > 0).reshape(-1, 1, 1, 1)
        sample = before.sqrt() * x_0 + (1 - before - sigma**2).sqrt() * eps + sigma * noise
        return {"sample": sample.float(), "pred_xstart": x_0.float()}


@pytest.mark.parametrize("mean", [kind.name for kind in ModelMeanType])
@pytest.mark.parametrize("variance", [kind.name for kind in ModelVarType])
@pytest.mark.parametrize("options", [{}, {"clip_denoised": False, "cond_fn": None}, {"denoised_fn": lambda x: x / 2}])
def test_improved_diffusion_steps_as_it_would(mean, variance, options):
    diffusion = Improved(mean, variance)
    model = Network(6 if variance == "LEARNED_RANGE" else 3)
    x, t = 2 * images() - 1, torch.tensor([0, 1, 2, 10, 18, 19])

    @torch.no_grad()
    def results():
        torch.manual_seed(0)
        return [
            diffusion.q_sample(x, t),
            diffusion.training_losses(model, x, t)["loss"],
            *diffusion.p_sample(model, x, t, **options).values(),
            *diffusion.ddim_sample(model, x, t, **options).values(),
            *diffusion.ddim_sample(model, x, t, eta=0.7, **options).values(),
        ]

    expected = results()
    with patched(diffusion):
        actual = results()
    for one, other in zip(actual, expected, strict=True):
        # unclipped, x_0 is up to three times x
        torch.testing.assert_close(one, other, **CLOSE)
    assert vars(diffusion).keys().isdisjoint({"q_sample", "p_sample", "ddim_sample"})


def test_kinds_that_the_ops_have_not_are_left_to_the_library():
    class Other(Improved):
        def p_sample(self, model, x, t, clip_denoised=True):
            return "its own", clip_denoised

    with patched(Other("PREVIOUS_X", "LEARNED")) as diffusion:
        assert diffusion.p_sample(Network(), images(), torch.zeros(6), clip_denoised=False) == ("its own", False)


def test_a_pipeline_has_its_scheduler_back():
    diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install 'noisestep[test]'")
    from noisestep.accelerated.integrations.diffusers import FusedDDIMScheduler, FusedDDPMScheduler

    unet = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8,),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    for theirs, ours in (
        (diffusers.DDPMScheduler(), FusedDDPMScheduler),
        (diffusers.DDIMScheduler(beta_schedule="scaled_linear"), FusedDDIMScheduler),
    ):
        pipe = (diffusers.DDPMPipeline if ours is FusedDDPMScheduler else diffusers.DDIMPipeline)(unet, theirs)
        before = pipe.scheduler
        with patched(pipe):
            assert type(pipe.scheduler) is ours
            assert pipe.scheduler.config.beta_schedule == theirs.config.beta_schedule
        assert pipe.scheduler is before
    pipe = diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler())
    pipe.scheduler = diffusers.EulerDiscreteScheduler()
    with pytest.raises(TypeError, match="must be a DDPM or DDIM scheduler, got EulerDiscreteScheduler"), patched(pipe):
        pass
