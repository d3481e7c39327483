"""Native code on a CPU: the bits of the eager path on any number of threads, and what happens where there is none."""

import operator
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from descriptions import DESCRIPTIONS
from descriptions import vlb_terms as bound
from hypothesis import example, given, settings
from hypothesis import strategies as st
from interpreter import assert_same_bits
from noisestep.accelerated.address import FORWARD, REVERSE, NoiseAddress
from noisestep.accelerated.backends import backend
from noisestep.accelerated.backends.native import build, calls
from noisestep.accelerated.ops import loss_and_gradient, noise, q_sample, reverse_step, simple_loss, vlb_terms
from noisestep.reference import noise as reference
from op_cases import PREDICTIONS, Case, cases, device_schedule

VARIANCES = ("posterior", "beta", "zero")
TYPES = ("float32", "bfloat16", "float16")
D = device_schedule("cosine", 50)
LARGE = (3, 100_003)


@pytest.fixture(autouse=True)
def compiler() -> None:
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("native code needs a C++ compiler, and there is none")
    assert build.library() is not None


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the native functions that run."""
    names: list[str] = []
    run = calls._run
    monkeypatch.setattr(calls, "_run", lambda name, *rest: names.append(name) or run(name, *rest))
    return names


def assert_native_is_eager(op: Any, *arguments: Any, **options: Any) -> None:
    with backend("eager"):
        expected = op(*arguments, **options)
    assert_same_bits(actual=op(*arguments, **options), expected=expected)


@pytest.mark.kernel(op="native")
@settings(max_examples=30)
@given(cases(TYPES))
@example(Case((2, 3 * 64), seed=2**64 - 1, stream=15, step=2**28 - 1, sample=2**63 - 2))
@example(Case((3, 1025), "bfloat16", seed=2**32, sample=2**32 - 2))
@example(Case((2, 4, 16, 17), "float16", in_tensors=True, sample=2**40))
@example(Case((0, 5)))
@example(Case((5, 0)))
@example(Case((7,)))
def test_noise(case):
    assert_native_is_eager(noise, case.noise(), case.shape, dtype=case.torch_dtype)


@pytest.mark.kernel(op="native")
@settings(max_examples=30)
@given(cases((*TYPES, "uint8")), st.sampled_from((None, *TYPES)), st.booleans(), st.sampled_from(TYPES))
@example(Case((3, 1025)), None, True, "float32")
@example(Case((2, 5, 64), "uint8", in_tensors=True), "float32", False, "bfloat16")
@example(Case((2, 5, 64), "bfloat16"), "float16", True, "bfloat16")
@example(Case((2, 70), "float16"), None, True, "float16")
@example(Case((0, 5)), None, True, "float32")
def test_q_sample(case, given_eps, return_eps, dtype):
    eps = case.noise() if given_eps is None else case.tensor(2, dtype=getattr(torch, given_eps))
    t = case.t().int() if return_eps else case.t()
    if not case.one_t:
        # every second of twice as many
        t = t.repeat_interleave(2)[::2]
    options = dict(return_eps=return_eps, dtype=getattr(torch, dtype))
    assert_native_is_eager(q_sample, case.device_schedule, case.tensor(1), t, eps, **options)


@pytest.mark.kernel(op="native")
@settings(max_examples=30)
@given(
    cases(TYPES),
    st.sampled_from(PREDICTIONS),
    st.sampled_from((None, *TYPES)),
    st.booleans(),
    st.sampled_from((*TYPES, "uint8")),
)
@example(Case((3, 1025)), "eps", None, True, "float32")
@example(Case((2, 3000), in_tensors=True), "v", None, True, "uint8")
@example(Case((2, 1, 64)), "x_0", None, True, "uint8")
@example(Case((3, 1025), "bfloat16"), "v", "float16", True, "bfloat16")
@example(Case((3, 70), "float16"), "x_0", None, False, "float16")
@example(Case((2, 0)), "eps", None, False, "float32")
def test_simple_loss(case, prediction, given_eps, weighted, images):
    eps = case.noise() if given_eps is None else case.tensor(2, dtype=getattr(torch, given_eps))
    x_0 = case.tensor(3, dtype=getattr(torch, images))
    weight = torch.linspace(0.5, 3, case.shape[0]) if weighted else None
    options = dict(prediction=prediction, schedule=case.device_schedule, t=case.t(first=1), x_0=x_0, weight=weight)

    def losses_and_gradients():
        # the losses of the samples, each with a gradient of its own, and their mean; then both at once
        found = loss_and_gradient(case.tensor(1), eps, scale=0.7, **options)
        for reduction, grad in (("none", torch.linspace(-2, 3, 2 * case.shape[0])[::2]), ("mean", torch.tensor(0.7))):
            output = case.tensor(1).requires_grad_()
            losses = simple_loss(output, eps, reduction=reduction, **options)
            found += (losses.detach(), *torch.autograd.grad(losses, output, grad))
        return found

    assert_native_is_eager(losses_and_gradients)


@st.composite
def options(draw) -> dict:
    eta = draw(st.sampled_from((None, 0.0, 0.5, 1.0)))
    return dict(
        prediction=draw(st.sampled_from(PREDICTIONS)),
        clip=draw(st.sampled_from((None, (-1, 1), (-0.3, 2.5), (0, 1), (-1, 0)))),
        variance=draw(st.sampled_from(VARIANCES)),
        eta=eta,
        rederive_eps=draw(st.booleans()),
        guidance=draw(st.sampled_from((None, 0.0, 7.5))),
        temperature=draw(st.sampled_from((1.0, 0.9))),
        return_x_0=draw(st.booleans()),
    )


@pytest.mark.kernel(op="native")
@settings(max_examples=80)
@given(cases(TYPES).filter(lambda case: case.sees_signal), options(), st.booleans())
@example(Case((3, 1025)), dict(clip=(-1, 1)), False)
@example(Case((3, 1025), "bfloat16"), dict(clip=(-1, 1), guidance=3.0, return_x_0=True), True)
@example(Case((2, 200), in_tensors=True), dict(guidance=3.0, return_x_0=True, clip=(-1, 1)), False)
@example(Case((2, 200)), dict(eta=0.5, rederive_eps=False, clip=(-1, 1)), True)
def test_reverse_step(case, chosen, given_z):
    z = case.tensor(2) if given_z else case.noise()
    output = case.tensor(3)
    if chosen.get("guidance") is not None:
        output = (case.tensor(4), output)
    assert_native_is_eager(reverse_step, case.device_schedule, case.tensor(1), output, case.t(), z, **chosen)


# a step's options by tests/descriptions: every memory with and without a clip, the whole history, numbers in tensors
STEPS = {
    "x_0, four, over the last of the history": dict(entries=4, clip=(-0.3, 0.7), keep="history", in_place=True),
    "x_0, guided, numbers of each sample": dict(
        clip=(-1, 1), guidance=3.0, temperature=0.5, scalars="float64 for each"
    ),
    "x_0, nothing kept": dict(entries=1, keep=None, temperature=0.5),
    "eps, clipped, one number for all": dict(memory="eps", clip=(-1, 1), guidance=3.0, scalars="float32 for all"),
    "eps, not clipped, no noise": dict(memory="eps", entries=3, prediction="v", noisy=False, history_dtype="bfloat16"),
}


@pytest.mark.kernel(op="native")
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("dtype", TYPES)
def test_multistep(name, dtype, called):
    DESCRIPTIONS["multistep"].check(Case((3, 1025), dtype), STEPS[name], operator.call)
    # the eager backend's own call takes nothing but the noise
    assert "update" in called


@pytest.mark.kernel(op="native")
@pytest.mark.parametrize("scalars", ["float32 for all", "float64 for each", "bfloat16 for each"])
def test_reverse_step_with_numbers_in_tensors(scalars, called):
    options = dict(clip=(-0.3, 0.7), guidance=3.0, temperature=0.5, scalars=scalars)
    DESCRIPTIONS["reverse_step"].check(Case((3, 1025)), options, operator.call)
    assert "update" in called


@pytest.mark.kernel(op="native")
@settings(max_examples=30)
@given(
    cases(),
    st.sampled_from(bound.VARIANCES),
    st.sampled_from(bound.CLIPS),
    st.sampled_from(bound.LEVELS),
    st.booleans(),
)
@example(Case((3, 1025), "float64"), "posterior", None, 256, False)
@example(Case((3, 4, 70)), "learned_range", (-0.3, 0.7), 256, True)
@example(Case((3, 4, 70), "bfloat16"), "beta", None, 65536, True)
@example(Case((3, 2100), "float16", T=1000), "posterior", (-1, 1), 16, False)
def test_vlb_terms(case, variance, clip, levels, wrong):
    options = bound.fitting(case, dict(prediction="eps", variance=variance, clip=clip, levels=levels))
    t = bound.timesteps(case)
    given = options["prediction"], options["variance"], levels
    inputs = bound.arguments(case, t, *given, wrong=3.0 if wrong else 0.05)
    if inputs[1].numel():
        bound.assert_near_the_reference(vlb_terms(*inputs, t, **options), inputs, t, options)


@pytest.mark.kernel(op="native")
def test_a_term_where_something_is_no_number_is_none():
    x = torch.randn(3, 2, 4)
    for place in range(3):
        for variance in bound.VARIANCES:
            inputs = [x.clone(), x.clone(), torch.cat([x, x], dim=1) if variance == "learned_range" else x.clone()]
            inputs[place][1, 1, 2] = torch.nan
            terms = vlb_terms(D, *inputs, torch.tensor([1, 1, 9]), variance=variance, clip=(-1, 1))
            assert terms.isnan().tolist() == [False, True, False]
            terms = vlb_terms(D, *inputs, torch.tensor([1, 9, 9]), variance=variance, clip=(-1, 1))
            assert terms.isnan().tolist() == [False, True, False]


@pytest.mark.kernel(op="native")
def test_an_exponential_beyond_float64_is_infinite_and_a_vanishing_one_is_zero():
    x = torch.zeros(3, 2, 1)
    # the share of a learned variance so far out that its logarithm is near -1e6, 1e6
    share = torch.tensor([0.0, 1e6, -1e6]).reshape(3, 1, 1).expand(3, 2, 1)
    output = torch.cat([x + 1, share], dim=1)
    with backend("eager"):
        expected = vlb_terms(D, x, x, output, 9, variance="learned_range")
    actual = vlb_terms(D, x, x, output, 9, variance="learned_range")
    assert expected.isfinite().tolist() == [True, True, False]
    np.testing.assert_allclose(actual.numpy(), expected.numpy(), rtol=1e-12)


@pytest.mark.kernel(op="native")
@pytest.mark.parametrize("clip", [None, (-1.0, 1.0), (0.0, 1.0), (-1.0, 0.0)])
def test_what_is_no_number_and_both_zeros(clip):
    special = torch.tensor([0.0, -0.0, torch.nan, torch.inf, -torch.inf, 1e-45, -3.0])
    x, output = (part.reshape(1, -1).contiguous() for part in torch.meshgrid(special, special, indexing="ij"))
    for prediction in PREDICTIONS:
        arguments = D, x, output, 3, NoiseAddress(0, REVERSE, 3)
        assert_native_is_eager(reverse_step, *arguments, prediction=prediction, clip=clip, return_x_0=True)
    assert_native_is_eager(q_sample, D, x, 3, output)
    assert_native_is_eager(simple_loss, x, output, reduction="none")


@pytest.mark.kernel(op="native")
def test_a_step_in_a_tensor_counts_with_its_low_28_bits():
    for step in (torch.tensor([2**28 + 3, -1]), torch.tensor(2**40 + 7)):
        low = NoiseAddress(1, 2, step & (2**28 - 1), 3)
        assert_same_bits(actual=noise(NoiseAddress(1, 2, step, 3), (2, 70)), expected=noise(low, (2, 70)))
        assert_native_is_eager(noise, NoiseAddress(1, 2, step, 3), (2, 70))


@pytest.mark.kernel(op="native")
def test_every_float16_and_bfloat16_is_read_and_rounded_to():
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).reshape(1, -1)
    # which leaves a zero its sign
    zero = torch.full(every.shape, -0.0)
    for dtype in (torch.float16, torch.bfloat16):
        values = every.view(dtype)
        # x_0 as it is, since t is 0: widened, and each float32 at, between and beside two neighbours rounded
        wide = q_sample(D, values, 0, zero, dtype=torch.float32)
        assert_same_bits(actual=wide, expected=values.float())
        bits = (wide.view(torch.int32) & -0x10000) + 0x1000 * torch.arange(16, dtype=torch.int32)[:, None]
        # halves of what is below float16's normal numbers are ties, too
        bits = torch.cat([bits, (wide / 2).view(torch.int32)])
        for step in (-1, 0, 1):
            between = (bits + step).view(torch.float32)
            rounded = q_sample(D, between, 0, zero.expand(17, -1).contiguous(), dtype=dtype)
            assert_same_bits(actual=rounded, expected=between.to(dtype))


@pytest.mark.kernel(op="native")
def test_the_loss_takes_the_noise_that_q_sample_made_for_the_same_address_and_no_other(called):
    x, address = torch.randn(2, 70), NoiseAddress(1, 2, 3, 4)
    others = [NoiseAddress(*(part + (i == j) for j, part in enumerate((1, 2, 3, 4)))) for i in range(4)]
    outputs = [(x, address), (x[:1], address), (x[:, :69].contiguous(), address), *((x, other) for other in others)]
    for output, place in outputs:
        q_sample(D, x, 3, address)
        assert calls._kept is not None
        assert_native_is_eager(simple_loss, output, place)
        # taken once, by the loss that it is for, and left by any other
        assert (calls._kept is None) == (place is address and output is x)
    q_sample(D, x, 3, address, return_eps=True)[1].zero_()
    assert_native_is_eager(simple_loss, x, address)


def test_it_runs_for_what_is_contiguous_and_of_at_most_32_bits(called):
    x, address = torch.randn(2, 70), NoiseAddress(0, FORWARD, 0)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        y = x.to(dtype, copy=True)
        q_sample(D, y, 3, address)
        q_sample(D, torch.zeros(2, 70, dtype=torch.uint8), 3, y, dtype=dtype)
        simple_loss(y.requires_grad_(), address).backward()
        reverse_step(D, y.detach(), y.detach(), 3, address)
        noise(address, (2, 70), dtype=dtype)
        assert called == ["q_sample", "q_sample", "simple_loss", "simple_loss_backward", "update", "noise"]
        del called[:]
    vlb_terms(D, x.double(), x.T.contiguous().T, x, 3)
    assert called == ["vlb_terms"]
    del called[:]
    # for everything else, the noise alone
    q_sample(D, x.double(), 3, address)
    simple_loss(x.T.contiguous().T, address)
    reverse_step(D, torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last), torch.randn(2, 3, 4, 5), 3, address)
    assert called == ["noise"] * 3
    with backend("eager"):
        q_sample(D, x, 3, address)
    assert called == ["noise"] * 3


@pytest.fixture
def many_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(5)
    # a small share each, and a remainder
    monkeypatch.setattr(calls, "_GRAIN", 1000)
    yield
    torch.set_num_threads(before)


@pytest.mark.kernel(op="native")
def test_threads_change_no_bit(many_threads):
    expected = reference.normal(5, FORWARD, 9, range(3), LARGE[1:])
    np.testing.assert_array_equal(noise(NoiseAddress(5, FORWARD, 9), LARGE).numpy(), expected, strict=True)
    x, output = torch.randn(LARGE), torch.randn(LARGE)
    assert_native_is_eager(q_sample, D, x, 7, NoiseAddress(5, FORWARD, 9))
    assert_native_is_eager(simple_loss, output, NoiseAddress(5, FORWARD, 9), reduction="none")
    assert_native_is_eager(reverse_step, D, x, output, 7, NoiseAddress(5, REVERSE, 9), clip=(-1, 1))


def run(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The noise of an address in a process of its own."""
    program = (
        "import torch\n"
        "from noisestep.accelerated.address import NoiseAddress\n"
        "from noisestep.accelerated.ops import noise\n"
        "print(noise(NoiseAddress(3, 0, 1), (1, 5)).view(torch.int32).tolist())"
    )
    given = {**os.environ, "NOISESTEP_CACHE": str(tmp_path), **environment}
    return subprocess.run([sys.executable, "-c", program], env=given, capture_output=True, text=True, check=True)


