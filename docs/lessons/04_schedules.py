# %% [markdown]
# # 4. Schedules, signal and noise, and the end of the chain
#
# The numbers $\beta_1, \dots, \beta_T$ are chosen, not learned. A choice of them is called a **schedule**. What makes
# a good one? Two things: at the end nothing of the image may be left, and on the way no steps should be wasted.
#
# ## How much of the image is left?
#
# The factor of the image in $x_t$ is $\sqrt{\bar\alpha_t}$ ([lesson 3](03_the_jump.py)), with
# $\bar\alpha_t = \prod_s (1 - \beta_s)$. The logarithm makes a sum of the product. For small $\beta$,
# $\log(1 - \beta) \approx -\beta$, so
#
# $$
# \log \bar\alpha_t = \sum_{s=1}^{t} \log(1 - \beta_s) \approx -\sum_{s=1}^{t} \beta_s,
# \qquad
# \bar\alpha_t \approx e^{-\sum_s \beta_s}
# $$
#
# **The sum of the betas decides how much is left.** The linear schedule of Ho et al. (2020) goes from 0.0001 to 0.02
# in 1,000 steps. Its sum is the mean, 0.01005, times 1,000: 10.05. What is left of the image is a factor of 0.006.
#
# ```{source} reference.betas.linear_beta
# ```

# %%
import matplotlib.pyplot as plt
import noisestep.reference as ref
import numpy as np

plt.style.use("noisestep.lessons.pictures")

linear = ref.Schedule.from_name("linear", 1000)
print(f"sum of beta {linear.beta.sum():.2f}, e^-sum {np.exp(-linear.beta.sum()):.2e}")
print(f"alpha_bar_T {linear.alpha_bar[-1]:.2e}, its square root {linear.sqrt_alpha_bar[-1]:.4f}")
assert np.isclose(linear.beta.sum(), 10.05)
# -log(1 - b) is above b and below b + b^2 for 0 < b < 0.5
assert linear.beta.sum() < -np.log(linear.alpha_bar[-1]) < (linear.beta + linear.beta**2).sum()

# %% [markdown]
# ## Why x_T is standard noise
#
# By the jump, $x_T$ has the mean $\sqrt{\bar\alpha_T}\, x_0$ and the variance $1 - \bar\alpha_T$. As $\bar\alpha_T$
# goes to 0, these go to 0 and 1. **Whatever the image was, the end is $\mathcal{N}(0, I)$.** This is what makes
# sampling possible: it has to start from $x_T$ without knowing an image.
#
# It is never exactly so, and the distance can be computed. The Kullback–Leibler divergence says how far one
# distribution is from another; it is 0 if they are equal. For two normal distributions it is a formula
# ([lesson 6](06_the_bound.py)). For one pixel, with $m = \sqrt{\bar\alpha_T}\, x_0$ and $v = 1 - \bar\alpha_T$,
#
# $$
# D_{\mathrm{KL}}(\mathcal{N}(m, v) \,\|\, \mathcal{N}(0, 1)) = \tfrac12 \left( v - 1 - \log v + m^2 \right)
# = \tfrac12 \left( \bar\alpha_T x_0^2 - \bar\alpha_T - \log(1 - \bar\alpha_T) \right)
# $$
#
# The code gives the mean over the pixels, in bits (nats divided by $\log 2$):
#
# ```{source} reference.bound.prior_kl
# ```

# %%
images, labels = ref.load_digits()
x_0, alpha_bar = images[:1], linear.alpha_bar[-1]
by_hand = np.mean(alpha_bar * x_0**2 - alpha_bar - np.log1p(-alpha_bar)) / 2 / np.log(2)
in_code = ref.prior_kl(linear, x_0)[0]
print(f"x_T is {in_code:.1e} bits a pixel away from pure noise")
assert np.isclose(by_hand, in_code)

# %% [markdown]
# ## Signal to noise
#
# How hard is it to see the image in $x_t$? What counts is the ratio of the two parts. The variance of the noise is
# $1 - \bar\alpha_t$, and the factor of the image, squared, is $\bar\alpha_t$. Their ratio is the **signal-to-noise
# ratio**:
#
# $$
# \mathrm{SNR}(t) = \frac{\bar\alpha_t}{1 - \bar\alpha_t}
# $$
#
# ```{source} reference.schedule.Schedule.snr
# ```
#
# It says everything about how noisy $x_t$ is. To see this, divide $x_t$ by $\sqrt{\bar\alpha_t}$:
#
# $$
# \frac{x_t}{\sqrt{\bar\alpha_t}} = x_0 + \sqrt{\frac{1 - \bar\alpha_t}{\bar\alpha_t}}\, \epsilon
# = x_0 + \frac{1}{\sqrt{\mathrm{SNR}(t)}}\, \epsilon
# $$
#
# It is the image with noise of standard deviation $1 / \sqrt{\mathrm{SNR}}$. Two schedules with the same SNR, at
# whatever $t$, show images that are equally noisy. So a schedule is nothing else than this: **which noise levels
# get how many of the steps.**

