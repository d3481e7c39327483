"""Laws that hold for every sampler: its files, its order, one step, and what float32 may add to the reference."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import noisestep.accelerated
import noisestep.reference
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from noisestep.accelerated.samplers import SAMPLERS
from noisestep.accelerated.samplers.__main__ import table
from noisestep.accelerated.samplers.loop import sample
from noisestep.accelerated.training.config import SampleConfig
from noisestep.reference import Schedule, reverse_coefficients
from noisestep.reference import sample as reference_sample
from sampler_laws import MEAN, VARIANCE, cubic_schedule, gaussian_x_0, reference_sampler
from scipy.optimize import brentq
from scipy.stats import norm

# without noise on the way, by the defaults of their settings
DETERMINISTIC = sorted(set(SAMPLERS) - {"ddpm"})
ROOTS = {
    "reference": Path(noisestep.reference.__file__).parent,
    "accelerated": Path(noisestep.accelerated.__file__).parent,
}
# the places that name a sampler because it is the default
DEFAULTS = {
    "ddim": {"accelerated/samplers/loop.py", "accelerated/training/config.py"},
    "ddpm": {"reference/samplers/loop.py", "reference/samplers/editing.py"},
}


def names_in(path: Path) -> set[str]:
    """The strings of a file, and the last parts of the modules that it imports from."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
        elif isinstance(node, ast.ImportFrom):
            found |= {(node.module or "").rpartition(".")[2], *(alias.name for alias in node.names)}
    return found


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_is_one_file_here_and_one_in_the_reference(name: str) -> None:
    places = set()
    for root, folder in ROOTS.items():
        for path in folder.rglob("*.py"):
            inside = path.relative_to(folder)
            # the integrations speak of the schedulers of others
            if inside.parts[0] != "integrations" and name in names_in(path):
                places.add(f"{root}/{inside}")
        assert (folder / "samplers" / f"{name}.py").exists()
        places.discard(f"{root}/samplers/{name}.py")
    assert places == DEFAULTS.get(name, set())


def test_the_settings_are_those_of_the_reference_and_of_the_configuration() -> None:
    for name, sampler in SAMPLERS.items():
        defaults = reference_sampler(name).__kwdefaults__ or {}
        assert sampler.settings.items() <= defaults.items()
        assert set(sampler.settings) <= set(SampleConfig.__dataclass_fields__)


def test_the_samplers_are_listed_without_torch() -> None:
    program = "import sys, noisestep.accelerated.samplers as s; sys.exit('torch' in sys.modules or not s.SAMPLERS)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


PAGE = (Path(__file__).parent.parent / "docs" / "samplers.md").read_text(encoding="utf-8")


def test_the_page_has_the_table_of_the_samplers() -> None:
    assert table() in PAGE, f"docs/samplers.md should hold this table:\n{table()}"


def test_the_example_of_the_page_runs() -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["images"].shape == (4, 1, 8, 8)


# two normal distributions, whose marginal at every sigma is known
WEIGHTS, MEANS, DEVIATIONS = np.array([0.3, 0.7]), np.array([-0.6, 0.5]), np.array([0.3, 0.2])


def mixture_x_0(schedule: Schedule):
    """E[x_0 | x_t] of the mixture."""

    def model(x_t, t):
        t = t[0]
        sigma_2 = schedule.one_minus_alpha_bar[t] / schedule.alpha_bar[t]
        x, variance = (x_t / schedule.sqrt_alpha_bar[t])[..., None], DEVIATIONS**2 + sigma_2
        likelihood = WEIGHTS * norm.pdf(x, MEANS, np.sqrt(variance))
        x_0 = MEANS + DEVIATIONS**2 / variance * (x - MEANS)
        return (likelihood * x_0).sum(-1) / likelihood.sum(-1)

    return model


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_error_falls_with_the_order_of_the_sampler(name: str) -> None:
    # in one dimension the probability flow keeps the quantile of a point, so that its end is known
    def cdf(x: float, sigma: float) -> float:
        return float(WEIGHTS @ norm.cdf((x - MEANS) / np.sqrt(DEVIATIONS**2 + sigma**2)))

    start = 10.0 * np.linspace(-2, 2, 20)
    exact = [brentq(lambda y, x=x: cdf(y, 0) - cdf(x, 10.0), -5, 5, xtol=1e-14) for x in start]
    numbers, errors = [80, 160, 320, 640], []
    for steps in numbers:
        schedule = cubic_schedule(steps)
        x_T = start * schedule.sqrt_alpha_bar[-1]
        sampler = reference_sampler(name)
        x_0 = reference_sample(schedule, mixture_x_0(schedule), (20,), sampler=sampler, x_T=x_T, prediction="x_0")
        errors.append(np.sqrt(np.mean((x_0 - exact) ** 2)))
    slope = -np.polyfit(np.log(numbers), np.log(errors), 1)[0]
    assert abs(slope - SAMPLERS[name].order) < 0.15


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_one_step_is_the_predicted_x_0(name: str) -> None:
    schedule = Schedule.from_name("linear", 100).respace(1)
    x_T = np.linspace(-2, 2, 5)[:, None]
    eps = np.sin(3 * x_T)
    x_0 = reference_sample(schedule, lambda x, t: eps, x_T.shape, sampler=reference_sampler(name), x_T=x_T)
    a, s = schedule.sqrt_alpha_bar[1], schedule.sqrt_one_minus_alpha_bar[1]
    np.testing.assert_allclose(x_0, (x_T - s * eps) / a, rtol=0, atol=8 * 2.0**-52 / a)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_gaussian_comes_back_with_its_mean_and_variance(name: str) -> None:
    # every sampler is affine in x_T there, x_0 = shift + scale x_T, so that two points tell the moments
    schedule = cubic_schedule(320)
    x_T = np.array([0.0, 1.0, -2.0])
    shift, at_one, at_minus_two = reference_sample(
        schedule, gaussian_x_0(schedule), (3,), sampler=reference_sampler(name), x_T=x_T, prediction="x_0"
    )
    scale = at_one - shift
    assert abs(at_minus_two - (shift - 2 * scale)) < 1e-12
    # the chain starts at N(0, 1) in place of the marginal, whose mean is sqrt(alpha_bar_T) MEAN and whose variance is
    # alpha_bar_T VARIANCE + 1 - alpha_bar_T; the rest is the sampler's error, of its order in 1 / 320, with a constant
    # that is below 3 for DDIM and below 26 for the samplers of second order
    last = schedule.alpha_bar[-1]
    spread = np.sqrt(VARIANCE / (VARIANCE * last + 1 - last))
    error = {1: 3, 2: 26}[SAMPLERS[name].order] * spread * (1 / 320) ** SAMPLERS[name].order
    assert abs(scale - spread) < error
    assert abs(shift - (MEAN - spread * np.sqrt(last) * MEAN)) < error


