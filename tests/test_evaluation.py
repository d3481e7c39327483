"""Laws of the metrics, known numbers for the digits, and the faults that each metric has to show."""

import contextlib
import io
import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noisestep.accelerated.evaluation import plan as plans
from noisestep.accelerated.evaluation.evaluate import evaluate
from noisestep.accelerated.evaluation.metrics import (
    KernelDistance,
    Manifold,
    covariance_factor,
    draw_gaussian,
    fit_classifier,
    fit_pixels,
    frechet_distance,
    nearest,
)
from noisestep.accelerated.evaluation.plan import COMPONENTS, Plan
from noisestep.accelerated.evaluation.results import Evaluation
from prdc import compute_prdc
from scipy.linalg import sqrtm
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

EPS = np.finfo(np.float64).eps
# sizes of the sets (n and m may be below or above the dimension d), and a seed
SIZES = given(n=st.integers(2, 40), m=st.integers(2, 40), d=st.integers(1, 20), seed=st.integers(0, 2**32 - 1))


def tolerance(x: np.ndarray, y: np.ndarray) -> float:
    # QR, the product of the factors and its singular values each err by about d eps of the largest second
    # moment, the sums over n rows by n eps; the constant of LAPACK's backward errors is of the order of ten
    size = (x**2).mean(axis=0).sum() + (y**2).mean(axis=0).sum() + 1
    return 10 * EPS * (x.shape[1] + len(x) + len(y)) * x.shape[1] * size


def as_pixels(x: np.ndarray) -> np.ndarray:
    """Images of numbers in 0..1, others clipped, as bytes."""
    return np.rint(255 * np.clip(x, 0, 1)).astype(np.uint8)


def by_prdc(real: np.ndarray, fake: np.ndarray, k: int) -> dict[str, float]:
    """The manifold metrics of the package by those who found density and coverage."""
    with contextlib.redirect_stdout(io.StringIO()):
        return {name: float(value) for name, value in compute_prdc(real, fake, nearest_k=k).items()}


@pytest.fixture(scope="module")
def digits() -> dict[str, np.ndarray]:
    data = load_digits()
    images, labels = as_pixels(data.images[:, None] / 16), data.target
    first, second = train_test_split(np.arange(1797), test_size=0.5, stratify=labels, random_state=0)
    return {
        "train": images[first],
        "train_labels": labels[first],
        "held": images[second],
        "held_labels": labels[second],
    }


def evaluate_digits(digits: dict[str, np.ndarray], samples: np.ndarray, labels: np.ndarray | None = None) -> Evaluation:
    return evaluate(samples, labels, digits["train"], digits["train_labels"], digits["held"], digits["held_labels"])


@pytest.fixture(scope="module")
def good(digits: dict[str, np.ndarray]) -> Evaluation:
    """Samples as good as they get: held-out images with a little noise."""
    noise = 0.05 * np.random.default_rng(0).standard_normal(digits["held"].shape)
    return evaluate_digits(digits, as_pixels(digits["held"] / 255 + noise), digits["held_labels"])


# Fréchet distance


