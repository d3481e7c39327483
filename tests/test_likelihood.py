"""The likelihood of Gaussian data, of which everything is known: the bound, the ODE, dequantisation and probes."""

import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from laws import assert_close
from noisestep.reference import (
    PROBE,
    Schedule,
    dequantisation_entropy,
    dequantise,
    likelihood_grid,
    ode_bits,
    ode_log_density,
    prior_kl,
    q_sample,
    rademacher,
    sampled_bound,
    variational_bound,
    vlb_terms,
    words,
)
from scipy.stats import truncnorm

COSINE = Schedule.from_name("cosine", 1000)


def even(intervals, first=3.5, last=0.05):
    """A schedule whose steps are evenly spaced in u."""
    return Schedule.from_alpha_bar(np.tanh(np.linspace(first, last, intervals + 1)) ** 2)


class Gaussian:
    """The exact network of x_0 ~ N(mean, covariance), and its derivative.

    The axes of the covariance stay what they are: along each, x_t has the variance alpha_bar_t v + 1 - alpha_bar_t.
    """

    def __init__(self, schedule, prediction="x_0", mean=(0.05, -0.1, 0.02), variance=(0.1, 0.05, 0.01)):
        self.schedule, self.prediction = schedule, prediction
        self.mean, self.variance, self.n = np.array(mean), np.array(variance), len(mean)
        self.axes = np.linalg.qr(np.arange(1.0, self.n**2 + 1).reshape(self.n, self.n) ** 2)[0]

    def marginal(self, t):
        """The variance of x_t along each axis."""
        t = np.asarray(t)
        return self.schedule.alpha_bar[t, None] * self.variance + self.schedule.one_minus_alpha_bar[t, None]

    def left(self, t):
        """E|x_0 - E[x_0 | x_t]|^2 along each axis, what x_t leaves of the variance."""
        return self.variance * self.schedule.one_minus_alpha_bar[np.asarray(t), None] / self.marginal(t)

    def _guess(self, x, t, mean):
        signal = self.schedule.sqrt_alpha_bar[t][:, None]
        slope = signal * self.variance / self.marginal(t)
        x_0 = mean + (x - signal * mean) @ self.axes * slope @ self.axes.T
        noise = self.schedule.sqrt_one_minus_alpha_bar[t][:, None]
        eps = (x - signal * x_0) / noise
        return {"x_0": x_0, "eps": eps, "v": signal * eps - noise * x_0, "flow": eps - x_0}[self.prediction]

    def __call__(self, x, t):
        return self._guess(x, t, self.mean)

    def jvp(self, x, t, z):
        return self._guess(z, t, 0 * self.mean)

    def log_density(self, x_1):
        """Of the ODE's x_1: along each axis the distance from the mean grows like the standard deviation."""
        stretch = np.sqrt(self.marginal(self.schedule.T) / self.marginal(1))
        signal = self.schedule.sqrt_alpha_bar
        x_T = signal[-1] * self.mean + (x_1 - signal[1] * self.mean) @ self.axes * stretch @ self.axes.T
        return (np.log(stretch) - x_T**2 / 2 - math.log(2 * math.pi) / 2).sum(axis=1)

    def entropy(self, variance):
        return np.log(2 * math.pi * math.e * variance).sum() / 2

    def prior_gap(self):
        """KL( q(x_T) || N(0, I) )."""
        variance = self.marginal(self.schedule.T)
        return ((variance - 1 - np.log(variance)).sum() + (self.schedule.alpha_bar[-1] * self.mean**2).sum()) / 2

    def design(self, t):
        """x_0 and eps of some samples, for each t: over them the mean of any quadratic is the expectation."""
        corners = math.sqrt(2 * self.n) * np.vstack([np.eye(2 * self.n), -np.eye(2 * self.n)])
        x_0 = self.mean + np.sqrt(self.variance) * corners[:, : self.n] @ self.axes.T
        count = len(np.atleast_1d(t))
        return np.tile(x_0, (count, 1)), np.tile(corners[:, self.n :], (count, 1)), np.repeat(t, len(corners))

    def expected_terms(self, t, **options):
        """E[L_{t-1}] for each t, in nats."""
        x_0, eps, each_t = self.design(t)
        x_t = q_sample(self.schedule, x_0, each_t, eps)
        output = self(x_t, each_t)
        terms = vlb_terms(self.schedule, x_0, x_t, output, each_t, prediction=self.prediction, **options)
        return terms.reshape(len(np.atleast_1d(t)), -1).mean(axis=1) * self.n * math.log(2)


