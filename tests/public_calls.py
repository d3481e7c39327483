"""A valid call of every public function of `noisestep.reference` and `noisestep.accelerated`.

The tests of what is passed in change one argument of such a call at a time; `tests/test_public_calls.py` fails while a
public function has none here.
"""

from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import noisestep.accelerated as acc
import noisestep.reference as ref
import numpy as np
import torch
from noisestep.accelerated.schedule import StepTable
from noisestep.reference import grids, noise, training
from noisestep.reference.samplers import inversion
from noisestep.reference.samplers.ddim import ddim
from torch import Tensor


class Call(NamedTuple):
    """A function, and arguments that it takes, by name."""

    function: Callable[..., Any]
    arguments: dict[str, Any]

    def __call__(self, **changed: Any) -> Any:
        return self.function(**{**self.arguments, **changed})


RNG = np.random.default_rng(0)
X, Y, Z = RNG.uniform(-1, 1, (3, 2, 1, 4, 4))
SCHEDULE = ref.Schedule.from_name("linear", 40)
T = np.array([3, 40])
ADDRESS = dict(seed=3, stream=1, step=5, sample=[7, 9])
PIXELS = np.arange(12, dtype=np.uint8).reshape(3, 4)
PARAMETERS = ref.initial_parameters(1, 1, 2, 4)
OUTPUT, ACTIVATIONS = ref.SimpleUNet(PARAMETERS).forward(X, T)


def half(x: Any, t: Any, *rest: Any) -> Any:
    """A network: its output is half of what it is given."""
    return x / 2


def half_jvp(x: Any, t: Any, z: Any) -> Any:
    return z / 2


def drawn_batches(**arguments: Any) -> Any:
    return next(training.batches(**arguments))


def drawn(**arguments: Any) -> Any:
    return acc.sample(half, SCHEDULE, **arguments).images


# what differs from an argument to another of the same name is given with the function
_OF_NAME: dict[str, Any] = {
    "schedule": SCHEDULE, "x_0": X, "x_t": X, "x_s": X, "x_1": X, "x_previous": X, "images": X, "mean": X, "eps": Y,
    "z": Y, "v": Y, "flow": Y, "mu": Y, "output": Y, "value": Y, "target": Y, "velocity": Y, "gradient": Y, "D": Y,
    "conditional": X, "unconditional": Y, "a": X, "b": Y, "t": T, "T": 40, "model": half, "jvp": half_jvp,
    "grid": np.array([1, 3, 10, 40]), "prediction": "v", "clip": (-1.0, 1.0), "seed": 3, "numbers": 5, "eta": 0.5,
    "temperature": 0.9, "levels": 10, "scale": 2.0, "shape": (2, 4, 4), "columns": 1, "zoom": 2, "fraction": 0.3,
    "s": 0.3, "start": 0.001, "end": 0.02, "stream": 1, "step": 5, "sample": [7, 9], "channels": 1, "width": 2,
    "embedding": 4, "variance": "posterior", "trajectory": False, "rederive_eps": True, "resample": 2, "jump": 2,
    "strength": 0.5, "gamma": 2.0, "k": 1.0, "decay": 0.9, "dequantisation": "uniform",
}  # fmt: skip


def _of(function: Callable[..., Any], *names: str, **given: Any) -> Call:
    return Call(function, {**{name: _OF_NAME[name] for name in names}, **given})


