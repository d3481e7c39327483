"""q_sample: the eager backend, whose bits the kernel has (test_ops.py), is within its bound of the reference."""

import numpy as np
import pytest
import torch
from descriptions.description import INPUTS
from descriptions.q_sample import prepare
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreter import assert_same_bits, blocks_for, kernels, on_device, run_kernel
from laws import NAMED
from noisestep.accelerated.address import FORWARD, NoiseAddress
from noisestep.accelerated.ops import noise as noise_op
from noisestep.accelerated.ops import q_sample
from noisestep.accelerated.ops.checks import compute_dtype
from noisestep.reference import forward, noise
from op_cases import (
    FLOATS,
    LAYOUTS,
    UNIT,
    Case,
    assert_registered,
    assert_within,
    cases,
    compiled,
    device_schedule,
    float64,
    gamma,
)

# the table's rounding, the product's, the sum's; see docs/ops.md
ROUNDINGS = 3
D = device_schedule("cosine", 50)


@pytest.mark.kernel(op="q_sample")
@pytest.mark.kernel(op="noise")
@pytest.mark.parametrize("shape", [(2, 90), (2, 4, 6, 6)], ids=["contiguous", "channels_last"])
def test_kernel_has_the_bits_of_the_torch_path_where_a_row_takes_two_axes_of_the_grid(shape):
    case = Case(shape, layout="channels_last", seed=1)
    arguments, options = prepare(case, return_eps=True)
    expected = q_sample(*arguments, **options)
    # at least 7 programs a row: 3 rows of the grid with one that is idle, or more
    actual = run_kernel(q_sample, *arguments, blocks=blocks_for(shape, 7), axis=3, **options)
    assert_same_bits(actual=actual, expected=expected)
    with kernels(blocks=blocks_for(shape, 7), axis=3):
        eps = noise_op(on_device(case.noise()), shape, device=on_device(torch.empty(0)).device).cpu()
    assert_same_bits(actual=eps, expected=expected[1], strides=False)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(1, 2**31 + 1029), (3, 2**30 + 5)])