@pytest.mark.parametrize(("prediction", "last"), [("x_0", 0.05), ("eps", 0.05), ("v", 0.0), ("flow", 0.0)])
def test_the_ode_finds_the_density_of_a_gaussian_at_second_order(prediction, last):
    schedule = even(224, last=last)
    model = Gaussian(schedule, prediction)
    # as well chosen for x_1 as the design is for x_0
    corners = math.sqrt(3) * np.vstack([np.eye(3), -np.eye(3)])
    x_1 = schedule.sqrt_alpha_bar[1] * model.mean + np.sqrt(model.marginal(1)) * corners @ model.axes.T
    exact = model.log_density(x_1)
    # nothing but the prior is not that of the data
    expected = -model.entropy(model.marginal(1)) - model.prior_gap()
    assert_close(actual=exact.mean(), expected=expected, roundings=64, scale=10)
    grid = np.arange(1, 226)
    fine, half, quarter = (
        ode_log_density(schedule, model, model.jvp, x_1, grid[::stride], prediction=prediction) for stride in (1, 2, 4)
    )
    # with half as many intervals the error is four times as large, up to the next order
    np.testing.assert_allclose((half - exact) / (fine - exact), 4, rtol=0.02)
    np.testing.assert_allclose((quarter - half) / (half - fine), 4, rtol=0.02)
    np.testing.assert_allclose(fine + (fine - half) / 3, exact, rtol=1e-6)


def test_where_x_0_is_clipped_it_does_not_move():
    """Two of the axes are far outside of the range, where the guess is a corner; the third goes its own way."""
    schedule, grid = even(16), np.arange(1, 18)
    both = Gaussian(schedule, mean=(50.0, -50.0, 0.0))
    both.axes = np.eye(3)
    third = Gaussian(schedule, mean=(0.0,), variance=(0.01,))
    x_1 = np.array([[0.9, -0.8, 0.1]])
    k, noise = np.sqrt(schedule.snr), schedule.sqrt_one_minus_alpha_bar
    x_T = noise[-1] * (x_1[0, :2] / noise[1] + (k[-1] - k[1]) * np.array([1.0, -1.0]))
    expected = (math.log(noise[-1] / noise[1]) - x_T**2 / 2 - math.log(2 * math.pi) / 2).sum()
    expected += ode_log_density(schedule, third, third.jvp, x_1[:, 2:], grid, prediction="x_0")
    actual = ode_log_density(schedule, both, both.jvp, x_1, grid, prediction="x_0", clip=(-1, 1))
    assert_close(actual=actual, expected=expected, roundings=256)


def test_probes_give_the_trace_on_average_with_the_variance_of_hutchinson():
    """z^T J z of signs has the variance of twice the sum of squares beside the diagonal, J being symmetric here."""
    schedule, grid = even(8), np.arange(1, 10)
    model = Gaussian(schedule)
    x_1 = np.tile([[0.1, 0.2, -0.1]], (8, 1))
    options = dict(grid=grid, prediction="x_0")
    exact = ode_log_density(schedule, model, model.jvp, x_1[:1], **options)
    # all vectors of three signs: their mean is the expectation
    signs = 1.0 - 2 * (np.arange(8)[:, None] >> np.arange(3) & 1)
    each = ode_log_density(schedule, model, model.jvp, x_1, probes=signs[None], **options)
    assert_close(actual=each.mean(), expected=exact[0], roundings=256, scale=np.abs(each).max())
    slopes = [model.jvp(np.zeros((3, 3)), np.full(3, t), np.eye(3)) for t in grid]
    matrix = np.trapezoid(slopes, np.arcsinh(np.sqrt(schedule.snr[grid])), axis=0)
    beside = matrix - np.diag(np.diag(matrix))
    assert_close(actual=each.var(), expected=2 * (beside**2).sum(), roundings=256, scale=np.abs(each).max() ** 2)
    several = ode_log_density(schedule, model, model.jvp, x_1[:1], probes=signs[:5, None], **options)
    assert_close(actual=several[0], expected=each[:5].mean(), roundings=256, scale=np.abs(each).max())


