# %% [markdown]
# # A wrong index
#
# **Signs:** the loss is fine, and samples are blurred or grainy. It is worst with few steps.
#
# The tables and the network must speak of the same $t$. Common ways to break this: a network trained with $t$ from 0
# to $T - 1$ and asked with 1 to $T$; a table shifted by one row; after leaving steps out, the number of the step
# among the few in place of its number among the thousand. The network takes the told $t$ as a statement about how
# much noise there is. It removes as much.
#
# **Mend it:** write down once what row 0 is. Here `alpha_bar[0]` is 1, clean data, and a respaced schedule remembers
# the original numbers (`schedule.Schedule.timesteps`), which is what the network hears.
#
# ```{source} reference.samplers.chain.Chain.output
# ```
#
# The experiment: points from five small clouds, whose best guess is known ([lesson 10](../lessons/10_sampling.py)),
# and 20 steps. The network is told one step less, the right one, one step more, and last the number among the few.

# %% alt="Points: one step less, right, one step more, among the few. Only the second has five tight clouds."
import matplotlib.pyplot as plt
import noisestep.reference as ref
import numpy as np

plt.style.use("noisestep.lessons.pictures")

schedule = ref.Schedule.from_name("cosine", 1000)
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


few = schedule.respace(20)
told = {
    "one step less": lambda t: np.maximum(t - 50, 1),
    "right": lambda t: t,
    "one step more": lambda t: np.minimum(t + 50, 1000),
    "among the few": lambda t: t // 50,
}
figure, axes = plt.subplots(1, 4, figsize=(5.6, 1.7))
for axis, (name, change) in zip(axes, told.items(), strict=True):
    points = ref.sample(few, lambda x, t, change=change: network(x, change(t)), (400, 2), variance="beta")
    axis.plot(*points.T, ".", markersize=1.5)
    axis.set(xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), aspect="equal")
    axis.set_title(name, fontsize=9)
    axis.set_xticks([])
    axis.set_yticks([])
    off = np.linalg.norm(points[:, None] - centres, axis=2).min(axis=1)
    print(f"{name}: {off.mean():.3f} from the nearest centre; of the data {width * np.sqrt(np.pi / 2):.3f}")
    assert (name == "right") == (abs(off.mean() - 0.075) < 0.015)
