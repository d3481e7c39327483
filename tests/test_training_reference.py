"""Training by hand: the gradients, Adam, the order of the data, the digits, the picture and the command line."""

import re
import runpy
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from noisestep.accelerated.models import SimpleUNet as TorchSimpleUNet
from noisestep.accelerated.models import simple_unet
from noisestep.accelerated.training.batches import batch_rows
from noisestep.reference import digits
from noisestep.reference.digits import load_digits
from noisestep.reference.forward import q_sample
from noisestep.reference.network import SimpleUNet, initial_parameters, timestep_embedding
from noisestep.reference.noise import FORWARD, TIMESTEP, integers, normal
from noisestep.reference.optimizer import Adam, ema
from noisestep.reference.picture import image_grid, write_png
from noisestep.reference.schedule import Schedule
from noisestep.reference.training import Recipe, batches, main, simple_loss_gradients, train
from PIL import Image

UNIT = 2.0**-53
SHORTEST = ["--steps", "1", "--batch", "1", "--T", "1", "--width", "1", "--count", "1"]


def torch_batch(seed, step, batch, schedule, images):
    """What a training step at an address is made of, as tensors: x_t, t, eps."""
    numbers = np.arange(batch)
    x_0 = images[batch_rows(seed, step, batch, len(images))]
    t = integers(seed, TIMESTEP, step, numbers, 1, schedule.T)
    eps = normal(seed, FORWARD, step, numbers, images.shape[1:]).astype(np.float64)
    return tuple(torch.from_numpy(array) for array in (q_sample(schedule, x_0, t, eps), t, eps))


def test_a_training_run_follows_torch_step_by_step(monkeypatch):
    # the module's own embedding is float32, which is its precision and not a difference between the two networks
    monkeypatch.setattr(
        simple_unet, "timestep_embedding", lambda t, width: torch.from_numpy(timestep_embedding(t.numpy(), width))
    )
    images = normal(9, 0, 0, np.arange(5), (1, 4, 4)).astype(np.float64) / 4
    recipe = Recipe(seed=2, steps=6, batch=3, T=20, width=4, learning_rate=1e-2, warmup=2, dtype="float64")
    losses = []
    model, schedule = train(images, recipe, report=lambda step, loss: losses.append((step, loss)))

    twin = TorchSimpleUNet(1, width=4, embedding=64).double()
    start = initial_parameters(2, 1, 4)
    twin.load_state_dict({name: torch.from_numpy(array) for name, array in start.items()})
    mean = {name: value.detach().clone() for name, value in twin.named_parameters()}
    adam = torch.optim.Adam(twin.parameters())
    # sums of at most 48 terms, three layers forward and back, are less than 1000 roundings of numbers near 1 off. Adam
    # divides a gradient by no less than its epsilon, 1e-8, so a weight moves by at most 1e-5 of the rate too much
    gradient_error = 1000 * UNIT
    weight_error = 0.0
    for k in range(6):
        x_t, t, eps = torch_batch(2, k, 3, schedule, images)
        loss = torch.nn.functional.mse_loss(twin(x_t, t), eps)
        assert losses[k][0] == k + 1
        # a weight's error reaches the loss through a gradient below 10, for each of the 400 weights
        assert abs(losses[k][1] - loss.item()) <= gradient_error + 4000 * weight_error
        adam.zero_grad()
        loss.backward()
        adam.param_groups[0]["lr"] = rate = 1e-2 * (0.5 if k == 0 else 1 - k / 6)
        adam.step()
        weight_error += rate * gradient_error / 1e-8
        decay = (1 + k) / (10 + k)
        for name, value in twin.named_parameters():
            mean[name].mul_(decay).add_(value.detach(), alpha=1 - decay)
    for name, value in mean.items():
        assert np.max(np.abs(model.parameters[name] - value.numpy())) <= weight_error, name


@given(seed=st.integers(0, 2**32 - 1), batch=st.integers(1, 4))
def test_loss_and_gradients_are_those_of_mse_loss(seed, batch):
    rng = np.random.default_rng(seed)
    schedule = Schedule.from_name("cosine", 50)
    model = SimpleUNet(initial_parameters(seed, 1, 3))
    x_0 = rng.uniform(-1, 1, (batch, 1, 4, 3))
    eps = rng.standard_normal(x_0.shape)
    t = rng.integers(1, 51, batch)
    loss, gradients = simple_loss_gradients(model, schedule, x_0, t, eps)
    output = model(q_sample(schedule, x_0, t, eps), t)
    expected = torch.nn.functional.mse_loss(torch.from_numpy(output), torch.from_numpy(eps)).item()
    # a mean of at most 48 squares, each a difference and a product
    assert abs(loss - expected) <= 2 * (48 + 3) * UNIT * loss

    # the loss is a quadratic in the last bias: a central difference has no error but rounding's
    h = 2.0**-10

    def moved(by):
        shifted = model.parameters | {"conv3.bias": model.parameters["conv3.bias"] + by}
        return simple_loss_gradients(SimpleUNet(shifted), schedule, x_0, t, eps)[0]

    difference = (moved(h) - moved(-h)) / (2 * h)
    # each loss is off by up to 3 * 100 roundings of its size
    assert abs(gradients["conv3.bias"][0] - difference) <= 300 * UNIT * max(1, loss) / h


