"""Laws of the metrics, known numbers for the digits, and the faults that each metric has to show."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noisestep.accelerated.evaluation.evaluate import evaluate
from noisestep.accelerated.evaluation.metrics import (
    COMPONENTS,
    covariance_factor,
    draw_gaussian,
    fit_classifier,
    fit_features,
    frechet_distance,
    manifold_metrics,
    nearest,
)
from noisestep.accelerated.evaluation.results import Evaluation
from scipy.linalg import sqrtm
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

EPS = np.finfo(np.float64).eps
# sizes of the sets (n and m may be below or above the dimension d), and a seed
SIZES = given(n=st.integers(2, 40), m=st.integers(2, 40), d=st.integers(1, 20), seed=st.integers(0, 2**32 - 1))


def tolerance(x: np.ndarray, y: np.ndarray) -> float:
    # QR, the product of the factors and its singular values each err by about d eps of the largest second
    # moment, the sums over n rows by n eps; the constant of LAPACK's backward errors is of the order of ten
    size = (x**2).mean(axis=0).sum() + (y**2).mean(axis=0).sum() + 1
    return 10 * EPS * (x.shape[1] + len(x) + len(y)) * x.shape[1] * size


@pytest.fixture(scope="module")
def digits() -> dict[str, np.ndarray]:
    data = load_digits()
    images, labels = data.images[:, None] / 16, data.target
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
    return evaluate_digits(digits, np.clip(digits["held"] + noise, 0, 1), digits["held_labels"])


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


# the known numbers of the digits


def test_digits_are_at_the_known_distances(digits: dict[str, np.ndarray], good: Evaluation) -> None:
    assert round(good.frechet_distance.real, 3) == 0.073
    train = digits["train"].reshape(-1, 64)
    draws = [frechet_distance(draw_gaussian(train, 900, np.random.default_rng(s)), train) for s in range(5)]
    assert round(float(np.mean(draws)), 1) == 0.2
    assert good.label_accuracy is not None
    assert good.label_accuracy.real >= 0.98
    # the ceiling is what the same package gives directly
    held = digits["held"].reshape(-1, 64)
    assert good.recall.real == manifold_metrics(held, train, k=5)["recall"]


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
    noisy = evaluate_digits(digits, np.clip(digits["held"] + noise, 0, 1), digits["held_labels"])
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
    assert honest.copies.samples == honest.copies.real
    # 5 % of 899, and the ties: distances between integer images repeat
    assert 0.05 <= honest.copies.real <= 0.05 + 3 / 899


def test_a_set_lies_among_itself() -> None:
    x = np.random.default_rng(4).random((50, 3))
    metrics = manifold_metrics(x, x, k=5)
    assert (metrics["precision"], metrics["recall"], metrics["coverage"]) == (1.0, 1.0, 1.0)


def test_nothing_is_printed(good: Evaluation, capsys: pytest.CaptureFixture[str]) -> None:
    manifold_metrics(np.eye(9), np.eye(9), k=2)
    assert capsys.readouterr() == ("", "")


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_order_does_not_matter(digits: dict[str, np.ndarray], good: Evaluation, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 300
    samples, labels = digits["held"][:n] * 0.9, digits["held_labels"][:n]
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
    """Images of 40 × 40 pixels in 0..1 that a few smooth waves make up."""
    rng = np.random.default_rng(seed)
    waves = np.random.default_rng(0).standard_normal((8, 1600)).cumsum(axis=1) / 40
    return 1 / (1 + np.exp(-rng.standard_normal((count, 8)) @ waves)).reshape(count, 1, 40, 40)


def test_large_images_are_compared_in_principal_components_and_both_real_sets_alike() -> None:
    samples, train, held_out = smooth(300, 1), smooth(300, 2), smooth(300, 3)
    labels = np.arange(300) % 2
    result = evaluate(samples, labels, train, labels, held_out, labels)
    assert result.features == f"principal components ({COMPONENTS} of 1600 dimensions)"
    assert (
        result.classifier == f"SVC(gamma=scale, C=10) on {COMPONENTS} principal components of 300 real training images"
    )
    # samples and training images were drawn in the same way: neither is favoured
    assert 0.5 < result.frechet_ratio.samples < 2
    assert result.rows()[0].name == "Fréchet distance (principal components)"


def test_white_noise_does_not_favour_the_images_that_the_features_were_fitted_to() -> None:
    rng = np.random.default_rng(5)
    samples, train, held_out = rng.random((3, 300, 1600))
    ratio = evaluate(samples, None, train, None, held_out, None).frechet_ratio.samples
    assert 0.9 < ratio < 1.1


def test_features_are_as_many_as_the_held_out_images_allow() -> None:
    name, transform = fit_features(smooth(20, 0).reshape(20, -1))
    assert name == "principal components (19 of 1600 dimensions)"
    assert transform(np.zeros((3, 1600))).shape == (3, 19)
    with pytest.raises(ValueError, match="1600 features"):
        transform(np.zeros((3, 1599)))


def test_the_classifier_of_small_images_is_the_known_one() -> None:
    x = np.random.default_rng(0).random((10, 64))
    name = "SVC(gamma=0.25, C=10) on pixels of 10 real training images"
    assert fit_classifier(x, np.arange(10) % 2)[0] == name
    assert "gamma=scale" in fit_classifier(x[:, :63], np.arange(10) % 2)[0]


def test_nearest_is_the_nearest() -> None:
    rng = np.random.default_rng(6)
    x, among = rng.random((30, 5)), rng.random((40, 5))
    distances = np.linalg.norm(x[:, None] - among, axis=-1)
    index, distance = nearest(x, among)
    assert (index == distances.argmin(axis=1)).all()
    np.testing.assert_allclose(distance, distances.min(axis=1), rtol=8 * EPS)


def test_pairwise_metrics_take_no_more_than_the_limit(
    digits: dict[str, np.ndarray], good: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    monkeypatch.setattr("noisestep.accelerated.evaluation.evaluate.PAIRWISE_LIMIT", 200)
    monkeypatch.setattr(
        "noisestep.accelerated.evaluation.evaluate.manifold_metrics",
        lambda real, fake, k: sizes.append((len(real), len(fake))) or manifold_metrics(real, fake, k=k),
    )
    limited = evaluate_digits(digits, digits["held"], digits["held_labels"])
    assert sizes == [(200, 200)] * 3
    assert "on pixels of 200 real training images" in limited.classifier
    assert limited.label_accuracy is not None
    assert limited.label_accuracy.samples == limited.label_accuracy.real < 1
    assert "at most 200 of each" in limited.setting()["images"]
    assert limited.frechet_distance.real == good.frechet_distance.real
    assert limited.copies.real == good.copies.real


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
    assert lines[0].split() == ["samples", "real", "one", "Gaussian", "better"]
    assert lines[1].split()[:3] == ["Fréchet", "distance", "(pixels)"]
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
    assert replace(other, seed=0, classifier=first.classifier) != first


X = np.random.default_rng(7).random((3, 20, 1, 4, 4))
BAD_EVALUATIONS = {
    "too few samples": ({"samples": X[0][:6]}, "samples holds 6 images; k = 5 neighbours need at least 7"),
    "too few held out": ({"held_out": X[0][:1]}, "held_out holds 1 images"),
    "bytes": ({"train": (X[1] * 255).astype(np.uint8)}, r"train must be floating point in 0..1; got uint8"),
    "network range": ({"samples": 2 * X[0] - 1}, r"samples must be in 0..1; its values go from -0.99\d* to 0.99"),
    "above white": ({"held_out": 1.01 * X[2] / X[2].max()}, r"held_out must be in 0..1; .* to 1.01"),
    "not a number": ({"samples": np.where(X[0] > 0.5, np.nan, X[0])}, r"samples must be in 0..1.*nan"),
    "shape": ({"train": X[1][..., :3]}, r"one shape; got samples \(1, 4, 4\), train \(1, 4, 3\)"),
    "no pixels": ({"train": X[1][..., :0]}, r"train must be images \(N, ...\); got shape \(20, 1, 4, 0\)"),
    "one number": ({"samples": np.float64(0.5)}, r"samples must be images"),
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
