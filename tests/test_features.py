"""Features of images: learned from a run's own, kept with it, or those of another network."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from noisestep.accelerated.cli.features import Choice, run_features
from noisestep.accelerated.cli.run_folder import RunFolder
from noisestep.accelerated.data import ImageSet
from noisestep.accelerated.errors import RunError
from noisestep.accelerated.evaluation import plan as plans
from noisestep.accelerated.evaluation.extractors import load_features
from noisestep.accelerated.evaluation.features import Learned, cost, dimension
from noisestep.accelerated.evaluation.plan import Plan
from noisestep.accelerated.training.config import TrainConfig
from noisestep.accelerated.training.data import DataRecord, Split
from torch import nn

CPU, SHAPE = torch.device("cpu"), (3, 16, 20)
IMAGES = np.random.default_rng(0).integers(0, 256, (64, *SHAPE), dtype=np.uint8)
LABELS = np.arange(64) % 2


@pytest.mark.parametrize("labels", [None, LABELS], ids=["images", "classes"])
def test_learned_features_are_the_same_for_the_same_seed_and_survive_their_tensors(labels: np.ndarray | None) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second, other = (Learned.learn(IMAGES, labels, 2, steps=3, seed=seed) for seed in (0, 0, 1))
    assert (torch.random.get_rng_state() == before).all()
    x = first.features().transform(IMAGES)
    assert x.shape == (64, dimension(64))
    np.testing.assert_array_equal(x, second.features().transform(IMAGES))
    assert np.abs(x - other.features().transform(IMAGES)).max() > 0.1
    # principal components of unit variance, but for the values that are cut
    assert np.abs(x).max() <= 4
    np.testing.assert_allclose(x.std(axis=0), 1, atol=0.1)
    again = Learned.restore(SHAPE, first.record(), first.tensors())
    np.testing.assert_array_equal(again.features().transform(IMAGES), x)
    assert again.name == first.name
    assert (first.features().predict is None) == (labels is None)
    if labels is not None:
        assert set(first.features().predict(IMAGES)) <= {0, 1}


def test_large_images_are_averaged_before_a_network_sees_them() -> None:
    large = np.random.default_rng(1).integers(0, 256, (16, 1, 150, 130), dtype=np.uint8)
    learned = Learned.learn(large, None, 0, steps=1)
    averaged = np.rint(large[:, :, :150, :130].reshape(16, 1, 75, 2, 65, 2).mean((3, 5))).astype(np.uint8)
    x = learned.features().transform(large)
    np.testing.assert_array_equal(learned.features().transform(averaged), x)
    assert cost((1, 150, 130)) == cost((1, 75, 65))


def split(count: int = 128, shape: tuple[int, int, int] = SHAPE) -> Split:
    images = np.random.default_rng(2).integers(0, 256, (2, count, *shape), dtype=np.uint8)
    train, held_out = (ImageSet(x, np.arange(count) % 2, ("a", "b"), "here") for x in images)
    return Split(train, held_out, DataRecord("0123", shape, ("a", "b")))


def test_a_run_keeps_its_features_until_images_or_settings_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "LEARNING_STEPS", 20)
    data, run, said, learned = split(), RunFolder(tmp_path), [], []
    learn = Learned.learn
    monkeypatch.setattr(Learned, "learn", lambda *x, **more: learned.append(x) or learn(*x, **more))
    choice = Choice.of("auto", data, CPU)
    plan = choice.plan(data, 20, 2)

    def found(config: TrainConfig) -> np.ndarray:
        features = run_features(run, choice, data.train, data.held_out, data, config, plan, CPU, said.append)
        assert features.kind == "learned classifier"
        return features.transform(data.held_out.images)

    x = found(TrainConfig())
    np.testing.assert_array_equal(found(TrainConfig()), x)
    assert len(learned) == 1
    content = run.features.read_bytes()
    run.features.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    np.testing.assert_array_equal(found(TrainConfig()), x)
    assert "features.safetensors cannot be used: " in said[-2]
    assert run.features.read_bytes() == content
    other = TrainConfig()
    object.__setattr__(other, "data", type(other.data)(split_seed=1))
    found(other)
    assert "of other images or settings" in said[-2]
    assert len(learned) == 3


def test_small_images_and_few_of_them_are_compared_by_pixels() -> None:
    for data, kind in ((split(), "learned"), (split(shape=(1, 15, 40)), "pixels"), (split(count=60), "pixels")):
        assert Choice.of("auto", data, CPU).kind == kind
    assert Choice.of("learned", split(shape=(1, 8, 8)), CPU).kind == "learned"
    with pytest.raises(RunError, match="--features learned needs 64 training images or more"):
        Choice.of("learned", split(count=60), CPU)


class Halves(nn.Module):
    """The means of the upper and the lower half."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        means = x.float().mean(dim=[1, 3])
        return torch.stack([means[:, :8].mean(dim=1), means[:, 8:].mean(dim=1)], dim=1)


def halves(x: torch.Tensor) -> torch.Tensor:
    return Halves()(x)


def one_number(x: torch.Tensor) -> torch.Tensor:
    return x.float().mean()


def test_a_file_or_a_function_gives_the_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "halves.pt"
    torch.jit.script(Halves()).save(str(path))
    expected = IMAGES.reshape(64, 3, 2, 160).mean((1, 3))
    for name in (str(path), f"{__name__}:halves"):
        features = load_features(name, SHAPE, CPU)
        assert features.name == f"{name} (2 dimensions)"
        np.testing.assert_allclose(features.transform(IMAGES), expected, rtol=1e-5)
    # a file in the working folder, whatever the command
    (tmp_path / "mine.py").write_text("def features(x):\n    return x.flatten(1).float()\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert load_features("mine:features", SHAPE, CPU).name == "mine:features (960 dimensions)"
    assert sys.path == before


def test_the_inception_network_is_a_file_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Inception(nn.Module):
        def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
            assert return_features
            return x.float().mean(dim=[2, 3])

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.jit.script(Inception()).save(str(tmp_path / "checkpoints" / "inception-2015-12-05.pt"))
    # grey as the three colours
    features = load_features("inception", (1, 16, 16), CPU)
    x = features.transform(IMAGES[:, :1])
    assert (x.shape, features.kind) == ((64, 3), "inception")
    np.testing.assert_allclose(x[:, 0], IMAGES[:, 0].mean((1, 2)), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{__name__}:one_number", r"2 images gave \(\); expected finite numbers \(2, D\)"),
        (f"{__name__}:nothing", "has no attribute 'nothing'"),
        ("words.pt", "words.pt: not a TorchScript module"),
    ],
)
def test_other_features_are_refused_before_any_work(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("words.pt").write_text("no module")
    with pytest.raises(RunError, match=message):
        load_features(name, SHAPE, CPU)


def test_the_network_learns_classes_where_there_are_enough_images_of_each() -> None:
    assert Plan(100, 400, 100, (1, 28, 28), 10, features="learned").learns_classes
    for classes in (0, 1, 30, 101):
        assert not Plan(100, 400, 100, (1, 28, 28), classes, features="learned").learns_classes
