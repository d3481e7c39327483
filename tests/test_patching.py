"""`patched`: the same results for the same noise; nothing that was changed is bypassed, and nothing is left behind."""

import copy
import functools
import importlib
import inspect
import logging
import pickle
import pkgutil
import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from noisestep.accelerated.integrations import denoising_diffusion, patched
from noisestep.accelerated.integrations.improved_diffusion import patch as improved_patch
from noisestep.accelerated.integrations.sources import digest
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

# tables of float32 from betas of float32, and products and sums in another order
CLOSE = {"rtol": 2e-5, "atol": 2e-5}
ALL = ("q_sample", "p_losses", "p_sample")


@pytest.fixture(scope="module")
def ddp():
    return pytest.importorskip(
        "denoising_diffusion_pytorch.denoising_diffusion_pytorch",
        reason="needs denoising-diffusion-pytorch: pip install 'noisestep[integrations]'",
    )


class Network(nn.Module):
    """What denoising-diffusion-pytorch and improved-diffusion ask of a network, and no more."""

    channels = 3
    self_condition = False
    random_or_learned_sinusoidal_cond = False

    def __init__(self, outputs: int = 3, kind: type[nn.Module] = nn.Conv2d) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.out_dim = outputs
        self.convolution, self.time = kind(3, outputs, 3, padding=1), nn.Linear(1, outputs)

    def forward(self, x: Tensor, t: Tensor, *conditions: Any, **options: Any) -> Tensor:
        told = self.time(t[:, None].to(x.dtype) / 1000)
        return self.convolution(x) + told.reshape(*told.shape, *[1] * (x.ndim - 2))

    def forward_with_cond_scale(self, x: Tensor, t: Tensor, classes: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        return self(x, t) * (1 + classes[:, None, None, None]), self(x, t)


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
    with patched(diffusion):
        stored = pickle.loads(pickle.dumps(diffusion))
        # nothing is replaced twice
        with patched(diffusion):
            assert diffusion.q_sample.__func__ is not ddp.GaussianDiffusion.q_sample
        # what a script puts there meanwhile stays
        diffusion.q_sample = mine = lambda x_start, t, noise=None: x_start
        stolen = diffusion.p_losses(2 * images() - 1, torch.arange(6), torch.zeros(6, 3, 8, 8))
    assert diffusion.q_sample is mine
    assert diffusion.p_losses(2 * images() - 1, torch.arange(6), torch.zeros(6, 3, 8, 8)) == stolen
    assert stored.p_losses.__func__ is ddp.GaussianDiffusion.p_losses


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


# what each of denoising-diffusion-pytorch's classes is made with, what of it may be replaced (None: it is refused), and
# what its calls take besides
CLASSES: dict[str, tuple[str, dict[str, Any], tuple[str, ...] | None, dict[str, Any]]] = {
    "denoising_diffusion_pytorch.GaussianDiffusion": ("2d", {}, ALL, {}),
    "learned_gaussian_diffusion.LearnedGaussianDiffusion": ("2d", {"outputs": 6}, ("q_sample",), {}),
    "weighted_objective_gaussian_diffusion.WeightedObjectiveGaussianDiffusion": (
        "2d",
        {"outputs": 8},
        ("q_sample",),
        {},
    ),
    "denoising_diffusion_pytorch_1d.GaussianDiffusion1D": ("1d", {}, (), {}),
    "classifier_free_guidance.GaussianDiffusion": ("2d", {}, (), {"classes": torch.tensor([0, 1])}),
    "guided_diffusion.GaussianDiffusion": ("2d", {}, (), {}),
    "repaint.GaussianDiffusion": ("2d", {}, (), {}),
    "simple_diffusion.GaussianDiffusion": ("2d", {}, None, {}),
    "continuous_time_gaussian_diffusion.ContinuousTimeGaussianDiffusion": ("2d", {}, None, {}),
    "v_param_continuous_time_gaussian_diffusion.VParamContinuousTimeGaussianDiffusion": ("2d", {}, None, {}),
    "elucidated_diffusion.ElucidatedDiffusion": ("2d", {}, None, {}),
}


REAL = {
    "improved_diffusion": "pip install git+https://github.com/openai/improved-diffusion",
    "guided_diffusion": "pip install git+https://github.com/openai/guided-diffusion",
    "diffusion": "DiT's folder diffusion on the path",
}

# what denoising-diffusion-pytorch exports besides: its networks and trainers, and a wrapper around a diffusion
REFUSED = (
    "denoising_diffusion_pytorch.Unet",
    "denoising_diffusion_pytorch.Trainer",
    "denoising_diffusion_pytorch_1d.Unet1D",
    "denoising_diffusion_pytorch_1d.Trainer1D",
    "denoising_diffusion_pytorch_1d.Dataset1D",
    "karras_unet.KarrasUnet",
    "karras_unet_1d.KarrasUnet1D",
    "karras_unet_3d.KarrasUnet3D",
    "xm.XMWrapper",
)


def exported(package: str) -> dict[str, type]:
    """The classes that a package exports by its own name, and those of its modules that train or sample."""
    root = importlib.import_module(package)
    modules = [root]
    for found in pkgutil.iter_modules(root.__path__, f"{package}."):
        try:
            modules.append(importlib.import_module(found.name))
        except ModuleNotFoundError as error:
            # what reads and writes files wants libraries that the diffusion does not
            if (error.name or package).startswith(package):
                raise
    classes = {}
    for module in modules:
        for name, kind in vars(module).items():
            within = inspect.isclass(kind) and kind.__module__.startswith(f"{package}.")
            if within and (module is root or {"p_sample", "p_losses", "training_losses"} & set(dir(kind))):
                classes[f"{kind.__module__.removeprefix(package + '.')}.{name}"] = kind
    return classes


def table_of(library: str) -> dict[str, tuple[str, ...] | None]:
    """What the page says may be replaced of each class of a library; None: it is refused."""
    page = Path(__file__).parents[1].joinpath("docs", "integrations.md").read_text()
    of_library = re.search(rf"^\| {library} \|.*?(?=\n\n|^\| [^|`]+ \| \|)", page, re.MULTILINE | re.DOTALL)
    assert of_library is not None
    rows = [row.split("|")[1:3] for row in of_library[0].splitlines()[1:]]
    return {
        name: None if "refused" in replaced else tuple(re.findall(r"`(\w+)`", replaced))
        for names, replaced in rows
        for name in re.findall(r"`([\w.]+)`", names)
    }


def test_the_page_has_every_class_that_denoising_diffusion_pytorch_exports(ddp):
    kinds = exported("denoising_diffusion_pytorch")
    assert sorted(kinds) == sorted([*CLASSES, *REFUSED])
    root = importlib.import_module("denoising_diffusion_pytorch")
    names = {where: where.split(".")[1] for where in kinds}
    # those of one name are told apart by their modules
    names = {where: name if getattr(root, name, None) is kinds[where] else where for where, name in names.items()}
    replaced = {names[where]: replaced for where, (_, _, replaced, _) in CLASSES.items()}
    assert table_of("denoising-diffusion-pytorch") == replaced | {names[where]: None for where in REFUSED}
    for where in REFUSED:
        with pytest.raises(TypeError, match=f"got {kinds[where].__name__}"):
            patched(kinds[where].__new__(kinds[where]))


@pytest.mark.parametrize("package", REAL)
def test_the_page_has_every_diffusion_that_a_package_of_openai_s_exports(package):
    pytest.importorskip(package, reason=f"needs {package}: {REAL[package]}")
    kinds = {where.split(".")[1] for where in exported(package)}
    methods = ("q_sample", "p_sample", "ddim_sample")
    assert table_of("improved-diffusion, guided-diffusion, DiT") == dict.fromkeys(kinds, methods)


def test_a_pipeline_with_any_other_scheduler_of_diffusers_is_refused():
    diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install 'noisestep[test]'")
    assert table_of("diffusers") == {"DDPMScheduler": ("scheduler",), "DDIMScheduler": ("scheduler",)}
    names = [name for name in dir(diffusers) if re.fullmatch(r"(?!Flax).*Scheduler(Discrete)?", name)]
    assert len(names) > 40
    for name in names:
        kind = getattr(diffusers, name)
        pipe = types.SimpleNamespace(scheduler=kind.__new__(kind), register_modules=None)
        if name not in ("DDPMScheduler", "DDIMScheduler"):
            with pytest.raises(TypeError, match=f"must be a DDPM or DDIM scheduler, got {name}"):
                patched(pipe)


def shift(method: str) -> Callable[..., Any]:
    """A subclass's method that changes what the library's own returns."""

    def changed(self: Any, *arguments: Any, **options: Any) -> Any:
        result = getattr(super(type(self), self), method)(*arguments, **options)
        if isinstance(result, Tensor):
            return result * 1.5
        moved = [result[0] * 1.5, *result[1:]]
        return type(result)(*moved) if hasattr(result, "_fields") else tuple(moved)

    return changed


OVERRIDES = ("q_sample", "p_losses", "p_sample", "p_mean_variance", "model_predictions", "predict_v")


def results(diffusion: nn.Module, what: str, given: dict[str, Any]) -> list[Any]:
    """What a class does, trained, sampled, or called with positional arguments; an exception's type where it fails."""
    one_axis = hasattr(diffusion, "seq_length")
    x = torch.rand((2, 3, 8, 8)[: 3 if one_axis else 4], generator=torch.Generator().manual_seed(1))
    noise, t = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)), torch.tensor([1, 3])
    torch.manual_seed(3)
    try:
        if what == "train":
            diffusion(x, **given).backward()
            return [parameter.grad for parameter in diffusion.parameters()]
        if what == "sample":
            return [diffusion.sample(**given or {"batch_size": 2})]
        if what == "gradient":
            x.requires_grad_()
            losses = diffusion.p_losses(x, t, **given, noise=noise, loss_reduction="none")
            return list(torch.autograd.grad(losses.sum() + diffusion.q_sample(x, t, noise).square().sum(), [x]))
        if what == "compile":
            compiled = torch.compile(diffusion, backend="eager", fullgraph=True)
            return [compiled(x, **given), *compiled.p_sample(noise, 3, *given.values())]
        if what == "bfloat16":
            diffusion, x, noise = diffusion.bfloat16(), x.bfloat16(), noise.bfloat16()
        return [
            diffusion.q_sample(x, t, noise),
            diffusion.p_losses(x, t, noise, **given) if not given else 0,
            *diffusion.p_sample(noise, 2, *given.values()),
        ]
    except TypeError as error:
        # WeightedObjectiveGaussianDiffusion cannot be sampled
        if "got an unexpected keyword argument 'x_self_cond'" not in str(error):
            raise
        return [str(error)]