def _reference() -> dict[str, Call]:
    times = np.array([0.2, 0.5, 1.0])
    words = np.array([1, 2**31, 2**32 - 1], np.uint32)
    table = np.tile([0.9, 0.1, 0.05, 0.2], (41, 1))
    eps = ref.q_sample(SCHEDULE, X, 40, Y)
    converted = {
        f"{to}_from_{source}": _of(getattr(ref, f"{to}_from_{source}"), "schedule", "x_t", source, "t")
        for to, source in (
            ("x_0", "eps"), ("x_0", "v"), ("x_0", "flow"), ("x_0", "mu"), ("eps", "x_0"), ("eps", "v"), ("eps", "flow"),
            ("eps", "mu"), ("mu", "eps"),
        )
    }  # fmt: skip
    return {
        **converted,
        "Activations": Call(ref.Activations, vars(ACTIVATIONS)),
        "Adam": Call(ref.Adam, {"step": 3, "m": PARAMETERS, "v": PARAMETERS}),
        "Adam.update": Call(
            ref.Adam().update,
            dict(parameters=PARAMETERS, gradients=PARAMETERS, learning_rate=0.1, beta_1=0.9, beta_2=0.9, epsilon=0.1),
        ),
        "Bound": Call(ref.Bound, {"prior": np.ones(2), "terms": np.ones((3, 2))}),
        "Jumps": _of(ref.Jumps, "schedule", previous=np.arange(40)),
        "Jumps.direction": _of(ref.Jumps(SCHEDULE).direction, "eta"),
        "SampledBound": Call(
            ref.SampledBound, {"prior": np.ones(2), "grid": np.array([1, 3]), "terms": np.ones((2, 2))}
        ),
        "Schedule": Call(
            ref.Schedule,
            dict(beta=[0.1, 0.2], timesteps=np.array([3, 9]), zero_terminal_snr=False, first_log_variance="clip"),
        ),
        "Schedule.from_alpha_bar": Call(ref.Schedule.from_alpha_bar, {"alpha_bar": [0.9, 0.5]}),
        "Schedule.from_name": _of(
            ref.Schedule.from_name, "T", "start", name="linear", zero_terminal_snr=True, first_log_variance="reuse"
        ),
        "Schedule.respace": Call(SCHEDULE.respace, {"kept": 4, "grid": "karras"}),
        "Schedule.respace to steps": Call(SCHEDULE.respace, {"kept": [3, 9, 40]}),
        "SimpleUNet": Call(ref.SimpleUNet, {"parameters": PARAMETERS}),
        "SimpleUNet.forward": Call(lambda x, t: ref.SimpleUNet(PARAMETERS).forward(x, t)[0], {"x": X, "t": T}),
        "SimpleUNet.backward": Call(
            lambda **given: ref.SimpleUNet(PARAMETERS).backward(**given)[1],
            {"activations": ACTIVATIONS, "grad_output": X},
        ),
        "beta_schedule": _of(ref.beta_schedule, "T", "start", name="linear"),
        "bits_per_dimension": Call(ref.bits_per_dimension, {"nats": X}),
        "classifier_coefficients": _of(ref.classifier_coefficients, "schedule", "prediction"),
        "classifier_mean": _of(ref.classifier_mean, "mean", "gradient", "scale", variance=0.5),
        "classifier_output": _of(ref.classifier_output, "schedule", "output", "t", "gradient", "scale", "prediction"),
        "constant_beta": _of(ref.constant_beta, "T", value=0.1),
        "convert": _of(ref.convert, "schedule", "x_t", "value", "t", source="v", target="mu"),
        "cosine_beta": _of(ref.cosine_beta, "T", s=0.01, max_beta=0.9),
        "ddim_direction": _of(ref.ddim_direction, "schedule", "eta"),
        "ddim_sigma": _of(ref.ddim_sigma, "schedule", "eta"),
        "ddim_step": _of(
            ref.ddim_step, "schedule", "x_t", "output", "t", "z", "eta", "prediction", "clip", "rederive_eps"
        ),
        "dequantisation_entropy": _of(ref.dequantisation_entropy, "schedule", "dequantisation", "levels"),
        "dequantise": _of(ref.dequantise, "schedule", "x_0", "dequantisation", "levels", share=(Y + 1.5) / 4),
        "discretised_normal_log_likelihood": _of(
            ref.discretised_normal_log_likelihood, "x_0", "mean", "levels", log_variance=Y
        ),
        "ema": _of(ref.ema, "decay", mean=PARAMETERS, parameters=PARAMETERS),
        "flow_beta": _of(ref.flow_beta, "T"),
        "flow_path": _of(ref.flow_path, "x_0", "eps", "s"),
        "flow_schedule": Call(ref.flow_schedule, {"times": times}),
        "flow_step": _of(ref.flow_step, "x_s", "velocity", "s", to=0.1),
        "flow_velocity": _of(ref.flow_velocity, "x_0", "eps"),
        "guided": _of(ref.guided, "conditional", "unconditional", "scale"),
        "guided_steps": _of(ref.guided_steps, "schedule", low=0.1, high=1.0),
        "image_grid": _of(ref.image_grid, "images", "columns", "zoom"),
        "image_to_image": _of(
            ref.image_to_image, "schedule", "model", "images", "strength", "seed", "numbers", "temperature", "clip"
        ),
        "initial_parameters": Call(
            lambda **given: ref.initial_parameters(**given)["conv2.weight"],
            {"seed": 3, "channels": 1, "width": 2, "embedding": 4, "dtype": "float32"},
        ),
        "inpaint": _of(
            ref.inpaint,
            "model",
            "images",
            "resample",
            "jump",
            "seed",
            "numbers",
            "prediction",
            "clip",
            "temperature",
            "trajectory",
            schedule=SCHEDULE.respace(4),
            mask=X > 0,
            x_T=Y,
        ),
        "integers": Call(ref.integers, {**ADDRESS, "low": -3, "high": 100}),
        "invert": _of(inversion.invert, "schedule", "model", "images", "prediction", "trajectory"),
        "jsd_beta": _of(ref.jsd_beta, "T"),
        "learned_range_variance": _of(ref.learned_range_variance, "schedule", "t", fraction=Y),
        "likelihood_grid": _of(ref.likelihood_grid, "schedule", intervals=5),
        "linear_beta": _of(ref.linear_beta, "T", "start", scaling="none", end=0.02),
        "linear_step": _of(ref.linear_step, "x_t", "D", "t", "z", coefficients=table, history=[X]),
        "load_digits": Call(ref.load_digits, {}),
        "loss_weights": _of(ref.loss_weights, "schedule", "prediction", weighting="min_snr", gamma=2.0),
        "min_snr_weights": _of(ref.min_snr_weights, "schedule", "prediction", "gamma"),
        "normal": Call(ref.normal, {**ADDRESS, "shape": (3, 2)}),
        "normal_kl": Call(
            ref.normal_kl, {"mean_1": X, "log_variance_1": Y, "mean_2": Z, "log_variance_2": np.zeros(())}
        ),
        "normal_pair": Call(ref.normal_pair, {"u": words, "v": words[::-1]}),
        "ode_bits": _of(
            ref.ode_bits,
            "schedule",
            "model",
            "jvp",
            "x_0",
            "grid",
            "dequantisation",
            "seed",
            "numbers",
            "prediction",
            "clip",
            "levels",
            probes=2,
        ),
        "ode_log_density": _of(
            ref.ode_log_density,
            "schedule",
            "model",
            "jvp",
            "x_1",
            "grid",
            "prediction",
            "clip",
            probes=[X],
        ),
        "p2_weights": _of(ref.p2_weights, "schedule", "prediction", "gamma", "k"),
        "parameter_shapes": _of(ref.parameter_shapes, "channels", "width", "embedding"),
        "permutation": Call(ref.permutation, {"seed": 3, "epoch": 2, "n": 100}),
        "philox4x32": Call(ref.philox4x32, {"counter": [1, 2, 3, 4], "key": [5, 6]}),
        "posterior_mean": _of(ref.posterior_mean, "schedule", "x_0", "x_t", "t"),
        "posterior_mean_variance": _of(ref.posterior_mean_variance, "schedule", "x_0", "x_t", "t"),
        "posterior_sample": _of(ref.posterior_sample, "schedule", "x_0", "x_t", "t", "z"),
        "predict_x_0": _of(ref.predict_x_0, "schedule", "x_t", "output", "t", "prediction", "clip"),
        "prediction_coefficients": _of(ref.prediction_coefficients, "schedule", "prediction"),
        "prior_kl": _of(ref.prior_kl, "schedule", "x_0"),
        "q_mean_variance": _of(ref.q_mean_variance, "schedule", "x_0", "t"),
        "q_sample": _of(ref.q_sample, "schedule", "x_0", "t", "eps"),
        "q_step": _of(ref.q_step, "schedule", "x_previous", "t", "eps"),
        "q_step_mean_variance": _of(ref.q_step_mean_variance, "schedule", "x_previous", "t"),
        "quadratic_beta": _of(ref.quadratic_beta, "T", "start", "end"),
        "rademacher": _of(ref.rademacher, "seed", "step", "sample", "shape"),
        "repaint_walk": _of(ref.repaint_walk, "T", "resample", "jump"),
        "rescaled": _of(ref.rescaled, "conditional", guided=Y, rescale=0.7),
        "reverse_coefficients": _of(
            ref.reverse_coefficients,
            "schedule",
            "prediction",
            "variance",
            "eta",
            "rederive_eps",
            previous=np.arange(40),
        ),
        "reverse_mean": _of(ref.reverse_mean, "schedule", "x_t", "output", "t", "prediction", "clip"),
        "reverse_step": _of(ref.reverse_step, "schedule", "x_t", "output", "t", "z", "prediction", "clip", "variance"),
        "reverse_variance": _of(ref.reverse_variance, "schedule", "variance"),
        "sample": _of(
            ref.sample,
            "schedule",
            "model",
            "shape",
            "seed",
            "numbers",
            "prediction",
            "clip",
            "temperature",
            "trajectory",
            "eta",
            sampler=ddim,
        ),
        "sampled_bound": _of(
            ref.sampled_bound,
            "schedule",
            "model",
            "x_0",
            "grid",
            "seed",
            "numbers",
            "prediction",
            "clip",
            "variance",
            "levels",
        ),
        "scaled_linear_beta": _of(ref.scaled_linear_beta, "T", "start", "end"),
        "sigmoid_beta": _of(ref.sigmoid_beta, "T", start=-3.0, end=3.0, tau=0.9, max_beta=0.9),
        "simple_loss": _of(ref.simple_loss, "output", "target", weight=np.ones(2)),
        "slerp": _of(ref.slerp, "a", "b", fraction=np.array([0.0, 0.5])),
        "squared_error": _of(ref.squared_error, "output", "target", over="sum"),
        "start_step": _of(ref.start_step, "T", "strength"),
        "step_prediction": _of(
            ref.step_prediction, "schedule", "x_t", "output", "t", "prediction", "clip", memory="eps"
        ),
        "timestep_embedding": _of(ref.timestep_embedding, "t", "width"),
        "training_target": _of(ref.training_target, "schedule", "x_0", "eps", "t", "prediction"),
        "truncated_snr_weights": _of(ref.truncated_snr_weights, "schedule", "prediction"),
        "uniform": Call(ref.uniform, ADDRESS),
        "uniform_weights": _of(ref.uniform_weights, "schedule", "prediction"),
        "variational_bound": _of(
            ref.variational_bound,
            "schedule",
            "model",
            "x_0",
            "seed",
            "numbers",
            "prediction",
            "clip",
            "variance",
            "levels",
        ),
        "velocity": _of(ref.velocity, "schedule", "x_0", "eps", "t"),
        "vlb_terms": _of(
            ref.vlb_terms, "schedule", "x_0", "x_t", "output", "t", "prediction", "clip", "variance", "levels"
        ),
        "warmup10_beta": _of(ref.warmup10_beta, "T", "start", "end"),
        "warmup50_beta": _of(ref.warmup50_beta, "T", "start", "end"),
        "warmup_beta": _of(ref.warmup_beta, "T", "start", "end", "fraction"),
        "words": Call(ref.words, {**ADDRESS, "count": 7}),
        "write_png": Call(ref.write_png, {"path": "/dev/null", "pixels": PIXELS}),
        "x_0_from_velocity": _of(ref.x_0_from_velocity, "x_s", "velocity", "s"),
        "x_T_between": _of(ref.x_T_between, "seed", "shape", k=3, other=4, fraction=[0.5]),
        "x_t_from_flow": _of(ref.x_t_from_flow, "x_s", "s"),
        "zero_terminal_snr_beta": Call(ref.zero_terminal_snr_beta, {"beta": [0.1, 0.2]}),
        "grids.grid_steps": _of(grids.grid_steps, "schedule", n=5, grid="uniform"),
        "grids.sections": _of(grids.sections, "T", counts=[2, 3]),
        "noise.direction": Call(noise.direction, {"v": words}),
        "noise.fma": Call(noise.fma, dict(a=np.float32(0.1), b=np.float32(0.2), c=np.float32(0.3))),
        "noise.radius": Call(noise.radius, {"u": words}),
        "training.batches": Call(drawn_batches, {"seed": 3, "count": 10, "batch": 4}),
        "training.simple_loss_gradients": Call(
            lambda **given: training.simple_loss_gradients(**given)[0],
            dict(model=ref.SimpleUNet(PARAMETERS), schedule=SCHEDULE, x_0=X, t=T, eps=eps),
        ),
    }


