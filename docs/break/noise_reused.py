# %% [markdown]
# # Noise that is used twice
#
# **Signs:** all images of a batch are the same, or have the same stains; or samples are too bright and too dark.
#
# Every derivation says "independent noise" somewhere. Three ways to lose the independence without an error message:
#
# - One noise for the whole batch, `torch.randn(1, C, H, W)`, which broadcasts.
# - A generator that is seeded inside the loop, so that each step adds the same $z$. Independent noises add their
#   variances, equal ones their sizes: a hundred of size 1 become 100 and not 10.
# - The same seed on every machine of a parallel training, so that all of them learn from the same noise.
#
# **Mend it:** let a random number depend on what it is for, on the step and on the number of the image, and on
# nothing else: [the noise address](../lessons/13_noise_with_an_address.py). Functions here refuse noise that would
# broadcast.

# The experiment: five clouds of points, whose best guess is known ([lesson 10](../lessons/10_sampling.py)).

# %% alt="Points. Right: five clouds. One image's noise: a single dot. One step's noise: five fans, too far out."
import matplotlib.pyplot as plt
import noisestep.reference as ref
import numpy as np

plt.style.use("noisestep.lessons.pictures")

schedule = ref.Schedule.from_name("cosine", 100)
angle = 2 * np.pi * np.arange(5) / 5
centres, width = 0.8 * np.stack([np.sin(angle), np.cos(angle)], axis=1), 0.06


def network(x_t, t):
    """E[eps | x_t]."""
    a, s_2 = schedule.sqrt_alpha_bar[t[0]], schedule.one_minus_alpha_bar[t[0]]
    total = a**2 * width**2 + s_2
    away = x_t[:, None] - a * centres
    score = -(away**2).sum(axis=2) / (2 * total)
    share = np.exp(score - score.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    x_0 = (share[:, :, None] * (centres + a * width**2 / total * away)).sum(axis=1)
    return ref.eps_from_x_0(schedule, x_t, x_0, t[0])


def sample(step, number):
    """Sampling with the noise of step(t) for image number(k)."""
    numbers = [number(k) for k in range(400)]
    x = ref.normal(0, ref.INITIAL, 0, numbers, (2,)).astype(float)
    for t in range(schedule.T, 0, -1):
        z = ref.normal(0, ref.REVERSE, step(t), numbers, (2,))
        x = ref.reverse_step(schedule, x, network(x, np.full(400, t)), t, z, variance="beta")
    return x


drawn = {
    "right": sample(step=lambda t: t, number=lambda k: k),
    "one image's": sample(step=lambda t: t, number=lambda k: 0),
    "one step's": sample(step=lambda t: 1, number=lambda k: k),
}
figure, axes = plt.subplots(1, 3, figsize=(5.6, 2.1))
for axis, (name, points) in zip(axes, drawn.items(), strict=True):
    axis.plot(*points.T, ".", markersize=1.5)
    axis.set(title=name, xlim=(-2, 2), ylim=(-2, 2), aspect="equal", xticks=[], yticks=[])
    off = np.linalg.norm(points[:, None] - centres, axis=2).min(axis=1).mean()
    print(f"{name}: {off:.3f} from the nearest centre; of the data {width * np.sqrt(np.pi / 2):.3f}")
assert drawn["one image's"].std(axis=0).max() < 1e-12

# %% [markdown]
# The functions of the reference ask for noise of the full shape:

# %%
try:
    ref.q_sample(schedule, drawn["right"], 10, ref.normal(0, ref.FORWARD, 0, 0, (2,)))
except ValueError as error:
    print(error)