@pytest.mark.parametrize("where", CLASSES)
def test_every_class_of_denoising_diffusion_pytorch(ddp, where):
    module, name = where.split(".")
    axes, network, replaced, given = CLASSES[where]
    kind = getattr(importlib.import_module(f"denoising_diffusion_pytorch.{module}"), name)

    def made(cls=kind):
        model = Network(kind=nn.Conv1d if axes == "1d" else nn.Conv2d, **network)
        model.random_or_learned_sinusoidal_cond = "Continuous" in name or "Elucidated" in name
        size = {"seq_length": 8} if axes == "1d" else {"image_size": 8}
        if replaced is not None:
            size["timesteps"] = 4
        return cls(model, **size)

    if replaced is None:
        with pytest.raises(TypeError, match=f"got {name}"):
            patched(made())
        return

    def compared(what, make, expected_replaced):
        plain, ours = make(), make()
        expected = results(plain, what, given)
        patch = patched(ours)
        with patch as same:
            assert same is ours
            actual = results(ours, what, given)
        assert patch.replaced == expected_replaced
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            if isinstance(other, Tensor):
                torch.testing.assert_close(one, other, **CLOSE)
            else:
                assert one == other

    for what in ("train", "sample", "positional", "gradient", "bfloat16"):
        compared(what, made, replaced)
    for method in OVERRIDES:
        if not hasattr(kind, method):
            continue
        library = {name: of for name, of in denoising_diffusion.METHODS.items() if name in replaced}
        left = tuple(name for name in library if method != name and method not in library[name].calls)
        mine = type("Mine", (kind,), {method: shift(method)})

        def set_on_the_object(method=method, mine=mine):
            diffusion = made()
            diffusion.__dict__[method] = types.MethodType(vars(mine)[method], made(mine))
            return diffusion

        compared("sample" if method == "p_mean_variance" else "positional", lambda mine=mine: made(mine), left)
        compared("positional", set_on_the_object, left)