def test_the_network_is_told_the_original_number_of_a_respaced_step():
    told = []

    class Spy(SimpleUNet):
        def forward(self, x, t):
            told.extend(t)
            return super().forward(x, t)

    spy = Spy(initial_parameters(0, 1, 2))
    schedule = Schedule.from_name("cosine", 100).respace(4)
    x_0 = np.zeros((2, 1, 2, 2))
    simple_loss_gradients(spy, schedule, x_0, np.array([1, 4]), x_0)
    assert told == [25, 100]


@given(seed=st.integers(0, 2**64 - 1), count=st.integers(1, 40), batch=st.integers(1, 60))
def test_the_data_come_in_a_new_order_each_epoch_the_same_as_on_a_device(seed, count, batch):
    order = batches(seed, count, batch)
    rows = [next(order) for _ in range(4)]
    for step, row in enumerate(rows):
        np.testing.assert_array_equal(row, batch_rows(seed, step, batch, count))
    flat = np.concatenate(rows)
    for epoch in range(len(flat) // count):
        assert sorted(flat[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_adam_is_torchs():
    rng = np.random.default_rng(0)
    parameters = {"a": rng.standard_normal((3, 4)), "b": rng.standard_normal(5)}
    leaves = {name: torch.tensor(array, requires_grad=True) for name, array in parameters.items()}
    options = {"learning_rate": 0.02, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-6}
    expected = torch.optim.Adam(leaves.values(), lr=0.02, betas=(0.8, 0.95), eps=1e-6)
    adam = Adam()
    for _ in range(40):
        gradients = {name: rng.standard_normal(array.shape) for name, array in parameters.items()}
        parameters, adam = adam.update(parameters, gradients, **options)
        for name, leaf in leaves.items():
            leaf.grad = torch.from_numpy(gradients[name])
        expected.step()
    assert adam.step == 40
    for name, leaf in leaves.items():
        # 40 steps of about 20 roundings each, of numbers below 4
        assert np.max(np.abs(parameters[name] - leaf.detach().numpy())) <= 40 * 20 * 4 * UNIT, name


def test_the_first_step_of_adam_has_the_length_of_the_learning_rate():
    theta, g = {"w": np.array([1.0, 1.0, 1.0])}, {"w": np.array([1e-3, -7.0, 0.0])}
    moved, adam = Adam().update(theta, g, learning_rate=0.5, epsilon=1e-12)
    # g / (|g| + epsilon) is 1e-9 short of 1 for the smallest gradient
    np.testing.assert_allclose(moved["w"], [0.5, 1.5, 1.0], rtol=0, atol=1e-9)
    assert theta["w"].tolist() == [1, 1, 1]
    assert adam.step == 1


@pytest.mark.parametrize("gradients", [{}, {"w": np.zeros(2)}, {"w": np.zeros(3), "b": np.zeros(1)}])
def test_adam_refuses_gradients_of_something_else(gradients):
    with pytest.raises(ValueError, match=r"gradients have shapes .*, the parameters .'w': \(3,\)"):
        Adam().update({"w": np.zeros(3)}, gradients)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=20), st.floats(0, 1))
def test_the_average_is_the_weighted_sum_it_stands_for(values, decay):
    mean = {"w": np.zeros(1)}
    for value in values:
        mean = ema(mean, {"w": np.array([value])}, decay)
    weights = [(1 - decay) * decay**age for age in range(len(values))]
    expected = sum(w * v for w, v in zip(weights, reversed(values), strict=True))
    assert abs(mean["w"][0] - expected) <= 4 * len(values) * UNIT


def test_the_same_recipe_gives_the_same_weights_and_another_seed_others():
    images = load_digits()[0][:20]
    recipe = Recipe(steps=3, batch=4, T=5, width=3)
    first, again, other = (train(images, r)[0].parameters for r in (recipe, recipe, Recipe(1, 3, 4, 5, 3)))
    assert {array.dtype for array in first.values()} == {np.dtype(np.float32)}
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
    assert np.any(first["conv2.weight"] != other["conv2.weight"])


def test_training_learns_to_predict_the_noise():
    losses = []
    recipe = Recipe(steps=250, T=100, width=16)
    train(load_digits()[0], recipe, report=lambda step, loss: losses.append(loss))
    # a network that knows nothing is best at 0, with a loss of 1; the mean of 50 batches varies by about 0.01
    assert np.mean(losses[-50:]) < 0.7


def test_the_digits_are_scikit_learns():
    from sklearn.datasets import load_digits as sklearn_digits

    images, labels = load_digits()
    assert images.shape == (1797, 1, 8, 8)
    assert (images.dtype, labels.dtype) == (np.float64, np.int64)
    expected = sklearn_digits()
    np.testing.assert_array_equal(images[:, 0], expected.images / 8 - 1)
    np.testing.assert_array_equal(labels, expected.target)
    assert (images.min(), images.max()) == (-1, 1)


@pytest.mark.parametrize("spec", [None, ModuleSpec("sklearn", None)])
def test_without_scikit_learn_there_are_no_digits(monkeypatch, spec, capsys, tmp_path):
    monkeypatch.setattr(digits, "find_spec", lambda name: spec)
    with pytest.raises(FileNotFoundError, match="scikit-learn, which is not installed"):
        load_digits()
    with pytest.raises(SystemExit) as stopped:
        main(["--out", str(tmp_path / "a.png")])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: the digits ship with scikit-learn, which is not installed\n"


def test_scikit_learn_without_its_data_is_named(monkeypatch, tmp_path):
    spec = ModuleSpec("sklearn", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(digits, "find_spec", lambda name: spec)
    with pytest.raises(FileNotFoundError, match=r"without its digits: there is no .*digits\.csv\.gz"):
        load_digits()


@given(height=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
def test_a_written_picture_is_read_back_by_pillow(tmp_path_factory, height, width, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    path = tmp_path_factory.mktemp("picture") / "a.png"
    write_png(path, pixels)
    with Image.open(path) as picture:
        read = np.asarray(picture)
    np.testing.assert_array_equal(read, pixels)


@pytest.mark.parametrize("pixels", [np.zeros((2, 2)), np.zeros((2, 2, 3), np.uint8)])
def test_a_picture_is_a_table_of_bytes(pixels, tmp_path):
    with pytest.raises(ValueError, match=r"pixels must be uint8 of shape \(height, width\), got"):
        write_png(tmp_path / "a.png", pixels)


def test_the_grid_shows_every_image_with_lines_between():
    images = np.array([-1.0, 0.0, 2.0]).reshape(3, 1, 1, 1)
    line = 96
    assert image_grid(images, columns=2).tolist() == [
        [line, line, line, line, line],
        [line, 0, line, 128, line],
        [line, line, line, line, line],
        [line, 255, line, line, line],
        [line, line, line, line, line],
    ]
    zoomed = image_grid(images, columns=2, zoom=3)
    np.testing.assert_array_equal(zoomed, np.kron(image_grid(images, columns=2), np.ones((3, 3), np.uint8)))


def test_the_command_trains_draws_and_reports(tmp_path, capsys):
    out = tmp_path / "digits.png"
    main(f"--steps 4 --batch 3 --T 5 --width 3 --count 12 --seed 1 --learning-rate 0.01 --out {out}".split())
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[:-1]] == [f"step {k} of 4" for k in (1, 2, 3, 4)]
    assert lines[-1].startswith(f"12 new digits in {out}, ")
    with Image.open(out) as picture:
        # 10 columns and 2 rows of 8 pixels and a line, 6 times enlarged
        assert picture.size == (6 * (10 * 9 + 1), 6 * (2 * 9 + 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--steps 0", "argument --steps: '0' is not a whole number from 1 to 268435455"),
        ("--steps many", "argument --steps: 'many' is not a whole number from 1 to 268435455"),
        ("--seed -1", "argument --seed: '-1' is not a whole number from 0 to 18446744073709551615"),
        ("--T 1e3", "argument --T: '1e3' is not a whole number from 1 to 10000"),
        ("--batch 0", "argument --batch: '0' is not a whole number from 1 to 65536"),
        ("--width 2000", "argument --width: '2000' is not a whole number from 1 to 1024"),
        ("--count 0", "argument --count: '0' is not a whole number from 1 to 10000"),
        ("--learning-rate nan", "argument --learning-rate: 'nan' is not a number above 0, up to 1"),
        ("--learning-rate fast", "argument --learning-rate: 'fast' is not a number above 0, up to 1"),
        ("--out a.jpg", "argument --out: 'a.jpg' does not name a .png file"),
        ("--out nowhere/a.png", "argument --out: the folder of 'nowhere/a.png' does not exist or cannot be written to"),
        ("--epochs 3", "unrecognized arguments: --epochs 3"),
    ],
)
def test_a_bad_argument_gets_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(arguments.split())
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_the_example_of_the_page_runs(tmp_path, monkeypatch):
    page = (Path(__file__).parents[1] / "docs" / "training-by-hand.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    with Image.open("zeros.png") as picture:
        assert picture.size == (8 * (4 * 9 + 1), 8 * (9 + 1))


def test_the_module_runs_on_numpy_and_the_standard_library_alone(tmp_path):
    code = (
        "import runpy, sys; before = set(sys.modules); "
        "runpy.run_module('noisestep.reference.training', run_name='__main__'); "
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(new - sys.stdlib_module_names))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *SHORTEST, "--out", str(tmp_path / "a.png")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "['noisestep', 'numpy']"


def test_the_module_is_a_command(tmp_path, monkeypatch, capsys):
    out = tmp_path / "a.png"
    monkeypatch.setattr(sys, "argv", ["training", *SHORTEST, "--out", str(out)])
    # a module that is run must not have been imported before
    monkeypatch.delitem(sys.modules, "noisestep.reference.training")
    runpy.run_module("noisestep.reference.training", run_name="__main__")
    assert f"1 new digits in {out}" in capsys.readouterr().out
    assert out.is_file()
