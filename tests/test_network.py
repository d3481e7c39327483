"""The hand-written network against automatic differentiation, and against its PyTorch twin."""

from math import e as euler

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from noisestep.accelerated.models import SimpleUNet as TorchSimpleUNet
from noisestep.reference.network import (
    INITIAL_WEIGHTS,
    SimpleUNet,
    initial_parameters,
    parameter_shapes,
    timestep_embedding,
)
from noisestep.reference.noise import normal

# sums of at most 9 * 6 products in a layer and 4 * 36 over a batch, three layers deep, err by less than 1000 * 2^-53
# = 1.1e-13 of the sum of the terms' sizes; 1e-10 leaves a factor of 1000 for what cancels
TOLERANCE = 1e-10


def random_parameters(rng, channels, width, embedding):
    """Weights and biases that are all alive."""
    return {
        name: rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        for name, shape in parameter_shapes(channels, width, embedding).items()
    }


def torch_network(p, x, t, embedding):
    """The network again in torch's own layers, float64."""
    time = F.linear(torch.from_numpy(timestep_embedding(t, embedding)), p["time.weight"], p["time.bias"])
    h = F.relu(F.conv2d(x, p["conv1.weight"], p["conv1.bias"], padding=1) + time[:, :, None, None])
    h = F.relu(F.conv2d(h, p["conv2.weight"], p["conv2.bias"], padding=1))
    return F.conv2d(h, p["conv3.weight"], p["conv3.bias"], padding=1)


def assert_close(*, actual, expected, what):
    assert actual.shape == expected.shape, what
    error = np.max(np.abs(actual - expected), initial=0)
    assert error <= TOLERANCE * max(1, np.max(np.abs(expected), initial=0)), (what, error)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    batch=st.integers(1, 4),
    channels=st.integers(1, 3),
    width=st.integers(1, 6),
    half=st.integers(1, 4),
    height=st.integers(1, 6),
    across=st.integers(1, 6),
)
def test_output_and_every_gradient_equal_automatic_differentiation(seed, batch, channels, width, half, height, across):
    rng = np.random.default_rng(seed)
    parameters = random_parameters(rng, channels, width, 2 * half)
    x = rng.standard_normal((batch, channels, height, across))
    t = rng.integers(1, 1001, batch)
    grad_output = rng.standard_normal(x.shape)

    model = SimpleUNet(parameters)
    output, activations = model.forward(x, t)
    gradients, grad_x = model.backward(activations, grad_output)

    leaves = {name: torch.tensor(array, requires_grad=True) for name, array in parameters.items()}
    leaf_x = torch.tensor(x, requires_grad=True)
    expected = torch_network(leaves, leaf_x, t, 2 * half)
    expected.backward(torch.from_numpy(grad_output))
    assert_close(actual=output, expected=expected.detach().numpy(), what="output")
    assert_close(actual=grad_x, expected=leaf_x.grad.numpy(), what="x")
    assert gradients.keys() == parameters.keys()
    for name, leaf in leaves.items():
        assert_close(actual=gradients[name], expected=leaf.grad.numpy(), what=name)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), channels=st.sampled_from([1, 3]), t=st.integers(1, 1000))
def test_same_weights_give_the_output_of_the_torch_module(seed, channels, t):
    rng = np.random.default_rng(seed)
    parameters = random_parameters(rng, channels, 7, 8)
    twin = TorchSimpleUNet(channels, width=7, embedding=8).double()
    twin.load_state_dict({name: torch.from_numpy(array) for name, array in parameters.items()})
    x = rng.standard_normal((2, channels, 5, 4))
    steps = np.array([t, 1001 - t])
    with torch.no_grad():
        actual = twin(torch.from_numpy(x), torch.from_numpy(steps)).numpy()
    expected = SimpleUNet(parameters)(x, steps)

    # the module embeds t in float32. w = exp(-z) comes from a z that is two roundings off, 2 |z| e^-|z| <= 2 / e, and
    # an exponential good to 2 units in the last place; the product with t and the cosine round once more each
    unit = 2.0**-24
    embedding_error = 1000 * unit * (2 / euler + 4 + 1) + 4 * unit
    # no sum of products is larger than the absolute row sum times its largest input
    gain = np.prod(
        [
            np.abs(parameters[f"{name}.weight"]).reshape(n, -1).sum(1).max()
            for name, n in (("time", 7), ("conv2", 7), ("conv3", channels))
        ]
    )
    assert np.max(np.abs(actual - expected)) <= gain * embedding_error + TOLERANCE


def test_the_embedding_is_the_printed_formula():
    got = timestep_embedding([1, 250], 4)
    assert got.dtype == np.float64
    expected = [[np.cos(t), np.cos(t / 100), np.sin(t), np.sin(t / 100)] for t in (1, 250)]
    # exp(-ln(10000) / 2) = 1 / 100 to 10 roundings, times t up to 250
    assert np.max(np.abs(got - expected)) <= 250 * 10 * 2.0**-53


def test_the_timestep_changes_the_prediction_of_every_pixel():
    model = SimpleUNet(random_parameters(np.random.default_rng(0), 1, 8, 8))
    x = np.zeros((2, 1, 4, 4))
    early, late = model(x, [1, 1000])
    assert np.all(early != late)


