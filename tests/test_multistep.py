"""multistep: the eager backend, whose bits the kernel has (test_ops.py), is within its bound of the reference."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from descriptions.multistep import Method, arguments
from descriptions.reverse_step import wide
from hypothesis import example, given, settings
from hypothesis import strategies as st
from interpreter import assert_same_bits, run_kernel
from laws import NAMED
from noisestep.accelerated.address import REVERSE, NoiseAddress
from noisestep.accelerated.backends import recording
from noisestep.accelerated.ops import multistep, noise, reverse_step
from noisestep.accelerated.ops.checks import compute_dtype
from noisestep.accelerated.schedule import StepTable
from noisestep.reference import multistep as reference
from noisestep.reference.reverse import guided, reverse_coefficients
from op_cases import FLOATS, PREDICTIONS, UNIT, Case, assert_within, cases, compiled, device_schedule, float64, gamma
from torch import Tensor

D = device_schedule("cosine", 50)
AT = NoiseAddress(3, REVERSE, 9)
methods = st.builds(
    Method,
    prediction=st.sampled_from(PREDICTIONS),
    memory=st.sampled_from(("x_0", "eps")),
    entries=st.integers(0, 4),
    noisy=st.booleans(),
    clip=st.sampled_from((None, (-1, 1), (-0.3, 0.7))),
    guidance=st.sampled_from((None, 0.0, 7.5)),
    temperature=st.sampled_from((1.0, 0.5)),
)


def table_of(entries: int, *, noisy: bool = False, memory: Any = "x_0") -> StepTable:
    return Method(memory=memory, entries=entries, noisy=noisy).table(Case((2, 3), schedule="cosine", T=50))


def assert_within_its_bound(case: Case, method: Method, t: Tensor) -> None:
    """x_s and D at these t are within the bounds of docs/ops.md."""
    table, x_t, output, history, _, eps = arguments(case, method)
    kept = torch.empty_like(x_t)
    options = dict(clip=method.clip, guidance=method.guidance, temperature=method.temperature)
    x_s = multistep(table, x_t, output, history, t, eps, keep=kept, **options)
    schedule, unit, exact = case.device_schedule.schedule, UNIT[compute_dtype(x_t)], UNIT[torch.float64]
    steps = t.expand(x_t.shape[:1]).numpy()
    x, z, *terms = float64(x_t, noise(eps, x_t.shape), *history)
    # the difference of the two outputs, the scale and its product, and the sum
    extra = 0 if method.guidance is None else 4
    if method.guidance is None:
        (out,) = float64(output)
        size = np.abs(out)
    else:
        without, out = float64(*output)
        size = np.abs(without) + abs(method.guidance) * (np.abs(out) + np.abs(without))
        out = guided(out, without, method.guidance)
    how = dict(prediction=method.prediction, clip=method.clip, memory=method.memory)
    prediction = reference.step_prediction(schedule, x, out, steps, **how)
    c = [wide(column, x) for column in reference.prediction_coefficients(schedule, method.prediction)[steps].T]
    of_x_0 = np.abs(c[0] * x) + np.abs(c[1]) * size
    # two coefficients and products, and their sum
    error = gamma(3 + extra, unit) * of_x_0
    if method.clip is not None:
        low, high = method.clip
        reach = max(abs(low), abs(high))
        error = np.minimum(error, high - low) + unit * reach
        of_eps = np.abs(c[2] * x) + np.abs(c[3]) * reach
        if method.memory == "eps":
            error = np.abs(c[3]) * error * (1 + gamma(3, unit)) + gamma(3, unit) * of_eps
    else:
        of_eps = np.abs(c[4] * x) + np.abs(c[5]) * size
        if method.memory == "eps":
            error = gamma(3 + extra, unit) * of_eps
    # the reference's own rounding, of a division in place of a table
    expanded = of_x_0 + np.abs(c[3]) * of_x_0 + of_eps
    error = error + gamma(32, exact) * expanded
    if case.dtype != "float16" or method.clip is not None:
        # half of all numbers have no room for x_0 as it is at the noisy end
        assert_within(actual=kept, expected=prediction, error=error)
    rows = method.coefficients(case)
    a, b, *weights, sigma = (np.abs(wide(column, x)) for column in rows[steps].T)
    expected = reference.linear_step(rows, x, prediction, terms, steps, method.temperature * z)
    total = a * np.abs(x) + b * np.abs(prediction)
    for weight, term in zip(weights, terms, strict=True):
        total = total + weight * np.abs(term)
    # a coefficient, its product and the sums; of the noise, the temperature and its product
    bound = b * error * (1 + gamma(4 + method.entries, unit)) + gamma(4 + method.entries, unit) * total
    bound = bound + gamma(6, unit) * sigma * np.abs(method.temperature * z)
    assert_within(actual=x_s, expected=expected, error=bound)


@pytest.mark.parametrize(("name", "zero"), NAMED)
@pytest.mark.parametrize("dtype", FLOATS)
def test_within_its_bound_of_the_reference_at_every_t(name, zero, dtype):
    T = 200
    case = Case((T, 2, 3), dtype, schedule=name, zero_terminal_snr=zero, T=T)
    for i, (memory, clip) in enumerate([("x_0", None), ("eps", None), ("x_0", (-1, 1)), ("eps", (-0.3, 0.7))]):
        prediction = PREDICTIONS[(i + FLOATS.index(dtype)) % len(PREDICTIONS)]
        method = Method(prediction, memory, entries=i + 1, clip=clip, guidance=(None, 7.5)[i % 2], temperature=0.5)
        assert_within_its_bound(case, method.fitting(case), torch.arange(1, T + 1))


@pytest.mark.property
@settings(max_examples=40)
@given(cases(), methods)
def test_within_its_bound_of_the_reference(case, method):
    assert_within_its_bound(case, method.fitting(case), case.t(1))


@pytest.mark.parametrize("option", [{"variance": "beta"}, {"eta": 0.0}, {"eta": 0.6}], ids=str)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_step_without_history_is_reverse_step(option, prediction):
    rows = reverse_coefficients(D.schedule, prediction=prediction, **option)
    table = D.step_table(rows[:, [3, 2, 5]], prediction=prediction)
    x_t, output = torch.randn(2, 51, 7)
    t = torch.arange(51)
    expected = reverse_step(D, x_t, output, t, AT, prediction=prediction, clip=(-1, 1), return_x_0=True, **option)
    kept = torch.empty_like(x_t)
    x_s = multistep(table, x_t, output, [], t, AT, clip=(-1, 1), keep=kept)
    assert_same_bits(actual=(x_s, kept), expected=expected)


def test_memory_of_eps_is_memory_of_x_0_in_another_basis():
    # h = x_t - signal x_0 over noise: two linear combinations of the same numbers
    signal, sigma = D.forward_table(torch.float64)[20].tolist()
    x_t, output, before = torch.randn(3, 2, 5, dtype=torch.float64)
    rows = np.zeros((51, 4))
    rows[20] = 0.9, 0.4, -0.3, 0
    of_eps = multistep(D.step_table(rows, memory="eps"), x_t, output, [before], 20, None, clip=(-1, 1))
    rows[20] = 0.9 + 0.4 / sigma, -0.4 * signal / sigma, -0.3, 0
    of_x_0 = multistep(D.step_table(rows, memory="x_0"), x_t, output, [before], 20, None, clip=(-1, 1))
    assert torch.allclose(of_eps, of_x_0, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_eps_without_a_clip_is_the_output_in_full(prediction):
    kept, (x_t, output) = torch.empty(3, 4), torch.randn(2, 3, 4)
    table = D.step_table(np.zeros((51, 3)), prediction=prediction, memory="eps")
    multistep(table, x_t, output, [], torch.tensor([1, 25, 50]), None, keep=kept)
    if prediction == "eps":
        assert_same_bits(actual=kept, expected=output)
    assert kept.isfinite().all()


def test_a_flow_is_a_table_of_its_own():
    # x_t = (1 - s) x_0 + s eps, and the velocity eps - x_0: straight lines, along which Euler's step is exact
    s = np.linspace(0, 1, 11)
    with np.errstate(divide="ignore", invalid="ignore"):
        one = np.ones_like(s)
        predictions = np.stack([one, -s, 1 / s, (s - 1) / s, one, 1 - s], axis=1)
        before = np.concatenate([[0], s[:-1]])
        euler = np.stack([before / s, 1 - before / s, 0 * s], axis=1)
    table = StepTable(predictions, euler)
    x_0, eps = torch.randn(2, 3, 4, dtype=torch.float64)
    x = eps
    for t in range(10, 0, -1):
        x = multistep(table, x, eps - x_0, [], t, None, clip=(-9, 9))
        expected = (1 - s[t - 1]) * x_0 + s[t - 1] * eps
        assert torch.allclose(x, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.property
@pytest.mark.kernel(op="multistep")
@settings(max_examples=6)
@given(cases(largest=300), methods)
@example(Case((2, 3, 5, 7), "bfloat16", "channels_last"), Method("v", "eps", 3, True, (-1, 1)))
@example(Case((3, 50), "float32", "sliced"), Method("x_0", "x_0", 1, True, (-0.3, 0.7)))
@example(Case((2, 37), "float64", "transposed", in_tensors=True), Method("eps", "eps", 4, False))
@example(Case((0, 3)), Method())
def test_in_place_and_over_the_history_give_the_same(case, method):
    method = method.fitting(case)
    options = dict(clip=method.clip, guidance=method.guidance, temperature=method.temperature)
    made, kept = arguments(case, method), torch.empty_like(case.tensor(1))
    expected = multistep(*made, keep=kept, **options), kept
    for run in (multistep, partial(run_kernel, multistep)):
        made = arguments(case, method)
        x_t, history = made[1], made[3]
        # on a GPU, which has copies of them, the memory that is written to is not seen
        place = history[-1] if history and run is multistep else torch.empty_like(x_t)
        x_s = run(*made, keep=place, in_place=True, **options)
        assert_same_bits(actual=x_s, expected=expected[0], strides=False)
        if run is multistep:
            assert x_s is x_t
            assert_same_bits(actual=place, expected=expected[1], strides=False)


def test_d_is_kept_in_the_dtype_that_is_asked_for():
    x_t, output, *history = torch.randn(4, 2, 30).bfloat16()
    wide_one, narrow = torch.empty(2, 30), torch.empty(2, 30, dtype=torch.bfloat16)
    for keep in (wide_one, narrow):
        multistep(table_of(2), x_t, output, history, 9, None, clip=(-1, 1), keep=keep)
    assert (wide_one != narrow).any()
    assert_same_bits(actual=wide_one.bfloat16(), expected=narrow)


def test_t_0_leaves_x_t_alone():
    for memory in ("x_0", "eps"):
        x_t, output, *history = torch.randn(4, 2, 3)
        kept = torch.empty_like(x_t)
        x_s = multistep(table_of(2, noisy=True, memory=memory), x_t, output, history, 0, AT, keep=kept)
        # equal, and not to the bit: 0 may change its sign
        assert torch.equal(x_s, x_t)
        assert torch.equal(kept, x_t if memory == "x_0" else torch.zeros_like(x_t))


@pytest.mark.kernel(op="multistep")
def test_what_is_not_a_number_stays_in_its_own_element():
    x_t, output, before = torch.randn(3, 1, 5)
    before[0, 1] = torch.nan
    expected = multistep(table_of(1), x_t, output, [before], 9, None, clip=(-1, 1))
    assert expected.isnan().tolist() == [[False, True, False, False, False]]
    actual = run_kernel(multistep, table_of(1), x_t, output, [before], 9, None, clip=(-1, 1))
    assert_same_bits(actual=actual, expected=expected)


# keep, x_t and the one of the history in one memory of 48 numbers, whether x_t is written over, and what is refused
MEMORY = {
    "apart": (lambda m: (m[:12], m[12:24], m[24:36]), False, None),
    "the history itself": (lambda m: (m[24:36], m[12:24], m[24:36]), True, None),
    "x_t itself, which is only read": (lambda m: (m[:12], m[:12], m[24:36]), False, None),
    "x_t itself": (lambda m: (m[:12], m[:12], m[24:36]), True, "keep and x_t would both be written to"),
    "a part of x_t": (lambda m: (m[6:18], m[:12], m[24:36]), False, "keep would write over elements of x_t"),
    "a part of the history": (lambda m: (m[20:32], m[:12], m[24:36]), False, r"over elements of history\[0\] that"),
    "x_t over the history": (lambda m: (m[:12], m[20:32], m[24:36]), True, r"in_place=True would write over .*history"),
}


@pytest.mark.kernel(op="multistep")
@pytest.mark.parametrize("case", MEMORY)
def test_where_memory_is_shared(case):
    share, in_place, message = MEMORY[case]
    memory = torch.randn(48, generator=torch.Generator().manual_seed(0))
    keep, x_t, before = (part.view(3, 4) for part in share(memory))
    untouched, output = memory.clone(), torch.randn(3, 4)
    if message is not None:
        with pytest.raises(ValueError, match=message):
            multistep(table_of(1), x_t, output, [before], 5, None, keep=keep, in_place=in_place)
        assert torch.equal(memory, untouched)
        return
    kept = torch.empty(3, 4)
    expected = multistep(table_of(1), x_t.clone(), output, [before.clone()], 5, None, keep=kept), kept
    x_s = multistep(table_of(1), x_t, output, [before], 5, None, keep=keep, in_place=in_place)
    assert_same_bits(actual=(x_s, keep), expected=expected)


def test_one_graph_for_every_timestep_and_a_ring_of_memory():
    table = table_of(2, noisy=True)

    def function(x_t, output, newest, oldest, t, seed, guidance, temperature):
        x_s = multistep(
            table, x_t, (output, -output), [newest, oldest], t, NoiseAddress(seed, REVERSE, t), guidance=guidance,
            temperature=temperature, clip=(-1, 1), keep=oldest, in_place=True,
        )  # fmt: skip
        return x_s * 1

    traced = compiled(function)
    for i in range(3):
        # guidance of each sample, one temperature
        inputs = *torch.randn(4, 2, 3), torch.tensor([i, 50 - i]), torch.tensor([i]), torch.rand(2), torch.rand(())
        copies = [part.clone() for part in inputs]
        assert_same_bits(actual=traced(*copies), expected=function(*inputs))
        # x_t and the oldest
        assert_same_bits(actual=(copies[0], copies[3]), expected=(inputs[0], inputs[3]))


def test_other_numbers_are_the_same_kernel():
    def launched(low: float, guidance: float, temperature: float) -> dict[str, Any]:
        x_t, output, before = torch.randn(3, 2, 3)
        options = dict(clip=(low, 1.0), guidance=guidance, temperature=temperature)
        with recording() as launches:
            multistep(table_of(1, noisy=True), x_t, (output, output), [before], 9, AT, **options)
        (launch,) = launches
        return {name: value for name, value in launch.arguments.items() if not isinstance(value, Tensor)}

    one, other = launched(-1.0, 3.0, 1.0), launched(-0.7, 1.3, 0.7)
    # numbers that Triton does not look at
    words = {f"{name}_{part}" for name in ("low", "guidance", "temperature") for part in ("low", "high")}
    assert {name for name in one if one[name] != other[name]} == words


def test_a_gradient_is_refused():
    x_t, before = torch.randn(2, 2, 3)
    output = torch.randn(2, 3, requires_grad=True)
    x_s = multistep(table_of(1), x_t, output, [before], 9, None)
    with pytest.raises(RuntimeError, match=r"noisestep\.multistep\.default but no autograd formula was registered"):
        x_s.sum().backward()


def test_vmap_is_a_loop():
    x_t, output, before = torch.randn(3, 4, 2, 3)
    table = table_of(1)

    def step(x_t, output, before):
        return multistep(table, x_t, output, [before], 9, None)

    expected = torch.stack([step(*three) for three in zip(x_t, output, before, strict=True)])
    assert_same_bits(actual=torch.vmap(step)(x_t, output, before), expected=expected)


@pytest.mark.parametrize(
    ("coefficients", "options", "message"),
    [
        (np.zeros((51, 2)), {}, r"coefficients must have shape \(51, 3\) to \(51, 7\), got \(51, 2\)"),
        (np.zeros((51, 8)), {}, r"got \(51, 8\)"),
        (np.zeros((50, 3)), {}, r"got \(50, 3\)"),
        (np.full((51, 3), np.nan), {}, "coefficients must be finite"),
        (-np.ones((51, 3)), {}, "sigma, at least 0"),
        (np.zeros((51, 3)), {"memory": "v"}, "memory"),
        (np.zeros((51, 3)), {"prediction": "mu"}, "prediction"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(coefficients, options, message):
    with pytest.raises(ValueError, match=message):
        D.step_table(coefficients, **options)


def test_the_reference_refuses_another_number_of_terms():
    with pytest.raises(ValueError, match=r"coefficients must have shape \(T \+ 1, 4\), got \(2, 3\)"):
        reference.linear_step(np.ones((2, 3)), np.ones((1, 2)), np.ones((1, 2)), [np.ones((1, 2))], 1, np.zeros((1, 2)))