# %% alt="The linear schedule's image fades by t = 600. The cosine schedule's still shows the digit at t = 400."
cosine = ref.Schedule.from_name("cosine", 1000)
times = [0, 100, 200, 400, 600, 800, 1000]
noise = ref.normal(seed=0, stream=ref.FORWARD, step=0, sample=3, shape=(1, 8, 8))
figure, axes = plt.subplots(2, 7, figsize=(5.6, 1.9))
for row, schedule in zip(axes, (linear, cosine), strict=True):
    for axis, t in zip(row, times, strict=True):
        axis.imshow(ref.q_sample(schedule, x_0, t, noise)[0, 0], vmin=-1, vmax=1)
        axis.set(xticks=[], yticks=[])
for axis, t in zip(axes[0], times, strict=True):
    axis.set_title(f"t = {t}", fontsize=8)
axes[0, 0].set_ylabel("linear", fontsize=8)
axes[1, 0].set_ylabel("cosine", fontsize=8)

# %% alt="Left: beta against t. Right: SNR against t. Linear falls below 1 at t = 260, cosine at 497, sigmoid at 500."
figure, (left, right) = plt.subplots(1, 2, figsize=(5.6, 2.7))
for name in ("linear", "cosine", "sigmoid"):
    schedule = ref.Schedule.from_name(name, 1000)
    left.semilogy(range(1, 1001), schedule.beta[1:], label=name)
    right.semilogy(range(1, 1001), schedule.snr[1:], label=name)
    below = np.argmax(schedule.snr < 1)
    lost = np.mean(schedule.alpha_bar[1:] < 0.01)
    print(f"{name:8} SNR below 1 from t = {below}, alpha_bar below 0.01 in {lost:.0%} of the steps")
left.set(xlabel="t", title=r"$\beta_t$")
right.set(xlabel="t", title="SNR", ylim=(1e-6, 1e5))
right.axhline(1, color="C5", linewidth=0.8)
left.legend(fontsize=8)

# %% [markdown]
# Under the linear schedule a third of the steps take place where less than 1 % of the variance is image. They are
# nearly wasted. Nichol and Dhariwal (2021) therefore turned the question around: first say how $\bar\alpha_t$ should
# fall, gently at both ends, then compute the betas from it.
#
# $$
# \bar\alpha_t = \frac{f(t)}{f(0)}, \qquad f(t) = \cos^2\!\left( \frac{t / T + s}{1 + s} \cdot \frac{\pi}{2} \right),
# \qquad \beta_t = \min\left( 1 - \frac{\bar\alpha_t}{\bar\alpha_{t-1}},\ 0.999 \right)
# $$
#
# ```{source} reference.betas.cosine_beta
# ```
#
# The code uses $\cos^2 a - \cos^2 b = \sin(b - a) \sin(b + a)$ to get the small difference without losing digits.

# %%
f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
beta = np.minimum(1 - f[1:] / f[:-1], 0.999)
# near T the cosine is as small as 0.0016, and the angle is rounded to 2e-16: twice that ratio for each f
np.testing.assert_allclose(beta, ref.cosine_beta(1000), rtol=0, atol=4 * 2e-16 / 0.0016)

# %% [markdown]
# ## Exercise: fifty steps
#
# To save time, somebody trains with `Schedule.from_name("linear", 50)`: the same ends, 0.0001 and 0.02, but 50 steps.
# Estimate $\bar\alpha_T$ by the sum of the betas. What will go wrong in sampling?

# %% [markdown] tags=["answer"]
# The sum is $50 \cdot 0.01005 \approx 0.5$, and $\bar\alpha_T \approx e^{-0.5} \approx 0.6$. So $x_T$ still has
# a factor of $\sqrt{0.6} \approx 0.78$ of the image. The network never sees pure noise in training, but sampling
# starts from it. The ends must grow as the number of steps falls: `scaling="1000/T"` multiplies both by $1000 / T$.

# %% tags=["answer"] alt="After 50 steps: with the ends of 1,000 steps the digit can still be seen, with scaled ends it is gone."
short = ref.Schedule.from_name("linear", 50)
scaled = ref.Schedule.from_name("linear", 50, scaling="1000/T")
figure, axes = plt.subplots(1, 2, figsize=(3.6, 2.1))
pairs = (("as it is", short), ("scaled", scaled))
for axis, (title, schedule) in zip(axes, pairs, strict=True):
    axis.imshow(ref.q_sample(schedule, x_0, 50, noise)[0, 0], vmin=-1, vmax=1)
    axis.set_title(title)
    axis.axis("off")
    sum_of_beta, left = schedule.beta.sum(), schedule.alpha_bar[-1]
    print(f"{title:8} sum of beta {sum_of_beta:6.3f}, alpha_bar_T {left:.1e}")
assert np.isclose(short.alpha_bar[-1], np.exp(-0.5025), rtol=0.01)
assert scaled.alpha_bar[-1] < 1e-4
