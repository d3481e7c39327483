"""The object with improved-diffusion's interface has the reference's numbers, and k-diffusion takes it."""

import sys
import types

import numpy as np
import pytest
import torch
from noisestep import reference as ref
from noisestep.accelerated.address import FORWARD, NoiseAddress
from noisestep.accelerated.integrations.improved_diffusion import (
    GaussianDiffusion,
    LossType,
    ModelMeanType,
    ModelVarType,
    SpacedDiffusion,
    space_timesteps,
)
from noisestep.accelerated.ops import noise as noise_op
from torch import Tensor, nn

BETAS = ref.linear_beta(20, 1e-3, 0.3)
SCHEDULE = ref.Schedule(BETAS)
T = torch.tensor([0, 1, 10, 19])
# as the reference counts
T_REF = T.numpy() + 1
PREDICTION = {"EPSILON": "eps", "START_X": "x_0"}
VARIANCE = {"FIXED_SMALL": "posterior", "FIXED_LARGE": "beta"}


def tensor(seed: int, channels: int = 3) -> Tensor:
    return torch.randn((4, channels, 4, 4), generator=torch.Generator().manual_seed(seed))


def arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [t.double().numpy() for t in tensors]


def near(actual: Tensor, expected: np.ndarray, bound: float = 64 * 2.0**-24) -> None:
    assert np.abs(actual.detach().double().numpy() - expected).max() <= bound * max(1, np.abs(expected).max())


def diffusion_of(mean="EPSILON", variance="FIXED_SMALL", loss="MSE", **options):
    return GaussianDiffusion(betas=BETAS, model_mean_type=mean, model_var_type=variance, loss_type=loss, **options)


class Network(nn.Module):
    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.told = nn.Conv2d(3, outputs, 3, padding=1), []

    def forward(self, x: Tensor, t: Tensor, shift: float = 0.0) -> Tensor:
        self.told.append(t)
        return self.convolution(x).tanh() + shift


def outputs_of(variance: str) -> int:
    return 6 if variance == "LEARNED_RANGE" else 3


def test_tables_are_the_references():
    diffusion = diffusion_of()
    assert diffusion.num_timesteps == 20
    assert np.array_equal(diffusion.betas, BETAS)
    for name, table in {
        "alphas_cumprod": SCHEDULE.alpha_bar[1:],
        "alphas_cumprod_prev": SCHEDULE.alpha_bar[:-1],
        "posterior_variance": SCHEDULE.posterior_variance[1:],
        "posterior_log_variance_clipped": SCHEDULE.posterior_log_variance[1:],
        "posterior_mean_coef1": SCHEDULE.posterior_mean_coef_x_0[1:],
        "posterior_mean_coef2": SCHEDULE.posterior_mean_coef_x_t[1:],
    }.items():
        assert np.array_equal(getattr(diffusion, name), table)


def test_the_forward_process_and_its_posterior():
    diffusion, x_0, eps, x_t = diffusion_of(), tensor(0), tensor(1), tensor(2)
    near(diffusion.q_sample(x_0, T, eps), ref.q_sample(SCHEDULE, *arrays(x_0), T_REF, *arrays(eps)))
    mean, variance, log_variance = diffusion.q_mean_variance(x_0, T)
    expected = ref.q_mean_variance(SCHEDULE, *arrays(x_0), T_REF)
    near(mean, expected[0])
    near(variance, np.broadcast_to(expected[1].reshape(-1, 1, 1, 1), x_0.shape))
    near(log_variance, np.log(np.broadcast_to(expected[1].reshape(-1, 1, 1, 1), x_0.shape)))
    mean, variance, log_variance = diffusion.q_posterior_mean_variance(x_0, x_t, T)
    near(mean, ref.posterior_mean(SCHEDULE, *arrays(x_0, x_t), T_REF))
    near(variance[:, 0, 0, 0], SCHEDULE.posterior_variance[T_REF])
    near(log_variance[:, 0, 0, 0], SCHEDULE.posterior_log_variance[T_REF])
    torch.manual_seed(0)
    drawn = torch.randn_like(x_0)
    torch.manual_seed(0)
    assert torch.equal(diffusion.q_sample(x_0, T), diffusion.q_sample(x_0, T, drawn))