def _tensors() -> dict[str, Any]:
    return {name: torch.from_numpy(value.astype(np.float32)) for name, value in (("x", X), ("y", Y), ("z", Z))}


def _accelerated() -> dict[str, Call]:
    x, y, z = _tensors().values()
    schedule, t = acc.DeviceSchedule(SCHEDULE), torch.from_numpy(T)
    address = acc.NoiseAddress(3, 1, 5, 7)
    steps = StepTable(np.tile([1.0, 0.0, 0.5, 0.5, 0.5, 0.5], (41, 1)), np.tile([0.9, 0.1, 0.05, 0.2], (41, 1)))
    return {
        "DeviceSchedule": Call(acc.DeviceSchedule, dict(schedule=SCHEDULE, device="cpu", previous=np.arange(40))),
        "DeviceSchedule.from_name": Call(acc.DeviceSchedule.from_name, dict(name="linear", T=40, start=0.001)),
        "DeviceSchedule.from_betas": Call(acc.DeviceSchedule.from_betas, dict(beta=[0.1, 0.2], device="cpu")),
        "DeviceSchedule.from_alphas_cumprod": Call(
            acc.DeviceSchedule.from_alphas_cumprod, dict(alpha_bar=[0.9, 0.2], device="cpu")
        ),
        "DeviceSchedule.reverse_table": Call(
            schedule.reverse_table, dict(prediction="v", variance="beta", eta=0.5, rederive_eps=True)
        ),
        "DeviceSchedule.step_table": Call(
            schedule.step_table,
            dict(coefficients=np.tile([0.9, 0.1, 0.2], (41, 1)), prediction="v", memory="eps"),
        ),
        "Edit": Call(acc.Edit, dict(images=x, strength=0.5, mask=x > 0, resample=2, jump=3)),
        "Guidance": Call(acc.Guidance, dict(scale=2.0, interval=(0.1, 2.0), rescale=0.7)),
        "NoiseAddress": Call(acc.NoiseAddress, dict(seed=3, stream=1, step=5, sample=7)),
        "advance": Call(acc.advance, dict(counter=torch.tensor(3), by=2)),
        "integers": Call(acc.integers, dict(address=address, batch=3, low=-3, high=100, device="cpu")),
        "invert": Call(
            acc.invert,
            dict(model=half, schedule=SCHEDULE, images=x, steps=4, grid="uniform", prediction="v", batch_size=1,
                labels=torch.tensor([0, 1]), device="cpu"),
        ),
        "loss_and_gradient": Call(
            acc.loss_and_gradient,
            dict(
                output=x, noise=address, prediction="v", schedule=schedule, t=t, x_0=y, weight=torch.ones(2), scale=2.0
            ),
        ),
        "multistep": Call(
            acc.multistep,
            dict(
                table=steps, x_t=x, output=(y, z), history=[z], t=t, noise=address, clip=(-1.0, 1.0), guidance=2.0,
                temperature=0.9,
            ),
        ),
        "noise": Call(acc.noise, dict(address=address, shape=(2, 3), dtype=torch.float32, device="cpu")),
        "pairwise_sum": Call(acc.pairwise_sum, dict(values=torch.arange(10.0).view(2, 5))),
        "q_sample": Call(
            acc.q_sample, dict(schedule=schedule, x_0=x, t=t, noise=address, dtype=torch.float16, return_eps=True)
        ),
        "reverse_step": Call(
            acc.reverse_step,
            dict(
                schedule=schedule, x_t=x, output=(y, z), t=t, noise=address, prediction="v", clip=(-1.0, 1.0),
                variance="beta", eta=0.5, rederive_eps=True, guidance=2.0, temperature=0.9, return_x_0=True,
            ),
        ),
        "sample": Call(
            drawn,
            dict(
                count=3, shape=(1, 2, 2), seed=3, first=5, steps=3, grid="uniform", sampler="ddim", prediction="v",
                clip=True, temperature=0.9, batch_size=2, trajectory=1, eta=0.5, device="cpu",
                labels=torch.tensor([0, 1, 2]), null_label=3, guidance=torch.tensor([1.0, 2.0, 0.5]),
                x_T=torch.linspace(-1, 1, 12).view(3, 1, 2, 2),
            ),
        ),
        "simple_loss": Call(
            acc.simple_loss,
            dict(
                output=x, noise=address, prediction="v", schedule=schedule, t=t, x_0=y, weight=torch.ones(2),
                reduction="none",
            ),
        ),
        "uniform": Call(acc.uniform, dict(address=address, batch=3, device="cpu")),
        "vlb_terms": Call(
            acc.vlb_terms,
            dict(
                schedule=schedule, x_0=x, x_t=y, output=z, t=t, prediction="v", clip=(-1.0, 1.0), variance="posterior",
                levels=10,
            ),
        ),
        "words": Call(acc.words, dict(address=address, batch=3, count=5, device="cpu")),
    }  # fmt: skip


