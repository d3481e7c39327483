"""Laws that hold for every sampler: its files, its order, one step, and what float32 may add to the reference."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import noisestep.accelerated
import noisestep.reference
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import EPS
from noisestep.accelerated.evaluation.comparison import Comparison
from noisestep.accelerated.samplers import ELSEWHERE, SAMPLERS, Sampler
from noisestep.accelerated.samplers.__main__ import table
from noisestep.accelerated.samplers.loop import sample
from noisestep.accelerated.training.config import SampleConfig
from noisestep.reference import Schedule, reverse_coefficients
from noisestep.reference import sample as reference_sample
from noisestep.reference.grids import GRIDS, GRIDS_ELSEWHERE
from noisestep.reference.samplers.chain import Chain
from sampler_laws import MEAN, VARIANCE, Mixture, TableChain, cubic_schedule, gaussian_x_0, reference_sampler

from benchmarks import sampler_quality

# the samplers that can do without noise on the way, and how they are asked to
DETERMINISTIC = {
    name: {"eta": 0.0} if "eta" in sampler.settings else {} for name, sampler in SAMPLERS.items() if name != "ddpm"
}
BY_TABLES = sorted(name for name, sampler in SAMPLERS.items() if sampler.tables is not None)
ROOTS = {
    "reference": Path(noisestep.reference.__file__).parent,
    "accelerated": Path(noisestep.accelerated.__file__).parent,
}
# the places that name a sampler because it is the default
DEFAULTS = {
    "ddim": {"accelerated/samplers/loop.py", "accelerated/training/config.py"},
    "ddpm": {"reference/samplers/loop.py", "reference/samplers/editing.py"},
}


@cache
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


def test_the_page_has_the_quality_that_was_measured() -> None:
    measured = Comparison.from_dict(json.loads(sampler_quality.RESULTS.read_text(encoding="utf-8")))
    expected = sampler_quality.tables(measured)
    assert expected in PAGE, f"docs/samplers.md should hold this:\n{expected}"


@pytest.mark.parametrize("example", re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE))
def test_the_examples_of_the_page_run(example: str) -> None:
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["images"].shape == (4, 1, 8, 8)


def test_a_name_of_another_library_is_answered_by_the_name_here() -> None:
    assert not ELSEWHERE.keys() & SAMPLERS.keys()
    assert not GRIDS_ELSEWHERE.keys() & GRIDS.keys()
    assert set(GRIDS_ELSEWHERE.values()) <= GRIDS.keys()
    (names,) = re.findall(r"^## Names elsewhere\n(.*?)^## ", PAGE, flags=re.DOTALL | re.MULTILINE)
    for name in (*ELSEWHERE, *GRIDS_ELSEWHERE):
        assert f"`{name}`".lower() in names.lower()
    schedule = Schedule.from_name("linear", 10)
    with pytest.raises(ValueError, match=r"allowed: ddim, .*, unipc; euler_ancestral is called ddim with eta 1 here$"):
        sample(None, schedule, count=1, shape=(1, 1, 1), sampler="euler_ancestral")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"allowed: ddim, .*, unipc$"):
        sample(None, schedule, count=1, shape=(1, 1, 1), sampler="eular")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"exponential, got 'sgm_uniform'; sgm_uniform is called uniform here$"):
        schedule.respace(3, "sgm_uniform")
    with pytest.raises(ValueError, match=r"allowed: one of ddim, .*, unipc; ipndm is called deis here$"):
        SampleConfig(sampler="ipndm")


BETAS = st.lists(st.floats(-6, -0.3), min_size=1, max_size=8).map(lambda exponents: 10.0 ** np.array(exponents))


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_error_falls_with_the_order_of_the_sampler(name: str) -> None:
    # in one dimension the probability flow keeps the quantile of a point, so that its end is known
    mixture, start = Mixture(), 10.0 * np.linspace(-2, 2, 20)
    exact = [mixture.quantile(mixture.cdf(x, 10.0)) for x in start]
    numbers, errors = [80, 160, 320, 640], []
    for steps in numbers:
        schedule = cubic_schedule(steps)
        x_T = start * schedule.sqrt_alpha_bar[-1]
        x_0 = draw(name, schedule, partial(mixture.x_0, schedule), x_T)[0]
        errors.append(np.sqrt(np.mean((x_0 - exact) ** 2)))
    slope = -np.polyfit(np.log(numbers), np.log(errors), 1)[0]
    assert abs(slope - SAMPLERS[name].order) < 0.15


def draw(name: str, schedule: Schedule, x_0: Callable[..., np.ndarray], x_T: np.ndarray) -> np.ndarray:
    """All states of the reference without noise on the way, row t being x_t, of a network that predicts x_0."""
    sampler = partial(reference_sampler(name), **DETERMINISTIC[name])
    return reference_sample(schedule, x_0, x_T.shape, sampler=sampler, x_T=x_T, prediction="x_0", trajectory=True)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_one_step_is_the_predicted_x_0(name: str) -> None:
    schedule = Schedule.from_name("linear", 100).respace(1)
    x_T = np.linspace(-2, 2, 5)[:, None]
    predicted = np.sin(3 * x_T)
    x_0 = draw(name, schedule, lambda x, t: predicted, x_T)[0]
    # DEIS gets there by way of eps, which divides by sqrt(alpha_bar_T)
    np.testing.assert_allclose(x_0, predicted, rtol=0, atol=16 * EPS * 2 / schedule.sqrt_alpha_bar[1])


@pytest.mark.parametrize("name", DETERMINISTIC)
@settings(max_examples=25)
@given(beta=BETAS)
def test_a_network_that_knows_x_0_stays_on_the_line_from_x_0_to_the_noise(name: str, beta: np.ndarray) -> None:
    schedule = Schedule(beta)
    image, eps = np.array([[0.7], [-0.2]]), np.array([[-1.3], [0.4]])
    on_the_line = [
        a * image + s * eps for a, s in zip(schedule.sqrt_alpha_bar, schedule.sqrt_one_minus_alpha_bar, strict=True)
    ]
    states = draw(name, schedule, lambda x, t: image, on_the_line[-1])
    bounds = rounding_bounds(name, schedule, "x_0", False, 2.0, 1.0, 4 * EPS, **DETERMINISTIC[name])
    assert np.all(np.abs(states - on_the_line).max(axis=(1, 2)) <= bounds)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_gaussian_comes_back_with_its_mean_and_variance(name: str) -> None:
    # every sampler is affine in x_T there, x_0 = shift + scale x_T, so that two points tell the moments
    schedule = cubic_schedule(320)
    shift, at_one, at_minus_two = draw(name, schedule, gaussian_x_0(schedule), np.array([0.0, 1.0, -2.0]))[0]
    scale = at_one - shift
    assert abs(at_minus_two - (shift - 2 * scale)) < 1e-12
    # the chain starts at N(0, 1) in place of the marginal, whose mean is sqrt(alpha_bar_T) MEAN and whose variance is
    # alpha_bar_T VARIANCE + 1 - alpha_bar_T; the rest is the sampler's error, of its order in 1 / 320, with a constant
    # that is below 3 for DDIM, 26 for the samplers of second order and 1000 for those of third
    last = schedule.alpha_bar[-1]
    spread = np.sqrt(VARIANCE / (VARIANCE * last + 1 - last))
    error = {1: 3, 2: 26, 3: 1000}[SAMPLERS[name].order] * spread * (1 / 320) ** SAMPLERS[name].order
    assert abs(scale - spread) < error
    assert abs(shift - (MEAN - spread * np.sqrt(last) * MEAN)) < error


@pytest.mark.parametrize("name", BY_TABLES)
@settings(max_examples=25)
@given(
    beta=BETAS, prediction=st.sampled_from(["eps", "x_0", "v", "flow"]), clip=st.booleans(), seed=st.integers(0, 2**32)
)
def test_the_tables_and_the_tensors_are_the_reference_to_their_rounding(
    name: str, beta: np.ndarray, prediction: str, clip: bool, seed: int
) -> None:
    schedule, shape = Schedule(beta), (2, 1, 2, 2)
    outputs = np.random.default_rng(seed).normal(size=(2 * schedule.T, *shape)).astype(np.float32)
    asked: list[int] = []

    def output(t: np.ndarray) -> np.ndarray:
        asked.append(int(t[0]))
        return outputs[len(asked) - 1]

    def by_tensors() -> np.ndarray:
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
        return result.trajectory.double().numpy()[::-1]

    options: dict[str, Any] = {"prediction": prediction, "clip": (-1.0, 1.0) if clip else None}
    expected = reference_sample(
        schedule,
        lambda x, t: output(t),
        shape,
        seed=seed,
        sampler=reference_sampler(name),
        trajectory=True,
        **options,
    )
    assert len(asked) == (schedule.T if SAMPLERS[name].correct is None else 2 * schedule.T - 1)
    asked_of_reference = asked[:]
    largest = np.abs(expected[-1]).max(), np.abs(outputs).max()
    for states, u in (
        (lambda: TableStates(name, schedule, output, expected[-1], seed, **options).states()[::-1], 2.0**-52),
        (by_tensors, 2.0**-24),
    ):
        asked.clear()
        errors = np.abs(np.stack(states()) - expected).max(axis=(1, 2, 3, 4))
        assert asked == asked_of_reference
        bounds = rounding_bounds(name, schedule, prediction, clip, *largest, u)
        assert np.all(errors <= bounds), f"at u = {u}: {errors} > {bounds}"


class TableStates(TableChain):
    """The tables in float64."""

    def __init__(
        self,
        name: str,
        schedule: Schedule,
        output: Callable[..., np.ndarray],
        x_T: np.ndarray,
        seed: int,
        **options: Any,
    ) -> None:
        super().__init__(SAMPLERS[name], schedule, x_T, np.zeros_like(x_T))
        self.chain = Chain(
            schedule,
            lambda x, t: output(t),
            x_T,
            options["prediction"],
            options["clip"],
            seed,
            np.arange(2, dtype=np.uint64),
            1.0,
        )

    def prediction(self, x: np.ndarray, t: int) -> np.ndarray:
        return (self.chain.eps if self.sampler.remembers == "eps" else self.chain.x_0)(x, t)

    def step(self, coefficients: np.ndarray, terms: list[np.ndarray], t: int) -> np.ndarray:
        terms = [*terms, self.chain.z(t)]
        return sum(c * term for c, term in zip(coefficients, terms, strict=True))


def rounding_bounds(
    name: str, schedule: Schedule, prediction: str, clip: bool, x: float, out: float, u: float, **settings: Any
) -> np.ndarray:
    """How far numbers of precision u may be from the reference at each t, if the network's output depends on t alone.

    The samplers' own steps are taken, with pairs in the place of numbers: what bounds them, and what has been lost on
    the way. Each coefficient, each product and each sum is rounded once.
    """
    if SAMPLERS[name].tables is None:
        # DDIM's update is that of Heun's method before it is corrected
        bounds = SumOfBounds(replace(SAMPLERS["heun"], correct=None), schedule, prediction, clip, x, out, u)
    else:
        bounds = SumOfBounds(SAMPLERS[name], schedule, prediction, clip, x, out, u, **settings)
    return np.array([error for _, error in bounds.states()[::-1]])


class SumOfBounds(TableChain):
    """Pairs (size, error): a number is at most `size`, and at most `error` away from the exact one."""

    def __init__(
        self,
        sampler: Sampler,
        schedule: Schedule,
        prediction: str,
        clip: bool,
        x: float,
        out: float,
        u: float,
        **settings: Any,
    ) -> None:
        super().__init__(sampler, schedule, (x, u * x), (0.0, 0.0), **settings)
        self.clip, self.out, self.u = clip, (out, 0.0), u
        self.x_0_of = reverse_coefficients(schedule, prediction=prediction, eta=0.0)[:, :2]  # type: ignore[arg-type]
        signal, noise = schedule.sqrt_alpha_bar, schedule.sqrt_one_minus_alpha_bar
        with np.errstate(divide="ignore"):
            self.eps_of = np.stack([1 / noise, -signal / noise], axis=-1)
        self.eps_of_output = {
            "eps": np.tile([0.0, 1.0], (schedule.T + 1, 1)),
            "x_0": self.eps_of,
            "v": np.stack([noise, signal], axis=-1),
            "flow": np.stack([np.ones_like(signal), signal], axis=-1) / (signal + noise)[:, None],
        }[prediction]

    def prediction(self, x: tuple[float, float], t: int) -> tuple[float, float]:
        if self.sampler.remembers == "eps" and not self.clip:
            return self.added(self.eps_of_output[t], [x, self.out])
        size, error = self.added(self.x_0_of[t], [x, self.out])
        x_0 = (min(size, 1.0) if self.clip else size), error
        return x_0 if self.sampler.remembers == "x_0" else self.added(self.eps_of[t], [x, x_0])

    def step(self, coefficients: np.ndarray, terms: list[tuple[float, float]], t: int) -> tuple[float, float]:
        # no normal number that 32 bits make is larger than 6.8
        return self.added(coefficients, [*terms, (6.8, 0.0)])

    def added(self, coefficients: np.ndarray, terms: list[tuple[float, float]]) -> tuple[float, float]:
        parts = [(abs(c) * size, abs(c) * error) for c, (size, error) in zip(coefficients, terms, strict=True)]
        size, error = (sum(part) for part in zip(*parts, strict=True))
        return size, error + (len(terms) + 1) * self.u * (size + error)