@pytest.mark.parametrize("mean", [kind.name for kind in ModelMeanType])
@pytest.mark.parametrize("variance", [kind.name for kind in ModelVarType])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("denoised_fn", [None, lambda x: x / 2])
@torch.no_grad()
def test_steps_are_the_references(mean, variance, clip, denoised_fn):
    diffusion, model = diffusion_of(mean, variance), Network(outputs_of(variance))
    x, z = tensor(0), tensor(1)
    prediction, place = model(x, T)[:, :3], model(x, T)[:, 3:]
    x_0 = ref.predict_x_0(SCHEDULE, *arrays(x, prediction), T_REF, prediction=PREDICTION[mean])
    if denoised_fn is not None:
        x_0 = denoised_fn(x_0)
    x_0 = np.clip(x_0, -1, 1) if clip else x_0
    if variance == "LEARNED_RANGE":
        sigma_2 = ref.learned_range_variance(SCHEDULE, (place.double().numpy() + 1) / 2, T_REF)
    else:
        sigma_2 = VARIANCE[variance]
    expected = ref.reverse_step(SCHEDULE, *arrays(x), x_0, T_REF, *arrays(z), prediction="x_0", variance=sigma_2)
    result = diffusion.p_sample(model, x, T, clip_denoised=clip, denoised_fn=denoised_fn, noise=z)
    near(result["sample"], expected)
    near(result["pred_xstart"], x_0)
    for eta in (0.0, 0.6):
        expected = ref.ddim_step(SCHEDULE, *arrays(x), x_0, T_REF, *arrays(z), prediction="x_0", eta=eta)
        result = diffusion.ddim_sample(model, x, T, clip_denoised=clip, denoised_fn=denoised_fn, noise=z, eta=eta)
        near(result["sample"], expected)
    parts = diffusion.p_mean_variance(model, x, T, clip_denoised=clip, denoised_fn=denoised_fn)
    near(parts["mean"], ref.posterior_mean(SCHEDULE, x_0, *arrays(x), T_REF))
    near(parts["pred_xstart"], x_0)
    if variance == "LEARNED_RANGE":
        near(parts["variance"], sigma_2)
    else:
        large = np.where(T_REF > 1, SCHEDULE.beta[T_REF], SCHEDULE.posterior_variance[2])
        small = SCHEDULE.posterior_variance[T_REF]
        near(parts["variance"][:, 0, 0, 0], small if variance == "FIXED_SMALL" else large)


