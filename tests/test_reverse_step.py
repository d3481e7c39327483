"""reverse_step: the eager backend, whose bits the kernel has (test_ops.py), is within its bound of the reference."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from descriptions.reverse_step import Update, arguments, assert_near_the_reference, timesteps
from hypothesis import example, given, settings
from hypothesis import strategies as st
from interpreter import GPU, assert_same_bits, run_kernel
from laws import NAMED
from noisestep.accelerated.address import REVERSE, NoiseAddress
from noisestep.accelerated.backends import backend
from noisestep.accelerated.ops import noise as noise_op
from noisestep.accelerated.ops import reverse_step
from noisestep.accelerated.schedule import DeviceSchedule, ReverseRow
from noisestep.reference import Schedule
from op_cases import (
    FLOATS,
    LAYOUTS,
    PREDICTIONS,
    Case,
    assert_registered,
    cases,
    compiled,
    device_schedule,
)
from torch import Tensor

D = device_schedule("cosine", 50)
FIXED = ("posterior", "beta", "zero")


updates = st.builds(
    Update,
    prediction=st.sampled_from(PREDICTIONS),
    clip=st.sampled_from((None, (-1, 1), (-0.3, 0.7))),
    variance=st.sampled_from(FIXED),
    eta=st.sampled_from((None, 0.0, 0.3, 1.0)),
    rederive_eps=st.booleans(),
    guidance=st.sampled_from((None, 0.0, 7.5)),
    temperature=st.sampled_from((1.0, 0.5)),
    return_x_0=st.booleans(),
)


@pytest.mark.property
@pytest.mark.kernel(op="reverse_step")
@settings(max_examples=30)
@given(cases(), updates.filter(lambda update: not update.learned))
@example(Case((2, 3, 5, 7), "bfloat16", "channels_last"), Update("v", (-1, 1), return_x_0=True))
@example(Case((3, 50), "float32", "sliced"), Update("x_0", (-0.3, 0.7), "beta", return_x_0=True))
@example(Case((2, 37), "float64", "transposed", in_tensors=True), Update("eps", (-1, 1), eta=0.3))
@example(Case((2, 300)), Update("v", (-1, 1), eta=1.0, rederive_eps=False, guidance=2.0, return_x_0=True))
@example(Case((0, 3)), Update())
def test_in_place_gives_the_same_and_writes_to_x_t_alone(case, update):
    update = update.fitting(case)
    expected = reverse_step(*arguments(case, update), **vars(update))
    for run in (reverse_step, partial(run_kernel, reverse_step)):
        schedule, x_t, *rest = arguments(case, update)
        result = run(schedule, x_t, *rest, in_place=True, **vars(update))
        assert_same_bits(actual=result, expected=expected, strides=False)
        if not GPU or run is reverse_step:
            assert (result[0] if update.return_x_0 else result) is x_t
            if case.layout == "sliced":
                # what lies between its elements
                assert not x_t._base[..., 0::2].any()


# x_t, output and noise in one memory of 48 numbers, and whether a step may write over x_t
MEMORY = {
    "itself": (lambda m: (m[:24].view(2, 3, 4),) * 3, True),
    "one behind the other": (lambda m: (m[:16].view(4, 4), m[16:32].view(4, 4), m[32:].view(4, 4)), True),
    "channels of one tensor": (lambda m: m.view(2, 6, 4).split(2, dim=1), True),
    "every third": (lambda m: m.view(16, 3).unbind(1), True),
    "a row later": (lambda m: (m[4:12].view(2, 4), m[:8].view(2, 4), m[40:].view(2, 4)), False),
    "a row earlier": (lambda m: (m[:8].view(2, 4), m[4:12].view(2, 4), m[40:].view(2, 4)), False),
    "noise an element later": (lambda m: (m[:8].view(2, 4), m[8:16].view(2, 4), m[1:9].view(2, 4)), False),
    "transposed": (lambda m: (m[:9].view(3, 3), m[:9].view(3, 3).T, m[9:18].view(3, 3)), False),
    "another stride": (lambda m: (m[:4].view(2, 2), m[:8].view(2, 4)[:, ::2], m[8:12].view(2, 2)), False),
    "half precision": (
        lambda m: (m[:8].view(2, 4), m[:8].view(torch.bfloat16)[:8].view(2, 4), m[8:16].view(2, 4)),
        False,
    ),
    "one array of NumPy": (
        lambda m: (torch.from_numpy(m.numpy()[4:12]), torch.from_numpy(m.numpy()[:8]), m[40:]),
        False,
    ),
}


@pytest.mark.parametrize("case", MEMORY)
def test_in_place_where_memory_is_shared(case):
    share, fits = MEMORY[case]
    memory = torch.randn(48, generator=torch.Generator().manual_seed(0))
    x_t, output, eps = share(memory)
    before = memory.clone()
    expected = reverse_step(D, x_t, output, 5, eps)
    if fits:
        assert_same_bits(actual=reverse_step(D, x_t, output, 5, eps, in_place=True), expected=expected, strides=False)
        return
    name = "noise" if "noise" in case else "output"
    with pytest.raises(ValueError, match=f"would write over elements of {name} that are still to be read"):
        reverse_step(D, x_t, output, 5, eps, in_place=True)
    assert torch.equal(memory, before)


@pytest.mark.parametrize("name", ["guidance", "clip", "temperature"])
def test_in_place_over_a_number_for_each_sample_is_refused(name):
    x_t = torch.rand(2, 4)
    number = x_t[:, 1]
    option = {name: (number, 2.0) if name == "clip" else number}
    output = (x_t, x_t) if name == "guidance" else x_t
    with pytest.raises(ValueError, match=f"would write over elements of {name}.* that are still to be read"):
        reverse_step(D, x_t, output, 5, NoiseAddress(0, REVERSE, 5), in_place=True, **option)


def test_in_place_with_elements_that_overlap_is_refused():
    x_t = torch.zeros(8).as_strided((3, 4), (2, 1))
    with pytest.raises(ValueError, match="got one whose elements overlap"):
        reverse_step(D, x_t, torch.zeros(3, 4), 5, NoiseAddress(0, REVERSE, 5), in_place=True)


def test_one_graph_in_place():
    def function(x_t, output, t):
        y = x_t * 1
        x_0 = reverse_step(D, y, output, t, NoiseAddress(0, REVERSE, t), clip=(-1, 1), in_place=True, return_x_0=True)[
            1
        ]
        return y, x_0

    inputs = *torch.randn(2, 2, 3), torch.tensor(5)
    expected = function(*inputs)
    assert_same_bits(actual=compiled(function)(*inputs), expected=expected)


def assert_within_its_bound(case: Case, update: Update, t: Tensor) -> None:
    """x_{t-1} at these t, and x_0 where its type has room for it, are within the bounds of docs/ops.md."""
    update = replace(update, return_x_0=update.clip is not None or case.dtype != "float16")
    schedule, x_t, output, _, eps = arguments(case, update)
    result = reverse_step(schedule, x_t, output, t, eps, **vars(update))
    assert_near_the_reference(result, (schedule, x_t, output, t, eps), update)


EVERY = [Update(variance=variance) for variance in (*FIXED, "learned_range")]
EVERY += [Update(variance=variance, clip=(-1, 1)) for variance in (*FIXED, "learned_range")]
EVERY += [Update(eta=eta, clip=clip) for eta in (0.0, 0.3, 1.0) for clip in (None, (-0.3, 0.7))]
EVERY += [Update(eta=0.3, clip=(-1, 1), rederive_eps=False), Update(guidance=7.5, variance="learned_range")]


@pytest.mark.parametrize(("name", "zero"), NAMED)
@pytest.mark.parametrize("dtype", FLOATS)
def test_within_its_bound_of_the_reference_at_every_t(name, zero, dtype):
    T = 1000
    case = Case((T, 2, 3), dtype, schedule=name, zero_terminal_snr=zero, T=T)
    for i, update in enumerate(EVERY):
        # a third of the updates for each prediction, and another third for each type
        prediction = PREDICTIONS[(i + FLOATS.index(dtype)) % len(PREDICTIONS)]
        update = replace(update, prediction=prediction).fitting(case)
        assert_within_its_bound(case, update, torch.arange(1, T + 1))


@pytest.mark.property
@settings(max_examples=40)
@given(cases(), updates)
def test_within_its_bound_of_the_reference(case, update):
    assert_within_its_bound(case, update.fitting(case), timesteps(case))


@pytest.mark.property
@settings(max_examples=40)
@given(cases(), updates)
def test_the_memory_layout_changes_no_bit(case, update):
    update = replace(update.fitting(case), return_x_0=True)
    schedule, x_t, output, t, eps = arguments(case, update)
    expected = reverse_step(schedule, x_t, output, t, eps, **vars(update))
    for layout in LAYOUTS:
        other = Case(case.shape, case.dtype, layout).tensor(1)
        actual = reverse_step(schedule, other, output, t, eps, **vars(update))
        assert_same_bits(actual=actual, expected=expected, strides=False)
        for part in actual:
            assert part.stride() == torch.empty_like(other).stride()


@pytest.mark.property
@settings(max_examples=40)
@given(cases(), updates)
def test_a_sample_is_the_same_alone_and_in_any_batch(case, update):
    update = replace(update.fitting(case), guidance=None, return_x_0=False)
    schedule, x_t, output, _, _ = arguments(case, update)
    t, row = timesteps(case), NoiseAddress(case.seed, REVERSE, case.step, case.sample)
    whole = reverse_step(schedule, x_t, output, t, row, **vars(update))
    for i in range(case.shape[0]):
        row = NoiseAddress(case.seed, REVERSE, case.step, case.sample + i)
        alone = reverse_step(schedule, x_t[i : i + 1], output[i : i + 1], int(t[i]), row, **vars(update))
        assert_same_bits(actual=alone, expected=whole[i : i + 1], strides=False)


def test_an_address_of_tensors_is_that_of_integers():
    x_t, output = torch.randn(2, 3, 5)
    t = torch.tensor([7, 7, 7])
    expected = reverse_step(D, x_t, output, 7, NoiseAddress(3, REVERSE, 7, 9))
    in_tensors = NoiseAddress(torch.tensor(3), REVERSE, t, torch.tensor([9, 10, 11]))
    for timestep in (t, t.to(torch.int32), t[0]):
        assert_same_bits(actual=reverse_step(D, x_t, output, timestep, in_tensors), expected=expected)


def test_guidance_joined_is_guidance_in_a_pair():
    x_t, without, out = torch.randn(3, 2, 4)
    joined = reverse_step(D, x_t, torch.cat([without, out]), 9, NoiseAddress(0, REVERSE, 9), guidance=3.0)
    assert_same_bits(
        actual=reverse_step(D, x_t, (without, out), 9, NoiseAddress(0, REVERSE, 9), guidance=3.0), expected=joined
    )
    # 0 is the unconditional output alone
    actual = reverse_step(D, x_t, (without, out), 9, NoiseAddress(0, REVERSE, 9), guidance=0.0)
    assert_same_bits(actual=actual, expected=reverse_step(D, x_t, without, 9, NoiseAddress(0, REVERSE, 9)))


@pytest.mark.kernel(op="reverse_step")
@pytest.mark.parametrize("variance", ["posterior", "beta", "learned_range"])
@pytest.mark.parametrize("run", [lambda op, *a, **o: op(*a, **o), run_kernel], ids=["torch", "kernel"])
def test_noise_is_added_after_the_first_step_and_not_in_it(variance, run):
    x_t, output = torch.randn(2, 2, 3), torch.randn(2, 4 if variance == "learned_range" else 2, 3)
    one, other = (
        run(reverse_step, D, x_t, output, torch.tensor([1, 2]), NoiseAddress(s, REVERSE, 0), variance=variance)
        for s in (1, 2)
    )
    assert torch.equal(one[0], other[0])
    assert (one[1] != other[1]).all()


@pytest.mark.parametrize("option", [{"variance": "zero"}, {"eta": 0.0}, {"eta": 0.0, "variance": "beta"}])
def test_only_an_update_that_adds_no_noise_goes_without(option):
    x_t, output = torch.randn(2, 2, 3)
    without = reverse_step(D, x_t, output, 9, None, **option)
    assert_same_bits(actual=reverse_step(D, x_t, output, 9, NoiseAddress(0, REVERSE, 9), **option), expected=without)
    with pytest.raises(ValueError, match=r"this update adds noise \(variance='posterior', eta=None\)"):
        reverse_step(D, x_t, output, 9, None)


@pytest.mark.parametrize("dtype", FLOATS)
def test_t_0_leaves_x_t_alone(dtype):
    x_t, output = torch.randn(2, 2, 4, 3).to(getattr(torch, dtype))
    for option in ({}, {"eta": 1.0}, {"clip": (-0.1, 0.1), "prediction": "v"}):
        assert torch.equal(reverse_step(D, x_t, output, 0, NoiseAddress(0, REVERSE, 0), **option), x_t)
    both = output.repeat(1, 2, 1)
    assert torch.equal(reverse_step(D, x_t, both, 0, NoiseAddress(0, REVERSE, 0), variance="learned_range"), x_t)


def test_temperature_scales_the_noise():
    x_t, output, z = torch.randn(3, 2, 4, dtype=torch.float64)
    mean = reverse_step(D, x_t, output, 9, None, variance="zero")
    actual = reverse_step(D, x_t, output, 9, z, temperature=0.25)
    # exact in binary but for the sum
    assert_same_bits(actual=actual, expected=mean + D.reverse_table(dtype=torch.float64)[9, 5] * 0.25 * z)


def in_float32(x, out, without, z, c, clip, guidance, temperature, own_eps):
    """The update in NumPy, each operation rounded; c are the columns of a row in float32."""
    f = np.float32
    if without is not None:
        out = without + f(guidance) * (out - without)
    if clip is None:
        x_s = c.unclipped_from_x * x + c.unclipped_from_out * out
    else:
        x_0 = np.clip(c.x_0_from_x * x + c.x_0_from_out * out, f(clip[0]), f(clip[1]))
        x_s = c.from_x_0 * x_0 + c.from_x * x
        if own_eps:
            x_s = x_s + c.from_out * out
    return x_s + (c.sigma * f(temperature)) * z


@pytest.mark.kernel(op="reverse_step")
@pytest.mark.parametrize(
    "option", [{}, {"variance": "beta"}, {"eta": 0.3}, {"eta": 0.3, "rederive_eps": False}], ids=str
)
@pytest.mark.parametrize("guidance", [None, 3.3])
@pytest.mark.parametrize("clip", [None, (-0.9, 0.7)])
def test_the_bits_are_those_of_the_update_as_it_is_written(option, clip, guidance):
    x_t, output, without, z = torch.randn(4, 3, 37, generator=torch.Generator().manual_seed(0))
    for temperature in (1.0, 0.7):
        numbers = dict(clip=clip, guidance=guidance, temperature=temperature)
        c = ReverseRow(*D.reverse_table(**option)[9].numpy())
        unconditional = None if guidance is None else without.numpy()
        own_eps = option.get("rederive_eps") is False
        given = (part.numpy() for part in (x_t, output))
        expected = torch.from_numpy(
            in_float32(*given, unconditional, z.numpy(), c, clip, guidance, temperature, own_eps)
        )
        arguments = D, x_t, output if guidance is None else (without, output), 9, z
        for name in ("eager", "native"):
            with backend(name):
                assert_same_bits(actual=reverse_step(*arguments, **numbers, **option), expected=expected)
        assert_same_bits(actual=run_kernel(reverse_step, *arguments, **numbers, **option), expected=expected)


@pytest.mark.parametrize("variance", ["posterior", "learned_range"])
def test_a_sample_with_numbers_of_its_own_is_one_alone_with_them(variance):
    count = 4 if variance == "learned_range" else 2
    x_t, without, output = torch.randn(3, 2, 3), torch.randn(3, count, 3), torch.randn(3, count, 3)
    guidance, temperature = torch.tensor([0.0, 1.5, 7.5]), torch.tensor([0.25, 1.0, 2.0])
    low, high = torch.tensor([-1.0, -0.5, -0.1], dtype=torch.float64), torch.tensor(0.5)
    together = reverse_step(
        D, x_t, (without, output), 9, NoiseAddress(0, REVERSE, 9), clip=(low, high), guidance=guidance,
        temperature=temperature, variance=variance,
    )  # fmt: skip
    for i in range(3):
        alone = reverse_step(
            D, x_t[i : i + 1], (without[i : i + 1], output[i : i + 1]), 9, NoiseAddress(0, REVERSE, 9, i),
            clip=(low[i].item(), 0.5), guidance=guidance[i].item(), temperature=temperature[i].item(),
            variance=variance,
        )  # fmt: skip
        assert_same_bits(actual=alone, expected=together[i : i + 1], strides=False)


def test_one_graph_for_every_guidance_clip_and_temperature_in_tensors():
    def function(x_t, output, low, guidance, temperature):
        numbers = dict(clip=(low, 1.0), guidance=guidance, temperature=temperature)
        return reverse_step(D, x_t, (output, -output), 9, NoiseAddress(0, REVERSE, 9), **numbers)

    traced = compiled(function)
    for i in range(3):
        inputs = *torch.randn(2, 2, 3), torch.tensor(-1.0 / (i + 1)), torch.rand(2) * i, torch.rand(())
        assert_same_bits(actual=traced(*inputs), expected=function(*inputs))


@pytest.mark.kernel(op="reverse_step")
def test_t_out_of_range_is_refused_on_a_cpu_and_takes_the_nearest_row_in_a_kernel():
    x_t, output = torch.randn(2, 3, 5)
    t = torch.tensor([-7, 51, 2**40])
    for bad in (t, -1, D.T + 1):
        with pytest.raises(ValueError, match=r"t must lie in 0\.\.50, got values from"):
            reverse_step(D, x_t, output, bad, NoiseAddress(0, REVERSE, 0))
    nearest = reverse_step(D, x_t, output, t.clamp(0, D.T), NoiseAddress(0, REVERSE, 0))
    assert_same_bits(actual=run_kernel(reverse_step, D, x_t, output, t, NoiseAddress(0, REVERSE, 0)), expected=nearest)


@pytest.mark.kernel(op="reverse_step")
@pytest.mark.parametrize("clip", [None, (-1, 1)])
def test_what_is_not_a_number_stays_that(clip):
    x_t, output = torch.randn(2, 1, 5)
    output[0, 1] = torch.nan
    expected = reverse_step(D, x_t, output, 9, NoiseAddress(0, REVERSE, 0), clip=clip)
    assert expected.isnan().tolist() == [[False, True, False, False, False]]
    actual = run_kernel(reverse_step, D, x_t, output, 9, NoiseAddress(0, REVERSE, 0), clip=clip)
    assert_same_bits(actual=actual, expected=expected)


def test_a_gradient_is_refused():
    x_t, output = torch.randn(2, 3), torch.randn(2, 3, requires_grad=True)
    x_s = reverse_step(D, x_t, output, 9, NoiseAddress(0, REVERSE, 0))
    with pytest.raises(RuntimeError, match=r"noisestep\.reverse_step\.default but no autograd formula was registered"):
        x_s.sum().backward()
    with torch.no_grad():
        assert not reverse_step(D, x_t, output, 9, NoiseAddress(0, REVERSE, 0)).requires_grad


REGISTERED = {
    "an address": lambda: reverse_step(D, *torch.randn(2, 2, 3), 4, NoiseAddress(0, REVERSE, 0), return_x_0=True),
    "tensors": lambda: reverse_step(
        D,
        *torch.randn(2, 2, 3),
        torch.tensor([4, 0]),
        NoiseAddress(torch.tensor(1), REVERSE, torch.tensor([3]), torch.arange(2)),
        clip=(-1, 1),
        eta=1.0,
    ),
    "channels_last": lambda: reverse_step(
        D,
        torch.randn(2, 3, 2, 2).to(memory_format=torch.channels_last),
        torch.randn(4, 6, 2, 2),
        4,
        torch.randn(2, 3, 2, 2),
        variance="learned_range",
        guidance=2.0,
        return_x_0=True,
    ),
    "in place": lambda: reverse_step(
        D, *torch.randn(2, 2, 3), 4, NoiseAddress(0, REVERSE, 0), in_place=True, return_x_0=True
    ),
    "transposed": lambda: reverse_step(D, torch.randn(3, 2).T, torch.randn(2, 3), 4, None, variance="zero"),
}


@pytest.mark.parametrize("name", REGISTERED)
def test_registration(name):
    assert_registered(REGISTERED[name])


def test_one_graph_for_every_timestep_batch_and_address():
    def function(x_t, output, t, seed, sample):
        return reverse_step(D, x_t, output, t, NoiseAddress(seed, REVERSE, t, sample), clip=(-1, 1), prediction="v")

    traced = compiled(function)
    for i in range(3):
        inputs = *torch.randn(2, 2, 3), torch.tensor([i, 50 - i]), torch.tensor([i]), torch.arange(2) + i
        assert_same_bits(actual=traced(*inputs), expected=function(*inputs))


def test_a_table_that_is_first_wanted_in_a_graph_is_made_there_once():
    x_t, output = torch.randn(2, 2, 3)
    t = torch.tensor([9, 20])
    schedules = [DeviceSchedule(Schedule.from_name(name, 50)) for name in ("linear", "cosine")]

    def function(schedule, x_t, output, t):
        return reverse_step(schedule, x_t, output, t, None, eta=0.0, clip=(-2, 2))

    traced = torch.compile(function, fullgraph=True, backend="aot_eager")
    for schedule in schedules:
        actual = traced(schedule, x_t, output, t)
        assert_same_bits(actual=actual, expected=function(schedule, x_t, output, t))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for schedule in schedules:
            traced(schedule, output, x_t, t - 1)


def test_vmap_is_a_loop():
    x_t, output = torch.randn(2, 4, 2, 3)
    together = torch.vmap(lambda x_t, output: reverse_step(D, x_t, output, 9, NoiseAddress(0, REVERSE, 0)))(x_t, output)
    one_by_one = [reverse_step(D, *both, 9, NoiseAddress(0, REVERSE, 0)) for both in zip(x_t, output, strict=True)]
    assert_same_bits(actual=together, expected=torch.stack(one_by_one))


def test_autocast_changes_nothing():
    x_t, output = torch.randn(2, 2, 3)
    expected = reverse_step(D, x_t, output, 9, NoiseAddress(0, REVERSE, 0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same_bits(actual=reverse_step(D, x_t, output, 9, NoiseAddress(0, REVERSE, 0)), expected=expected)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("option", [{}, {"variance": "beta"}, {"eta": 0.0}, {"eta": 0.5}], ids=str)
def test_gaussian_data_is_sampled_with_the_mean_and_variance_of_the_recursion(prediction, option):
    # for x_0 ~ N(m, s^2) the best prediction is linear in x_t, so that so is every step, and the moments follow
    m, s, T, count = 0.4, 0.3, 12, 20_000
    schedule = device_schedule("cosine", T)
    table = schedule.schedule
    x = noise_op(NoiseAddress(0, REVERSE, T + 1), (count, 4))
    mean, variance = 0.0, 1.0
    for t in range(T, 0, -1):
        signal, sigma = table.sqrt_alpha_bar[t], table.sqrt_one_minus_alpha_bar[t]
        # E[x_0 | x_t] = m + gain (x_t - signal m)
        gain = signal * s**2 / (signal**2 * s**2 + sigma**2)

        def best(x_t, signal=signal, sigma=sigma, gain=gain):
            x_0 = m + gain * (x_t - signal * m)
            eps = (x_t - signal * x_0) / sigma
            return {"x_0": x_0, "eps": eps, "v": signal * eps - sigma * x_0, "flow": eps - x_0}[prediction]

        x = reverse_step(schedule, x, best(x), t, NoiseAddress(0, REVERSE, t), prediction=prediction, **option)
        # x_{t-1} = slope x_t + offset + deviation z, by the papers' formulas
        eps_slope, eps_offset = (1 - signal * gain) / sigma, -signal * (m - gain * signal * m) / sigma
        if "eta" in option:
            before = table.alpha_bar[t - 1]
            deviation = option["eta"] * np.sqrt((1 - before) / (1 - signal**2) * (1 - signal**2 / before))
            along = np.sqrt(1 - before - deviation**2)
            slope = np.sqrt(before) * gain + along * eps_slope
            offset = np.sqrt(before) * (m - gain * signal * m) + along * eps_offset
        else:
            beta = table.beta[t]
            slope = (1 - beta / sigma * eps_slope) / np.sqrt(1 - beta)
            offset = -beta / sigma * eps_offset / np.sqrt(1 - beta)
            deviation = np.sqrt(beta if option else table.posterior_variance[t]) if t > 1 else 0.0
        mean, variance = slope * mean + offset, slope**2 * variance + deviation**2
    # five standard errors of n draws; rounding is far below
    n = x.numel()
    assert abs(x.double().mean().item() - mean) < 5 * np.sqrt(variance / n)
    assert abs(x.double().var().item() - variance) < 5 * variance * np.sqrt(2 / (n - 1))
