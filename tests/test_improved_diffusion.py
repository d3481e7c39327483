"""The object with improved-diffusion's interface has the reference's numbers, and k-diffusion takes it."""

import hashlib
import importlib
import itertools
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from noisestep import reference as ref
from noisestep.accelerated.address import FORWARD, NoiseAddress
from noisestep.accelerated.integrations import patched
from noisestep.accelerated.integrations.improved_diffusion import (
    GaussianDiffusion,
    LossType,
    ModelMeanType,
    ModelVarType,
    SpacedDiffusion,
    space_timesteps,
)
from noisestep.accelerated.integrations.improved_diffusion.likelihood import term
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
    return 6 if "LEARNED" in variance else 3


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


@pytest.mark.parametrize("mean", PREDICTION)
@pytest.mark.parametrize("variance", [*VARIANCE, "LEARNED_RANGE"])
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


@pytest.mark.parametrize("mean", PREDICTION)
@pytest.mark.parametrize("variance", [*VARIANCE, "LEARNED_RANGE"])
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
        ([0, 2], {10, 19}),
    ],
)
def test_spaced_timesteps(counts, expected):
    assert space_timesteps(20, counts) == expected


def test_sections_take_the_steps_that_improved_diffusion_takes():
    # the example of its docstring, whose second section has a half to round: 12 strides of 99/14 add up to less
    taken = sorted(space_timesteps(300, [10, 15, 20]))
    assert taken[10:25] == [100, 107, 114, 121, 128, 135, 142, 149, 157, 164, 171, 178, 185, 192, 199]
    # those of every count of one section of 1000, as its own code takes them
    every = [sorted(space_timesteps(1000, [count])) for count in range(1, 1001)]
    assert (
        hashlib.sha256(repr(every).encode()).hexdigest()
        == "c6f7236b85606b3d65b8629cb3e34cd96d02669cc0e0a09a4eba87e76a6e56a9"
    )


@pytest.mark.parametrize(
    ("counts", "message"), [("ddim17", "no whole stride takes 17 of 20"), ([11, 1], "of 10 steps")]
)
def test_steps_that_cannot_be_taken_are_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        space_timesteps(20, counts)


@pytest.mark.parametrize("step", [True, 2.0, "2"])
def test_a_step_that_is_no_integer_is_refused(step):
    with pytest.raises(TypeError, match="each of use_timesteps must be an int, got"):
        SpacedDiffusion([0, step], betas=BETAS, **KINDS)
    assert SpacedDiffusion(np.array([0, 2]), betas=BETAS, **KINDS).timestep_map == [0, 2]


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
        ({"mean": "V"}, "model_mean_type must be one of PREVIOUS_X, START_X, EPSILON, got V"),
        (
            {"variance": types.SimpleNamespace(name="ANY")},
            "model_var_type must be one of LEARNED, FIXED_SMALL, .* got ANY",
        ),
        ({"loss": 3}, "loss_type must be one of MSE, RESCALED_MSE, KL, RESCALED_KL, got 3"),
    ],
)
def test_unknown_kinds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        diffusion_of(**options)


def test_an_output_of_too_few_channels_is_refused():
    with pytest.raises(ValueError, match=r"twice the channels of x, got \(4, 3, 4, 4\) for \(4, 3, 4, 4\)"):
        diffusion_of(variance="LEARNED_RANGE").training_losses(Network(), tensor(0), T)