@pytest.mark.parametrize("mean", [kind.name for kind in ModelMeanType])
@pytest.mark.parametrize("variance", [kind.name for kind in ModelVarType])
@pytest.mark.parametrize("loss", [kind.name for kind in LossType])
def test_losses_are_the_references(mean, variance, loss):
    diffusion, model = diffusion_of(mean, variance, loss), Network(outputs_of(variance))
    x_0, address = tensor(0).clamp(-1, 1), NoiseAddress(3, FORWARD, 0)
    eps = noise_op(address, x_0.shape)
    terms = diffusion.training_losses(model, x_0, T, noise=address, model_kwargs={"shift": 0.1})
    again = diffusion.training_losses(model, x_0, T, noise=eps, model_kwargs={"shift": 0.1})
    assert all(torch.equal(terms[name], again[name]) for name in terms)
    x_t = diffusion.q_sample(x_0, T, eps)
    output = model(x_t, T, shift=0.1).detach()
    if variance == "LEARNED_RANGE":
        sigma_2 = ref.learned_range_variance(SCHEDULE, (output[:, 3:].double().numpy() + 1) / 2, T_REF)
    else:
        # improved-diffusion has FIXED_LARGE's first step from FIXED_SMALL's second
        large = np.where(T_REF > 1, SCHEDULE.beta[T_REF], SCHEDULE.posterior_variance[2])
        sigma_2 = large if variance == "FIXED_LARGE" else np.exp(SCHEDULE.posterior_log_variance[T_REF])
    bound = ref.vlb_terms(
        SCHEDULE, *arrays(x_0, x_t, output[:, :3]), T_REF, prediction=PREDICTION[mean], variance=sigma_2
    )
    target = eps if mean == "EPSILON" else x_0
    mse = (output[:, :3] - target).double().square().flatten(1).mean(1).numpy()
    if "KL" in loss:
        expected = bound * (20 if loss == "RESCALED_KL" else 1)
    elif variance == "LEARNED_RANGE":
        vb = bound * (20 / 1000 if loss == "RESCALED_MSE" else 1)
        near(terms["vb"], vb)
        expected = mse + vb
    else:
        assert set(terms) == {"mse", "loss"}
        expected = mse
    near(terms["loss"], expected, bound=1e-5)
    terms["loss"].sum().backward()
    gradient = model.convolution.weight.grad
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def test_the_bound_teaches_a_learned_variance_alone():
    diffusion, x_0, eps = diffusion_of(variance="LEARNED_RANGE"), tensor(0).clamp(-1, 1), tensor(1)
    output = tensor(2, channels=6).requires_grad_()
    terms = diffusion.training_losses(lambda x, t: output, x_0, T, noise=eps)
    (of_loss,) = torch.autograd.grad(terms["loss"].sum(), [output], retain_graph=True)
    (of_mse,) = torch.autograd.grad(terms["mse"].sum(), [output])
    assert torch.equal(of_loss[:, :3], of_mse[:, :3])
    assert (of_mse[:, 3:] == 0).all()
    assert (of_loss[:, 3:] != 0).any(dim=(1, 2, 3)).all()


def test_rescaled_timesteps_are_told_as_those_of_a_thousand():
    model = Network()
    diffusion_of(rescale_timesteps=True).training_losses(model, tensor(0), T)
    assert model.told[0].tolist() == [0.0, 50.0, 500.0, 950.0]


@torch.no_grad()
def test_the_whole_bound():
    diffusion, model, x_0 = diffusion_of(), Network(), tensor(0).clamp(-1, 1)
    torch.manual_seed(5)
    result = diffusion.calc_bpd_loop(model, x_0)
    near(result["prior_bpd"], ref.prior_kl(SCHEDULE, *arrays(x_0)))
    torch.manual_seed(5)
    for column, t in enumerate(range(20, 0, -1)):
        eps = torch.randn_like(x_0)
        told = torch.full((4,), t - 1)
        x_t = diffusion.q_sample(x_0, told, eps)
        values = arrays(x_0, x_t, model(x_t, told))
        expected = ref.vlb_terms(SCHEDULE, *values, t, clip=(-1, 1))
        near(result["vb"][:, column], expected, bound=1e-5)
        predicted = ref.predict_x_0(SCHEDULE, values[1], values[2], t, clip=(-1, 1))
        near(result["xstart_mse"][:, column], ((predicted - values[0]) ** 2).mean(axis=(1, 2, 3)), bound=1e-5)
        of_eps = ref.eps_from_x_0(SCHEDULE, values[1], predicted, t) - eps.double().numpy()
        near(result["mse"][:, column], (of_eps**2).mean(axis=(1, 2, 3)), bound=1e-4)
    near(result["total_bpd"], (result["vb"].double().sum(1) + result["prior_bpd"].double()).numpy(), bound=1e-5)


@pytest.mark.parametrize("ddim", [False, True])
def test_loops_take_every_step_once(ddim):
    diffusion, model = diffusion_of(), Network()
    options = {"eta": 0.5} if ddim else {}
    loop = diffusion.ddim_sample_loop if ddim else diffusion.p_sample_loop
    torch.manual_seed(0)
    x = loop(model, (2, 3, 4, 4), progress=False, **options)
    assert [int(t[0]) for t in model.told] == list(range(19, -1, -1))
    torch.manual_seed(0)
    step = diffusion.ddim_sample if ddim else diffusion.p_sample
    expected = torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        for t in range(19, -1, -1):
            expected = step(model, expected, torch.full((2,), t), **options)["sample"]
    assert torch.equal(x, expected)
    start = torch.zeros(2, 3, 4, 4)
    progressive = diffusion.ddim_sample_loop_progressive if ddim else diffusion.p_sample_loop_progressive
    assert len(list(progressive(lambda x, t: x, (2, 3, 4, 4), noise=start, progress=True))) == 20


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ("ddim4", {0, 5, 10, 15}),
        ("ddim20", set(range(20))),
        ("ddim1", {0}),
        ([20], set(range(20))),
        ("3", {0, 10, 19}),
        ([2, 1, 3], {0, 6, 7, 14, 16, 19}),
    ],
)
def test_spaced_timesteps(counts, expected):
    assert space_timesteps(20, counts) == expected


