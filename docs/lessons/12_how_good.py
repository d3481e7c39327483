# %% [markdown]
# # 12. How good is it?
#
# Which of two models is the better one? Looking at samples is where everybody starts, and it misleads: a model that
# draws ten perfect images and nothing else looks perfect. Two kinds of numbers help. **A likelihood asks how probable
# the model finds real images that it has not seen. A distance asks how much a set of samples differs from a set of
# real images.** They answer different questions.
#
# ## Likelihood in bits
#
# A model that gives an image the probability $P$ can store it in $-\log_2 P$ bits, if the code is chosen well.
# Divided by the number of pixels and channels, this is the usual unit, **bits per dimension**. No model needs fewer
# bits on average than the entropy of the data.
#
# Our data: images of one pixel with 256 levels, from two bell curves, as in [lesson 9](09_the_reverse_step.py). The
# best guess is known, and so is the entropy.

# %%
import math

import matplotlib.pyplot as plt
import noisestep.reference as ref
import numpy as np
from noisestep.reference.samplers.ddim import ddim

plt.style.use("noisestep.lessons.pictures")

schedule = ref.Schedule.from_name("linear", 200, scaling="1000/T")
weight, mean, width = np.array([0.3, 0.7]), np.array([-0.35, 0.25]), np.array([0.06, 0.1])


def curves(x_t, t):
    """The density of x_t, and the mean and variance of x_0 given x_t."""
    a, s_2 = schedule.sqrt_alpha_bar[t], schedule.one_minus_alpha_bar[t]
    total = a**2 * width**2 + s_2
    p = weight * np.exp(-((x_t - a * mean) ** 2) / (2 * total)) / np.sqrt(2 * np.pi * total)
    density = p.sum(axis=1, keepdims=True)
    guess = mean + a * width**2 / total * (x_t - a * mean)
    x_0 = (p / density * guess).sum(axis=1, keepdims=True)
    rest = width**2 * s_2 / total + (guess - x_0) ** 2
    return density, x_0, (p / density * rest).sum(axis=1, keepdims=True)


def best_x_0(x_t, t):
    return curves(x_t, t[0])[1]


levels = np.arange(256)[:, None] / 127.5 - 1
cdf = np.vectorize(lambda x: weight @ [(1 + math.erf(z / 2**0.5)) / 2 for z in (x - mean) / width])
edges = np.concatenate([[-np.inf], levels[:-1, 0] + 1 / 255, [np.inf]])
P = np.diff(cdf(edges))
assert np.isclose(P.sum(), 1)
entropy = -(P * np.log2(np.maximum(P, 1e-300))).sum()
print(f"entropy of a pixel: {entropy:.3f} bits; all levels equally likely: {math.log2(256):.0f}")

# %% [markdown]
# ## The bound
#
# The probability that a diffusion model gives an image is an integral over all chains that end at it. Nobody can
# compute it, but [lesson 6](06_the_bound.py) has a bound on it, a sum of one term for each step:
#
# ```{source} reference.bound.vlb_terms
# ```
#
# Every level of the pixel, twenty times each, with the best guess and with one that is a little off:


# %% alt="Bits against t, summed from t = T down: half of the bits are spent in the last two steps. The worse guess costs more."
def bound(model):
    x_0 = np.repeat(levels, 20, axis=0)
    found = ref.variational_bound(schedule, model, x_0, prediction="x_0", variance="beta")
    # the average over the pixel's distribution
    by_level = np.column_stack([found.prior, found.terms[1:].T]).reshape(256, 20, -1).mean(axis=1)
    return P @ by_level


figure, axis = plt.subplots()
for name, model in (
    ("best guess", best_x_0),
    ("guess + 0.02", lambda x_t, t: best_x_0(x_t, t) + 0.02),
):
    parts = bound(model)
    print(f"{name}: {parts.sum():.3f} bits")
    # L_T, then from t = T down to 1
    axis.semilogx(np.arange(200, 0, -1), parts[0] + np.cumsum(parts[:0:-1]), label=name)
    assert parts.sum() > entropy
axis.axhline(entropy, linestyle="--", color="C5", label="entropy")
axis.set(xlabel="t", ylabel="bits spent until t")
axis.invert_xaxis()
axis.legend(loc="center left")

