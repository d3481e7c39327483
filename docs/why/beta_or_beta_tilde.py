# %% [markdown]
# # Beta, or beta with a tilde?
#
# The noise of a reverse step has the variance $\sigma_t^2$. The chapter takes $\beta_t$; this project takes
# $\tilde\beta_t = \frac{1 - \bar\alpha_{t-1}}{1 - \bar\alpha_t}\, \beta_t$ if you do not say otherwise. Which is right?
# **It depends on the data, and with many steps it hardly matters but for those nearest to the image.**
#
# - If the data are one single image, $x_0$ is known, and the step back is the posterior: $\tilde\beta_t$ is exact.
# - If the data are $\mathcal{N}(0, I)$, the chain looks the same in both directions: $\beta_t$ is exact.
# - Real images lie between, and so does the right variance (Ho et al. 2020, section 3.2).
#
# ```{source} reference.reverse.reverse_variance
# ```
#
# The experiment: pixels from $\mathcal{N}(0, s^2)$. The best network is linear, so the variance of $x_t$ on the way
# back follows from a recursion, without any sampling: a step multiplies it by the square of a slope and adds
# $\sigma_t^2$. It should be $\bar\alpha_t s^2 + 1 - \bar\alpha_t$, as on the way forward. The picture has the ratio of
# the two, over 20 steps: 1 is right.

# %% alt="Ratio of variances over t. For one image the posterior is exact, for s = 1 beta, for s = 0.5 both are off."
import matplotlib.pyplot as plt
import noisestep.reference as ref
import numpy as np

plt.style.use("noisestep.lessons.pictures")


def ratios(schedule, s, variance):
    """The variance of x_t on the way back over that on the way forward, for t = T .. 1."""
    true = schedule.alpha_bar * s**2 + schedule.one_minus_alpha_bar
    v, sigma_2 = [true[-1]], ref.reverse_variance(schedule, variance)
    for t in range(schedule.T, 1, -1):
        eps = schedule.sqrt_one_minus_alpha_bar[t] / true[t]  # the best guess at x_t = 1
        slope = ref.reverse_mean(schedule, np.ones((1, 1)), np.full((1, 1), eps), t).item()
        v.append(slope**2 * v[-1] + sigma_2[t])
    return np.array(v[::-1]) / true[1:]


full = ref.Schedule.from_name("linear", 1000)
schedule = full.respace(20)
figure, axes = plt.subplots(1, 3, sharey=True, figsize=(5.6, 2.6))
titles = ("one image, s = 0", "s = 0.5", "N(0, I), s = 1")
for axis, s, title in zip(axes, (0.0, 0.5, 1.0), titles, strict=True):
    for variance in ("posterior", "beta"):
        axis.plot(range(1, 21), ratios(schedule, s, variance), ".-", label=variance)
    axis.set(title=title, xlabel="t", ylim=(0, 3))
axes[1].legend(fontsize=8)
np.testing.assert_allclose(ratios(schedule, 0.0, "posterior"), 1)
np.testing.assert_allclose(ratios(schedule, 1.0, "beta"), 1)

for T in (20, 1000):
    for variance in ("posterior", "beta"):
        off = np.abs(ratios(full.respace(T), 0.5, variance) - 1).max()
        print(f"s = 0.5, {T:4} steps, {variance:9}: off by up to {off:.1%}")
