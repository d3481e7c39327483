# %% [markdown]
# # 3. The jump, and why it equals the steps
#
# Training needs noisy images at all steps: now $t = 3$, now $t = 700$. Walking there step by step
# ([lesson 2](02_one_step_of_q.py)) would take $t$ times as long. There is no need to walk: **any number of small
# Gaussian steps is one large Gaussian step.** The chapter writes it as
#
# $$
# q(x_t \mid x_0) = \mathcal{N}(x_t;\ \sqrt{\bar\alpha_t}\, x_0,\ (1 - \bar\alpha_t) I),
# \qquad \bar\alpha_t = \prod_{s=1}^{t} \alpha_s, \quad \alpha_s = 1 - \beta_s
# $$
#
# ## Two steps are one
#
# Put one step into the next:
#
# $$
# \begin{aligned}
# x_2 &= \sqrt{\alpha_2}\, x_1 + \sqrt{\beta_2}\, \epsilon_2 \\
# &= \sqrt{\alpha_2} \left( \sqrt{\alpha_1}\, x_0 + \sqrt{\beta_1}\, \epsilon_1 \right) + \sqrt{\beta_2}\, \epsilon_2 \\
# &= \sqrt{\alpha_1 \alpha_2}\, x_0 + \underbrace{\sqrt{\alpha_2 \beta_1}\, \epsilon_1 + \sqrt{\beta_2}\, \epsilon_2}_{\text{noise}}
# \end{aligned}
# $$
#
# The factors before $x_0$ have multiplied. The noise is a sum of two independent normals, so it is normal, and
# variances add ([lesson 1](01_images_and_noise.py)):
#
# $$
# \alpha_2 \beta_1 + \beta_2 = \alpha_2 (1 - \alpha_1) + (1 - \alpha_2) = 1 - \alpha_1 \alpha_2
# $$
#
# That is $1 - \bar\alpha_2$, as promised.
#
# ## All steps are one
#
# The same calculation takes us from $t - 1$ to $t$. Suppose the formula holds at $t - 1$. One step more multiplies
# the factor of $x_0$ by $\sqrt{\alpha_t}$, which makes $\sqrt{\bar\alpha_t}$ of it, and the variance becomes
#
# $$
# \alpha_t (1 - \bar\alpha_{t-1}) + \beta_t = \alpha_t - \bar\alpha_t + 1 - \alpha_t = 1 - \bar\alpha_t
# $$
#
# So the formula holds at $t$ too. It holds at $t = 0$, where $\bar\alpha_0 = 1$: the image itself, without noise.
# Hence it holds at every $t$. In the code:
#
# ```{source} reference.forward.q_mean_variance
# ```
#
# ```{source} reference.forward.q_sample
# ```
#
# `per_sample` picks row $t$ of a table, for each image of the batch. Each image may have its own $t$.
#
# ## Seen
#
# One pixel that starts at $x_0 = 0.8$ goes 1,000 steps. Thin lines: 40 walks, step by step. Thick lines: the mean
# of the jump, and two standard deviations above and below it. Of a normal distribution, 95.4 % lies between
# them. At the right, 5,000 walks at $t = 300$ as a histogram, and the density of the jump.

# %% alt="Forty walks of a pixel spread inside the band of the jump. At t = 300 a histogram fits its bell curve."
import matplotlib.pyplot as plt
import noisestep.reference as ref
import numpy as np

plt.style.use("noisestep.lessons.pictures")

schedule = ref.Schedule.from_name("linear", 1000)
walkers = 5_000
x_0 = np.full((walkers, 1), 0.8)

walk = np.empty((schedule.T + 1, walkers))
x = x_0
walk[0] = x[:, 0]
for t in range(1, schedule.T + 1):
    # one long row of noise for all walkers is faster to draw than one row each
    eps = ref.normal(seed=0, stream=ref.FORWARD, step=t, sample=0, shape=(walkers, 1))[0]
    x = ref.q_step(schedule, x, t, eps)
    walk[t] = x[:, 0]

mean = schedule.sqrt_alpha_bar * 0.8
deviation = schedule.sqrt_one_minus_alpha_bar

figure, (left, right) = plt.subplots(1, 2, width_ratios=(2, 1), sharey=True)
left.plot(walk[:, :40], color="C5", linewidth=0.3)
left.plot(mean, "C1", label="mean of the jump")
left.plot(mean + 2 * deviation, "C0", label="± 2 standard deviations")
left.plot(mean - 2 * deviation, "C0")
left.set(xlabel="t", ylabel="$x_t$", ylim=(-3.8, 6))
left.legend(fontsize=8, loc="upper right")