def test_signs_are_the_bits_of_their_words():
    signs = rademacher(3, 5, [7, 9], (5, 9))
    packed = words(3, PROBE, 5, [7, 9], 2)
    expected = [[1 - 2 * (int(row[e // 32]) >> (e % 32) & 1) for e in range(45)] for row in packed]
    assert np.array_equal(signs.reshape(2, 45), expected)
    many = rademacher(0, 0, range(100), (1000,))
    # five standard deviations of the mean, and of the mean product of neighbours
    assert abs(many.mean()) < 5 / math.sqrt(1e5)
    assert abs((many[:, 1:] * many[:, :-1]).mean()) < 5 / math.sqrt(1e5)


@pytest.mark.parametrize("levels", [2, 256])
@pytest.mark.parametrize("schedule", [COSINE, Schedule.from_name("linear", 1000), Schedule([1e-8, 0.3])])
def test_dequantisation_stays_in_the_box_and_has_its_entropy(schedule, levels):
    share = (np.arange(20_000)[None] + 0.5) / 20_000
    x_0, half_bin = np.full_like(share, -1.0), 1 / (levels - 1)
    signal, noise = schedule.sqrt_alpha_bar[1], schedule.sqrt_one_minus_alpha_bar[1]
    tau = signal * half_bin / noise
    uniform = (dequantise(schedule, x_0, share, dequantisation="uniform", levels=levels) - signal * x_0) / noise
    # x_0 is taken off again, and the noise may be 1e-4 of it
    np.testing.assert_allclose(uniform, (2 * share - 1) * tau, rtol=1e-9, atol=1e-15 / noise)
    actual = (dequantise(schedule, x_0, share, levels=levels) - signal * x_0) / noise
    np.testing.assert_allclose(actual, truncnorm.ppf(share, -tau, tau), rtol=1e-9, atol=1e-15 / noise)
    for name, distribution in (("uniform", math.log(2 * tau)), ("truncated_normal", truncnorm(-tau, tau).entropy())):
        entropy = dequantisation_entropy(schedule, dequantisation=name, levels=levels)
        assert entropy == pytest.approx(distribution + math.log(noise), rel=1e-9)


def test_dequantisation_bounds_the_probability_of_a_level():
    """n = 1: the box of p(x_1) by a fine sum over it, and the sum over q of log p / q."""
    schedule, grid, levels, level = even(64, first=4.0), np.arange(1, 66), 16, 2 * 9 / 15 - 1
    model = Gaussian(schedule, mean=(0.0,), variance=(0.02,))
    options = dict(prediction="x_0", probes=0, levels=levels)
    share = (np.arange(1000)[:, None] + 0.5) / 1000
    for name in ("uniform", "truncated_normal"):
        x_1 = dequantise(schedule, np.full_like(share, level), share, dequantisation=name, levels=levels)
        log_p = ode_log_density(schedule, model, model.jvp, x_1, grid, prediction="x_0")
        expected = -(log_p.mean() + dequantisation_entropy(schedule, dequantisation=name, levels=levels)) / math.log(2)
        if name == "uniform":
            exact = -math.log2(np.exp(log_p).mean() * 2 * schedule.sqrt_alpha_bar[1] / (levels - 1))
        assert exact < expected < exact + 0.3
        bits = ode_bits(
            schedule,
            model,
            model.jvp,
            np.full((400, 1), level),
            grid,
            dequantisation=name,
            numbers=range(400),
            **options,
        )
        assert abs(bits.mean() - expected) < 5 * bits.std() / 20


def test_the_grid_is_even_in_u_where_there_are_steps_and_takes_each_where_there_are_not():
    for schedule in (COSINE, Schedule.from_name("linear", 1000), Schedule.from_name("jsd", 100)):
        u = np.arcsinh(np.sqrt(schedule.snr))
        for intervals in (1, 2, 8, 50, schedule.T - 1):
            grid = likelihood_grid(schedule, intervals)
            assert (grid[0], grid[-1], len(grid)) == (1, schedule.T, intervals + 1)
            skipping = np.diff(grid) > 1
            # each is within half of the chain's own step of where it should be, unless the steps before it ran out
            assert not skipping[: np.argmax(skipping)].any()
            off = np.abs(u[grid] - np.linspace(u[1], u[-1], intervals + 1))[1:][skipping]
            widest = np.maximum(u[grid - 1] - u[grid], u[grid] - u[np.minimum(grid + 1, schedule.T)])[1:][skipping]
            assert np.all(off <= widest / 2 * (1 + 1e-9))
    assert np.array_equal(likelihood_grid(COSINE, 999), np.arange(1, 1001))
    evenly = even(64)
    assert np.array_equal(likelihood_grid(evenly, 16), np.arange(1, 66, 4))


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_the_bound_of_a_gaussian_is_its_entropy_and_what_the_steps_miss(variance):
    """The exact network has the mean of q(x_{t-1} | x_t), and not its variance, which is V here. The bound misses

    KL( q(x_T) || N(0, I) ) + the sum over t of the divergences of N(0, V) and N(0, sigma_t^2)
    """
    schedule = even(100)
    model = Gaussian(schedule)
    # of so many levels the decoder is a density, to the square of the width in units of sigma_1, 1e-9
    levels, t = 1 + (1 << 20), np.arange(1, 102)
    terms = model.expected_terms(t, variance=variance, levels=levels)
    x_0 = model.design(1)[0]
    bound = terms.sum() + 3 * (math.log(2) * prior_kl(schedule, x_0).mean() + math.log(2 / (levels - 1)))
    sigma_2 = np.exp(schedule.posterior_log_variance[t]) if variance == "posterior" else schedule.beta[t]
    c_0 = schedule.posterior_mean_coef_x_0[t]
    ratio = (schedule.posterior_variance[t] + c_0**2 * model.left(t).T).T / sigma_2[:, None]
    missed = model.prior_gap() + (ratio - 1 - np.log(ratio)).sum() / 2
    assert missed > 0.05
    assert bound == pytest.approx(model.entropy(model.variance) + missed, rel=1e-6)


def test_a_term_is_the_fall_of_the_snr_times_what_is_left_and_their_sum_is_an_integral():
    """Kingma et al. 2021, eq. 14, and with ever more steps eq. 18: half the integral of E|x_0 - x_0(x_t)|^2 d SNR."""
    sums = []
    for intervals in (32, 64, 128, 256):
        schedule = even(intervals)
        model, t = Gaussian(schedule), np.arange(2, intervals + 2)
        terms = model.expected_terms(t)
        expected = (schedule.snr[t - 1] - schedule.snr[t]) * model.left(t).sum(axis=1) / 2
        # the mean of twelve squares, whose parts are as large as the SNR
        assert_close(actual=terms, expected=expected, roundings=256, scale=schedule.snr[t - 1])
        sums.append(terms.sum())
    ends = 1 + model.variance * schedule.snr[[1, -1], None]
    integral = np.log(ends[0] / ends[1]).sum() / 2
    gaps = np.array(sums) - integral
    # from above, at first order
    assert np.all(gaps > 0)
    np.testing.assert_allclose(gaps[:-1] / gaps[1:], 2, rtol=0.05)
    # Romberg's table takes the errors of the first, second and third order away
    for order in (1, 2, 3):
        sums = [(2**order * fine - coarse) / (2**order - 1) for coarse, fine in pairwise(sums)]
    np.testing.assert_allclose(sums, integral, rtol=1e-5)


def test_a_sampled_bound_is_the_bound_on_average():
    schedule = Schedule.from_name("cosine", 12)
    model = Gaussian(schedule)
    x_0 = np.tile([[0.3, -0.2, 0.1]], (3000, 1))
    options = dict(seed=2, numbers=range(3000), prediction="x_0", variance="beta")
    whole = variational_bound(schedule, model, x_0, **options)
    every = sampled_bound(schedule, model, x_0, np.arange(1, 13), **options)
    assert np.array_equal(every.terms, whole.terms[1:])
    assert np.array_equal(every.total, whole.total)
    some = sampled_bound(schedule, model, x_0, [1, 3, 8, 12], **options)
    assert np.array_equal(some.terms[0], whole.terms[1])
    for stratum, (before, high) in enumerate(((1, 3), (3, 8), (8, 12)), start=1):
        difference = some.terms[stratum] - whole.terms[before + 1 : high + 1].sum(axis=0)
        assert abs(difference.mean()) < 5 * difference.std() / math.sqrt(3000)
        # and each t is drawn
        assert len(np.unique(some.terms[stratum])) == 3000


def test_bits_of_an_image_do_not_depend_on_its_batch():
    schedule = even(16)
    model, x_0 = Gaussian(schedule, "eps"), np.array([[0.1, 0.2, 0.3], [0.3, -0.1, 0.0], [0.0, 0.2, -0.3]])
    together = ode_bits(schedule, model, model.jvp, x_0, [1, 3, 9, 17], numbers=5, seed=3, probes=2)
    alone = ode_bits(schedule, model, model.jvp, x_0[1:2], [1, 3, 9, 17], numbers=[6], seed=3, probes=2)
    # a product of matrices may add up in another order
    assert_close(actual=alone, expected=together[1:2], roundings=64, scale=10)
    options = dict(seed=3, prediction="eps")
    together = sampled_bound(schedule, model, x_0, [1, 9, 17], numbers=5, **options)
    alone = sampled_bound(schedule, model, x_0[1:2], [1, 9, 17], numbers=[6], **options)
    assert_close(actual=alone.total, expected=together.total[1:2], roundings=64, scale=10)


def test_the_pages_example_is_near_the_entropy():
    page = (Path(__file__).parents[1] / "docs" / "likelihood.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    names: dict[str, object] = {}
    exec(code, names)
    entropy = math.log2(127.5) + math.log2(2 * math.pi * math.e * 0.09) / 2
    # five standard errors of 1,600 pixels: half of a squared normal number is off by sqrt(1/2) nats
    assert abs(names["ode"].mean() - entropy) < 5 * math.sqrt(0.5 / 1600) / math.log(2)
    assert names["ode"].mean() < names["bound"].mean() < entropy + 0.5


MODEL = Gaussian(COSINE, "eps")
X = np.full((2, 3), 0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: likelihood_grid(COSINE, 0), r"intervals must lie in \[1, 1000\), got 0"),
        (lambda: likelihood_grid(COSINE, 1000), r"intervals must lie in \[1, 1000\), got 1000"),
        (lambda: sampled_bound(COSINE, MODEL, X, [1, 500]), "2 steps that increase from 1 to 1000, got .1, 500"),
        (lambda: sampled_bound(COSINE, MODEL, X, [2, 1000]), "2 steps that increase from 1 to 1000, got .2, 1000"),
        (lambda: ode_log_density(COSINE, MODEL, MODEL.jvp, X, [1, 5, 5, 1000]), "that increase from 1 to 1000"),
        (lambda: ode_log_density(COSINE, MODEL, MODEL.jvp, X, 1000), "at least 2 steps"),
        (
            lambda: ode_log_density(COSINE, MODEL, MODEL.jvp, X, [1, 1000], probes=X),
            r"probes must have shape \(K, 2, 3\), got \(2, 3\)",
        ),
        (lambda: dequantise(COSINE, X, X, dequantisation="none"), "one of truncated_normal, uniform, got 'none'"),
        (lambda: dequantise(COSINE, X, X, levels=1), r"levels must lie in \[2, 4294967297\), got 1"),
        (lambda: dequantise(COSINE, X, X - 0.1), r"share must be of x_0's shape \(2, 3\) and in \(0, 1\)"),
        (lambda: dequantisation_entropy(COSINE, levels=0), r"levels must lie in \[2, 4294967297\), got 0"),
        (
            lambda: ode_bits(COSINE, MODEL, MODEL.jvp, X, [1, 1000], probes=-1),
            r"probes must lie in \[0, 268435456\), got -1",
        ),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
