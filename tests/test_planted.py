"""Samples with a known fault: every measure ranks them as a person would, on digits, clothes and photos."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from noisestep.accelerated.data import load_images
from noisestep.accelerated.data.folder import read_files
from noisestep.accelerated.evaluation.evaluate import evaluate
from noisestep.accelerated.evaluation.features import Learned
from noisestep.accelerated.evaluation.metrics import draw_gaussian
from noisestep.accelerated.evaluation.plan import Plan
from noisestep.accelerated.evaluation.results import Evaluation
from scipy.ndimage import gaussian_filter

FASHION, STAMPS = Path("/usr/share/datasets/fashion-mnist"), Path("/usr/share/tuxpaint/stamps")
LOWER = ("frechet_ratio", "kid", "copies")
HIGHER = ("precision", "recall", "density", "coverage", "label_accuracy")
# which measures a fault makes worse; to all others the samples are as good as real
SEEN = {
    "blurred": {"frechet_ratio", "kid", "precision", "recall", "density", "coverage", "label_accuracy"},
    "noise of the right covariance": {"frechet_ratio", "kid", "precision", "recall", "density", "coverage"}
    | {"label_accuracy"},
    "a class dropped": {"frechet_ratio", "kid", "recall", "coverage"},
    "copies": {"copies"},
}


@dataclass(frozen=True)
class Planted:
    """Real images, parted into those to train on, those held out, and fresh ones, which are perfect samples."""

    images: tuple[np.ndarray, np.ndarray, np.ndarray]
    labels: tuple[np.ndarray, np.ndarray, np.ndarray]
    dropped: int
    sigma: float

    @classmethod
    def of(
        cls, images: np.ndarray, labels: np.ndarray, *, train: int, held_out: int, dropped: int, sigma: float
    ) -> "Planted":
        """The images in an order of chance, so many of them to train on and held out."""
        order = np.random.default_rng(0).permutation(len(images))
        ends = [train, train + held_out]
        return cls(*(tuple(np.split(x[order], ends)) for x in (images, labels)), dropped, sigma)

    def samples(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By fault, the samples and the classes that they were asked for."""
        (train, _, fresh), (train_labels, _, asked) = self.images, self.labels
        rng, count = np.random.default_rng(1), len(fresh)
        blurred = gaussian_filter(fresh.astype(float), (0, 0, self.sigma, self.sigma))
        noise = draw_gaussian(train.reshape(len(train), -1), count, rng).reshape(fresh.shape)
        rows, kept = rng.permutation(len(train))[:count], np.flatnonzero(asked != self.dropped)
        kept = np.concatenate([kept, rng.choice(kept, count - len(kept), replace=False)])
        return {
            "real": (fresh, asked),
            "blurred": (np.rint(blurred).astype(np.uint8), asked),
            "noise of the right covariance": (noise, asked),
            "a class dropped": (fresh[kept], asked[kept]),
            "copies": (train[rows], train_labels[rows]),
        }

    def evaluate(self, features: str, *, labelled: bool) -> dict[str, Evaluation]:
        """The evaluation of each fault's samples, by pixels or learned features."""
        (train, held_out, fresh), (labels, held_labels, _) = self.images, self.labels
        classes = int(labels.max()) + 1 if labelled else 0
        plan = Plan(len(fresh), len(train), len(held_out), train.shape[1:], classes, features=features)
        learned = None
        if features == "learned":
            known = labels[: plan.learned] if plan.learns_classes else None
            assert (known is not None) == labelled
            learned = Learned.learn(train[: plan.learned], known, classes, steps=60).features()
        real = (train, labels, held_out, held_labels) if labelled else (train, None, held_out, None)
        return {
            fault: evaluate(samples, asked if labelled else None, *real, features=learned, plan=plan)
            for fault, (samples, asked) in self.samples().items()
        }


def digits() -> Planted:
    data = load_images("digits")
    return Planted.of(data.images, data.labels, train=800, held_out=500, dropped=3, sigma=0.7)


def clothes() -> Planted:
    if not FASHION.is_dir():
        pytest.skip(f"no {FASHION}: apt-get install dataset-fashion-mnist")
    # the test images are fewer to unpack
    data = load_images(FASHION / "t10k-images-idx3-ubyte.gz")
    return Planted.of(data.images[:2400], data.labels[:2400], train=1400, held_out=500, dropped=8, sigma=1.2)


def photos() -> Planted:
    if not STAMPS.is_dir():
        pytest.skip(f"no {STAMPS}: apt-get install tuxpaint-stamps-default")
    paths = sorted(STAMPS.rglob("*.png"))
    images = read_files(paths, size=(32, 32), channels=3, fit="pad")
    symbols = np.array([STAMPS / "symbols" in path.parents for path in paths])
    return Planted.of(images, symbols.astype(int), train=400, held_out=200, dropped=1, sigma=1.5)


CASES = {
    # a blurred digit is nearer to all others: by pixels, it lies in their midst
    "digits by pixels": (digits, "pixels", True, {"precision", "density"}),
    "digits by a classifier": (digits, "learned", True, set()),
    "digits by a network": (digits, "learned", False, set()),
    "clothes by a classifier": (clothes, "learned", True, set()),
    "clothes by a network": (clothes, "learned", False, set()),
    "photos by a network": (photos, "learned", False, set()),
}


@pytest.mark.slow
@pytest.mark.parametrize(("images", "features", "labelled", "overlooked"), CASES.values(), ids=CASES)
def test_each_measure_ranks_planted_samples_as_a_person_would(
    images: Callable[[], Planted], features: str, labelled: bool, overlooked: set[str]
) -> None:
    found = images().evaluate(features, labelled=labelled)
    for name in (*LOWER, *HIGHER):
        if name == "label_accuracy" and not labelled:
            continue
        badness = {fault: (1 if name in LOWER else -1) * getattr(one, name).samples for fault, one in found.items()}
        seen = {fault for fault, names in SEEN.items() if name in names}
        if name in overlooked:
            seen.remove("blurred")
        for fault in seen:
            assert badness["real"] < badness[fault], (name, fault, badness)
        # what looks real ranks before what does not
        unseen, gross = badness.keys() - seen, seen - {"a class dropped"}
        assert max(badness[fault] for fault in unseen) < min(badness[fault] for fault in gross), (name, badness)
