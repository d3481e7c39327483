# %% [markdown]
# # 10. Sampling, as a film
#
# Everything is there: a start, pure noise, and a step ([lesson 9](09_the_reverse_step.py)). Sampling is the loop
# around it. **Draw $x_T$ from $\mathcal{N}(0, I)$, then step from $t = T$ down to 1.** This lesson watches the loop
# at work, meets a second kind of step, DDIM, and takes fewer steps.
#
# In the code, what makes the steps is called a sampler. The chapter's is `samplers.ddpm.ddpm`:
#
# ```{source} reference.samplers.ddpm.ddpm
# ```
#
# It takes all $T$ steps. (The chapter's code says `reversed(range(1, T))`, which leaves one out.) The loop around it
# draws the noise, each number from its own address ([lesson 13](13_noise_with_an_address.py)), and keeps the film:
#
# ```{source} reference.samplers.loop.sample
# ```
#
# ## Images of two pixels
#
# An image of two pixels is a point in the plane, and a film of many such images can be seen at a glance. Our data are
# five small clouds of points. As in lesson 9 the best guess can be computed, so that no network has to be trained,
# and every error that we see is one of the sampler.

# %%
import matplotlib.pyplot as plt
import noisestep.reference as ref
import numpy as np
from noisestep.reference.samplers.ddim import ddim
from noisestep.reference.samplers.ddpm import ddpm

plt.style.use("noisestep.lessons.pictures")

schedule = ref.Schedule.from_name("cosine", 1000)
angle = 2 * np.pi * np.arange(5) / 5
centres = 0.8 * np.stack([np.sin(angle), np.cos(angle)], axis=1)
width = 0.06


def best_x_0(x_t, t):
    """E[x_0 | x_t], what a perfectly trained network would say."""
    a, s_2 = schedule.sqrt_alpha_bar[t[0]], schedule.one_minus_alpha_bar[t[0]]
    total = a**2 * width**2 + s_2
    away = x_t[:, None] - a * centres
    share = np.exp(-(away**2).sum(axis=2) / (2 * total))
    share /= share.sum(axis=1, keepdims=True)
    return (share[:, :, None] * (centres + a * width**2 / total * away)).sum(axis=1)


def draw(steps, sampler, **settings):
    """The film of 300 points, by so many steps: row 0 holds the results, the last row the start."""
    few = schedule.respace(steps)
    film = ref.sample(few, best_x_0, (300, 2), sampler=sampler, prediction="x_0", trajectory=True, **settings)
    assert film.shape == (steps + 1, 300, 2)
    return film


# %% [markdown]
# ## The film
#
# 300 points, at six moments. For a long time nothing seems to happen: at $t = 500$ the guess of $x_0$ is still near
# the middle of everything. Between 300 and 100 each point finds its cloud. The rest is detail. With images it is
# similar: first the large shapes, which much noise leaves visible, and the fine detail last.

# %% alt="Six frames of a point cloud: a round cloud of noise at t = 1000, five small clouds of points at t = 0."
film = draw(1000, ddpm)
figure, axes = plt.subplots(1, 6, figsize=(5.6, 1.25))
for axis, t in zip(axes, (1000, 500, 300, 200, 100, 0), strict=True):
    axis.plot(*film[t].T, ".", markersize=1.5)
    axis.set(title=f"t = {t}", xlim=(-2.5, 2.5), ylim=(-2.5, 2.5), aspect="equal")
    axis.set_xticks([])
    axis.set_yticks([])

nearest = np.linalg.norm(film[0][:, None] - centres, axis=2)
shares = np.bincount(nearest.argmin(axis=1), minlength=5) / 300
print("share of each cloud:", shares.round(2))
# of 300 draws a share of 1/5 has a standard deviation of sqrt(0.2 * 0.8 / 300) = 0.023
assert np.all(abs(shares - 0.2) < 5 * 0.023)

# %% [markdown]
# ## Another step: DDIM
#
# Training used one thing only: that $x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon$ at each
# $t$. It never looked at two neighbouring $t$. So any step that gives $x_{t-1}$ the right mix of image and noise will
# do. The plainest takes the guess apart into $x_0$ and $\epsilon$, and mixes the two again with a little less noise:
#
# $$
# x_{t-1} = \sqrt{\bar\alpha_{t-1}}\, x_0 + \sqrt{1 - \bar\alpha_{t-1}}\; \epsilon
# $$
#
# No fresh noise is needed. The old noise is kept, only smaller. One may also replace a part of it by fresh noise of
# variance $\sigma_t^2$. Independent variances add, so that the old part must keep the rest of $1 - \bar\alpha_{t-1}$:
#
# $$
# x_{t-1} = \sqrt{\bar\alpha_{t-1}}\, x_0 + \sqrt{1 - \bar\alpha_{t-1} - \sigma_t^2}\; \epsilon + \sigma_t z,
# \qquad \sigma_t = \eta \sqrt{\tilde\beta_t}
# $$
#
# This is DDIM (Song et al. 2021, equations 12 and 16). $\eta = 0$ adds nothing fresh, and $\eta = 1$ is the chapter's
# step with $\tilde\beta_t$:
#
# ```{source} reference.reverse.ddim_step
# ```