BITS = str(reference.normal(3, 0, 1, 0, (5,)).view(np.int32).tolist())
CANNOT = {
    "no compiler": (dict(PATH="", CXX=""), "no C++ compiler was found"),
    "no such compiler": (dict(CXX="no-such-compiler"), "no-such-compiler"),
    "one that fails": (dict(CXX="false"), "false failed: no message"),
}


@pytest.mark.parametrize(("environment", "reason"), CANNOT.values(), ids=CANNOT)
def test_without_it_the_bits_are_the_same_and_the_reason_is_said_once(environment, reason, tmp_path):
    done = run(tmp_path, **environment)
    assert done.stdout.strip() == BITS
    assert done.stderr.count("NativeUnavailable: the ops on a CPU run eagerly") == 1
    assert reason in done.stderr


def test_whoever_wants_none_is_not_warned(tmp_path):
    done = run(tmp_path, NOISESTEP_NATIVE="0", CXX="false")
    assert (done.stdout.strip(), done.stderr) == (BITS, "")


@pytest.mark.slow
def test_it_is_compiled_once(tmp_path):
    assert run(tmp_path).stdout.strip() == BITS
    (kept,) = tmp_path.iterdir()
    made = kept.stat().st_mtime_ns
    assert run(tmp_path).stdout.strip() == BITS
    assert [path.stat().st_mtime_ns for path in tmp_path.iterdir()] == [made]


@pytest.mark.slow
def test_where_nothing_can_be_kept_it_is_compiled_all_the_same(tmp_path):
    (tmp_path / "file").touch()
    done = run(tmp_path, NOISESTEP_CACHE=str(tmp_path / "file"))
    assert (done.stdout.strip(), done.stderr) == (BITS, "")


def test_wrong_bits_are_noticed_when_it_is_loaded(tmp_path, monkeypatch):
    for path in (*build._SOURCES.glob("*.cpp"), *build._SOURCES.glob("*.h")):
        shutil.copy(path, tmp_path)
    text = (tmp_path / "noise.h").read_text()
    assert text.count("0xD2511F53u") == 1
    (tmp_path / "noise.h").write_text(text.replace("0xD2511F53u", "0xD2511F51u"))
    monkeypatch.setattr(build, "_SOURCES", tmp_path)
    monkeypatch.setenv("NOISESTEP_CACHE", str(tmp_path))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        # what the cache wraps: the library that the other tests use stays
        assert build._library.__wrapped__() is None
    assert ["of noise gives wrong results" in str(warning.message) for warning in seen] == [True]
