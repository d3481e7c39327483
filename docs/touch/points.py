# %% [markdown]
# # Noise goes: points
#
# Images of two pixels are points in the plane. The data are five small clouds, and the best guess of $x_0$ can be
# computed, so that what you see is the sampler and not the training ([lesson 10](../lessons/10_sampling.py)). All
# frames start at the same 300 points of noise.
#
# ## The timestep
#
# From noise to data by DDPM, in 1000 steps.

# %% slider="t" alt="A round cloud of noise at t = 1000 becomes five small clouds at t = 0; they part between 300 and 100."
import matplotlib.pyplot as plt
import noisestep.reference as ref
import numpy as np
from noisestep.lessons.script import strip
from noisestep.reference.samplers.ddim import ddim
from noisestep.reference.samplers.ddpm import ddpm

plt.style.use("noisestep.lessons.pictures")

schedule = ref.Schedule.from_name("cosine", 1000)
angle = 2 * np.pi * np.arange(5) / 5
centres = 0.8 * np.stack([np.sin(angle), np.cos(angle)], axis=1)
width = 0.06


def guesses(x_t, t):
    """E[x_0 | x_t] if x_0 is of each cloud, and the probability that it is."""
    a, s_2 = schedule.sqrt_alpha_bar[t[0]], schedule.one_minus_alpha_bar[t[0]]
    total = a**2 * width**2 + s_2
    away = x_t[:, None] - a * centres
    share = np.exp(-(away**2).sum(axis=2) / (2 * total))
    return centres + a * width**2 / total * away, share / share.sum(axis=1, keepdims=True)


def best_x_0(x_t, t):
    """What a perfectly trained network would say."""
    each, share = guesses(x_t, t)
    return (share[:, :, None] * each).sum(axis=1)


def draw(steps, model=best_x_0, **settings):
    """The film of 300 points, by so many steps: row 0 holds the results, the last row the start."""
    few = schedule.respace(steps)
    return ref.sample(few, model, (300, 2), prediction="x_0", trajectory=True, **settings)


def show(axis, points, size=1.3):
    axis.plot(*points.T, ".", markersize=2)
    axis.set(xlim=(-size, size), ylim=(-size, size))


def off(points):
    """The share of points farther than three widths from every cloud; one in 90 of the data is."""
    return (np.linalg.norm(points[:, None] - centres, axis=2).min(axis=1) > 3 * width).mean()


film = draw(1000, sampler=ddpm)
times = (1000, 800, 600, 500, 400, 350, 300, 250, 200, 150, 100, 50, 20, 0)
for axis, t in zip(strip([f"t = {t}" for t in times])[0], times, strict=True):
    show(axis, film[t], 2.5)
assert off(film[0]) < 0.05 < 0.5 < off(film[500])

# %% [markdown]
# ## The number of steps
#
# DDPM above, DDIM below. A single step leads every point to the middle of the data, which is the best guess if nothing
# is known.

# %% slider="steps" alt="DDPM above, DDIM below. With 1 step all points are in the middle, with 20 in the clouds, narrow ones."
counts = (1, 2, 3, 4, 5, 7, 10, 15, 20, 50, 100)
axes = strip([f"{count} steps" if count > 1 else "1 step" for count in counts], rows=2)
for column, count in zip(axes.T, counts, strict=True):
    for axis, sampler in zip(column, (ddpm, ddim), strict=True):
        points = draw(count, sampler=sampler)[0]
        show(axis, points)
        if count == 1:
            assert np.abs(points).max() < 0.01
assert off(points) < 0.05

# %% [markdown]
# ## Fresh noise: η
#
# 20 steps of DDIM. Above the ways of five points, below where all of them end. With $\eta = 0$ no noise is added, and
# the ways are smooth; $\eta = 1$ is DDPM's step.

# %% slider="η" alt="Above, the ways of five points: smooth for eta = 0, crooked for eta = 1. Below, the ends: five clouds in both."
etas = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
axes = strip([f"η = {eta:g}" for eta in etas], rows=2)
lengths = []
for (above, below), eta in zip(axes.T, etas, strict=True):
    film = draw(20, sampler=ddim, eta=eta)
    for k in range(5):
        above.plot(*film[:, k].T, color=f"C{k}", linewidth=1)
        above.plot(*film[-1, k], "x", color=f"C{k}")
    above.set(xlim=(-2.5, 2.5), ylim=(-2.5, 2.5))
    show(below, film[0])
    lengths.append(np.linalg.norm(np.diff(film, axis=0), axis=2).sum(axis=0).mean())
    print(f"eta = {eta:g}: the mean way is {lengths[-1]:.1f} long")
assert lengths == sorted(lengths)

# %% [markdown]
# ## The temperature
#
# All noise is multiplied by the temperature, the start and each step's. Below 1 the samples are more alike, and
# above 1 some leave the data.

# %% slider="temperature" alt="At temperature 0 one point; at 1 five clouds; at 1.4 five wider clouds."
temperatures = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4)
axes = strip([f"temperature {temperature:g}" for temperature in temperatures])
spread = []
for axis, temperature in zip(axes[0], temperatures, strict=True):
    points = draw(50, sampler=ddpm, temperature=temperature)[0]
    show(axis, points)
    spread.append(off(points))
# no noise at all: every point takes the same way
assert np.ptp(draw(50, sampler=ddpm, temperature=0.0)[0], axis=0).max() == 0
assert spread[-1] > spread[temperatures.index(1.0)]

# %% [markdown]
# ## Guidance
#
# Two classes: the orange dots are the centres of one of them, and it is asked for. $s = 0$ ignores the label, $s = 1$
# draws the class, and beyond it the points move away from the other class ([lesson 11](../lessons/11_guidance.py)).

# %% slider="s" alt="Guidance: at s = 0 points in all five clouds, at s = 1 in two of them, at s = 8 beyond the two."
chosen = [0, 1]


def guided(scale):
    def model(x_t, t):
        each, share = guesses(x_t, t)
        own = share[:, chosen] / share[:, chosen].sum(axis=1, keepdims=True)
        of_class = (own[:, :, None] * each[:, chosen]).sum(axis=1)
        return ref.guided(of_class, best_x_0(x_t, t), scale)

    return model


scales = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
axes = strip([f"s = {scale:g}" for scale in scales])
for axis, scale in zip(axes[0], scales, strict=True):
    points = draw(50, guided(scale), sampler=ddim)[0]
    show(axis, points)
    axis.plot(*centres[chosen].T, "o", color="C1", markersize=4)
    if scale == 1:
        # the nearest cloud is one of the class's two
        nearest = np.linalg.norm(points[:, None] - centres, axis=2).argmin(axis=1)
        assert np.isin(nearest, chosen).all()