def test_a_patched_object_is_compiled_as_the_library_s_own(ddp):
    compared = []
    for fused in (False, True):
        diffusion = diffusion_of(ddp)
        if fused:
            with patched(diffusion):
                compared.append(results(diffusion, "compile", {}))
        else:
            compared.append(results(diffusion, "compile", {}))
    assert all(isinstance(result, Tensor) for result in compared[0])
    torch.testing.assert_close(*compared, **CLOSE)


class Unhashable:
    """A callable that no dictionary takes as a key."""

    __hash__ = None  # type: ignore[assignment]

    def __call__(self, *arguments: Any, **options: Any) -> Tensor:
        return torch.tensor(3.0)


class Losses(nn.Module):
    """What `torch.func.functional_call` calls: a diffusion's losses at fixed timesteps and noise."""

    def __init__(self, diffusion: nn.Module) -> None:
        super().__init__()
        self.diffusion = diffusion

    def forward(self, x: Tensor) -> Tensor:
        return self.diffusion.p_losses(x, torch.tensor([1, 3]), torch.ones_like(x))


def ensemble(diffusion):
    """The losses of two diffusions at once, whose weights and tables are stacked."""
    module, x = Losses(diffusion), images(2)
    state = torch.func.stack_module_state([module, module])
    return torch.vmap(lambda *state: torch.func.functional_call(module, state, (x,)))(*state).detach()