# %% [markdown]
# Most of the bits are spent in the last steps, on the last small differences between grey levels. That is why a model
# can have beautiful images and a poor likelihood, and why $\mathcal{L}_{\text{simple}}$, which cares less for small
# $t$, draws better and codes worse.
#
# ## The exact likelihood
#
# DDIM without noise ([lesson 10](10_sampling.py)) maps $x_T$ to an image, one to one. A density can be carried along.
# Write the step with $y = x_t / \sqrt{1 - \bar\alpha_t}$ and $\kappa = \sqrt{\bar\alpha_t / (1 - \bar\alpha_t)}$.
# Since $x_t$ is $\sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon$,
#
# $$
# y_t = \kappa_t\, x_0 + \epsilon, \qquad y_{t-1} = \kappa_{t-1}\, x_0 + \epsilon
# $$
#
# and the difference is
#
# $$
# y_{t-1} = y_t + (\kappa_{t-1} - \kappa_t)\, x_0(x_t, t)
# $$
#
# In the limit of small steps it is a differential equation, $dy / d\kappa = x_0$. A step of size $h$ sends $y$ to
# $y + h\, x_0$, and a short interval around $y$ becomes $1 + h\, \partial x_0 / \partial y$ times as long. The
# probability in it stays, so that its density is divided by this factor:
#
# $$
# \log p \;\to\; \log p - \log \left( 1 + h\, \frac{\partial x_0}{\partial y} \right) \approx \log p - h\, \frac{\partial x_0}{\partial y}
# $$
#
# With many pixels the derivative becomes a trace, the sum over the pixels. Going from the image to $x_T$, whose
# density we know, and adding up, gives the density of the image (Song et al. 2021). The network's derivative is
# needed too:
#
# ```{source} reference.likelihood.ode_log_density
# ```
#
# For our best guess the derivative has a formula. It is the variance of what is not known about $x_0$, times
# $\sqrt{\bar\alpha_t} / (1 - \bar\alpha_t)$:


# %% alt="Left: paths from x_T to x_0 crowd into two bundles. Right: the density that follows, on the true curve."
def derivative(x_t, t, z):
    a, s_2 = schedule.sqrt_alpha_bar[t[0]], schedule.one_minus_alpha_bar[t[0]]
    return a / s_2 * curves(x_t, t[0])[2] * z


x, t = np.array([[0.1]]), np.array([50])
difference = (best_x_0(x + 1e-5, t) - best_x_0(x - 1e-5, t)) / 2e-5
np.testing.assert_allclose(derivative(x, t, 1.0), difference, rtol=1e-6)

start = np.linspace(-2.2, 2.2, 45)[:, None]
paths = ref.sample(schedule, best_x_0, start.shape, sampler=ddim, x_T=start, prediction="x_0", trajectory=True)
x_1 = np.linspace(-0.7, 0.7, 71)[:, None]
grid = ref.likelihood_grid(schedule, 60)
log_p = ref.ode_log_density(schedule, best_x_0, derivative, x_1, grid, prediction="x_0")
true = curves(x_1, 1)[0][:, 0]

figure, (left, right) = plt.subplots(1, 2)
left.plot(paths[:, :, 0], color="C0", linewidth=0.6)
left.set(xlabel="t", ylabel="$x_t$")
left.invert_xaxis()
right.plot(x_1, true, color="C1", label="true density")
right.plot(x_1, np.exp(log_p), ".", markersize=3, label="by the ODE")
right.set(xlabel="$x_1$", ylim=(0, 3.6))
right.legend(loc="upper left", fontsize=8)
error = abs(np.exp(log_p) - true).max()
print(f"largest error of the density: {error:.4f}, where it is up to {true.max():.1f}")
# 60 intervals of a method of second order
assert error < 0.03

# %% [markdown]
# What it takes to measure this on images, and to make bits of a density, is on [the page on
# likelihood](../likelihood.md).
#
# ## A distance: Fréchet's
#
# Take many samples and many real images, and compare the mean and the covariance of the two sets. For one number per
# image: carry each quantile of one bell curve to the same quantile of the other, $m_1 + s_1 z \to m_2 + s_2 z$. The
# mean square of the way is the distance:
#
# $$
# d^2 = \mathbb{E} \left[ (m_1 - m_2 + (s_1 - s_2) z)^2 \right] = (m_1 - m_2)^2 + (s_1 - s_2)^2
# $$
#
# With covariances $C_1$ and $C_2$ the second part becomes $\operatorname{tr}(C_1 + C_2 - 2 (C_1 C_2)^{1/2})$. For
# photographs the numbers are features of a trained network, and the distance is called FID. Three things to know of
# it:
#
# - It depends on the number of samples, and only equal numbers may be compared. An honest table has the distance of
#   two sets of real images beside it.
# - It is small for a model that repeats the training images. Compare with images that were held out, and look at the
#   nearest neighbours.
# - It sees mean and covariance, and nothing else.
#
# ## Exercise: what it does not see
#
# Let a model draw from one bell curve which has the mean and the variance of our data. What is its Fréchet distance
# to the data? How many bits does it need for a pixel? Guess, then compute.

# %% [markdown] tags=["answer"]
# The distance is 0. The bits tell the two apart: between the two curves, where there are no data, the model spends
# probability that is missing elsewhere.

# %% tags=["answer"] alt="The two curves of the data, and the one broad bell curve of the same mean and variance over both."
m = weight @ mean
s = np.sqrt(weight @ (width**2 + mean**2) - m**2)
wrong_cdf = np.vectorize(lambda x: (1 + math.erf((x - m) / s / 2**0.5)) / 2)
wrong = np.diff(wrong_cdf(edges))
bits = -(P * np.log2(wrong)).sum()
print(f"distance 0, and {bits:.3f} bits in place of {entropy:.3f}")
assert bits > entropy + 0.5

figure, axis = plt.subplots()
axis.plot(levels, P, label="data")
axis.plot(levels, wrong, label="one bell curve")
axis.set(xlabel="level of the pixel", ylabel="probability")
axis.legend()