class Beside(nn.Module):
    """The same network, its output put as another kind has it."""

    def __init__(self, to: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.to_kind = Network(), to

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.to_kind(self.network(x, t), x, t)


def as_previous_x(variance: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """x_{t-1} where the network predicts eps: the mean of the posterior at the predicted x_0."""
    diffusion = diffusion_of("EPSILON", variance)

    def to(eps: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return diffusion.q_posterior_mean_variance(diffusion._predict_xstart_from_eps(x, t, eps), x, t)[0]

    return to


def as_learned(eps: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """FIXED_LARGE's log-variance, put out by the network."""
    return torch.cat([eps, diffusion_of(variance="FIXED_LARGE")._rows("_log_large", t, x)], dim=1)


@pytest.mark.parametrize(
    ("kinds", "same_as", "to"),
    [
        (("PREVIOUS_X", "FIXED_SMALL"), ("EPSILON", "FIXED_SMALL"), as_previous_x("FIXED_SMALL")),
        (("EPSILON", "LEARNED"), ("EPSILON", "FIXED_LARGE"), as_learned),
    ],
)
def test_the_kinds_that_the_ops_have_not(kinds, same_as, to):
    x_0, x, z = tensor(0).clamp(-1, 1), tensor(1), tensor(2)
    for method, options in (("p_sample", {}), ("ddim_sample", {"eta": 0.5}), ("p_mean_variance", {})):
        arguments = dict(clip_denoised=False, **({} if method == "p_mean_variance" else {"noise": z}), **options)
        results = []
        for these, model in ((kinds, Beside(to)), (same_as, Network())):
            for grad in (False, True):
                with torch.set_grad_enabled(grad):
                    results.append(getattr(diffusion_of(*these), method)(model, x, T, **arguments))
        for result in results[:3]:
            for name, value in result.items():
                # x_0 from x_{t-1} divides by the coefficient of x_0, down to 0.002 here
                near(value, results[3][name].detach().double().numpy(), bound=1e-4)
    (bound, same), eps = (
        (diffusion_of(*these, loss="KL") for these in (kinds, same_as)),
        tensor(3),
    )
    losses = bound.training_losses(Beside(to), x_0, T, noise=eps)["loss"]
    near(losses, same.training_losses(Network(), x_0, T, noise=eps)["loss"].detach().double().numpy(), bound=1e-4)
    terms = diffusion_of(*kinds).training_losses(Beside(to), x_0, T, noise=eps)
    if kinds[0] == "PREVIOUS_X":
        x_t = bound.q_sample(x_0, T, eps)
        target = bound.q_posterior_mean_variance(x_0, x_t, T)[0]
        near(terms["mse"], ((Beside(to)(x_t, T) - target) ** 2).flatten(1).mean(1).detach().double().numpy())
    else:
        near(terms["vb"], losses.detach().double().numpy())


@pytest.mark.parametrize("mean", PREDICTION)
@pytest.mark.parametrize("variance", ["FIXED_LARGE", "LEARNED_RANGE"])
def test_a_step_with_gradients_has_the_values_of_the_op_and_their_derivative(mean, variance):
    x, z, direction = tensor(0).double().requires_grad_(), tensor(1).double(), tensor(4).double()
    diffusion, model = diffusion_of(mean, variance), Network(outputs_of(variance)).double()
    for step in (
        lambda x: diffusion.p_sample(model, x, T, clip_denoised=False, noise=z),
        lambda x: diffusion.ddim_sample(model, x, T, clip_denoised=True, eta=0.5, noise=z),
        lambda x: diffusion.p_sample(model, x, T, denoised_fn=torch.tanh, noise=z),
    ):
        with torch.no_grad():
            expected = step(x)
        for name, value in step(x).items():
            near(value, expected[name].numpy())
        (gradient,) = torch.autograd.grad(step(x)["sample"].sum(), [x])
        with torch.no_grad():
            moved = [step(x + sign * 1e-6 * direction)["sample"].sum() for sign in (1, -1)]
        assert float((gradient * direction).sum()) == pytest.approx(float(moved[0] - moved[1]) / 2e-6, rel=1e-4)


def test_the_reverse_ode_is_ddim_the_other_way_round():
    diffusion = diffusion_of("START_X")
    x_0, x = tensor(0).clamp(-1, 1), tensor(1)

    def model(x, t):
        return x_0

    for t in (1, 10, 18):
        down = diffusion.ddim_sample(model, x, torch.full((4,), t))["sample"]
        up = diffusion.ddim_reverse_sample(model, down, torch.full((4,), t - 1))
        near(up["sample"], x.double().numpy(), bound=1e-5)
        assert torch.equal(up["pred_xstart"], x_0)
    last = diffusion.ddim_reverse_sample(model, x, torch.full((4,), 19))["sample"]
    near(last, diffusion._predict_eps_from_xstart(x, torch.full((4,), 19), x_0).double().numpy())
    # improved-diffusion writes this formula out there
    diffusion._predict_eps_from_xstart = lambda x_t, t, pred_xstart: 0 * x_t
    assert torch.equal(diffusion.ddim_reverse_sample(model, down, torch.full((4,), 17))["sample"], up["sample"])
    with pytest.raises(ValueError, match=r"eta must be 0 in ddim_reverse_sample, which is deterministic, got 0\.5"):
        diffusion.ddim_reverse_sample(model, x, T, eta=0.5)


@pytest.mark.parametrize("spaced", [False, True])
@torch.no_grad()
def test_cond_fn_moves_the_mean_and_the_score(spaced):
    diffusion = (
        SpacedDiffusion(range(0, 40, 2), betas=ref.linear_beta(40, 1e-3, 0.3), **KINDS) if spaced else diffusion_of()
    )
    x, z, gradient, told = tensor(0), tensor(1), tensor(2), []

    def cond_fn(x, t, scale):
        told.append(t)
        return scale * gradient

    def model(x, t, scale):
        return x / 2

    options = dict(model_kwargs={"scale": 3.0}, clip_denoised=False)
    out = diffusion.p_mean_variance(model, x, T, **options)
    expected = out["mean"] + out["variance"] * 3 * gradient + (T != 0)[:, None, None, None] * out["variance"].sqrt() * z
    actual = diffusion.p_sample(model, x, T, **options, cond_fn=cond_fn, noise=z)["sample"]
    # the variance at t = 0 is the next one's where it is a logarithm
    near(actual, expected.double().numpy())
    # eps - sqrt(1 - alpha_bar) gradient, and then the step without a condition
    root = torch.tensor(diffusion.sqrt_one_minus_alphas_cumprod)[T][:, None, None, None].float()
    for method, more in (("ddim_sample", {"noise": z, "eta": 0.5}), ("ddim_reverse_sample", {})):
        step = getattr(diffusion, method)
        expected = step(lambda x, t: x / 2 - root * 3 * gradient, x, T, clip_denoised=False, **more)["sample"]
        near(step(model, x, T, **options, cond_fn=cond_fn, **more)["sample"], expected.double().numpy(), bound=1e-5)
    assert all(t.tolist() == [0, 2, 20, 38] if spaced else torch.equal(t, T) for t in told)
    samples = [
        loop(model, (1, 3, 4, 4), tensor(3)[:1], model_kwargs={"scale": 3.0}, cond_fn=condition)
        for loop in (diffusion.p_sample_loop, diffusion.ddim_sample_loop)
        for condition in (None, lambda x, t, scale: scale * gradient[:1])
    ]
    assert not torch.equal(samples[2], samples[3])


KINDS = dict(model_mean_type="EPSILON", model_var_type="FIXED_SMALL", loss_type="MSE")


@pytest.mark.parametrize("loop", ["p_sample_loop", "ddim_sample_loop"])
def test_loops_take_their_arguments_by_position(loop):
    diffusion, told = diffusion_of(), []

    def model(x, t, shift):
        told.append(shift)
        return x * 0 + shift

    x_T = tensor(0)[:2]
    for arguments in ((x_T, False, torch.tanh, {"shift": 0.1}, "cpu", False), (x_T, True, None, {"shift": 0.1})):
        torch.manual_seed(0)
        actual = getattr(diffusion, loop)(model, x_T.shape, *arguments)
        names = ("noise", "clip_denoised", "denoised_fn", "model_kwargs", "device", "progress")
        torch.manual_seed(0)
        expected = getattr(diffusion, loop)(model, x_T.shape, **dict(zip(names, arguments, strict=False)))
        assert torch.equal(actual, expected)
    assert told == [0.1] * 80


class Inpainting(GaussianDiffusion):
    def p_mean_variance(self, *arguments, **options):
        out = super().p_mean_variance(*arguments, **options)
        return {**out, "mean": torch.where(torch.arange(4) < 2, 0.5, out["mean"])}


@pytest.mark.parametrize("on_the_object", [False, True])
@torch.no_grad()
def test_a_subclass_is_not_bypassed(on_the_object):
    diffusion = (GaussianDiffusion if on_the_object else Inpainting)(betas=BETAS, **{**KINDS, "loss_type": "KL"})
    if on_the_object:
        diffusion.p_mean_variance = Inpainting(betas=BETAS, **KINDS).p_mean_variance
    z = torch.zeros(4, 3, 4, 4)
    assert (diffusion.p_sample(Network(), tensor(0), T, noise=z)["sample"][..., :2] == 0.5).all()
    x_0, eps = tensor(0).clamp(-1, 1), tensor(1)
    mine = diffusion.training_losses(Network(), x_0, T, noise=eps)["loss"]
    plain = diffusion_of(loss="KL").training_losses(Network(), x_0, T, noise=eps)["loss"]
    assert (mine != plain).all()


def test_sampling_in_inference_mode_comes_before_training():
    diffusion, model, x = diffusion_of(), Network(), tensor(0)
    with torch.inference_mode():
        diffusion.p_mean_variance(model, x, T)
    diffusion.p_sample(model, x.requires_grad_(), T)["sample"].sum().backward()
    assert x.grad.isfinite().all()


def test_tables_cannot_be_set():
    diffusion = diffusion_of()
    with pytest.raises(AttributeError, match="alphas_cumprod follows from betas; make another GaussianDiffusion"):
        diffusion.alphas_cumprod = BETAS
    for name in ("alphas_cumprod_next", "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "betas"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(diffusion, name)[0] = 0.5
    assert diffusion.alphas_cumprod_next.tolist() == [*diffusion.alphas_cumprod[1:], 0.0]


def test_the_decoder_is_exact_or_compatible():
    """At t = 0 -log of a level's probability: far from the mean 1e-12 stands in for it in improved-diffusion."""
    x_0 = torch.full((2, 1, 1, 1), 0.0)
    far = torch.stack([x_0[0] + 0.5, x_0[1] + 0.001])
    options = dict(
        betas=np.array([1e-4, 0.02]), model_mean_type="START_X", model_var_type="FIXED_LARGE", loss_type="KL"
    )
    t = torch.zeros(2, dtype=torch.int64)
    losses = [
        GaussianDiffusion(**options, compatible=compatible)
        .training_losses(lambda x, t: far, x_0, t, noise=torch.zeros(2, 1, 1, 1))["loss"]
        .tolist()
        for compatible in (False, True)
    ]
    assert losses[1][0] == pytest.approx(12 / np.log10(2), rel=1e-6)
    assert losses[0][0] > 10 * losses[1][0]
    assert losses[0][1] == pytest.approx(losses[1][1], abs=2e-3)
    # the figures of docs/integrations.md
    zero, log_variance = torch.zeros(1, 1), torch.full((1, 1), float(np.log(1e-4)))
    for compatible, bits in ((False, 1782.15), (True, 39.86)):
        value = term(zero, zero, zero, zero + 0.5, log_variance, t[:1], compatible=compatible)
        assert float(value) == pytest.approx(bits, abs=0.01)


REAL = {
    "improved_diffusion": "pip install git+https://github.com/openai/improved-diffusion",
    "guided_diffusion": "pip install git+https://github.com/openai/guided-diffusion",
    "diffusion": "DiT's folder diffusion on the path",
}


def both(real: Any, ours: Any, call: Callable[[Any], Any], bound: float = 1e-4) -> None:
    results = []
    for diffusion in (real, ours):
        torch.manual_seed(0)
        result = call(diffusion)
        results.append(list(result.values()) if isinstance(result, dict) else [*result])
    for one, other in zip(*results, strict=True):
        # of the value, or of 1
        assert ((one - other).abs() <= bound * other.abs().clamp(min=1)).all()


def compare(package: str, theirs: Any, respace: Any, mean: str, variance: str, loss: str) -> None:
    kinds = dict(
        betas=ref.linear_beta(40, 1e-3, 0.3),
        use_timesteps=range(0, 40, 2),
        model_mean_type=theirs.ModelMeanType[mean],
        model_var_type=theirs.ModelVarType[variance],
        loss_type=theirs.LossType[loss],
    )
    pair = respace.SpacedDiffusion(**kinds), SpacedDiffusion(**kinds, compatible=True)
    x_0, x, eps, gradient = tensor(0).clamp(-1, 1), tensor(1).requires_grad_(), tensor(2), tensor(3)
    model, loop = Network(outputs_of(variance)), {"progress": False, "device": "cpu"}
    both(*pair, lambda d: d.training_losses(model, x_0, T, noise=eps))
    if loss != "MSE":
        return
    steps = ("p_sample", "ddim_sample", "ddim_reverse_sample", "p_mean_variance")
    results = [lambda d, step=step: getattr(d, step)(model, x, T) for step in steps]
    for result in results:
        both(*pair, lambda d, result=result: (value for name, value in result(d).items() if name != "extra"))
        both(
            *pair,
            lambda d, result=result: torch.autograd.grad(result(d)["pred_xstart"].sum(), [x]),
            # the sum over a batch of derivatives up to 1 / 0.1
            bound=1e-3,
        )
    with torch.no_grad():
        both(*pair, lambda d: d.p_sample(model, x, T))
        both(*pair, lambda d: d.ddim_sample(model, x, T, eta=0.6))
        both(*pair, lambda d: [d.p_sample_loop(model, x.shape, x, **loop)])
        both(*pair, lambda d: [d.ddim_sample_loop(model, x.shape, x, **loop)])
        both(*pair, lambda d: d.calc_bpd_loop(model, x_0), bound=1e-3)
        both(*pair, lambda d: [d._prior_bpd(x_0), d._predict_eps_from_xstart(x, T, x_0)])
        if package != "improved_diffusion":
            guided = dict(cond_fn=lambda x, t: gradient, model_kwargs={})
            both(*pair, lambda d: d.p_sample(model, x, T, **guided))
            both(*pair, lambda d: d.ddim_sample(model, x, T, **guided))
            both(*pair, lambda d: [d.p_sample_loop(model, x.shape, x, **guided, **loop)])


@pytest.mark.parametrize("package", REAL)
def test_the_real_ones_have_the_same_numbers(package):
    pytest.importorskip(package, reason=f"needs {package}: {REAL[package]}")
    theirs, respace = (importlib.import_module(f"{package}.{name}") for name in ("gaussian_diffusion", "respace"))
    assert all(space_timesteps(300, [n]) == respace.space_timesteps(300, [n]) for n in range(1, 301))
    means, variances = [kind.name for kind in ModelMeanType], [kind.name for kind in ModelVarType]
    if package == "diffusion":
        # DiT has dropped the others
        means, variances = list(PREDICTION), [*VARIANCE, "LEARNED_RANGE"]
    for mean, variance, loss in itertools.product(means, variances, [kind.name for kind in LossType]):
        compare(package, theirs, respace, mean, variance, loss)


def moved(result: Any) -> Any:
    """What an override makes of what it would return."""
    if isinstance(result, Tensor):
        return result * 1.25 if result.is_floating_point() else result // 2
    if isinstance(result, dict):
        return {name: None if value is None else moved(value) for name, value in result.items()}
    if isinstance(result, tuple):
        return tuple(map(moved, result))
    if callable(result):
        return lambda *arguments, **options: moved(result(*arguments, **options))
    return (moved(value) for value in result)


OVERRIDES = (
    "q_sample",
    "q_posterior_mean_variance",
    "p_mean_variance",
    "p_sample",
    "ddim_sample",
    "condition_mean",
    "condition_score",
    "training_losses",
    "_predict_xstart_from_eps",
    "_predict_eps_from_xstart",
    "_scale_timesteps",
    "_wrap_model",
    "_vb_terms_bpd",
)


def overridden(kind: type, name: str, on_the_object: bool, options: dict[str, Any]) -> Any:
    """A `SpacedDiffusion` of a kind with one method changed, by a subclass or on the object."""

    def changed(self: Any, *arguments: Any, **others: Any) -> Any:
        return moved(getattr(super(mine, self), name)(*arguments, **others))

    mine = type("Mine", (kind,), {name: changed})
    if not on_the_object:
        return mine(**options)
    diffusion = kind(**options)
    own = getattr(diffusion, name)
    setattr(diffusion, name, lambda *arguments, **others: moved(own(*arguments, **others)))
    return diffusion


@pytest.mark.parametrize("on_the_object", [False, True])
@pytest.mark.parametrize("package", REAL)
@torch.no_grad()
def test_what_is_changed_counts_in_ours_and_patched_as_in_the_real_ones(package, on_the_object):
    pytest.importorskip(package, reason=f"needs {package}: {REAL[package]}")
    theirs, respace = (importlib.import_module(f"{package}.{name}") for name in ("gaussian_diffusion", "respace"))
    options = dict(
        betas=ref.linear_beta(40, 1e-3, 0.3),
        use_timesteps=range(0, 40, 2),
        model_mean_type=theirs.ModelMeanType.EPSILON,
        model_var_type=theirs.ModelVarType.LEARNED_RANGE,
        loss_type=theirs.LossType.RESCALED_MSE,
    )
    model, x, shift = Network(6), tensor(1), {"model_kwargs": {"shift": 0.1}}
    calls = [
        lambda d: d.training_losses(model, x.clamp(-1, 1), T, **shift),
        lambda d: d.p_sample(model, x, T, **shift),
        lambda d: d.ddim_sample(model, x, T, clip_denoised=False, eta=0.5),
        lambda d: d.ddim_reverse_sample(model, x, T),
        lambda d: d.p_sample(model, x, T, denoised_fn=torch.tanh),
        lambda d: [d.p_sample_loop(model, x.shape, x, device="cpu")],
    ]
    if package != "improved_diffusion":
        guided = dict(cond_fn=lambda x, t, shift: shift * x, **shift)
        calls += [lambda d: d.p_sample(model, x, T, **guided), lambda d: d.ddim_sample(model, x, T, **guided)]
    for name in OVERRIDES:
        if not hasattr(respace.SpacedDiffusion, name):
            continue
        plain, same = (overridden(respace.SpacedDiffusion, name, on_the_object, options) for _ in range(2))
        ours = overridden(SpacedDiffusion, name, on_the_object, {**options, "compatible": True})
        for call in calls:

            def numbers(diffusion: Any, call: Callable[[Any], Any] = call) -> list[Tensor]:
                result = call(diffusion)
                # DiT's "extra" is what its networks put out besides
                return [result[key] for key in sorted(result) if key != "extra"] if isinstance(result, dict) else result

            both(plain, ours, numbers, bound=1e-3)
            with patched(same):
                both(plain, same, numbers, bound=1e-3)


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