t = 300
grid = np.linspace(-3.5, 3.5, 201)
z = (grid - mean[t]) / deviation[t]
density = np.exp(-(z**2) / 2) / (np.sqrt(2 * np.pi) * deviation[t])
right.hist(walk[t], bins=50, density=True, orientation="horizontal", color="C5")
right.plot(density, grid, "C1")
right.set(title=f"t = {t}", xlabel="density", xticks=(0, 0.4))

inside = np.mean(np.abs(walk[t] - mean[t]) < 2 * deviation[t])
print(f"inside the band at t = {t}: {inside:.1%}")
# five standard errors: of the share of n walkers, of their mean, and of their variance
assert abs(inside - 0.9545) < 5 * np.sqrt(0.9545 * 0.0455 / walkers)
assert abs(walk[t].mean() - mean[t]) < 5 * deviation[t] / np.sqrt(walkers)
assert abs(walk[t].var() / deviation[t] ** 2 - 1) < 5 * np.sqrt(2 / walkers)

# %% [markdown]
# ## The noise of the jump is a sum
#
# A walk and a jump agree in distribution. Can they also agree in a single image? Yes, if the jump takes as its
# noise the sum of the noises that the walk used. The noise of step $s$ is multiplied by $\sqrt{\alpha}$ in every step
# after it, so at $t$ it counts with the weight
#
# $$
# w_s = \sqrt{\beta_s\, \alpha_{s+1} \cdots \alpha_t} = \sqrt{\beta_s\, \frac{\bar\alpha_t}{\bar\alpha_s}}
# $$
#
# and the jump's noise is $\epsilon = \frac{1}{\sqrt{1 - \bar\alpha_t}} \sum_s w_s\, \epsilon_s$. The squares of the
# weights add up to $1 - \bar\alpha_t$, so $\epsilon$ has variance 1, as it must.

# %% alt="A digit after 100 steps and after one jump with the summed noise: the same image. The weights rise with s."
images, labels = ref.load_digits()
t = 100
noise = ref.normal(seed=0, stream=ref.FORWARD, step=range(1, t + 1), sample=0, shape=(1, 8, 8))
noise = noise.astype(np.float64)

x = images[:1]
for s in range(1, t + 1):
    x = ref.q_step(schedule, x, s, noise[s - 1 : s])

s = np.arange(1, t + 1)
weight = np.sqrt(schedule.beta[s] * schedule.alpha_bar[t] / schedule.alpha_bar[s])
assert np.isclose(np.sum(weight**2), schedule.one_minus_alpha_bar[t])

eps = np.tensordot(weight, noise, 1)[None] / schedule.sqrt_one_minus_alpha_bar[t]
jump = ref.q_sample(schedule, images[:1], t, eps)
print(f"largest difference: {np.abs(x - jump).max():.1e}")
# a hundred roundings of numbers of size 1
np.testing.assert_allclose(x, jump, atol=100 * 2.0**-52 * 8)

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(5.6, 2.0), width_ratios=(1, 1, 1.5))
for axis, image, title in ((left, x, "100 steps"), (middle, jump, "one jump")):
    axis.imshow(image[0, 0], vmin=-1, vmax=1)
    axis.set_title(title)
    axis.axis("off")
right.plot(s, weight)
right.set(xlabel="s", title="$w_s$", ylim=(0, None))

# %% [markdown]
# A network that predicts "the noise" predicts this sum. It cannot know the noise of a single step, and it does not
# have to.
#
# ## Exercise: jump from anywhere
#
# You have $x_s$ and want $x_t$, with $t > s$. Which factor does $x_s$ get, and which variance the noise? (Start from
# the derivation above; only the product begins at another place.)

# %% [markdown] tags=["answer"]
# The steps $s + 1, \dots, t$ multiply $x_s$ by the square root of
#
# $$
# \alpha_{s+1} \cdots \alpha_t = \frac{\bar\alpha_t}{\bar\alpha_s},
# \qquad
# q(x_t \mid x_s) = \mathcal{N}\!\left( x_t;\ \sqrt{\frac{\bar\alpha_t}{\bar\alpha_s}}\, x_s,\ \left( 1 - \frac{\bar\alpha_t}{\bar\alpha_s} \right) I \right)
# $$
#
# This is one step again, with $1 - \bar\alpha_t / \bar\alpha_s$ in the place of $\beta$. `Schedule.respace` uses it to
# make a chain of fewer, larger steps, with which sampling becomes faster.

# %% tags=["answer"]
s, t = 200, 500
ratio = schedule.alpha_bar[t] / schedule.alpha_bar[s]
assert np.isclose(ratio, np.prod(schedule.alpha[s + 1 : t + 1]))
# a chain that keeps only the steps 200 and 500: its second step is the jump between them
print(f"variance of the noise: {1 - ratio:.4f}, in the code {schedule.respace([s, t]).beta[2]:.4f}")
assert np.isclose(schedule.respace([s, t]).beta[2], 1 - ratio)
