# %% [markdown]
# # 9. The reverse step
#
# The network has been trained ([lesson 8](08_training.py)): it looks at a noisy $x_t$ and guesses the noise. One step
# of sampling leads from $x_t$ to $x_{t-1}$. It has two parts: **go where the guess points, and add a little fresh
# noise.** This lesson answers the three questions that everybody asks about the second part. Why add noise while
# removing it? Why not at the last step? How much?
#
# ## The mean
#
# If $x_0$ were known, the step would be the posterior of [lesson 5](05_the_posterior.py). Its mean is
#
# $$
# \tilde\mu_t = \frac{\sqrt{\bar\alpha_{t-1}}\, \beta_t}{1 - \bar\alpha_t}\, x_0
# + \frac{\sqrt{\alpha_t}\, (1 - \bar\alpha_{t-1})}{1 - \bar\alpha_t}\, x_t
# $$
#
# We do not know $x_0$, but a guess of the noise is a guess of
# $x_0 = (x_t - \sqrt{1 - \bar\alpha_t}\, \epsilon_\theta) / \sqrt{\bar\alpha_t}$. Put it in. With
# $\sqrt{\bar\alpha_{t-1}} / \sqrt{\bar\alpha_t} = 1 / \sqrt{\alpha_t}$, what stands before $x_t$ is
#
# $$
# \frac{\beta_t}{\sqrt{\alpha_t}\, (1 - \bar\alpha_t)} + \frac{\sqrt{\alpha_t}\, (1 - \bar\alpha_{t-1})}{1 - \bar\alpha_t}
# = \frac{\beta_t + \alpha_t - \bar\alpha_t}{\sqrt{\alpha_t}\, (1 - \bar\alpha_t)} = \frac{1}{\sqrt{\alpha_t}}
# $$
#
# and what stands before $\epsilon_\theta$ is $-\beta_t / (\sqrt{\alpha_t} \sqrt{1 - \bar\alpha_t})$. This is the
# chapter's update, equation 11 of Ho et al. (2020):
#
# $$
# x_{t-1} = \frac{1}{\sqrt{\alpha_t}} \left( x_t - \frac{\beta_t}{\sqrt{1 - \bar\alpha_t}}\, \epsilon_\theta(x_t, t) \right) + \sigma_t z
# $$
#
# ```{source} reference.prediction.mu_from_eps
# ```
#
# ```{source} reference.reverse.reverse_step
# ```

# %%
import matplotlib.pyplot as plt
import noisestep.reference as ref
import numpy as np

plt.style.use("noisestep.lessons.pictures")

schedule = ref.Schedule.from_name("linear", 1000)
x_t, eps = np.array([[0.3]]), np.array([[-1.2]])
for t in (1, 2, 10, 500, 1000):
    x_0 = ref.x_0_from_eps(schedule, x_t, eps, t)
    posterior = ref.posterior_mean(schedule, x_0, x_t, t)
    chapter = ref.mu_from_eps(schedule, x_t, eps, t)
    np.testing.assert_allclose(chapter, posterior, rtol=1e-9)
print("the chapter's mean is the posterior's mean at the guessed x_0")

# %% [markdown]
# ## Data whose best guess is known
#
# To see what the noise does, take a network that makes no mistakes. For "images" of one pixel there is one. Let $x_0$
# come from two bell curves with weights $w_k$, means $m_k$ and variances $v_k$. Then $x_t$ comes from two bell curves
# as well, with means $\sqrt{\bar\alpha_t}\, m_k$ and variances $\bar\alpha_t v_k + 1 - \bar\alpha_t$. The best guess
# of $x_0$ is the mean of all $x_0$ that could have led to this $x_t$: the guess of each curve, weighted by how likely
# $x_t$ is to come from it.
#
# $$
# \mathbb{E}[x_0 \mid x_t] = \sum_k r_k \left( m_k + \frac{\sqrt{\bar\alpha_t}\, v_k}{\bar\alpha_t v_k + 1 - \bar\alpha_t}
# (x_t - \sqrt{\bar\alpha_t}\, m_k) \right)
# $$
#
# where $r_k$ is proportional to
# $w_k\, \mathcal{N}(x_t;\ \sqrt{\bar\alpha_t}\, m_k,\ \bar\alpha_t v_k + 1 - \bar\alpha_t)$. A perfectly trained
# network would return exactly this.

# %%
weight, mean, variance = np.array([0.3, 0.7]), np.array([-0.7, 0.5]), np.array([0.1, 0.15]) ** 2


def curves(x_t, t):
    """The share of each curve in x_t, and the mean and variance of x_0 if x_t comes from it."""
    a, s_2 = schedule.sqrt_alpha_bar[t], schedule.one_minus_alpha_bar[t]
    total = a**2 * variance + s_2
    share = weight * np.exp(-((x_t - a * mean) ** 2) / (2 * total)) / np.sqrt(total)
    share /= share.sum(axis=1, keepdims=True)
    return share, mean + a * variance / total * (x_t - a * mean), variance * s_2 / total