def noised_in_fake_mode(diffusion):
    x, t = images(2), torch.tensor([1, 3])
    with FakeTensorMode(allow_non_fake_inputs=True):
        diffusion.q_sample(x, t, x)
        diffusion.p_sample(x, 0)
    return torch.cat([diffusion.q_sample(x, t, x), *diffusion.p_sample(x, 0)])


def gradient_of_weights(diffusion):
    module = Losses(diffusion)
    of = torch.func.grad(lambda weights: torch.func.functional_call(module, weights, (images(2),)))
    return torch.cat([gradient.flatten() for gradient in of(dict(module.named_parameters())).values()])


# what scripts do to a GaussianDiffusion before it is patched, what may still be replaced, and a call
CHANGES: dict[str, tuple[dict[str, Any], tuple[str, ...], Callable[..., Tensor]]] = {
    "weights of the loss are integers": ({"loss_weight": torch.full((50,), 2)}, ALL, lambda d: Losses(d)(images(2))),
    "weights of the loss are float64": ({"loss_weight": torch.ones(50).double()}, ALL, lambda d: Losses(d)(images(2))),
    "a loss that cannot be hashed": (
        {"p_losses": Unhashable()},
        ("q_sample", "p_sample"),
        lambda d: Losses(d)(images(2)),
    ),
    "first used in FakeTensorMode": ({}, ALL, noised_in_fake_mode),
    "torch.func.grad of weights": ({}, ALL, gradient_of_weights),
    "torch.func.grad of images": ({}, ALL, lambda d: torch.func.grad(Losses(d))(images(2))),
    "torch.func.jvp": ({}, ALL, lambda d: torch.func.jvp(Losses(d), (images(2),), (images(2),))[1].detach()),
    "an ensemble": ({}, ALL, ensemble),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_scripts_do_to_a_diffusion_is_done_as_the_library_does_it(ddp, change):
    attributes, replaced, call = CHANGES[change]
    kind = type(
        "Mine", (ddp.GaussianDiffusion,), {name: value for name, value in attributes.items() if callable(value)}
    )
    diffusion = kind(Network(), image_size=8, timesteps=50)
    for name in attributes.keys() & dict(diffusion.named_buffers()).keys():
        setattr(diffusion, name, attributes[name])
    expected = call(diffusion)
    patch = patched(diffusion)
    assert patch.replaced == replaced
    with patch:
        torch.testing.assert_close(call(diffusion), expected, **CLOSE)


def test_a_diffusion_without_values_is_left_alone(ddp):
    with torch.device("meta"):
        patch = patched(diffusion_of(ddp))
    assert patch.left_alone == dict.fromkeys(ALL, "its betas cannot be read")


def test_a_wrapper_that_hands_on_everything_is_refused(ddp):
    class Wrapper:
        def __getattr__(self, name):
            return getattr(diffusion, name)

    diffusion = diffusion_of(ddp)
    for wrapper in (Wrapper(), torch.compile(diffusion)):
        with pytest.raises(TypeError, match=f"got {type(wrapper).__name__}"):
            patched(wrapper)


@pytest.mark.parametrize("t", [-1, 50])
def test_a_step_from_outside_of_the_chain_is_refused(ddp, t):
    with patched(diffusion_of(ddp)) as diffusion, pytest.raises(ValueError, match=rf"in 0\.\.49, got values from {t}"):
        diffusion.p_sample(images(), t)


@pytest.mark.parametrize("when", ["before", "meanwhile", "meanwhile, all in half precision"])
def test_tables_that_were_changed_count(ddp, when):
    diffusion, x, t, noise = diffusion_of(ddp), images(), torch.arange(6), torch.randn(6, 3, 8, 8)

    def change():
        diffusion.sqrt_alphas_cumprod.mul_(0.5)

    if when == "before":
        change()
        patch = patched(diffusion)
        assert patch.replaced == ()
        assert patch.left_alone["q_sample"] == "its sqrt_alphas_cumprod does not follow from its betas"
    with patched(diffusion):
        if when == "meanwhile":
            change()
        elif "half" in when:
            diffusion.q_sample(x, t, noise)
            diffusion.half()
        actual = diffusion.q_sample(x, t, noise)
    assert torch.equal(actual, diffusion.q_sample(x, t, noise))


def test_a_method_changed_meanwhile_counts(ddp, monkeypatch):
    diffusion, x, t, noise = diffusion_of(ddp), images(), torch.arange(6), torch.randn(6, 3, 8, 8)
    with patched(diffusion):
        monkeypatch.setattr(ddp.GaussianDiffusion, "predict_v", lambda self, x_start, t, noise: 3 * noise)
        actual = diffusion.p_losses(x, t, noise)
        diffusion.model_predictions = lambda *arguments, **options: ddp.ModelPrediction(noise, 0 * noise)
        _, x_0 = diffusion.p_sample(noise, 3)
    assert torch.equal(actual, diffusion.p_losses(x, t, noise))
    assert (x_0 == 0).all()


def test_what_is_replaced_is_said(ddp, caplog):
    class Mine(ddp.GaussianDiffusion):
        def p_losses(self, x_start, t, noise=None):
            return x_start.mean()

    with caplog.at_level(logging.INFO, logger="noisestep"):
        with patched(diffusion_of(ddp)):
            pass
        with patched(Mine(Network(), image_size=8)):
            pass
    everything, some = caplog.records
    assert everything.levelno == logging.INFO
    assert everything.getMessage() == "patched: q_sample, p_losses, p_sample of GaussianDiffusion replaced"
    assert some.levelno == logging.WARNING
    assert some.getMessage() == (
        "patched: q_sample, p_sample of Mine replaced; p_losses left alone: Mine.p_losses is not the library's own"
    )


@pytest.mark.parametrize(("version", "refused"), [("2.2.6", True), ("2.3.0", False), ("10.0", False)])
def test_a_version_that_is_too_old_is_refused(ddp, monkeypatch, version, refused):
    monkeypatch.setattr("importlib.metadata.version", lambda name: version)
    if refused:
        with pytest.raises(ImportError, match=r"needs denoising-diffusion-pytorch 2.3 or later, got 2.2.6"):
            patched(diffusion_of(ddp))
    else:
        assert patched(diffusion_of(ddp)).replaced == ALL


class Improved:
    """The methods of improved-diffusion that are patched, written out plainly: float64 tables, rounded at the end."""

    def __init__(self, mean: str, variance: str) -> None:
        self.betas = np.linspace(1e-3, 0.2, 20)
        self.model_mean_type, self.model_var_type = (types.SimpleNamespace(name=name) for name in (mean, variance))
        self.alpha_bar = np.cumprod(1 - self.betas)
        self.before = np.append(1.0, self.alpha_bar[:-1])
        self.alphas_cumprod, self.alphas_cumprod_prev = self.alpha_bar, self.before
        self.sqrt_alphas_cumprod, self.sqrt_one_minus_alphas_cumprod = self.alpha_bar**0.5, (1 - self.alpha_bar) ** 0.5
        self.sqrt_recip_alphas_cumprod = self.alpha_bar**-0.5
        self.sqrt_recipm1_alphas_cumprod = (1 / self.alpha_bar - 1) ** 0.5
        rest, small = 1 - self.alpha_bar, self.betas * (1 - self.before) / (1 - self.alpha_bar)
        self.posterior_mean_coef1 = self.betas * self.before**0.5 / rest
        self.posterior_mean_coef2 = (1 - self.before) * (1 - self.betas) ** 0.5 / rest
        self.posterior_log_variance_clipped = np.log(np.append(small[1], small[1:]))

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

    def p_sample(self, model, x, t, clip_denoised=True, denoised_fn=None, cond_fn=None, model_kwargs=None):
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

    def ddim_sample(self, model, x, t, clip_denoised=True, denoised_fn=None, model_kwargs=None, eta=0.0, cond_fn=None):
        x_0, _ = self.x_0(model, x, t, clip_denoised, denoised_fn)
        now, before = self.rows(self.alpha_bar, t), self.rows(self.before, t)
        eps = (x - now.sqrt() * x_0) / (1 - now).sqrt()
        sigma = eta * ((1 - before) / (1 - now) * (1 - now / before)).sqrt()
        noise = torch.randn_like(x) * (t > 0).reshape(-1, 1, 1, 1)
        sample = before.sqrt() * x_0 + (1 - before - sigma**2).sqrt() * eps + sigma * noise
        return {"sample": sample.float(), "pred_xstart": x_0.float()}


def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in's methods count as the library's own."""
    own = {name: frozenset([str(digest(method))]) for name, method in vars(Improved).items() if callable(method)}
    monkeypatch.setattr(improved_patch, "KNOWN", dict.fromkeys(improved_patch.KNOWN, frozenset()) | own)


def steps(diffusion: Any, model: Any, x: Tensor, t: Tensor, **options: Any) -> list[Tensor]:
    torch.manual_seed(0)
    return [
        diffusion.q_sample(x, t),
        diffusion.training_losses(model, x, t)["loss"],
        *(diffusion.p_sample(model, x, t, **options)[name] for name in ("sample", "pred_xstart")),
        *(diffusion.ddim_sample(model, x, t, **options)[name] for name in ("sample", "pred_xstart")),
        *(diffusion.ddim_sample(model, x, t, eta=0.7, **options)[name] for name in ("sample", "pred_xstart")),
    ]


KINDS = [(mean, variance) for mean in improved_patch.PREDICTIONS for variance in improved_patch.VARIANCES]


@pytest.mark.parametrize(("mean", "variance"), KINDS)
def test_improved_diffusion_steps_as_it_would(monkeypatch, mean, variance):
    known(monkeypatch)
    diffusion, model = Improved(mean, variance), Network(6 if variance == "LEARNED_RANGE" else 3)
    x, t = 2 * images() - 1, torch.tensor([0, 1, 2, 10, 18, 19])
    for options in ({}, {"clip_denoised": False, "cond_fn": None}, {"denoised_fn": lambda x: x / 2}):
        with torch.no_grad():
            expected = steps(diffusion, model, x, t, **options)
            with patched(diffusion):
                actual = steps(diffusion, model, x, t, **options)
        for one, other in zip(actual, expected, strict=True):
            # unclipped, x_0 is up to three times x
            torch.testing.assert_close(one, other, **CLOSE)
    assert vars(diffusion).keys().isdisjoint({"q_sample", "p_sample", "ddim_sample"})


def test_calls_of_improved_diffusion(monkeypatch):
    known(monkeypatch)
    diffusion, model = Improved("EPSILON", "FIXED_LARGE"), Network()
    x, t = (2 * images() - 1).requires_grad_(), torch.tensor([0, 1, 2, 10, 18, 19])
    calls: list[Callable[[], Tensor]] = [
        lambda: diffusion.p_sample(model, x, t, False)["sample"],
        lambda: diffusion.p_sample(model, x, t, False, torch.tanh)["sample"],
        lambda: diffusion.ddim_sample(model, x, t, True, None, None, 0.5)["sample"],
        lambda: diffusion.ddim_sample(model, x=x, t=t, eta=0.5)["sample"],
        lambda: diffusion.p_sample(model, x.bfloat16().float(), t)["sample"],
    ]
    patch = patched(diffusion)
    assert patch.replaced == ("q_sample", "p_sample", "ddim_sample")
    for call in calls:

        def outcome(call=call):
            torch.manual_seed(0)
            with torch.no_grad():
                sample = call()
            torch.manual_seed(0)
            return [sample, torch.autograd.grad(call().square().sum(), [x, *model.parameters()])[0]]

        expected = outcome()
        with patch:
            actual = outcome()
        for one, other in zip(actual, expected, strict=True):
            torch.testing.assert_close(one, other, **CLOSE)
    with patch, pytest.raises(TypeError, match="unexpected keyword argument 'wrong'"):
        diffusion.p_sample(model, x, t, wrong=1)


class Inpainting(Improved):
    """What a subclass of RePaint's kind does: the known half of x_0 is put in."""

    def x_0(self, model, x, t, clip_denoised, denoised_fn):
        x_0, place = super().x_0(model, x, t, clip_denoised, denoised_fn)
        return torch.where(torch.arange(8) < 4, 0.5, x_0), place


@pytest.mark.parametrize("on_the_object", [False, True])
def test_what_a_subclass_of_improved_diffusion_changes_is_kept(monkeypatch, on_the_object):
    known(monkeypatch)
    # the stand-in's name for what its steps call
    for name in ("p_sample", "ddim_sample"):
        method = improved_patch.METHODS[name]
        monkeypatch.setitem(improved_patch.METHODS, name, method._replace(calls=("x_0",)))
    own = {"x_0": frozenset([str(digest(Improved.x_0))])}
    monkeypatch.setattr(improved_patch, "KNOWN", improved_patch.KNOWN | own)
    diffusion = (Improved if on_the_object else Inpainting)("EPSILON", "FIXED_SMALL")
    if on_the_object:
        diffusion.x_0 = Inpainting("EPSILON", "FIXED_SMALL").x_0
    patch = patched(diffusion)
    assert patch.replaced == ("q_sample",)
    with patch, torch.no_grad():
        result = diffusion.p_sample(Network(), images(), torch.arange(6))
    assert (result["pred_xstart"][..., :4] == 0.5).all()


@pytest.mark.parametrize("package", REAL)
def test_the_real_ones_are_replaced_and_step_as_they_would(package):
    pytest.importorskip(package, reason=f"needs {package}: {REAL[package]}")
    theirs, respace = (importlib.import_module(f"{package}.{name}") for name in ("gaussian_diffusion", "respace"))
    x, t = 2 * images() - 1, torch.tensor([0, 1, 2, 5, 8, 9])
    for (mean, variance), steps_kept in zip(KINDS, [range(10), range(0, 20, 2)] * 3, strict=True):
        diffusion = respace.SpacedDiffusion(
            use_timesteps=steps_kept,
            betas=np.linspace(1e-3, 0.2, 20),
            model_mean_type=theirs.ModelMeanType[mean],
            model_var_type=theirs.ModelVarType[variance],
            loss_type=theirs.LossType.MSE,
        )
        model = Network(6 if variance == "LEARNED_RANGE" else 3)
        patch = patched(diffusion)
        assert patch.replaced == ("q_sample", "p_sample", "ddim_sample")
        with torch.no_grad():
            for options in ({}, {"clip_denoised": False}, {"denoised_fn": lambda x: x / 2}):
                expected = steps(diffusion, model, x, t, **options)
                with patch:
                    actual = steps(diffusion, model, x, t, **options)
                for one, other in zip(actual, expected, strict=True):
                    torch.testing.assert_close(one, other, **CLOSE)


@pytest.mark.parametrize("target", [nn.Linear(1, 1), object(), types.SimpleNamespace(betas=1)])
def test_what_is_not_known_is_refused(target):
    message = f"or a diffusers pipeline with a DDPM or DDIM scheduler, got {type(target).__name__}"
    with pytest.raises(TypeError, match=message):
        patched(target)


@pytest.fixture(scope="module")
def unet():
    diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install 'noisestep[test]'")
    return diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8,),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )


def pipeline_of(unet, kind, **options):
    import diffusers

    pipe = getattr(diffusers, f"{kind}Pipeline")(unet, getattr(diffusers, f"{kind}Scheduler")(**options))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize(("kind", "options"), [("DDPM", {}), ("DDIM", {"beta_schedule": "scaled_linear"})])
def test_a_pipeline_has_its_scheduler_back(unet, kind, options):
    from noisestep.accelerated.integrations import diffusers as ours

    pipe = pipeline_of(unet, kind, **options)
    before = pipe.scheduler
    # what a script has set counts as well as the config
    before.set_timesteps(7)
    before.alphas_cumprod = before.alphas_cumprod**2
    with patched(pipe):
        assert type(pipe.scheduler) is getattr(ours, f"Fused{kind}Scheduler")
        assert pipe.scheduler.config.beta_schedule == before.config.beta_schedule
        assert torch.equal(pipe.scheduler.timesteps, before.timesteps)
        assert torch.equal(pipe.scheduler.alphas_cumprod, before.alphas_cumprod)
    assert pipe.scheduler is before


def test_a_scheduler_that_was_changed_is_left_alone(unet, monkeypatch):
    import diffusers

    def step(self, *arguments, **options):
        result = diffusers.DDPMScheduler.step(self, *arguments, **options)
        result.prev_sample = result.prev_sample * 0
        return result

    def images_of(pipe):
        generator = torch.Generator().manual_seed(0)
        return pipe(generator=generator, num_inference_steps=3, output_type="np").images

    subclassed, on_the_object = pipeline_of(unet, "DDPM"), pipeline_of(unet, "DDPM")
    subclassed.scheduler = type("Mine", (diffusers.DDPMScheduler,), {"step": step})()
    on_the_object.scheduler.step = types.MethodType(step, on_the_object.scheduler)
    for pipe, why in ((subclassed, "Mine is a subclass"), (on_the_object, "step is set on the object")):
        patch = patched(pipe)
        assert patch.left_alone == {"scheduler": why}
        with patch:
            assert (images_of(pipe) == 0.5).all()
    # by its name and module, it could be diffusers' own
    monkeypatch.setattr(diffusers.DDIMScheduler, "step", functools.wraps(diffusers.DDIMScheduler.step)(step))
    why = "DDIMScheduler.step is not the library's own"
    assert patched(pipeline_of(unet, "DDIM")).left_alone == {"scheduler": why}
    subclassed.scheduler = diffusers.EulerDiscreteScheduler()
    with pytest.raises(TypeError, match="must be a DDPM or DDIM scheduler, got EulerDiscreteScheduler"):
        patched(subclassed)