BETAS = st.lists(st.floats(-6, -0.3), min_size=1, max_size=8).map(lambda exponents: 10.0 ** np.array(exponents))


@pytest.mark.parametrize("name", sorted(name for name, sampler in SAMPLERS.items() if sampler.weights is not None))
@settings(max_examples=60)
@given(beta=BETAS, prediction=st.sampled_from(["eps", "x_0", "v"]), clip=st.booleans(), seed=st.integers(0, 2**32))
def test_tensors_are_the_reference_to_the_rounding_of_their_steps(
    name: str, beta: np.ndarray, prediction: str, clip: bool, seed: int
) -> None:
    schedule, shape = Schedule(beta), (2, 1, 2, 2)
    outputs = np.random.default_rng(seed).normal(size=(2 * schedule.T, *shape)).astype(np.float32)
    asked: list[int] = []

    def output(t) -> np.ndarray:
        asked.append(int(t[0]))
        return outputs[len(asked) - 1]

    result = sample(
        lambda x, t, label: torch.from_numpy(output(t)),  # type: ignore[arg-type]
        schedule,
        count=2,
        shape=shape[1:],
        seed=seed,
        sampler=name,
        prediction=prediction,
        clip=clip,
        trajectory=2,
    )
    asked_of_tensors, asked[:] = asked[:], []
    expected = reference_sample(
        schedule,
        lambda x, t: output(t),
        shape,
        seed=seed,
        sampler=reference_sampler(name),
        prediction=prediction,
        clip=(-1.0, 1.0) if clip else None,
        trajectory=True,
    )
    assert asked == asked_of_tensors
    assert len(asked) == (schedule.T if SAMPLERS[name].correct is None else 2 * schedule.T - 1)
    bounds = rounding_bounds(name, schedule, prediction, clip, np.abs(expected[-1]).max(), np.abs(outputs).max())
    for t in range(schedule.T + 1):
        error = np.abs(result.trajectory[schedule.T - t].double().numpy() - expected[t]).max()
        assert error <= bounds[t], f"t = {t}: {error} > {bounds[t]}"


def rounding_bounds(name: str, schedule: Schedule, prediction: str, clip: bool, x: float, out: float) -> np.ndarray:
    """How far float32 may be from the reference at each t, for a network whose output does not depend on x.

    DDIM's update is two products and a sum (with a clip twice), what is added to it a difference, a product and a sum;
    each coefficient is rounded once. `size` bounds the numbers, `error` what has been lost on the way.
    """
    u, sampler = 2.0**-24, SAMPLERS[name]
    assert sampler.weights is not None
    weights = sampler.weights(schedule)
    c = np.abs(reverse_coefficients(schedule, prediction=prediction, eta=0.0))  # type: ignore[arg-type]
    signed = reverse_coefficients(schedule, prediction=prediction, eta=0.0)  # type: ignore[arg-type]

    def x_0(t: int, size: float, error: float) -> tuple[float, float]:
        whole = c[t, 0] * size + c[t, 1] * out
        return (min(whole, 1.0) if clip else whole), c[t, 0] * error + 4 * u * whole

    size, error, bounds = x, u * x, np.zeros(schedule.T + 1)
    memory = (0.0, 0.0)
    bounds[-1] = error
    for t in range(schedule.T, 0, -1):
        size_0, error_0 = x_0(t, size, error)
        if clip:
            error = c[t, 2] * error_0 + c[t, 3] * error + 4 * u * (c[t, 2] * size_0 + c[t, 3] * size)
            size = c[t, 2] * size_0 + c[t, 3] * size
        else:
            of_x = abs(signed[t, 2] * signed[t, 0] + signed[t, 3])
            of_out = abs(signed[t, 2] * signed[t, 1] + signed[t, 4])
            error = of_x * error + 4 * u * (of_x * size + of_out * out)
            size = of_x * size + of_out * out
        if sampler.correct is None:
            weight, (size_other, error_other) = weights[t], memory
        else:
            weight = weights[t - 1]
            size_other, error_other = x_0(t - 1, size, error) if t > 1 else (0.0, 0.0)
        error += weight * (error_0 + error_other) + 5 * u * weight * (size_0 + size_other)
        size += weight * (size_0 + size_other)
        error += u * size
        memory = (size_0, error_0)
        bounds[t - 1] = error
    return bounds