# what others return, and what is not made by a caller
RETURNED = {"acc.Samples", "acc.Sampler"}


@cache
def calls() -> dict[str, Call]:
    """The calls by name: `ref.NAME` and `acc.NAME`, a method after its class."""
    return {
        **{f"ref.{name}": call for name, call in _reference().items()},
        **{f"acc.{name}": call for name, call in _accelerated().items()},
    }


def public_names() -> set[str]:
    """Every public function and class of the two packages, as `calls` names them."""
    packages: dict[str, ModuleType] = {"ref": ref, "acc": acc}
    return {
        f"{short}.{name}"
        for short, package in packages.items()
        for name in package.__all__
        if callable(getattr(package, name))
    }


def results(value: Any) -> list[np.ndarray]:
    """The arrays in what a call returned."""
    if isinstance(value, Tensor):
        if value.is_meta:
            return []
        dense = value.detach().to_dense()
        return [dense.double().numpy() if value.dtype == torch.bfloat16 else dense.numpy()]
    if isinstance(value, (int, float, np.ndarray, np.generic)):
        return [np.asarray(value)]
    if isinstance(value, dict):
        return [array for part in value.values() for array in results(part)]
    if isinstance(value, (tuple, list)):
        return [array for part in value for array in results(part)]
    if isinstance(value, ref.Schedule):
        return [value.beta, value.timesteps]
    if isinstance(value, acc.DeviceSchedule):
        return results((value.forward_table(), value.reverse_table(prediction="v")))
    if hasattr(value, "__dict__"):
        return [array for part in vars(value).values() for array in results(part)]
    return []