def test_more_elements_than_32_bits_count(shape):
    # the last elements of the last sample, from a whole block on
    first = shape[1] // 4 * 4 - 4096
    z = noise_op(NoiseAddress(7, 2, 0, 5), shape, device="cuda")[-1, first:].cpu()
    counters = [[block, 2 << 28, 5 + shape[0] - 1, 0] for block in range(first // 4, -(-shape[1] // 4))]
    words = noise.philox4x32(counters, [7, 0]).ravel()
    expected = np.stack(noise.normal_pair(words[0::2], words[1::2]), axis=-1).ravel()[: len(z)]
    assert_same_bits(actual=z, expected=torch.from_numpy(expected.copy()))


def bound(x_0: np.ndarray, eps: np.ndarray, signal: np.ndarray, sigma: np.ndarray, x: torch.Tensor) -> np.ndarray:
    """What x_t may be off before it is rounded to its own type."""
    # a level of uint8 is multiplied by a rounded 1/255
    roundings = ROUNDINGS + (2 if x.dtype == torch.uint8 else 0)
    return gamma(roundings, UNIT[compute_dtype(x)]) * (np.abs(signal * x_0) + np.abs(sigma * eps))


@pytest.mark.parametrize(("name", "zero"), NAMED)
@pytest.mark.parametrize("dtype", INPUTS)
def test_within_its_bound_of_the_reference_at_every_t(name, zero, dtype):
    T = 1000
    schedule = device_schedule(name, T, zero)
    case = Case((T + 1, 2, 9), dtype)
    x_0, t = case.tensor(1), torch.arange(T + 1)
    exact = (2 * float64(x_0)[0] - 255) / 255 if dtype == "uint8" else float64(x_0)[0]
    eps = noise.normal(5, FORWARD, 3, np.arange(T + 1), (2, 9)).astype(np.float64)
    signal = schedule.schedule.sqrt_alpha_bar[:, None, None]
    sigma = schedule.schedule.sqrt_one_minus_alpha_bar[:, None, None]
    error = bound(exact, eps, signal, sigma, x_0)
    if dtype == "float64":
        # the reference rounds as often
        error = 2 * error
    expected = forward.q_sample(schedule.schedule, exact, t.numpy(), eps)
    for out in FLOATS:
        x_t, given_eps = q_sample(
            schedule, x_0, t, NoiseAddress(5, FORWARD, 3), dtype=getattr(torch, out), return_eps=True
        )
        assert_within(actual=x_t, expected=expected, error=error)
        assert_within(actual=given_eps, expected=eps, error=0)


@pytest.mark.property
@settings(max_examples=40)
@given(cases(INPUTS))
def test_within_its_bound_wherever_the_noise_is(case):
    schedule, x_0, t, address = prepare(case)[0]
    exact = (2 * float64(x_0)[0] - 255) / 255 if case.dtype == "uint8" else float64(x_0)[0]
    eps = noise.normal(*case.reference_address(), case.shape[1:]).astype(np.float64)
    rows_of_t = np.broadcast_to(t.numpy(), case.shape[:1])
    column = (-1, *(1,) * (len(case.shape) - 1))
    signal = schedule.schedule.sqrt_alpha_bar[rows_of_t].reshape(column)
    sigma = schedule.schedule.sqrt_one_minus_alpha_bar[rows_of_t].reshape(column)
    assert_within(
        actual=q_sample(schedule, x_0, t, address),
        expected=forward.q_sample(schedule.schedule, exact, rows_of_t, eps),
        # the reference rounds too
        error=bound(exact, eps, signal, sigma, x_0) + gamma(3, 2.0**-53) * (np.abs(exact) + np.abs(eps)),
    )


@pytest.mark.property
@settings(max_examples=40)
@given(cases(INPUTS))
def test_the_memory_layout_changes_no_bit(case):
    for layout in LAYOUTS:
        schedule, x_0, t, address = prepare(case)[0]
        other = Case(case.shape, case.dtype, layout).tensor(1)
        x_t = q_sample(schedule, other, t, address)
        assert_same_bits(actual=x_t, expected=q_sample(schedule, x_0, t, address), strides=False)
        # what PyTorch itself would give it
        assert x_t.stride() == torch.empty_like(other).stride()


@pytest.mark.property
@settings(max_examples=40)
@given(cases(FLOATS), st.randoms())
def test_a_sample_is_the_same_alone_and_in_any_batch(case, random):
    schedule, x_0, _, _ = prepare(case)[0]
    batch = case.shape[0]
    t = torch.randint(0, case.T + 1, (batch,), generator=torch.Generator().manual_seed(1))
    address = NoiseAddress(case.seed, case.stream, case.step, case.sample)
    whole = q_sample(schedule, x_0, t, address)
    order = torch.tensor(random.sample(range(batch), batch), dtype=torch.int64)
    shuffled = q_sample(
        schedule, x_0[order], t[order], NoiseAddress(case.seed, case.stream, case.step, case.sample + order)
    )
    assert_same_bits(actual=shuffled, expected=whole[order], strides=False)
    for i in range(batch):
        alone = q_sample(
            schedule, x_0[i : i + 1], int(t[i]), NoiseAddress(case.seed, case.stream, case.step, case.sample + i)
        )
        assert_same_bits(actual=alone, expected=whole[i : i + 1], strides=False)


def test_an_address_of_tensors_is_that_of_integers():
    x_0 = torch.randn(3, 5)
    integers = q_sample(D, x_0, torch.tensor([1, 2, 3]), NoiseAddress(7, FORWARD, 5, 9))
    one, rows = torch.tensor([5]), torch.tensor([5, 5, 5])
    for seed in (7, torch.tensor(7), torch.tensor([7])):
        for step in (5, one, rows):
            for sample in (9, torch.tensor([9, 10, 11])):
                x_t = q_sample(
                    D, x_0, torch.tensor([1, 2, 3], dtype=torch.int32), NoiseAddress(seed, FORWARD, step, sample)
                )
                assert_same_bits(actual=x_t, expected=integers)


@pytest.mark.parametrize("dtype", FLOATS)
def test_nothing_is_added_at_t_0(dtype):
    x_0 = torch.randn(4, 3).to(getattr(torch, dtype))
    assert torch.equal(q_sample(D, x_0, 0, NoiseAddress(0, FORWARD, 0)), x_0)


@pytest.mark.kernel(op="q_sample")
def test_t_out_of_range_is_refused_on_a_cpu_and_takes_the_nearest_row_in_a_kernel():
    x_0, t = torch.randn(3, 5), torch.tensor([-7, 51, 2**40])
    for bad in (t, -1, D.T + 1):
        with pytest.raises(ValueError, match=r"t must lie in 0\.\.50, got values from"):
            q_sample(D, x_0, bad, NoiseAddress(0, FORWARD, 0))
    nearest = q_sample(D, x_0, t.clamp(0, D.T), NoiseAddress(0, FORWARD, 0))
    assert_same_bits(actual=run_kernel(q_sample, D, x_0, t, NoiseAddress(0, FORWARD, 0)), expected=nearest)


@pytest.mark.kernel(op="q_sample")
def test_what_is_not_a_number_stays_that():
    x_0 = torch.tensor([[torch.nan, torch.inf, -torch.inf, 1.0, 2.0]])
    expected = q_sample(D, x_0, 3, NoiseAddress(0, FORWARD, 0))
    assert torch.equal(expected.isfinite(), x_0.isfinite())
    assert_same_bits(actual=run_kernel(q_sample, D, x_0, 3, NoiseAddress(0, FORWARD, 0)), expected=expected)
    given_eps = q_sample(D, torch.ones(1, 5), 3, x_0)
    assert torch.equal(given_eps.isfinite(), x_0.isfinite())
    assert_same_bits(actual=run_kernel(q_sample, D, torch.ones(1, 5), 3, x_0), expected=given_eps)


def test_gradients():
    t = torch.tensor([1, 50])
    x_0, eps = (torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda x_0, eps: q_sample(D, x_0, t, eps), (x_0, eps))
    # it is linear: the second derivative is 0, and that of a square of it is not
    assert torch.autograd.gradgradcheck(lambda x_0, eps: q_sample(D, x_0, t, eps).square(), (x_0, eps))


def test_where_no_gradient_arrives_none_leaves():
    class Nothing(torch.autograd.Function):
        forward = staticmethod(lambda ctx, x: x.clone())
        backward = staticmethod(lambda ctx, gradient: None)

    x_0 = torch.randn(2, 3, requires_grad=True)
    x_t = Nothing.apply(q_sample(D, x_0, 3, NoiseAddress(0, FORWARD, 0)))
    assert torch.autograd.grad(x_t.sum(), x_0, allow_unused=True) == (None,)


@pytest.mark.kernel(op="q_sample")
@pytest.mark.parametrize("dtype", FLOATS)
def test_gradients_are_the_coefficients(dtype):
    t = torch.tensor([1, 50, 20])
    x_0, eps = (torch.randn(3, 4).to(getattr(torch, dtype)).requires_grad_() for _ in range(2))
    signal, sigma = D.forward_table(compute_dtype(x_0))[t].T[:, :, None]
    for run in (q_sample, run_kernel):
        x_t = run(*([q_sample] if run is run_kernel else []), D, x_0, t, eps)
        by_x_0, by_eps = torch.autograd.grad(x_t, (x_0, eps), torch.ones_like(x_t))
        assert_same_bits(actual=by_x_0, expected=signal.expand(3, 4).to(x_0.dtype).contiguous())
        assert_same_bits(actual=by_eps, expected=sigma.expand(3, 4).to(x_0.dtype).contiguous())


def test_forward_mode_is_refused():
    with pytest.raises(NotImplementedError, match="x_0 carries a forward-mode derivative"):
        torch.func.jvp(
            lambda x: q_sample(D, x, 3, NoiseAddress(0, FORWARD, 0)), (torch.ones(2, 3),), (torch.ones(2, 3),)
        )
    with pytest.raises(NotImplementedError, match="noise carries a forward-mode derivative"):
        torch.func.jvp(lambda x: q_sample(D, torch.ones(2, 3), 3, x), (torch.ones(2, 3),), (torch.ones(2, 3),))


def test_functional_transforms_are_refused():
    with pytest.raises(RuntimeError, match="functorch transforms"):
        torch.func.grad(lambda x: q_sample(D, x, 3, NoiseAddress(0, FORWARD, 0)).sum())(torch.ones(2, 3))


REGISTERED = {
    "an address": lambda: q_sample(D, torch.randn(2, 3), 4, NoiseAddress(0, FORWARD, 0), return_eps=True),
    "tensors in it": lambda: q_sample(
        D,
        torch.randn(2, 3),
        torch.tensor([4, 0]),
        NoiseAddress(torch.tensor(1), FORWARD, torch.tensor([3]), torch.arange(2)),
    ),
    "eps given": lambda: q_sample(D, torch.randn(2, 3).requires_grad_(), 4, torch.randn(2, 3).requires_grad_()),
    "channels_last": lambda: q_sample(
        D,
        torch.randn(2, 3, 2, 2).to(memory_format=torch.channels_last).requires_grad_(),
        4,
        NoiseAddress(0, FORWARD, 0),
        dtype=torch.bfloat16,
        return_eps=True,
    ),
    "transposed": lambda: q_sample(
        D, torch.randn(3, 2).T.requires_grad_(), 4, NoiseAddress(0, FORWARD, 0), return_eps=True
    ),
    "uint8": lambda: q_sample(D, torch.zeros(2, 3, dtype=torch.uint8), 4, NoiseAddress(0, FORWARD, 0)),
}


@pytest.mark.parametrize("call", REGISTERED.values(), ids=REGISTERED)
def test_registration(call):
    assert_registered(call)


def test_one_graph_for_every_timestep_batch_and_address():
    def function(x_0, t, seed, step, sample):
        return q_sample(D, x_0, t, NoiseAddress(seed, FORWARD, step, sample), dtype=torch.bfloat16)

    traced = compiled(function)
    for i in range(3):
        inputs = (
            torch.randn(2, 3, 4),
            torch.tensor([i, 50 - i]),
            torch.tensor(i),
            torch.tensor([i]),
            torch.arange(2) + i,
        )
        assert_same_bits(actual=traced(*inputs), expected=function(*inputs))


def test_vmap_is_a_loop():
    x_0, t = torch.randn(4, 2, 3), torch.randint(0, 51, (4, 2))
    together = torch.vmap(lambda x_0, t: q_sample(D, x_0, t, NoiseAddress(0, FORWARD, 0)))(x_0, t)
    one_by_one = [q_sample(D, *both, NoiseAddress(0, FORWARD, 0)) for both in zip(x_0, t, strict=True)]
    assert_same_bits(actual=together, expected=torch.stack(one_by_one))


def test_autocast_changes_nothing():
    x_0 = torch.randn(2, 3)
    expected = q_sample(D, x_0, 7, NoiseAddress(0, FORWARD, 0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same_bits(actual=q_sample(D, x_0, 7, NoiseAddress(0, FORWARD, 0)), expected=expected)