def test_float32_parameters_compute_in_float32_near_the_float64_result():
    single = initial_parameters(3, 1, 16, 8, dtype=np.float32)
    double = {name: array.astype(np.float64) for name, array in single.items()}
    x = normal(0, 0, 0, [0, 1], (1, 8, 8))
    t = np.array([1, 900])
    output, activations = SimpleUNet(single).forward(x, t)
    gradients, grad_x = SimpleUNet(single).backward(activations, output)
    assert {array.dtype for array in [output, grad_x, *gradients.values()]} == {np.dtype(np.float32)}
    expected = SimpleUNet(double)(x, t)
    # three layers of sums of at most 9 * 16 products of size below |x| W ~ 10, each off by 2^-24
    assert np.max(np.abs(output - expected)) <= 3 * 144 * 10 * 2.0**-24


def test_initial_weights_come_from_their_address():
    parameters = initial_parameters(5, 3, 4, 6)
    assert {name: array.shape for name, array in parameters.items()} == parameter_shapes(3, 4, 6)
    z = normal(5, INITIAL_WEIGHTS, 2, 0, (4, 3, 3, 3))[0]
    np.testing.assert_array_equal(parameters["conv1.weight"], np.sqrt(2 / 27) * z)
    assert not any(parameters[name].any() for name in parameters if name.endswith("bias"))
    assert np.any(initial_parameters(6, 3, 4, 6)["conv1.weight"] != parameters["conv1.weight"])


def test_initial_weights_keep_the_size_of_the_signal():
    # He et al.: with W ~ N(0, 2 / fan_in) a layer after a ReLU keeps the mean square of what enters
    model = SimpleUNet(initial_parameters(0, 1, 64, 64))
    _, activations = model.forward(normal(0, 0, 0, np.arange(64), (1, 8, 8)), np.arange(64) + 1)
    first, second = np.mean(activations.h_1**2), np.mean(activations.h_2**2)
    # a layer's mean square has relative deviation about sqrt(5 / 64) = 0.28 over its 64 channels, and windows at the
    # edge (28 of 64 pixels) lose a third or more of theirs: between 1 - 0.28 * 2 - 0.2 and 1 + 0.28 * 2 of the input's
    assert 0.24 <= second / first <= 1.56


def without(name):
    return {key: value for key, value in initial_parameters(0, 1, 4, 6).items() if key != name}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (without("conv2.bias"), "parameters must be time.weight, .*; got time.weight, time.bias, conv1.weight"),
        (initial_parameters(0, 1, 4, 6) | {"conv4.bias": np.zeros(1)}, "got .*conv4.bias"),
        (initial_parameters(0, 1, 4, 6) | {"conv2.bias": np.zeros(3)}, r"'conv2.bias': \(3,\).*should be"),
        (initial_parameters(0, 1, 4, 6) | {"conv3.bias": np.zeros((1, 1))}, "conv3.bias 1, got"),
        (initial_parameters(0, 1, 4, 6) | {"time.weight": np.zeros(4)}, "time.weight must have 2 axes"),
        (initial_parameters(0, 1, 4, 6) | {"time.bias": np.zeros(4, np.float32)}, "got .'float32', 'float64'"),
        (
            {name: x.astype(np.int64) for name, x in initial_parameters(0, 1, 4, 6).items()},
            "one floating type, got .'int64'",
        ),
    ],
)
def test_parameters_that_do_not_fit_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        SimpleUNet(parameters)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"channels": 0}, r"channels must lie in \[1, 65536\), got 0"),
        ({"width": -2}, r"width must lie in \[1, 65536\), got -2"),
        ({"embedding": 7}, "embedding must be even, got 7"),
        ({"embedding": 0}, r"embedding must lie in \[2, 65536\), got 0"),
    ],
)
def test_sizes_out_of_range_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        parameter_shapes(**sizes)


def test_an_odd_embedding_is_refused():
    with pytest.raises(ValueError, match="width must be even, got 3"):
        timestep_embedding([1], 3)


def test_images_and_timesteps_that_do_not_fit_are_refused():
    model = SimpleUNet(initial_parameters(0, 1, 4, 6))
    with pytest.raises(ValueError, match=r"x must have shape \(B, 1, H, W\), got \(2, 3, 4, 4\)"):
        model(np.zeros((2, 3, 4, 4)), [1, 2])
    with pytest.raises(ValueError, match=r"x must have shape \(B, 1, H, W\), got \(4, 4\)"):
        model(np.zeros((4, 4)), [1])
    with pytest.raises(ValueError, match=r"t must have shape \(2,\).*got \(3,\)"):
        model(np.zeros((2, 1, 4, 4)), [1, 2, 3])
    _, activations = model.forward(np.zeros((2, 1, 4, 4)), [1, 2])
    with pytest.raises(ValueError, match=r"grad_output must have shape \(2, 1, 4, 4\), got \(2, 1, 4, 5\)"):
        model.backward(activations, np.zeros((2, 1, 4, 5)))
