"""Odd values for every argument of every public function: a right answer, or TypeError or ValueError raised by us."""

import ast
import linecache
import math
import traceback
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import noisestep.accelerated as acc
import noisestep.reference as ref
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from noisestep.reference.grids import sections
from noisestep.reference.noise import fma
from public_calls import SCHEDULE, Call, X, Y, calls, half, results

ROOTS = tuple(str(Path(package.__file__).parent) for package in (ref, acc))

DEVICE = acc.DeviceSchedule(SCHEDULE)
SCALARS = (
    "meta", "cpu:0", "cuda:99", math.nan, math.inf, -math.inf, 0, 0.0, -0.0, -1, -1.0, 1.0, 0.5, 2, 3,
    1e-300, 1e300, 1 << 31, 1 << 63, 1 << 64, 10**400,
    True, None, "", "cosin", "eps", "1", b"1", 1j, [], (), {}, [None], object(), print, (1.0, -1.0), (math.nan, 1.0),
    (0, 1, 2),
    np.float16(0.5), np.uint8(200), np.bool_(True), np.datetime64("2020"), np.array(3), np.array([]),
)  # fmt: skip
SHAPES = (
    (),
    (0,),
    (1,),
    (2,),
    (3,),
    (2, 1),
    (2, 0),
    (0, 4),
    (2, 1, 4),
    (2, 1, 4, 4),
    (1, 1, 4, 4),
    (2, 2, 4, 4),
    (40,),
    (41, 4),
    (2, 41),
)
DTYPES = ("float64", "float32", "float16", "int64", "uint8", "bool", "complex64", "object", "str", "longdouble")
FILLS = (0.5, 0, -1, 1, 3, 40, 41, 200, math.nan, math.inf, 1e308)
TORCH_DTYPES = (
    torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64
)  # fmt: skip


def array(shape: tuple[int, ...], dtype: str, fill: float) -> np.ndarray:
    with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
        return np.full(shape, fill).astype(dtype)


KINDS = (
    "plain",
    "meta",
    "sparse",
    "csr",
    "mkldnn",
    "expanded",
    "strided",
    "negated",
    "gradient",
    "parameter",
    "nested",
)


def tensor(shape: tuple[int, ...], dtype: torch.dtype, fill: float, kind: str) -> torch.Tensor:
    if kind == "meta":
        return torch.empty(shape, dtype=dtype, device="meta")
    fill = fill if dtype.is_floating_point or dtype.is_complex or math.isfinite(fill) else 7
    x = torch.full(shape, min(fill, 100.0) if fill != 1e308 else 100, dtype=dtype)
    if kind == "sparse":
        return x.to_sparse()
    if kind == "csr" and x.ndim == 2:
        return x.to_sparse_csr()
    if kind == "mkldnn" and dtype == torch.float32 and x.numel():
        return x.to_mkldnn()
    if kind == "nested":
        return torch.nested.nested_tensor([x, x])
    if kind == "expanded" and x.ndim:
        return x[:1].expand(shape) if shape[0] else x
    if kind == "strided" and x.ndim:
        return torch.stack([x, torch.zeros_like(x)], -1)[..., 0]
    if kind == "negated" and dtype == torch.complex64:
        return x.conj()
    if kind == "parameter" and dtype.is_floating_point:
        return torch.nn.Parameter(x)
    return x.requires_grad_() if kind == "gradient" and dtype.is_floating_point else x


odd = st.one_of(
    st.sampled_from(SCALARS),
    st.builds(array, st.sampled_from(SHAPES), st.sampled_from(DTYPES), st.sampled_from(FILLS)),
    st.builds(
        tensor,
        st.sampled_from(SHAPES),
        st.sampled_from(TORCH_DTYPES),
        st.sampled_from(FILLS),
        st.sampled_from(KINDS),
    ),
)