def best_eps(x_t, t):
    share, guess, _ = curves(x_t, t[0])
    x_0 = (share * guess).sum(axis=1, keepdims=True)
    return ref.eps_from_x_0(schedule, x_t, x_0, t)


def density(x):
    curve = np.exp(-((x[:, None] - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    return curve @ weight


# %% [markdown]
# ## Why add noise?
#
# Because $x_{t-1}$ **is not determined** by $x_t$. Many $x_{t-1}$ could have come before, and they spread around
# their mean. A step to the mean alone leaves the spread out, and what is left out a thousand times is missing at the
# end. Here are 2,000 samples of the perfect network, without and with the noise.

# %% alt="Histograms of samples over the true density. Without noise: one spike at 0.5. With noise: the two true curves."
count = 2000
samples = {
    choice: ref.sample(schedule, best_eps, (count, 1), variance=choice)[:, 0]
    for choice in ("zero", "posterior", "beta")
}

x = np.linspace(-1.4, 1.4, 400)
figure, axes = plt.subplots(1, 2, sharex=True)
for axis, choice, title in zip(axes, ("zero", "posterior"), ("no noise", "with noise"), strict=True):
    axis.hist(samples[choice], bins=np.linspace(-1.4, 1.4, 71), density=True, alpha=0.6)
    axis.plot(x, density(x), color="C1")
    axis.set(title=title, xlabel="$x_0$")

true_mean = weight @ mean
true_variance = weight @ (variance + mean**2) - true_mean**2
for choice, drawn in samples.items():
    right = (drawn > 0).mean()
    width = drawn[drawn > 0].std()
    print(f"{choice:9}: share of the right curve {right:.2f}, its width {width:.3f}")

# %% [markdown]
# The curves should have the shares 0.3 and 0.7, and the right one the width 0.15. Without noise, all 2,000 samples
# climb to one point near the top of the higher curve. Of images, that would be the same image 2,000 times, and one
# without detail. (There is a way to sample without noise, DDIM, but its step is another one: [lesson
# 10](10_sampling.py).)

# %%
# a share of n draws has a standard deviation of sqrt(w (1 - w) / n), a width of n draws one of width / sqrt(2 n)
for choice in ("posterior", "beta"):
    right = samples[choice][samples[choice] > 0]
    assert abs(len(right) / count - 0.7) < 5 * np.sqrt(0.7 * 0.3 / count)
    # a thousand steps are not infinitely many: 3 percent for what they leave
    assert abs(right.std() - 0.15) < 5 * 0.15 / np.sqrt(2 * len(right)) + 0.03 * 0.15
assert samples["zero"][samples["zero"] > 0].std() < 0.1 * 0.15

# %% [markdown]
# ## How much noise?
#
# As much as $x_{t-1}$ varies, given $x_t$. Split that variance: first the image, then the step. Given $x_t$ and $x_0$
# the variance is $\tilde\beta_t$ and the mean is $\tilde\mu_t$, in which $x_0$ has the factor
# $c_t = \sqrt{\bar\alpha_{t-1}}\, \beta_t / (1 - \bar\alpha_t)$. By the law of total variance,
#
# $$
# \mathrm{Var}(x_{t-1} \mid x_t) = \tilde\beta_t + c_t^2\, \mathrm{Var}(x_0 \mid x_t)
# $$
#
# The second part is what is not known about the image. Two cases can be done on paper.
#
# **The data are a single point.** Then $\mathrm{Var}(x_0 \mid x_t) = 0$, and $\sigma_t^2 = \tilde\beta_t$ is right.
#
# **The data are $\mathcal{N}(0, 1)$.** Then $\mathrm{Var}(x_0 \mid x_t) = 1 - \bar\alpha_t$, and
#
# $$
# \tilde\beta_t + \frac{\bar\alpha_{t-1} \beta_t^2}{1 - \bar\alpha_t}
# = \beta_t\, \frac{1 - \bar\alpha_{t-1} + \bar\alpha_{t-1} \beta_t}{1 - \bar\alpha_t}
# = \beta_t\, \frac{1 - \bar\alpha_t}{1 - \bar\alpha_t} = \beta_t
# $$
#
# since $\bar\alpha_{t-1} (1 - \beta_t) = \bar\alpha_t$. So $\sigma_t^2 = \beta_t$ is right. Pixels of images lie in
# $[-1, 1]$, have a variance of at most 1, and are more than one point: **on average the truth lies between
# $\tilde\beta_t$ and $\beta_t$.** (The best guess of $x_0$ is at least as good as the best straight line in $x_t$,
# whose error is $v\, (1 - \bar\alpha_t) / (\bar\alpha_t v + 1 - \bar\alpha_t)$ for data of variance $v$. That is at
# most $1 - \bar\alpha_t$ for $v \le 1$.) For the two curves we can compute it.

# %% alt="Variance over beta against t: 1 for beta; beta-tilde rises from 0 to 1; the true variance lies between them."
steps = np.unique(np.geomspace(1, 1000, 60).astype(int))
truth = []
for t in steps:
    # average over x_t, on a grid that holds all of them
    x = np.linspace(-5, 5, 2001)[:, None]
    share, guess, rest = curves(x, t)
    var_x_0 = (share * (rest + guess**2)).sum(axis=1) - (share * guess).sum(axis=1) ** 2
    a, s_2 = schedule.sqrt_alpha_bar[t], schedule.one_minus_alpha_bar[t]
    total = a**2 * variance + s_2
    p = (weight * np.exp(-((x - a * mean) ** 2) / (2 * total)) / np.sqrt(2 * np.pi * total)).sum(axis=1)
    assert abs(p.sum() * 0.005 - 1) < 1e-6
    c = schedule.posterior_mean_coef_x_0[t]
    truth.append(schedule.posterior_variance[t] + c**2 * (p * var_x_0).sum() * 0.005)
truth = np.array(truth)
beta, beta_tilde = schedule.beta[steps], schedule.posterior_variance[steps]
assert np.all(truth > beta_tilde)
assert np.all(truth < beta)

figure, axis = plt.subplots()
axis.semilogx(steps, np.ones(len(steps)), label=r"$\beta_t$")
axis.semilogx(steps, truth / beta, label="the truth for the two curves")
axis.semilogx(steps, beta_tilde / beta, label=r"$\tilde\beta_t$")
axis.set(xlabel="t", ylabel=r"variance / $\beta_t$", ylim=(0, 1.1))
axis.legend(loc="lower right")

# %% [markdown]
# From $t = 20$ on the choice hardly matters with a thousand steps: both kept the right shape above. With few steps
# every step is long, and it matters more.

# %%
assert np.all(beta_tilde[steps >= 20] > 0.9 * beta[steps >= 20])
few = schedule.respace(10)
print("of 10 steps, beta-tilde / beta:", (few.posterior_variance[1:] / few.beta[1:]).round(2))

# %% [markdown]
# ## Why none at the last step?
#
# At $t = 1$ the step leads to the image itself. The formula says so: $\tilde\beta_1 = 0$. Whoever chose $\beta_t$ has
# a $\beta_1$ above 0, and it is not used: the most likely image is the mean, and noise on it could only be seen. A
# thousand steps forgive it, since $\sqrt{\beta_1} = 0.01$ is about one of 256 grey levels. Fewer steps do not.

# %% alt="A digit with the noise of a last step of 1000, 50 and 10 steps: unchanged, slightly grainy, very grainy."
digit = ref.load_digits()[0][:1]
z = ref.normal(seed=0, stream=ref.REVERSE, step=1, sample=0, shape=(1, 8, 8))
figure, axes = plt.subplots(1, 3, figsize=(5.6, 1.9))
for axis, count in zip(axes, (1000, 50, 10), strict=True):
    sigma = np.sqrt(schedule.respace(count).beta[1])
    axis.imshow((digit + sigma * z)[0, 0], vmin=-1, vmax=1)
    axis.set_title(rf"{count} steps: $\sqrt{{\beta_1}}$ = {sigma:.2f}", fontsize=9)
    axis.axis("off")

for choice in ("beta", "posterior"):
    step = ref.reverse_step(schedule, digit, z, 1, z, variance=choice)
    assert np.array_equal(step, ref.reverse_mean(schedule, digit, z, 1))

# %% [markdown]
# ## Exercise: the right noise for a bell curve
#
# Let one pixel be $\mathcal{N}(0, v)$. Then
# $\mathrm{Var}(x_0 \mid x_t) = v\, (1 - \bar\alpha_t) / (\bar\alpha_t v + 1 - \bar\alpha_t)$. Write $\sigma_t^2$
# down. Check $v = 0$ and $v = 1$. Then follow the variance of $x_t$ from $t = T$ down to 0 by a loop (the best mean
# is $\mathrm{Cov}(x_{t-1}, x_t) / \mathrm{Var}(x_t)$ times $x_t$): does it end at $v$?

# %% [markdown] tags=["answer"]
# $$
# \sigma_t^2 = \tilde\beta_t + c_t^2\, \frac{v\, (1 - \bar\alpha_t)}{\bar\alpha_t v + 1 - \bar\alpha_t}
# $$
#
# With $v = 0$ it is $\tilde\beta_t$, with $v = 1$ it is $\beta_t$. Since $x_t = \sqrt{\alpha_t}\, x_{t-1} + \dots$,
# the covariance is $\sqrt{\alpha_t}\, \mathrm{Var}(x_{t-1})$. Ten steps are enough to end at $v$ exactly, if the
# start has the variance of $x_T$: for a bell curve a step may be as long as it likes.

# %% tags=["answer"]
v = 0.09
few = schedule.respace(10)
marginal = few.alpha_bar * v + few.one_minus_alpha_bar
now = marginal[10]
for t in range(10, 0, -1):
    c = few.posterior_mean_coef_x_0[t]
    unknown = v * few.one_minus_alpha_bar[t] / marginal[t]
    sigma_2 = few.posterior_variance[t] + c**2 * unknown
    slope = np.sqrt(few.alpha[t]) * marginal[t - 1] / marginal[t]
    now = slope**2 * now + sigma_2
print(now)
assert np.isclose(now, v)
