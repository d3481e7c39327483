"""The noise is one function: NumPy, PyTorch eager and compiled, and the page's own C program give the same bits."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from noise_oracle import as_text, golden
from noisestep.accelerated import ops
from noisestep.accelerated.address import FORWARD, NoiseAddress
from noisestep.accelerated.backends import backend, eager
from noisestep.accelerated.ops import noise as noise_op
from noisestep.accelerated.ops import q_sample
from noisestep.accelerated.schedule import DeviceSchedule
from noisestep.reference import noise
from noisestep.reference.schedule import Schedule


def eager_noise(place, shape):
    with backend("eager"):
        return ops.noise(place, shape)


HERE = Path(__file__).parent
TEXT = (HERE / "golden" / "noise.json").read_text()
GOLDEN = json.loads(TEXT)
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

seeds = st.integers(0, 2**64 - 1)
streams = st.integers(0, 15)
steps = st.integers(0, 2**28 - 1)
samples = st.integers(0, 2**63 - 5)
shapes = st.lists(st.integers(0, 7), max_size=4).map(tuple)


def hexadecimal(words: list[str]) -> np.ndarray:
    return np.array([int(word, 16) for word in words], np.uint32)


def bits(x: np.ndarray | torch.Tensor) -> np.ndarray:
    """The bits of float32 values, whatever library they came from."""
    x = x.numpy() if isinstance(x, torch.Tensor) else x
    assert x.dtype == np.float32
    return np.ascontiguousarray(x).view(np.uint32)


def same_bits(*, actual: np.ndarray | torch.Tensor, expected: np.ndarray | torch.Tensor) -> None:
    np.testing.assert_array_equal(bits(actual), bits(expected), strict=True)


def address(entry: dict) -> tuple[int, int, int, int]:
    return int(entry["seed"], 16), entry["stream"], entry["step"], int(entry["sample"], 16)


def signed(number: int) -> torch.Tensor:
    """64 bits as a tensor of int64, which is how a seed or a sample above 2^63 is passed."""
    return torch.tensor([number - (number >> 63 << 64)])


def device_address(entry: dict) -> NoiseAddress:
    """The address of a golden vector, with every part in a tensor that may be in one."""
    seed, stream, step, sample = address(entry)
    return NoiseAddress(signed(seed), stream, torch.tensor(step), signed(sample))


def entries(group: str, *, start: bool = False) -> list:
    """The golden vectors of a group; with `start` only those that begin at element 0."""
    return [entry for entry in GOLDEN[group] if not start or int(entry["first"], 16) == 0]


def test_golden_vectors_are_what_exact_arithmetic_gives():
    assert as_text(golden()) == TEXT


@pytest.mark.parametrize("entry", entries("philox"))
def test_philox_known_answers(entry):
    counter, key = hexadecimal(entry["counter"]), hexadecimal(entry["key"])
    np.testing.assert_array_equal(noise.philox4x32(counter, key), hexadecimal(entry["block"]), strict=True)


@pytest.mark.parametrize("entry", entries("pair"))
def test_golden_pairs(entry):
    u, v = int(entry["u"], 16), int(entry["v"], 16)
    expected = hexadecimal(entry["normals"])
    np.testing.assert_array_equal(bits(np.array(noise.normal_pair(u, v))), expected, strict=True)
    z = torch.stack(eager.normal_pair(torch.tensor(u), torch.tensor(v)))
    np.testing.assert_array_equal(bits(z), expected, strict=True)


@pytest.mark.parametrize("entry", entries("normal"))
def test_golden_blocks_anywhere_in_a_sample(entry):
    seed, stream, step, sample = address(entry)
    first = int(entry["first"], 16) // 4
    counters = [[first + i, stream << 28 | step, sample & 0xFFFFFFFF, sample >> 32] for i in range(2)]
    words = noise.philox4x32(counters, [seed & 0xFFFFFFFF, seed >> 32]).ravel()
    np.testing.assert_array_equal(words, hexadecimal(entry["words"]), strict=True)
    z = np.stack(noise.normal_pair(words[0::2], words[1::2]), axis=-1).ravel()
    np.testing.assert_array_equal(bits(z), hexadecimal(entry["normals"]), strict=True)


@pytest.mark.parametrize("entry", entries("normal", start=True))
def test_golden_noise_of_every_path(entry):
    words, normals = hexadecimal(entry["words"])[None], hexadecimal(entry["normals"])[None]
    place = device_address(entry)
    np.testing.assert_array_equal(noise.words(*address(entry), 8), words, strict=True)
    np.testing.assert_array_equal(ops.words(place, 1, 8).numpy(), words)
    np.testing.assert_array_equal(bits(noise.normal(*address(entry), (8,))), normals, strict=True)
    np.testing.assert_array_equal(bits(eager_noise(place, (1, 8))), normals, strict=True)
    np.testing.assert_array_equal(bits(noise_op(place, (1, 8))), normals, strict=True)


def test_golden_noise_compiled(inductor):
    @torch.compile(fullgraph=True)
    def both(seed, step, sample):
        place = NoiseAddress(seed, entry["stream"], step, sample)
        return noise_op(place, (1, 8)), ops.words(place, 1, 8)

    for entry in entries("normal", start=True):
        place = device_address(entry)
        z, words = both(place.seed, place.step, place.sample)
        np.testing.assert_array_equal(bits(z)[0], hexadecimal(entry["normals"]), strict=True)
        assert torch.equal(words, ops.words(place, 1, 8))


def test_compiled_noise_has_the_bits_of_the_reference(inductor):
    # every lane of a vectorised loop, and its remainder
    compiled = torch.compile(noise_op, fullgraph=True)
    same_bits(
        actual=compiled(NoiseAddress(5, FORWARD, 9), (3, 100_003)), expected=noise.normal(5, 0, 9, range(3), (100_003,))
    )


@pytest.mark.parametrize("entry", entries("uniform"))
def test_golden_uniforms(entry):
    expected = hexadecimal([entry["bits"]])
    np.testing.assert_array_equal(bits(noise.uniform(*address(entry))), expected, strict=True)
    np.testing.assert_array_equal(bits(ops.uniform(device_address(entry), 1)), expected, strict=True)


@pytest.mark.parametrize("entry", entries("integers"))
def test_golden_integers(entry):
    span = entry["low"], entry["high"]
    assert noise.integers(*address(entry), *span).tolist() == [entry["value"]]
    assert ops.integers(device_address(entry), 1, *span).tolist() == [entry["value"]]


@pytest.mark.parametrize("entry", entries("permutation"))
def test_golden_permutations(entry):
    assert noise.permutation(int(entry["seed"], 16), entry["epoch"], entry["n"]).tolist() == entry["order"]


@given(seeds, streams, steps, samples, st.integers(0, 4), shapes)
def test_torch_gives_the_bits_of_the_reference(seed, stream, step, sample, batch, shape):
    rows = [sample + i for i in range(batch)]
    expected = noise.normal(seed, stream, step, np.array(rows, np.uint64), shape)
    same_bits(actual=eager_noise(NoiseAddress(seed, stream, step, sample), (batch, *shape)), expected=expected)
    in_tensors = NoiseAddress(signed(seed), stream, torch.full((batch,), step), torch.tensor(rows, dtype=torch.int64))
    same_bits(actual=noise_op(in_tensors, (batch, *shape)), expected=expected)


@given(seeds, steps, samples, st.integers(1, 9), st.integers(-(10**6), 10**6), st.integers(1, 2**31))
def test_torch_draws_the_uniforms_of_the_reference(seed, step, sample, batch, low, n):
    place, rows = NoiseAddress(seed, 1, step, sample), np.arange(batch, dtype=np.uint64) + np.uint64(sample)
    same_bits(actual=ops.uniform(place, batch), expected=noise.uniform(seed, 1, step, rows))
    span = low, low + n - 1
    expected = noise.integers(seed, 1, step, rows, *span)
    assert ops.integers(place, batch, *span).tolist() == expected.tolist()
    assert span[0] <= expected.min() <= expected.max() <= span[1]


@given(seeds, samples, st.sampled_from(DTYPES))
def test_other_types_are_the_float32_rounded_to_nearest_even(seed, sample, dtype):
    expected = noise.normal(seed, FORWARD, 0, sample, (64,))
    actual = noise_op(NoiseAddress(seed, FORWARD, 0, sample), (1, 64), dtype=dtype)
    assert actual.dtype == dtype
    if dtype == torch.bfloat16:
        word = bits(expected).astype(np.uint64)
        expected = ((word + 0x7FFF + (word >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)
    elif dtype == torch.float16:
        expected = expected.astype(np.float16)
    np.testing.assert_array_equal(actual.double().numpy(), expected.astype(np.float64))


@given(seeds, st.lists(samples, min_size=1, max_size=6), st.lists(steps, min_size=6, max_size=6), st.randoms())
def test_a_row_depends_on_nothing_but_its_own_address(seed, rows, times, random):
    times = times[: len(rows)]
    batch = noise.normal(seed, FORWARD, times, np.array(rows, np.uint64), (3, 5))
    order = random.sample(range(len(rows)), len(rows))
    place = NoiseAddress(seed, FORWARD, torch.tensor(times)[order], torch.tensor(rows)[order])
    same_bits(actual=noise_op(place, (len(rows), 3, 5)), expected=batch[order])
    for i, (step, sample) in enumerate(zip(times, rows, strict=True)):
        same_bits(actual=noise_op(NoiseAddress(seed, FORWARD, step, sample), (1, 3, 5))[0], expected=batch[i])


@given(seeds, st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 40))
def test_only_the_count_in_c_order_matters(seed, shape, more):
    flat = noise.normal(seed, FORWARD, 3, 4, (int(np.prod(shape)) + more,))
    z = noise_op(NoiseAddress(seed, FORWARD, 3, 4), (1, *shape))
    same_bits(actual=z.reshape(1, -1), expected=flat[:, : z.numel()])


def test_the_last_sample_that_an_integer_can_name():
    last = 2**63 - 1
    same_bits(
        actual=noise_op(NoiseAddress(0, FORWARD, 0, last), (1, 6)), expected=noise.normal(0, FORWARD, 0, last, (6,))
    )


@given(seeds, st.integers(1, 3), st.integers(2, 3), st.integers(2, 5), st.integers(2, 5))
def test_the_layout_in_memory_does_not_matter(seed, batch, channels, height, width):
    shape = (batch, channels, height, width)
    schedule = DeviceSchedule(Schedule.from_name("linear", 10))
    x_0 = torch.zeros(shape).to(memory_format=torch.channels_last)
    assume(not x_0.is_contiguous())
    place = NoiseAddress(seed, FORWARD, 0)
    x_t, eps = q_sample(schedule, x_0, 10, place, return_eps=True)
    assert x_t.is_contiguous(memory_format=torch.channels_last)
    same_bits(actual=eps, expected=noise.normal(seed, FORWARD, 0, range(batch), shape[1:]))
    same_bits(actual=x_t, expected=q_sample(schedule, x_0.contiguous(), 10, place))


@given(seeds, st.integers(0, 2**28 - 2), st.integers(0, 200))
def test_a_permutation_has_every_number_once(seed, epoch, n):
    order = noise.permutation(seed, epoch, n)
    assert sorted(order.tolist()) == list(range(n))
    # two orders of 60 or more are equal by chance in one case of 60! > 2^272
    assert n < 60 or order.tolist() != noise.permutation(seed, epoch + 1, n).tolist()


BAD_WORDS = {
    "seed -1": ((-1, 0, 0, 0, 1), "seed must lie in [0, 18446744073709551616), got -1"),
    "seed 2^64": ((2**64, 0, 0, 0, 1), "seed must lie in [0, 18446744073709551616), got 18446744073709551616"),
    "stream 16": ((0, 16, 0, 0, 1), "stream must lie in [0, 16), got 16"),
    "step 2^28": ((0, 0, 2**28, 0, 1), "step must lie in [0, 268435456), got 268435456"),
    "a step of -1": ((0, 0, [3, -1], 0, 1), "step must lie in [0, 268435456), got [3, -1]"),
    "steps in rows": ((0, 0, [[3]], 0, 1), "step must be an integer or a row of integers in [0, 268435456), got [[3]]"),
    "sample -1": ((0, 0, 0, -1, 1), "sample must lie in [0, 18446744073709551616), got -1"),
    "sample 2^64": ((0, 0, 0, 2**64, 1), "sample must lie in [0, 18446744073709551616), got 18446744073709551616"),
    "count -1": ((0, 0, 0, 0, -1), "count must lie in [0, 17179869185), got -1"),
    "count 2^34 + 1": ((0, 0, 0, 0, 2**34 + 1), "count must lie in [0, 17179869185), got 17179869185"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_WORDS.values(), ids=BAD_WORDS)
def test_words_refuse_what_is_no_address(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        noise.words(*arguments)


def test_permutation_refuses_what_does_not_fit_a_sample():
    with pytest.raises(ValueError, match=re.escape("n must lie in [0, 8589934593), got -1")):
        noise.permutation(0, 0, -1)
    with pytest.raises(ValueError, match=re.escape("epoch must lie in [0, 268435456), got 268435456")):
        noise.permutation(0, 2**28, 5)


@pytest.mark.parametrize(("low", "high", "n"), [(2, 1, 0), (0, 2**31, 2**31 + 1)])
def test_integers_refuse_an_empty_or_too_wide_range(low, high, n):
    message = re.escape(f"low={low}, high={high} span {n} integers; 1 to 2^31 are allowed")
    with pytest.raises(ValueError, match=message):
        noise.integers(0, 0, 0, 0, low, high)
    with pytest.raises(ValueError, match=message):
        ops.integers(NoiseAddress(0, 0, 0), 1, low, high)


int32, floats = torch.zeros(1, dtype=torch.int32), torch.zeros(1)
BAD_ADDRESSES = {
    "seed -1": ((-1, 0, 0), ValueError, "seed must lie in [0, 18446744073709551616), got -1"),
    "seed 1.0": ((1.0, 0, 0), TypeError, "seed must be an int or an int64 tensor, got 1.0"),
    "seed True": ((True, 0, 0), TypeError, "seed must be an int or an int64 tensor, got True"),
    "seeds": ((signed(1).expand(2), 0, 0), ValueError, "seed must have one element, got shape (2,)"),
    "seed int32": ((int32, 0, 0), TypeError, "seed must be an int or an int64 tensor, got a tensor of torch.int32"),
    "stream 16": ((0, 16, 0), ValueError, "stream must lie in [0, 16), got 16"),
    "stream '0'": ((0, "0", 0), TypeError, "stream must be an int, got '0'"),
    "stream tensor": ((0, signed(1), 0), TypeError, "stream must be an int, got a tensor"),
    "step 2^28": ((0, 0, 2**28), ValueError, "step must lie in [0, 268435456), got 268435456"),
    "step floats": ((0, 0, floats), TypeError, "step must be an int or an int64 tensor, got a tensor of torch.float32"),
    "step rows": (
        (0, 0, signed(1)[None]),
        ValueError,
        "step must have one element or one for each sample, got shape (1, 1)",
    ),
    "sample -1": ((0, 0, 0, -1), ValueError, "sample must lie in [0, 9223372036854775808), got -1"),
    "sample 2^63": (
        (0, 0, 0, 2**63),
        ValueError,
        "sample must lie in [0, 9223372036854775808), got 9223372036854775808",
    ),
    "sample None": ((0, 0, 0, None), TypeError, "sample must be an int or an int64 tensor, got None"),
}


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_ADDRESSES.values(), ids=BAD_ADDRESSES)
def test_an_address_refuses_what_is_none(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        NoiseAddress(*arguments)


BAD_CALLS = {
    "no batch": ((NoiseAddress(0, 0, 0), ()), {}, ValueError, "shape must be (B, ...), got no axis"),
    "negative": (
        (NoiseAddress(0, 0, 0), (2, -1)),
        {},
        ValueError,
        "a size of shape must lie in [0, 17179869185), got -1",
    ),
    "int8": ((NoiseAddress(0, 0, 0), (1,)), {"dtype": torch.int8}, TypeError, "dtype must be one of float32, float16"),
    "a seed": ((0, (1,)), {}, TypeError, "noise must be a NoiseAddress, got int"),
    "two steps for three": (
        (NoiseAddress(0, 0, torch.zeros(2, dtype=torch.int64)), (3,)),
        {},
        ValueError,
        "noise.step must have 1 or 3 elements for a batch of 3, got shape (2,)",
    ),
    "two samples for three": (
        (NoiseAddress(0, 0, 0, torch.zeros(2, dtype=torch.int64)), (3,)),
        {},
        ValueError,
        "noise.sample must have 3 elements for a batch of 3, got shape (2,)",
    ),
    "another device": (
        (NoiseAddress(torch.zeros(1, dtype=torch.int64, device="meta"), 0, 0), (3,)),
        {},
        ValueError,
        "noise.seed is on meta, the batch on cpu; both must be on one device",
    ),
}


@pytest.mark.parametrize(("arguments", "options", "error", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_noise_refuses_what_does_not_fit(arguments, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        noise_op(*arguments, **options)