@cache
def raises(file: str) -> frozenset[int]:
    """The lines of a file that are a part of a raise statement."""
    tree = ast.parse("".join(linecache.getlines(file)))
    spans = [node for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    return frozenset(line for node in spans for line in range(node.lineno, (node.end_lineno or node.lineno) + 1))


def is_ours(error: Exception) -> bool:
    """Whether a raise statement of the project raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return frame.filename.startswith(ROOTS) and frame.lineno in raises(frame.filename)


def is_plain(changed: dict[str, Any]) -> bool:
    """Whether what was passed is numbers whose products are numbers, too."""
    arrays = [array for value in changed.values() for array in results(value)]
    return all((abs(array.astype(complex)) < 1e30).all() for array in arrays if array.dtype.kind in "fciu")


def is_huge(changed: dict[str, Any]) -> bool:
    """Whether numbers were passed whose products are infinite."""
    arrays = [array for value in changed.values() for array in results(value)]
    numbers = [array[np.isfinite(array)] for array in arrays if array.dtype.kind in "fciu"]
    return any((abs(array.astype(complex)) >= 1e30).any() for array in numbers)


def is_finite(values: list[np.ndarray]) -> bool:
    return all(np.isfinite(value).all() for value in values if value.dtype.kind in "fc")


# of what a function of `accelerated` makes
SIZES = {"batch", "count", "shape"}


def problem(call: Call, changed: dict[str, Any]) -> str | None:
    """What is wrong with a call's outcome."""
    if "device" in call.arguments and any(
        name in SIZES and isinstance(value, int) and value > 1 << 20 for name, value in changed.items()
    ):
        # a size that is allowed, but not in a test's memory
        changed = {"device": "meta", **changed}
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            found = results(call(**changed))
        except (TypeError, ValueError) as error:
            if not is_ours(error):
                place = traceback.extract_tb(error.__traceback__)[-1]
                return f"{type(error).__name__} of another: {error} ({place.filename}:{place.lineno})"
            return None if str(error).strip() else "an empty message"
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            return f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"
    if seen and not is_huge(changed):
        return f"a warning: {seen[0].message} ({seen[0].filename}:{seen[0].lineno})"
    return "no number from numbers" if not is_finite(found) and is_plain(changed) else None


# objects with methods, which a function takes as they are: a schedule, a network, a dictionary of parameters
OBJECTS = {
    "ref": {
        "schedule", "model", "jvp", "sampler", "parameters", "gradients", "activations", "history", "path", "grid",
    },
    "acc": {"model"},
}  # fmt: skip
# classes that hold what they are given, and what takes long
LEFT_OUT = {"ref.Activations", "ref.Adam", "ref.Bound", "ref.SampledBound", "ref.ema", "ref.load_digits"}
# as many as are asked for, which takes as long as it takes
UNLIMITED = {("acc.sample", "count"), ("acc.invert", "schedule"), ("ref.permutation", "n"), ("ref.words", "count")}
NAMES = [
    (name, argument)
    for name, call in calls().items()
    for argument in call.arguments
    if name not in LEFT_OUT and argument not in OBJECTS[name[:3]] and (name, argument) not in UNLIMITED
]


@pytest.mark.property
@settings(max_examples=150)
@given(st.data())
def test_odd_values_are_taken_rightly_or_refused_by_us(data):
    name, argument = data.draw(st.sampled_from(NAMES))
    value = data.draw(odd)
    said = problem(calls()[name], {argument: value})
    assert said is None, f"{name}({argument}={value!r}): {said}"


TENSORS = [
    (name, argument)
    for name, call in calls().items()
    for argument, value in call.arguments.items()
    if isinstance(value, torch.Tensor) and value.ndim
]


@pytest.mark.parametrize(("name", "argument"), TENSORS)
def test_the_layout_of_a_tensor_changes_no_result(name, argument):
    call = calls()[name]
    x = call.arguments[argument]
    expected = results(call())
    axes = tuple(reversed(range(x.ndim)))
    for layout in (
        torch.stack([x, torch.zeros_like(x)], -1)[..., 0],
        x.permute(axes).contiguous().permute(axes),
        torch.cat([x, x])[len(x) :],
        torch.cat([x, x], -1)[..., x.shape[-1] :],
    ):
        for actual, wanted in zip(results(call(**{argument: layout})), expected, strict=True):
            np.testing.assert_array_equal(actual, wanted, strict=True)


REFUSED = [
    (
        lambda: ref.q_sample(SCHEDULE, [[1.0], [1.0, 2.0]], 1, Y),
        "x_0 must be floating, got list that NumPy cannot read",
    ),
    (lambda: ref.zero_terminal_snr_beta(["a", "b"]), "beta must be real numbers, got <U1"),
    (lambda: ref.predict_x_0(SCHEDULE, X, Y, 1, clip=1), r"clip must be \(low, high\), got 1"),
    (lambda: ref.cosine_beta(5, s=10**400), "s must be a number of float64"),
    (lambda: ref.cosine_beta(5, s=math.nan), "s must be finite and at least 0, got nan"),
    (lambda: ref.cosine_beta(5, s="1"), "s must be a number, got '1'"),
    (lambda: ref.sigmoid_beta(5, tau=1e-3), r"\(end - start\) / tau below 700"),
    (lambda: ref.Schedule([0.1], zero_terminal_snr=1), "zero_terminal_snr must be True or False, got 1"),
    (lambda: ref.sample(SCHEDULE, half, (1, 2), temperature=math.inf), "temperature must be finite, got inf"),
    (lambda: ref.sample(SCHEDULE, half, 3), r"shape must be a sequence of ints \(B, ...\), got 3"),
    (lambda: ref.normal(0, 0, 0, 0, 3), "shape must be a sequence of ints, got 3"),
    (lambda: ref.normal(0, 0, 0, 0, (1 << 20, 1 << 20)), "shape must have at most 17179869184 elements a sample"),
    (lambda: ref.bits_per_dimension(1.0), r"nats must have shape \(B, ...\), got shape \(\)"),
    (lambda: ref.bits_per_dimension(np.zeros((2, 0))), "nats must have at least one element a sample"),
    (lambda: ref.normal_kl(X, X, X, np.zeros(3)), r"shapes must broadcast, got .+ log_variance_2 \(3,\)"),
    (lambda: sections(10, 3), "counts must be a string or a sequence of ints, got 3"),
    (lambda: ref.image_grid(X[0], 1), r"images must have shape \(B, 1, H, W\)"),
    (lambda: ref.image_grid(X * math.nan, 1), "images must be finite"),
    (lambda: ref.write_png("/dev/null", [[1]]), "pixels must be an array of uint8, got list"),
    (lambda: ref.initial_parameters(0, dtype="int8"), "dtype must be float32 or float64, got 'int8'"),
    (lambda: ref.philox4x32([1.0], [1, 2]), "counter must be words of 32 bits, got float64"),
    (lambda: ref.philox4x32([1, 2], [1, 2]), r"counter must have shape \(..., 4\), got \(2,\)"),
    (lambda: ref.normal_pair(-1, 0), r"u must lie in \[0, 2\^32\), got -1"),
    (lambda: fma("1", 1, 1), "a must be real numbers, got <U1"),
    (lambda: ref.uniform(0, 0, [1, 2, 3], [1, 2]), "step and sample must be one int or equally many, got 3 and 2"),
    (lambda: ref.timestep_embedding(["a"], 2), "t must be numbers, got <U1"),
    (lambda: ref.timestep_embedding(3, 2), r"t must have shape \(B,\), got \(\)"),
    (lambda: ref.Adam().update({}, {}, beta_1=1.0), r"need beta_1 and beta_2 in \[0, 1\).+ got beta_1=1.0"),
    (lambda: ref.ema({}, {}, 2.0), r"decay must be in \[0, 1\], got 2.0"),
    (lambda: ref.slerp(X, Y, np.ones((1, 1))), r"fraction must be a number or shape \(n,\), got \(1, 1\)"),
    (lambda: ref.min_snr_weights(SCHEDULE, gamma=math.inf), "gamma must be finite and above 0, got inf"),
    (
        lambda: acc.sample(half, SCHEDULE, count=1, shape=(1, 2, 2), device="meta"),
        "device must be one whose tensors have values",
    ),
    (lambda: acc.sample(half, SCHEDULE, count=1, shape=(1, 2, 2), sampler=None), "sampler must be a name, got None"),
    (
        lambda: acc.sample(half, SCHEDULE, count=1, shape=(1, 2, 2), null_label=1.0),
        "null_label must be an int, got 1.0",
    ),
    (lambda: acc.sample(half, SCHEDULE, count=1, shape=(1, 2, 2), x_T=X), "x_T must be a tensor, got ndarray"),
    (lambda: acc.invert(half, SCHEDULE, torch.ones(0, 1, 2, 2)), "images must be at least one"),
    (lambda: acc.invert(half, SCHEDULE, torch.ones(1, 1, 2, 2), labels=torch.ones(1)), "labels must be int64 or int32"),
    (lambda: acc.Guidance(torch.ones(2, device="meta")), "guidance must have values, and is on meta"),
    (lambda: acc.pairwise_sum(torch.ones(2, 2).to_sparse()), "dense tensor, got one of layout torch.sparse_coo"),
    (lambda: acc.pairwise_sum(torch.nested.nested_tensor([torch.ones(2)])), "dense tensor, got a nested one"),
    (lambda: acc.advance(torch.tensor([1]).to_sparse()), "counter must be a dense tensor"),
    (
        lambda: acc.q_sample(DEVICE, torch.ones(1, 2), torch.tensor([1]).to_sparse(), acc.NoiseAddress(0, 0, 0)),
        "t must",
    ),
    (lambda: acc.NoiseAddress(torch.tensor([1]).to_sparse(), 0, 0), "seed must be a dense tensor"),
    (lambda: acc.NoiseAddress(0, 0, torch.tensor(1, device="meta").int()), "step must be an int or an int64 tensor"),
    (lambda: DEVICE.step_table([["a", 1, 1]] * 41), "coefficients must be real numbers, got <U21"),
    (lambda: DEVICE.reverse_table(eta=torch.ones(2)), "eta must be a number"),
    (lambda: ref.q_sample(SCHEDULE, X * math.inf, 1, Y), "x_0 must be finite, got -?inf"),
    (lambda: ref.simple_loss(X, Y * math.nan), "target must be finite, got nan"),
    (lambda: ref.normal_pair([1, 2], [1]), r"shapes must be equal, got u \(2,\), v \(1,\)"),
    (lambda: ref.start_step(5, torch.ones(1, device="meta")), "strength must be a number"),
    (lambda: ref.integers(0, torch.ones(1, device="meta").int(), 0, 0, 0, 1), "stream must be an int"),
    (lambda: ref.start_step(5, True), "strength must be a number, got True"),
]


def test_eta_in_a_tensor_is_the_number():
    for _ in range(70):
        table = DEVICE.reverse_table(eta=torch.tensor(0.5))
    assert table is DEVICE.reverse_table(eta=0.5)


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_what_was_taken_before_is_refused_with_both_sides(call, message):
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        call()
    assert is_ours(caught.value)
