# %% [markdown]
# # Noise comes
#
# ## The timestep
#
# A digit, and images of two pixels each, which are points in the plane. Both are mixed with noise,
# $x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon$, at once and without the steps between
# ([lesson 3](../lessons/03_the_jump.py)). The noise $\epsilon$ is the same in all frames; only its share grows. When
# do you lose the digit, and when the five clouds?

# %% slider="t" alt="A digit above five clouds of points, at growing t: the digit drowns in noise, the clouds become one."
import matplotlib.pyplot as plt
import noisestep.reference as ref
import numpy as np
from noisestep.lessons.script import strip

plt.style.use("noisestep.lessons.pictures")

images, labels = ref.load_digits()
digit = images[:1]
angle = 2 * np.pi * np.arange(5) / 5
centres = 0.8 * np.stack([np.sin(angle), np.cos(angle)], axis=1)
points = centres[np.arange(300) % 5] + 0.06 * ref.normal(1, ref.FORWARD, 0, range(300), (2,))


def mixed(schedule, t):
    """The digit and the points with the noise of t."""
    eps = ref.normal(0, ref.FORWARD, 0, 0, (1, 8, 8)).astype(np.float64)
    noise = ref.normal(0, ref.FORWARD, 1, range(300), (2,)).astype(np.float64)
    return ref.q_sample(schedule, digit, t, eps)[0, 0], ref.q_sample(schedule, points, t, noise)


schedule = ref.Schedule.from_name("linear", 1000)
times = (1, 20, 50, 100, 150, 200, 300, 400, 500, 600, 800, 1000)
axes = strip([f"t = {t}" for t in times], rows=2)
for (above, below), t in zip(axes.T, times, strict=True):
    image, cloud = mixed(schedule, t)
    above.imshow(image, vmin=-2, vmax=2)
    below.plot(*cloud.T, ".", markersize=2)
    below.set(xlim=(-3, 3), ylim=(-3, 3))

# at the end nothing is left of the clouds: the points keep less than a hundredth of their size
assert schedule.sqrt_alpha_bar[1000] < 0.01

# %% [markdown]
# ## The schedule
#
# The schedule says how fast. Above, $\bar\alpha_t$ against $t$, the share of the image in the variance; below, the digit
# halfway, at $t = 500$, and the points. "linear" has wasted its second half: all is noise already ([why a cosine
# schedule](../why/a_cosine_schedule.py)).

# %% slider="schedule" alt="For each schedule its curve of alpha_bar, which falls from 1 to 0, the digit and the points at t = 500."
names = ("linear", "scaled_linear", "quadratic", "cosine", "sigmoid", "flow")
axes = strip(names, rows=3)
shares = {}
for (curve, above, below), name in zip(axes.T, names, strict=True):
    schedule = ref.Schedule.from_name(name, 1000)
    shares[name] = schedule.alpha_bar[500]
    curve.plot(schedule.alpha_bar)
    curve.plot(500, shares[name], "o", color="C1")
    curve.set(ylim=(-0.05, 1.05))
    image, cloud = mixed(schedule, 500)
    above.imshow(image, vmin=-2, vmax=2)
    below.plot(*cloud.T, ".", markersize=2)
    below.set(xlim=(-3, 3), ylim=(-3, 3))
    print(f"{name:13} share of the image at t = 500: {shares[name]:.2f}")
assert shares["linear"] < 0.1 < 0.4 < shares["cosine"]