@SIZES
def test_frechet_distance_is_a_symmetric_distance(n: int, m: int, d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.random((n, d)), rng.random((m, d))
    assert 0 <= frechet_distance(x, x) <= tolerance(x, x)
    assert frechet_distance(x, y) >= 0
    assert abs(frechet_distance(x, y) - frechet_distance(y, x)) <= tolerance(x, y)
    shuffled = frechet_distance(rng.permutation(x), rng.permutation(y))
    assert abs(frechet_distance(x, y) - shuffled) <= tolerance(x, y)


@SIZES
def test_frechet_distance_of_a_shifted_and_scaled_set_is_known(n: int, m: int, d: int, seed: int) -> None:
    """For y = s x + b: |mean(y) − mean(x)|² + (s − 1)² tr Σ, with or without full rank."""
    rng = np.random.default_rng(seed)
    x, scale, shift = rng.random((n, d)), rng.uniform(0, 3), rng.uniform(-1, 1, d)
    y = scale * x + shift
    moved = y.mean(axis=0) - x.mean(axis=0)
    expected = moved @ moved + (scale - 1) ** 2 * x.var(axis=0, ddof=1).sum()
    assert abs(frechet_distance(x, y) - expected) <= tolerance(x, y)


def test_frechet_distance_equals_the_formula_with_a_matrix_square_root() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.random((200, 12)) @ rng.random((12, 12)), rng.random((300, 12))
    shift, s, t = x.mean(axis=0) - y.mean(axis=0), np.cov(x.T), np.cov(y.T)
    expected = shift @ shift + np.trace(s + t - 2 * sqrtm(s @ t).real)
    # the square root of a product of covariances loses up to half of the digits
    assert frechet_distance(x, y) == pytest.approx(expected, rel=np.sqrt(EPS))


@SIZES
def test_covariance_factor_squares_to_the_covariance(n: int, m: int, d: int, seed: int) -> None:
    x = np.random.default_rng(seed).random((n, d))
    factor = covariance_factor(x)
    assert factor.shape == (min(n, d), d)
    np.testing.assert_allclose(factor.T @ factor, np.cov(x.T).reshape(d, d), rtol=0, atol=tolerance(x, x))


@pytest.mark.parametrize(("x", "y"), [((1, 3), (5, 3)), ((5, 3), (5, 4)), ((5,), (5,))])
def test_frechet_distance_refuses_what_has_no_covariance(x: tuple[int, ...], y: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"two sets \(N, D\), \(M, D\) of at least 2"):
        frechet_distance(np.zeros(x), np.zeros(y))


# kernel distance


def test_kernel_distance_is_the_unbiased_mmd_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.random((30, 4)), rng.random((40, 4)) + 0.1
    within_x, within_y, between = ((a @ b.T / 4 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    expected = (within_x.sum() - np.trace(within_x)) / (30 * 29) + (within_y.sum() - np.trace(within_y)) / (40 * 39)
    expected -= 2 * between.mean()
    for size in (1 << 25, 8 * 7 * 40):
        monkeypatch.setattr(plans, "BLOCK_BYTES", size)
        assert KernelDistance(y).compare(x)[0] == pytest.approx(expected, rel=1e-10)


def test_the_standard_error_of_a_kernel_distance_is_how_much_it_varies() -> None:
    rng = np.random.default_rng(2)
    found = np.array(
        [KernelDistance(rng.standard_normal((100, 3))).compare(0.5 + rng.standard_normal((150, 3))) for _ in range(200)]
    )
    # the deviation of 200 values is known to 5 %, and the error is one to first order
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(), rel=0.25)


def test_of_several_seeds_the_mean_counts_with_its_standard_error(digits: dict[str, np.ndarray]) -> None:
    first, second = digits["held"][:300], digits["held"][300:600]
    both = evaluate_digits(digits, [first, second])
    alone = [evaluate_digits(digits, images) for images in (first, second)]
    for name in ("frechet_distance", "kid", "precision", "recall", "density", "coverage", "copies"):
        values = [getattr(one, name).samples for one in alone]
        metric = getattr(both, name)
        assert metric.values == pytest.approx(values, rel=1e-12)
        assert metric.samples == pytest.approx(np.mean(values), rel=1e-12)
        assert metric.error == pytest.approx(abs(values[0] - values[1]) / 2, rel=1e-9, abs=1e-12)
    # other training images stand in for each set of samples
    assert both.frechet_distance.real_error > 0 == len([one for one in alone if one.frechet_distance.real_error])
    assert f"{both.precision.samples:.3f} ± {both.precision.error:.3f}" in both.table()
    assert "300 samples from each of 2 seeds" in both.table()
    assert both.neighbour_index == alone[0].neighbour_index


def test_few_held_out_images_are_called_few(digits: dict[str, np.ndarray], good: Evaluation) -> None:
    few = evaluate(digits["held"][:50], None, digits["train"], None, digits["held"][:60], None)
    assert "60 held-out images are few" in few.table()
    assert "few" not in good.table()


# the known numbers of the digits


def test_digits_are_at_the_known_distances(digits: dict[str, np.ndarray], good: Evaluation) -> None:
    assert round(good.frechet_distance.real, 3) == 0.073
    train = digits["train"].reshape(-1, 64)
    draws = [frechet_distance(draw_gaussian(train, 900, np.random.default_rng(s)) / 255, train / 255) for s in range(5)]
    assert round(float(np.mean(draws)), 1) == 0.2
    assert good.label_accuracy is not None
    assert good.label_accuracy.real >= 0.98
    held = digits["held"].reshape(-1, 64)
    assert good.recall.real == by_prdc(held / 255, train / 255, k=5)["recall"]


def test_good_samples_pass_and_a_gaussian_does_not(good: Evaluation) -> None:
    assert good.frechet_ratio.samples < 1 < 2 < good.frechet_ratio.gaussian
    for metric in (good.precision, good.recall, good.coverage):
        assert min(metric.samples, metric.real) > 0.95
        assert metric.gaussian < 0.7


# the faults that each metric has to show


def test_mode_collapse_lowers_recall_and_coverage_but_not_precision(
    digits: dict[str, np.ndarray], good: Evaluation
) -> None:
    ones = digits["held"][digits["held_labels"] < 2]
    collapsed = evaluate_digits(digits, np.repeat(ones, 5, axis=0))
    assert collapsed.precision.samples > 0.95
    assert collapsed.recall.samples < 0.3
    assert collapsed.coverage.samples < 0.3
    assert collapsed.frechet_ratio.samples > 5 * good.frechet_ratio.samples


def test_noise_lowers_precision_density_and_label_accuracy(digits: dict[str, np.ndarray], good: Evaluation) -> None:
    noise = 0.4 * np.random.default_rng(2).standard_normal(digits["held"].shape)
    noisy = evaluate_digits(digits, as_pixels(digits["held"] / 255 + noise), digits["held_labels"])
    assert noisy.precision.samples < 0.2
    assert noisy.density.samples < 0.2
    assert noisy.label_accuracy is not None
    assert good.label_accuracy is not None
    assert noisy.label_accuracy.samples < good.label_accuracy.samples - 0.1


def test_samples_of_another_class_than_asked_for_lower_label_accuracy_alone(
    digits: dict[str, np.ndarray],
) -> None:
    wrong = evaluate_digits(digits, digits["held"], (digits["held_labels"] + 1) % 10)
    assert wrong.label_accuracy is not None
    assert wrong.label_accuracy.samples < 0.02
    assert wrong.precision.samples == 1.0


def test_training_images_are_all_copies_and_held_out_images_are_the_share_that_defines_copies(
    digits: dict[str, np.ndarray],
) -> None:
    order = np.random.default_rng(3).permutation(len(digits["train"]))
    copied = evaluate_digits(digits, digits["train"][order])
    assert copied.copies.samples == 1.0
    assert copied.neighbour_distance == (0.0,) * len(order)
    # the first of equal training images may be found instead
    assert (digits["train"][list(copied.neighbour_index)] == digits["train"][order]).all()
    honest = evaluate_digits(digits, digits["held"])
    # of 899 samples one has no real image to stand in for it, and is left out
    assert honest.copies.samples == pytest.approx(honest.copies.real, abs=1 / 898)
    # 5 % of 899, and the ties: distances between integer images repeat
    assert 0.05 <= honest.copies.real <= 0.05 + 3 / 899


def test_a_set_lies_among_itself() -> None:
    x = np.random.default_rng(4).random((50, 3))
    metrics = Manifold(x, k=5).compare(x)
    assert (metrics["precision"], metrics["recall"], metrics["coverage"]) == (1.0, 1.0, 1.0)


@settings(max_examples=20)
@given(
    n=st.integers(7, 30), m=st.integers(7, 30), d=st.integers(1, 5), k=st.integers(1, 5), seed=st.integers(0, 2**32 - 1)
)
def test_manifold_metrics_are_those_of_their_authors_whatever_the_blocks(
    n: int, m: int, d: int, k: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    real, fake = rng.random((n, d)), rng.random((m, d))
    expected = by_prdc(real, fake, k)
    for size in (1 << 25, 8 * 7 * max(n, m)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plans, "BLOCK_BYTES", size)
            assert Manifold(real, k=k).compare(fake) == pytest.approx(expected, rel=1e-12)


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_order_does_not_matter(digits: dict[str, np.ndarray], good: Evaluation, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 300
    samples, labels = as_pixels(digits["held"][:n] * 0.9 / 255), digits["held_labels"][:n]
    order = rng.permutation(n)
    first, second = evaluate_digits(digits, samples, labels), evaluate_digits(digits, samples[order], labels[order])
    assert first.frechet_distance.samples == pytest.approx(second.frechet_distance.samples, rel=1e-12)
    for name in ("precision", "recall", "density", "coverage", "label_accuracy", "copies"):
        assert getattr(first, name) == getattr(second, name)
    assert first.neighbour_index == tuple(np.array(second.neighbour_index)[np.argsort(order)].tolist())


def test_real_images_stand_in_as_many_as_there_are_samples(digits: dict[str, np.ndarray], good: Evaluation) -> None:
    """A distance grows as sets shrink, and the floor with it."""
    few = evaluate_digits(digits, digits["held"][:100])
    assert few.frechet_distance.real > 2 * good.frechet_distance.real
    assert few.counts["samples"] == 100


# features and classifiers of larger images


def smooth(count: int, seed: int) -> np.ndarray:
    """Images of 40 × 40 pixels that a few smooth waves make up."""
    rng = np.random.default_rng(seed)
    waves = np.random.default_rng(0).standard_normal((8, 1600)).cumsum(axis=1) / 40
    return as_pixels(1 / (1 + np.exp(-rng.standard_normal((count, 8)) @ waves)).reshape(count, 1, 40, 40))


def test_large_images_are_compared_in_principal_components_and_both_real_sets_alike() -> None:
    samples, train, held_out = smooth(300, 1), smooth(300, 2), smooth(300, 3)
    labels = np.arange(300) % 2
    result = evaluate(samples, labels, train, labels, held_out, labels)
    assert result.features == f"principal components ({COMPONENTS} of 1600 dimensions)"
    assert result.classifier == "SVC(gamma=scale, C=10) on principal components of 300 real training images"
    # samples and training images were drawn in the same way: neither is favoured
    assert 0.5 < result.frechet_ratio.samples < 2
    assert result.rows()[0][:2] == ("Fréchet distance", "principal components")


def test_white_noise_does_not_favour_the_images_that_the_features_were_fitted_to() -> None:
    rng = np.random.default_rng(5)
    samples, train, held_out = rng.integers(0, 256, (3, 300, 1600), dtype=np.uint8)
    ratio = evaluate(samples, None, train, None, held_out, None).frechet_ratio.samples
    assert 0.9 < ratio < 1.1


def test_features_are_as_many_as_the_held_out_images_allow() -> None:
    features = fit_pixels(smooth(20, 0))
    assert features.name == "principal components (19 of 1600 dimensions)"
    assert features.transform(np.zeros((3, 1600), np.uint8)).shape == (3, 19)
    with pytest.raises(ValueError, match="1600 features"):
        features.transform(np.zeros((3, 1599), np.uint8))


def test_the_classifier_of_small_images_is_the_known_one() -> None:
    x = np.random.default_rng(0).integers(0, 256, (10, 64), dtype=np.uint8)
    name = "SVC(gamma=0.25, C=10) on pixels of 10 real training images"
    assert fit_classifier(fit_pixels(x), x, np.arange(10) % 2)[0] == name
    assert "gamma=scale" in fit_classifier(fit_pixels(x[:, :63]), x[:, :63], np.arange(10) % 2)[0]


@pytest.mark.parametrize("rows_in_a_block", [17, 100])
def test_nearest_is_the_nearest_whatever_the_blocks(rows_in_a_block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "BLOCK_BYTES", rows_in_a_block * 8 * 5)
    rng = np.random.default_rng(6)
    x, among = rng.integers(0, 256, (30, 5), dtype=np.uint8), rng.integers(0, 256, (40, 5), dtype=np.uint8)
    distances = np.linalg.norm(x[:, None] / 255 - among / 255, axis=-1)
    index, distance = nearest(x, among)
    assert (index == distances.argmin(axis=1)).all()
    np.testing.assert_allclose(distance, distances.min(axis=1), rtol=8 * EPS)


def test_the_draws_from_a_gaussian_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = smooth(30, 0).reshape(30, -1)
    whole = draw_gaussian(x, 50, np.random.default_rng(1))
    monkeypatch.setattr(plans, "BLOCK_BYTES", 7 * 8 * 1600)
    # a sum over 30 terms may be rounded in another order, which tips a pixel over once in a while
    difference = whole.astype(int) - draw_gaussian(x, 50, np.random.default_rng(1))
    assert np.abs(difference).max() <= 1
    assert (difference != 0).mean() < 1e-3


# what it costs


class Rows:
    """Notes how many rows something is called with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
        self.counts: list[int] = []
        before = getattr(owner, name)

        def noted(first: object, x: np.ndarray, *rest: object, **more: object) -> object:
            self.counts.append(len(x))
            return before(first, x, *rest, **more)

        monkeypatch.setattr(owner, name, noted)


def test_a_plan_limits_how_many_images_are_used(
    digits: dict[str, np.ndarray], good: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = Rows(monkeypatch, Manifold, "compare")
    classified = Rows(monkeypatch, SVC, "predict")
    monkeypatch.setattr(plans, "COMPARED", 200)
    monkeypatch.setattr(plans, "QUERIED", 150)
    monkeypatch.setattr(plans, "SVC_IMAGES", 120)
    # 3 × 150 queries of 64 values among 500 images
    monkeypatch.setattr(plans, "SEARCH", 3 * 150 * 64 * 500)
    limited = evaluate_digits(digits, digits["held"], digits["held_labels"])
    assert compared.counts == [200, 200, 200]
    # the samples and the held-out images, and no training image
    assert classified.counts == [150, 150]
    assert "on pixels of 120 real training images" in limited.classifier
    assert limited.counts == {"samples": 899, "train": 898, "held_out": 899}
    used = {"samples": 200, "held_out": 200, "queried": 150, "searched": 500}
    assert limited.used == {"seeds": 1, "real_sets": 1, **used}
    assert limited.setting()["images"] == (
        "899 samples, 898 train, 899 held-out; 200 samples are compared with 200 held-out images; copies of 500 "
        "training images are looked for in 150 samples"
    )
    assert len(limited.neighbour_index) == len(limited.neighbour_distance) == 150
    assert max(limited.neighbour_index) < 500
    assert limited.label_accuracy is not None
    assert limited.label_accuracy.samples == limited.label_accuracy.real < 1


def test_of_all_images_none_is_classified_for_nothing(
    digits: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    classified = Rows(monkeypatch, SVC, "predict")
    evaluate_digits(digits, digits["held"][:100], digits["held_labels"][:100])
    assert classified.counts == [100, 899]


def test_of_many_classes_the_nearest_training_image_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    classified = Rows(monkeypatch, SVC, "predict")
    train, held_out = smooth(60, 1), smooth(60, 2)
    labels = np.arange(60) // 2
    asked = labels.copy()
    asked[:15] = labels[-1]
    result = evaluate(train, asked, train, labels, held_out, labels)
    assert result.classifier == "the class of the nearest of 60 real training images"
    assert result.label_accuracy is not None
    # a copy has the class of its image, which is another for the first fifteen
    assert result.label_accuracy.samples == 0.75
    index = nearest(held_out.reshape(60, -1), train.reshape(60, -1))[0]
    assert result.label_accuracy.real == (labels[index] == labels).mean()
    assert classified.counts == []


def test_classes_that_a_part_of_the_training_images_lacks_are_no_error() -> None:
    train, held_out, samples = smooth(20, 1), smooth(20, 2), smooth(20, 3)
    labels = np.arange(20)
    with pytest.raises(ValueError, match=r"samples labels \[20\] are not known"):
        evaluate(samples, labels + 1, train, labels, held_out, labels)
    part = evaluate(samples, labels + 1, train, labels, held_out, labels, plan=Plan(20, 1000, 20, (1, 40, 40), 100))
    assert part.counts["train"] == 1000


SIZES_OF_RUNS = {
    # samples, training images, held out, shape, classes, seeds, features
    "digits": (900, 898, 899, (1, 8, 8), 10, 8, "pixels"),
    "MNIST": (1000, 60_000, 10_000, (1, 28, 28), 10, 4, "learned"),
    "CIFAR-10": (10_000, 50_000, 10_000, (3, 32, 32), 10, 4, "learned"),
    "by pixels": (10_000, 50_000, 10_000, (3, 32, 32), 10, 4, "pixels"),
    "a million": (1000, 1_000_000, 100_000, (3, 32, 32), 10_000, 4, "learned"),
    "ten million": (10_000_000, 10_000_000, 10_000_000, (3, 32, 32), 10_000, 4, "learned"),
    "a hundred seeds": (10_000_000, 10_000_000, 10_000_000, (3, 32, 32), 10_000, 100, "learned"),
    "a hundred classes": (1000, 100_000, 10_000, (3, 64, 64), 100, 4, "learned"),
    "photos": (50_000, 1_000_000, 50_000, (3, 256, 256), 1000, 4, "learned"),
    "large": (100, 100, 100, (3, 1024, 1024), 0, 4, "learned"),
}


@pytest.mark.parametrize("sizes", SIZES_OF_RUNS.values(), ids=SIZES_OF_RUNS)
def test_memory_and_time_are_bounded_for_any_number_of_images_and_classes(sizes: tuple[int, ...]) -> None:
    samples, train, held_out, shape, classes, seeds, features = sizes
    plan = Plan(*sizes)
    assert plan.multiply_adds <= 4e12
    # an image of a million pixels takes 25 MB in float64, and sixteen of them are needed
    assert plan.bytes <= (1.5e9 if plan.values < 10**6 else 4e9)
    # the network learns from no image that stands in for a sample
    assert plan.learned + plan.real_sets * plan.compared <= plan.loaded
    assert (plan.learned > 0) == (features == "learned")
    assert 1 <= plan.queried <= plan.compared <= samples
    assert 1 <= plan.held_out_queried <= plan.real <= held_out
    assert plan.searched <= plan.loaded <= train
    assert plan.classified <= plan.searched
    if min(samples, train, held_out) > 10**6:
        more = Plan(10 * samples, 10 * train, 10 * held_out, shape, 10 * classes, seeds, features)
        assert (more.multiply_adds, more.bytes) == (plan.multiply_adds, plan.bytes)


@pytest.mark.parametrize(
    ("shape", "compared", "block"),
    [((1, 8, 8), 1200, 1 << 19), ((1, 40, 40), 1200, 1 << 19), ((3, 64, 64), 300, 1 << 21)],
)
def test_an_evaluation_keeps_to_its_memory(
    shape: tuple[int, ...], compared: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a hundredth of everything, so that one can see in a moment what a million images do in minutes: small images in
    # sets so large that all distances at once would be too many, and large ones, of which no set may become float64
    small = dict(COMPARED=compared, QUERIED=60, SET_BYTES=1 << 23, FIT_BYTES=1 << 19, BLOCK_BYTES=block)
    for name, value in small.items():
        monkeypatch.setattr(plans, name, value)
    monkeypatch.setattr(plans, "SEARCH", 60 * 3 * 400 * int(np.prod(shape)))
    rng = np.random.default_rng(0)
    samples, train, held_out = (rng.integers(0, 256, (n, *shape), dtype=np.uint8) for n in (1500, 2000, 1600))
    labels = [rng.integers(0, 50, len(images)) for images in (samples, train, held_out)]
    plan = Plan(1500, 2000, 1600, shape, 50)
    tracemalloc.start()
    evaluate(samples, labels[0], train, labels[1], held_out, labels[2])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= plan.bytes
    # and the plan does not promise far more than is needed
    assert plan.bytes <= 4 * peak


# the result


def test_the_result_survives_json(good: Evaluation, digits: dict[str, np.ndarray]) -> None:
    for result in (good, evaluate_digits(digits, digits["held"])):
        assert Evaluation.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_a_file_that_is_no_evaluation_is_refused(good: Evaluation) -> None:
    plain = good.to_dict()
    del plain["recall"]
    with pytest.raises(ValueError, match=r"missing keys \['recall'\], unknown keys \['fid'\]"):
        Evaluation.from_dict({**plain, "fid": 3.17})


def test_the_table_shows_every_metric_beside_its_limits(good: Evaluation) -> None:
    lines = good.table().splitlines()
    assert lines[0].split() == ["by", "samples", "real", "one", "Gaussian", "better"]
    assert lines[1].split()[:3] == ["Fréchet", "distance", "pixels"]
    assert lines[1].split()[-1] == "lower"
    assert f"{good.frechet_distance.real:.4f}" in lines[1]
    assert any(line.startswith("Copies") and line.endswith("near real") for line in lines)
    assert "FID" not in good.table()
    assert "features: pixels (64 dimensions)" in lines


def test_without_labels_the_table_says_so(digits: dict[str, np.ndarray]) -> None:
    result = evaluate_digits(digits, digits["held"])
    assert result.label_accuracy is None
    assert "labels: no labels" in result.table()
    one = evaluate(
        digits["held"], np.zeros(899, int), digits["train"], np.zeros(898, int), digits["held"], np.zeros(899, int)
    )
    assert one.label_accuracy is None
    assert "Not measured: one class only." in [row.meaning for row in one.rows()]


def test_the_same_seed_gives_the_same_numbers(digits: dict[str, np.ndarray]) -> None:
    first, second = evaluate_digits(digits, digits["held"][:50]), evaluate_digits(digits, digits["held"][:50])
    assert first == second
    other = evaluate(digits["held"][:50], None, digits["train"], None, digits["held"], None, seed=1)
    assert replace(other, seed=0, classifier=first.classifier, label_accuracy=first.label_accuracy) != first


X = np.random.default_rng(7).integers(0, 256, (3, 20, 1, 4, 4), dtype=np.uint8)
BAD_EVALUATIONS = {
    "too few samples": ({"samples": X[0][:6]}, "samples holds 6 images; k = 5 neighbours need at least 7"),
    "too few held out": ({"held_out": X[0][:1]}, "held_out holds 1 images"),
    "numbers in 0..1": ({"train": X[1] / 255}, "train must be uint8, 0..255; got float64"),
    "numbers of a network": ({"samples": np.float32(X[0]) / 127.5 - 1}, "samples must be uint8, 0..255; got float32"),
    "shape": ({"train": X[1][..., :3]}, r"one shape.*; got samples \(20, 1, 4, 4\), train \(20, 1, 4, 3\)"),
    "sets of two sizes": ({"samples": [X[0], X[0][:9]]}, r"one size; got samples \(20, 1, 4, 4\), samples \(9, "),
    "no pixels": ({"train": X[1][..., :0]}, r"train must be images \(N, ...\); got shape \(20, 1, 4, 0\)"),
    "one number": ({"samples": np.uint8(5)}, r"samples must be images"),
    "labels of another length": (
        {"train_labels": np.arange(19)},
        r"train labels must be 20 integers; got shape \(19,\)",
    ),
    "labels that are names": ({"sample_labels": np.array(["a"] * 20)}, "samples labels must be 20 integers"),
    "unknown label": ({"sample_labels": np.arange(20) + 1}, r"samples labels \[20\] are not known"),
    "no neighbours": ({"k": 0}, "k must be at least 1, got 0"),
    "nothing unseen": ({"held_out": X[1][::-1]}, "every image of held_out is also in train"),
}


@pytest.mark.parametrize(("change", "message"), BAD_EVALUATIONS.values(), ids=BAD_EVALUATIONS)
def test_bad_input_is_refused(change: dict[str, object], message: str) -> None:
    labels = np.arange(20)
    arguments = {
        "samples": X[0],
        "sample_labels": labels,
        "train": X[1],
        "train_labels": labels,
        "held_out": X[2],
        "held_out_labels": labels,
    }
    with pytest.raises(ValueError, match=message):
        evaluate(**{**arguments, **change})
