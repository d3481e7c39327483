# %% [markdown]
# # Why is the predicted image clipped?
#
# Pixels lie in $[-1, 1]$. **A guess outside is known to be wrong, and the nearest value inside is always nearer to
# the truth.** That matters most at large $t$, where $x_0$ follows from $\epsilon_\theta$ by a division by a small
# number:
#
# $$
# x_0 = \frac{x_t - \sqrt{1 - \bar\alpha_t}\, \epsilon_\theta}{\sqrt{\bar\alpha_t}}
# $$
#
# At the end of the cosine schedule, $\sqrt{\bar\alpha_T}$ is $5 \cdot 10^{-5}$: an error of $\epsilon_\theta$ of one
# percent becomes a pixel of 200. The next $x_t$ contains it, looks like nothing the network has been trained on, and
# is guessed worse. The clip ends this at once.
#
# Do **not** clip what has no such bounds: the latents of Stable Diffusion, or points in a plane. And take the noise
# anew from the clipped $x_0$, so that the two add up to $x_t$; `reverse.ddim_step` does, unless it is told otherwise.
#
# ```{source} reference.prediction.predict_x_0
# ```
#
# The experiment: the best network for 200 digits (it knows them by heart), whose $\epsilon$ is then made five percent
# too small, and DDIM in twenty steps.

# %% alt="Digits sampled without a clip are overdriven and speckled; with the clip they are clear."
import matplotlib.pyplot as plt
import noisestep.reference as ref
import numpy as np
from noisestep.reference.samplers.ddim import ddim

plt.style.use("noisestep.lessons.pictures")

schedule = ref.Schedule.from_name("cosine", 1000)
known = ref.load_digits()[0][:200].reshape(200, 64)


def network(x_t, t):
    a, s_2 = schedule.sqrt_alpha_bar[t[0]], schedule.one_minus_alpha_bar[t[0]]
    x = x_t.reshape(-1, 64)
    score = -((x[:, None] - a * known) ** 2).sum(axis=2) / (2 * s_2)
    share = np.exp(score - score.max(axis=1, keepdims=True))
    x_0 = share @ known / share.sum(axis=1, keepdims=True)
    return 0.95 * ref.eps_from_x_0(schedule, x, x_0, t[0]).reshape(x_t.shape)


few = schedule.respace(20)
figure, axes = plt.subplots(2, 6, figsize=(5.6, 2.1))
for row, clip in zip(axes, (None, (-1, 1)), strict=True):
    digits = ref.sample(few, network, (6, 1, 8, 8), sampler=ddim, clip=clip)
    off = ((digits.reshape(6, 1, 64) - known) ** 2).mean(axis=2).min(axis=1) ** 0.5
    print(f"clip {clip}: pixels from {digits.min():.1f} to {digits.max():.1f}, {off.mean():.3f} off the nearest digit")
    for axis, digit in zip(row, digits, strict=True):
        axis.imshow(digit[0], vmin=-1, vmax=1)
        axis.set(xticks=[], yticks=[])
    row[0].set_ylabel("clipped" if clip else "not clipped", fontsize=8)
    assert (off.mean() < 0.02) == (clip is not None)