# %%
x_t, output, z = np.array([[0.3, -1.1]]), np.array([[0.5, 0.2]]), np.array([[1.3, 0.4]])
for t in (1, 2, 10, 500, 1000):
    as_ddim = ref.ddim_step(schedule, x_t, output, t, z, eta=1.0, prediction="x_0")
    as_ddpm = ref.reverse_step(schedule, x_t, output, t, z, prediction="x_0", variance="posterior")
    np.testing.assert_allclose(as_ddim, as_ddpm, rtol=1e-9)
print("with eta = 1, DDIM is the update with the posterior's variance")

# %% [markdown]
# Points on their way, from the same starts (crosses), by 200 steps. Those of DDPM stagger, and those of DDIM glide.
# Without noise the start decides everything: the same $x_T$ always leads to the same image.

# %% alt="Paths of points from the same starts. DDPM: crooked paths. DDIM: smooth curves. All end in a cloud."
crooked, smooth = draw(200, ddpm), draw(200, ddim)
assert np.array_equal(crooked[200], smooth[200])
figure, axes = plt.subplots(1, 2, figsize=(5.6, 2.8))
for axis, paths, title in zip(axes, (crooked, smooth), ("DDPM", r"DDIM, $\eta = 0$"), strict=True):
    axis.plot(*centres.T, "o", color="C5", markersize=14, alpha=0.5)
    for k, color in ((3, "C0"), (4, "C1"), (9, "C2")):
        axis.plot(*paths[:, k].T, linewidth=0.9, color=color)
        axis.plot(*paths[200, k], "x", color=color)
    axis.set(title=title, aspect="equal", xlim=(-2.7, 2.7), ylim=(-2.7, 2.7))

# %% [markdown]
# ## Fewer steps
#
# A thousand calls of a network are slow. Take a part of the steps: keep $\bar\alpha$ at them, and compute the $\beta$
# between them anew, $\beta'_k = 1 - \bar\alpha_{S_k} / \bar\alpha_{S_{k-1}}$. The network is told the original $t$ of
# each. Nothing is trained again.
#
# ```{source} reference.schedule.Schedule.respace
# ```

# %% alt="Points after 5, 10, 20 and 100 steps. With 5, half of them lie between the clouds; with 100, none does."
figure, axes = plt.subplots(2, 4, figsize=(5.6, 3.2))
far = {}
for row, (sampler, name) in zip(axes, ((ddpm, "DDPM"), (ddim, "DDIM")), strict=True):
    for axis, steps in zip(row, (5, 10, 20, 100), strict=True):
        points = draw(steps, sampler)[0]
        away = np.linalg.norm(points[:, None] - centres, axis=2).min(axis=1)
        # of the true points one in 90 is farther from its centre than three widths
        far[name, steps] = (away > 3 * width).mean()
        axis.plot(*points.T, ".", markersize=1.5)
        axis.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), aspect="equal")
        axis.set_title(f"{name}, {steps}: {far[name, steps]:.0%} off", fontsize=7.5)
        axis.set_xticks([])
        axis.set_yticks([])
assert far["DDPM", 5] > 0.3
assert far["DDIM", 20] < 0.05

# %% [markdown]
# "Off" is the share of points farther than three widths from every centre; of the data it is 1 %. With twenty steps
# hardly any point is lost. But look at the clouds: they are too small, and still a little so with a hundred. Each
# step went towards one guess, and the variety that the guess leaves out is missing.
#
# Here both samplers need the same number of steps. What sets DDIM apart is that **its results converge**: with more
# steps the same start leads ever nearer to one and the same image. So you can look for a good start with few steps,
# and finish it with many. The error falls as one over the number of steps.

# %% alt="Distance to the image of 1000 steps against the number of steps, on two log scales: a line of slope -1."
counts = np.array([5, 10, 20, 40, 80, 160])
limit = draw(1000, ddim)[0]
error = [np.linalg.norm(draw(steps, ddim)[0] - limit, axis=1).mean() for steps in counts]
figure, axis = plt.subplots()
axis.loglog(counts, error, "o-", label="DDIM")
axis.loglog(counts, 0.6 / counts, "--", color="C5", label="0.6 / steps")
axis.set(xlabel="steps", ylabel="distance to the limit")
axis.set_xticks(counts, [str(steps) for steps in counts])
axis.minorticks_off()
axis.legend()
assert 1.6 < error[3] / error[4] < 2.4

# %% [markdown]
# This is Euler's method for a differential equation, the oldest one. Better methods take fewer steps for the same
# error, because they also use the guesses before: [the table of samplers](../samplers.md).
#
# ## Exercise: one step
#
# Take a single step, from $T$ to 0. Where do the points land? Think before you run it: what is the best guess of
# $x_0$ if $x_T$ is nothing but noise?

# %% [markdown] tags=["answer"]
# In the middle of the data, all of them. $x_T$ says nothing about $x_0$, so the best guess is the mean of all images:
# $\mathbb{E}[x_0 \mid x_T] \approx \mathbb{E}[x_0]$, here the point (0, 0), where there are no data at all. The blur
# of an image after too few steps is this mean. Each further step splits the question into smaller ones.

# %% tags=["answer"]
points = draw(1, ddim)[0]
print("largest distance from the middle:", np.linalg.norm(points, axis=1).max())
# the guess moves by at most the signal that is left in x_T times the size of the data, about 5e-5
assert np.linalg.norm(points, axis=1).max() < 0.01
