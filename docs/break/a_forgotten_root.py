# %% [markdown]
# # A forgotten square root
#
# **Signs:** noisy images that are greyer in the middle of the chain than at its ends; or, if the root is missing in
# the sampler, samples that are all alike and without detail.
#
# A variance is a squared size, and noise is multiplied by the size. Two places to forget it:
#
# - In training, `alpha_bar * x_0 + (1 - alpha_bar) * eps`. The variance of a pixel is then
#   $\bar\alpha_t^2 + (1 - \bar\alpha_t)^2$ in place of 1, if that of the data is 1. It is one half where
#   $\bar\alpha_t$ is one half.
# - In sampling, `mean + beta * z`. $\beta_t$ is about 0.01 and its root 0.1: nearly all of the noise is missing.
#
# **Mend it:** check one number. Noisy images whose data have variance 1 have variance 1 at every $t$.
#
# ```{source} reference.forward.q_sample
# ```

# %% alt="Variance against t: 1 with the roots; without them it dips to one half near t = 260 and returns to 1."
import matplotlib.pyplot as plt
import noisestep.reference as ref
import numpy as np

plt.style.use("noisestep.lessons.pictures")

schedule = ref.Schedule.from_name("linear", 1000)
x_0 = ref.normal(1, ref.FORWARD, 0, range(2000), (1,)).astype(float)
eps = ref.normal(0, ref.FORWARD, 0, range(2000), (1,)).astype(float)
times = np.arange(1, 1001, 10)
right = [ref.q_sample(schedule, x_0, t, eps).var() for t in times]
wrong = [(schedule.alpha_bar[t] * x_0 + schedule.one_minus_alpha_bar[t] * eps).var() for t in times]
figure, axis = plt.subplots()
axis.plot(times, right, label="with the roots")
axis.plot(times, wrong, label="without")
axis.set(xlabel="t", ylabel="variance of $x_t$", ylim=(0, 1.3))
axis.legend(loc="lower right")
assert abs(min(wrong) - 0.5) < 0.1

# %% [markdown]
# And in the sampler. The data are five clouds of points, whose best guess is known ([lesson
# 10](../lessons/10_sampling.py)).

# %% alt="Points. With the root: five round clouds. Without: five dots, all points of a cloud in one place."
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


def sample(size):
    x = ref.normal(seed=0, stream=ref.INITIAL, step=0, sample=range(400), shape=(2,)).astype(float)
    for t in range(schedule.T, 0, -1):
        x = ref.mu_from_eps(schedule, x, network(x, np.full(400, t)), t)
        if t > 1:
            x = x + size[t] * ref.normal(0, ref.REVERSE, t, range(400), (2,))
    return x


figure, axes = plt.subplots(1, 2, figsize=(5.6, 2.4))
for axis, size, name in zip(axes, (np.sqrt(schedule.beta), schedule.beta), ("root", "no root"), strict=True):
    points = sample(size)
    axis.plot(*points.T, ".", markersize=1.5)
    axis.set(title=name, xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), aspect="equal", xticks=[], yticks=[])
    off = np.linalg.norm(points[:, None] - centres, axis=2).min(axis=1).mean()
    print(f"{name}: {off:.3f} from the nearest centre; of the data {width * np.sqrt(np.pi / 2):.3f}")
    assert (name == "root") == (abs(off - 0.075) < 0.015)
