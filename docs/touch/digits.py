# %% [markdown]
# # Noise goes: digits
#
# Sixteen digits at a time. Instead of a trained network, a formula guesses $x_0$: it takes the digits of each class as
# a Gaussian with the mean and the covariance of their pixels, and asks how likely each class is to have made $x_t$.
# That is a poor model of digits, and enough to see what the sliders do.

# %% slider="t" alt="Sixteen squares of noise at t = 200, which become sixteen digits at t = 0."
import matplotlib.pyplot as plt
import noisestep.reference as ref
import numpy as np
from noisestep.lessons.script import strip
from noisestep.reference.samplers.ddim import ddim
from noisestep.reference.samplers.ddpm import ddpm

plt.style.use("noisestep.lessons.pictures")

images, labels = ref.load_digits()
flat = images.reshape(-1, 64)
schedule = ref.Schedule.from_name("cosine", 200)
means = np.stack([flat[labels == c].mean(axis=0) for c in range(10)])
variances, bases = np.linalg.eigh(np.stack([np.cov(flat[labels == c].T) for c in range(10)]))
# some pixels of a class are always blank
variances = np.maximum(variances, 1e-3)


def guesses(x_t, t):
    """E[x_0 | x_t] if x_0 is of each class, and the probability that it is."""
    a, s_2 = schedule.sqrt_alpha_bar[t[0]], schedule.one_minus_alpha_bar[t[0]]
    total = a**2 * variances + s_2
    away = np.einsum("cnp,cpk->cnk", x_t.reshape(-1, 64) - a * means[:, None], bases)
    each = means[:, None] + np.einsum("cnk,cpk->cnp", a * variances[:, None] / total[:, None] * away, bases)
    log_p = -0.5 * (away**2 / total[:, None] + np.log(total[:, None])).sum(axis=2)
    share = np.exp(log_p - log_p.max(axis=0))
    return each, share / share.sum(axis=0)


def best_x_0(x_t, t):
    each, share = guesses(x_t, t)
    return np.einsum("cn,cnp->np", share, each).reshape(x_t.shape)


def draw(steps, model=best_x_0, **settings):
    few = schedule.respace(steps)
    return ref.sample(few, model, (16, 1, 8, 8), prediction="x_0", trajectory=True, **settings)


def show(axis, x):
    """Sixteen images in a square, with gaps of which nothing is drawn."""
    tiles = np.pad(x[:, 0], ((0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    axis.imshow(tiles.reshape(4, 4, 9, 9).swapaxes(1, 2).reshape(36, 36)[:-1, :-1], vmin=-1, vmax=1)


film = draw(200, sampler=ddpm)
times = (200, 180, 160, 140, 120, 100, 80, 60, 40, 20, 10, 0)
for axis, t in zip(strip([f"t = {t}" for t in times])[0], times, strict=True):
    show(axis, film[t])
# each is a digit of one class, almost certainly
assert guesses(film[0], [1])[1].max(axis=0).min() > 0.9

# %% [markdown]
# ## The number of steps
#
# DDPM above, DDIM below. With few steps the digits are blurred: they are means over what the image could become.

# %% slider="steps" alt="DDPM above, DDIM below. With 1 step sixteen equal blots, with 5 blurred digits, with 100 sharp ones."
counts = (1, 2, 3, 4, 5, 7, 10, 20, 50, 100)
axes = strip([f"{count} steps" if count > 1 else "1 step" for count in counts], rows=2)
contrast = []
for column, count in zip(axes.T, counts, strict=True):
    for axis, sampler in zip(column, (ddpm, ddim), strict=True):
        x_0 = draw(count, sampler=sampler)[0]
        show(axis, x_0)
    contrast.append(x_0.std(axis=0).mean())
print(f"differences between the digits: {contrast[0]:.3f} by one step, {contrast[-1]:.3f} by a hundred")
assert contrast[0] < 0.01 < 0.3 < contrast[-1]

# %% [markdown]
# ## Guidance
#
# A seven is asked for. At $s = 0$ any digit comes; at $s = 1$ sevens as they are in the data; beyond it they are
# ever less like any other digit, and ever more like each other.

# %% slider="s" alt="Guidance towards sevens: at s = 0 digits of all classes, at s = 1 sevens, at s = 8 sevens that are much alike."
seven = 7


def guided(scale):
    def model(x_t, t):
        return ref.guided(guesses(x_t, t)[0][seven].reshape(x_t.shape), best_x_0(x_t, t), scale)

    return model


scales = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
axes = strip([f"s = {scale:g}" for scale in scales])
for axis, scale in zip(axes[0], scales, strict=True):
    x_0 = draw(50, guided(scale), sampler=ddim)[0]
    show(axis, x_0)
    if scale == 1:
        assert guesses(x_0, [1])[1][seven].min() > 0.9

# %% [markdown]
# ## The temperature
#
# All noise is multiplied by it. At 0 there is only one image, in the middle of all; above 1 strokes become glaring.

# %% slider="temperature" alt="At temperature 0 sixteen equal blots, at 1 sixteen different digits, at 1.5 the same with glaring strokes."
temperatures = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.5)
axes = strip([f"temperature {temperature:g}" for temperature in temperatures])
for axis, temperature in zip(axes[0], temperatures, strict=True):
    x_0 = draw(50, sampler=ddpm, temperature=temperature)[0]
    show(axis, x_0)
    if temperature == 0:
        assert np.ptp(x_0, axis=0).max() < 1e-12