@pytest.mark.parametrize(
    ("counts", "message"), [("ddim17", "no whole stride takes 17 of 20"), ([11, 1], "of 10 steps")]
)
def test_steps_that_cannot_be_taken_are_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        space_timesteps(20, counts)


@pytest.mark.parametrize("rescale", [False, True])
def test_a_spaced_diffusion_tells_the_network_the_steps_of_the_whole(rescale):
    spaced = SpacedDiffusion(
        use_timesteps=space_timesteps(20, "3"),
        betas=BETAS,
        model_mean_type="EPSILON",
        model_var_type="FIXED_LARGE",
        loss_type="MSE",
        rescale_timesteps=rescale,
    )
    assert (spaced.num_timesteps, spaced.original_num_steps, spaced.timestep_map) == (3, 20, [0, 10, 19])
    np.testing.assert_allclose(spaced.alphas_cumprod, SCHEDULE.alpha_bar[[1, 11, 20]], rtol=1e-12)
    model = Network()
    spaced.p_sample_loop(model, (1, 3, 4, 4))
    spaced.training_losses(model, tensor(0), torch.tensor([0, 1, 2, 0]))
    told = torch.cat(model.told).tolist()
    assert told == [step * (50.0 if rescale else 1) for step in [19, 10, 0, 0, 10, 19, 0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": "PREVIOUS_X"}, "model_mean_type must be one of START_X, EPSILON, got PREVIOUS_X"),
        (
            {"variance": types.SimpleNamespace(name="LEARNED")},
            "model_var_type must be one of FIXED_SMALL, .* got LEARNED",
        ),
        ({"loss": 3}, "loss_type must be one of MSE, RESCALED_MSE, KL, RESCALED_KL, got 3"),
    ],
)
def test_kinds_that_the_ops_have_not_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        diffusion_of(**options)


def test_an_output_of_too_few_channels_is_refused():
    with pytest.raises(ValueError, match=r"twice the channels of x, got \(4, 3, 4, 4\) for \(4, 3, 4, 4\)"):
        diffusion_of(variance="LEARNED_RANGE").training_losses(Network(), tensor(0), T)


def test_k_diffusion_takes_the_object(monkeypatch):
    # its evaluation wants CLIP, which wants a setuptools of another time; none of that is used here
    monkeypatch.setitem(sys.modules, "clip", types.ModuleType("clip"))
    external = pytest.importorskip("k_diffusion.external", reason="needs k-diffusion: see docs/integrations.md")
    sampling = sys.modules["k_diffusion.sampling"]
    model = Network()
    denoiser = external.OpenAIDenoiser(model, diffusion_of(), has_learned_sigmas=False)
    expected = np.sqrt(SCHEDULE.one_minus_alpha_bar[1:] / SCHEDULE.alpha_bar[1:])
    np.testing.assert_allclose(denoiser.sigmas.numpy(), expected, rtol=1e-5)
    x = tensor(0)[:1] * denoiser.sigma_max
    with torch.no_grad():
        actual = sampling.sample_euler(denoiser, x, denoiser.get_sigmas(), disable=True)
        # Euler's method on the probability flow is DDIM without noise, x divided by sqrt(1 + sigma^2)
        y = x / (1 + denoiser.sigma_max**2).sqrt()
        for t in range(19, -1, -1):
            y = diffusion_of().ddim_sample(model, y, torch.tensor([t]), clip_denoised=False)["sample"]
    torch.testing.assert_close(actual, y, rtol=1e-3, atol=1e-3)
