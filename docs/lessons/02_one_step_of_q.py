# %% [markdown]
# # 2. One step of q
#
# An image is turned into noise slowly, in a thousand steps that all do the same: **shrink the image a little, add a
# little noise.** How little is a number between 0 and 1, $\beta_t$, which is chosen before anything is trained. The
# step is called $q$, after its distribution:
#
# $$
# q(x_t \mid x_{t-1}) = \mathcal{N}(x_t;\ \sqrt{1 - \beta_t}\, x_{t-1},\ \beta_t I)
# $$
#
# Read it from the right: $x_t$ is drawn from a Gaussian whose mean is the image before, shrunk, and whose variance is
# $\beta_t$, the same for every pixel and independent of the others. Every Gaussian is its mean plus its standard
# deviation times standard noise, so the same thing as a recipe is
#
# $$
# x_t = \sqrt{1 - \beta_t}\, x_{t-1} + \sqrt{\beta_t}\, \epsilon, \qquad \epsilon \sim \mathcal{N}(0, I)
# $$
#
# and the recipe is the code:
#
# ```{source} reference.forward.q_step_mean_variance
# ```
#
# ```{source} reference.forward.q_step
# ```
#
# ## Seen
#
# One digit, step after step. `beta[1]` is the first step's $\beta$; row 0 of every table is the clean image. The
# noise of step $t$ has an address, so that this page shows the same picture on every machine.

# %% alt="The same digit at t = 0, 1, 10, 50, 100, 200 and 400: sharp at first, grainy at 50, lost in noise at 400."
import matplotlib.pyplot as plt
import noisestep.reference as ref
import numpy as np

plt.style.use("noisestep.lessons.pictures")

images, labels = ref.load_digits()
schedule = ref.Schedule.from_name("linear", 1000)

x = images[:1]
chain = [x]
for t in range(1, schedule.T + 1):
    eps = ref.normal(seed=0, stream=ref.FORWARD, step=t, sample=0, shape=(1, 8, 8))
    x = ref.q_step(schedule, x, t, eps)
    chain.append(x)

figure, axes = plt.subplots(1, 7, figsize=(5.6, 1.1))
for axis, t in zip(axes, [0, 1, 10, 50, 100, 200, 400], strict=True):
    axis.imshow(chain[t][0, 0], vmin=-1, vmax=1)
    axis.set_title(f"t = {t}", fontsize=8)
    axis.axis("off")

# %% [markdown]
# ## Why the square root?
#
# Because it keeps the numbers in bounds. The noise is independent of the image, so variances add, and a factor counts
# squared:
#
# $$
# \mathrm{Var}(x_t) = \left(\sqrt{1 - \beta_t}\right)^2 \mathrm{Var}(x_{t-1}) + \beta_t
# = (1 - \beta_t)\, \mathrm{Var}(x_{t-1}) + \beta_t
# $$
#
# Subtract 1 from both sides:
#
# $$
# \mathrm{Var}(x_t) - 1 = (1 - \beta_t) \left( \mathrm{Var}(x_{t-1}) - 1 \right)
# $$
#
# Variance 1 stays 1, for any $\beta_t$. Any other variance comes closer to 1 with every step. So a network that sees
# $x_t$ sees numbers of about the same size at every $t$. The dashed line has no shrinking: $x_t = x_{t-1} +
# \sqrt{\beta_t}\, \epsilon$ adds up to the variance $\sum_t \beta_t \approx 10$.

# %% alt="Variance against t. With the shrinking, starts of variance 0, 0.5 and 2 all end at 1. Without it, 1 grows to 11."
T = schedule.T
figure, axis = plt.subplots()
for start in (2.0, 0.5, 0.0):
    variance = [start]
    for beta in schedule.beta[1:]:
        variance.append((1 - beta) * variance[-1] + beta)
    axis.plot(variance, label=f"from {start}")
axis.plot(1 + np.cumsum(schedule.beta), "--", label="from 1, not shrunk")
axis.set(xlabel="t", ylabel="variance of a pixel", ylim=(0, 4))
axis.legend(loc="upper right")

# is it true? 20,000 pixels that begin with variance 2 take a hundred steps
x = np.sqrt(2.0) * ref.normal(1, ref.FORWARD, 0, 0, (20_000,))
expected = 2.0
for t in range(1, 101):
    x = ref.q_step(schedule, x, t, ref.normal(0, ref.FORWARD, t, 0, (20_000,)))
    expected = (1 - schedule.beta[t]) * expected + schedule.beta[t]
print(f"variance after 100 steps: {x.var():.2f}, by the formula {expected:.2f}")
# the variance of n draws has a standard deviation of variance * sqrt(2 / n)
assert abs(x.var() - expected) < 5 * expected * np.sqrt(2 / x.size)

# %% [markdown]
# ## Exercise: forget the root
#
# A frequent slip is `(1 - beta_t) * x + np.sqrt(beta_t) * eps`. Let $\beta = 0.02$ at every step. To which variance
# does a pixel go, after very many steps? Find the number on paper, then by a loop.

# %% [markdown] tags=["answer"]
# The variance $v$ that no longer changes satisfies $v = (1 - \beta)^2 v + \beta$. Since $1 - (1 - \beta)^2 =
# \beta\,(2 - \beta)$,
#
# $$
# v = \frac{1}{2 - \beta} \approx 0.505
# $$
#
# The noise at the end has a standard deviation of 0.71 and not 1. Sampling starts from $\mathcal{N}(0, I)$, which
# such a network has never seen.

# %% tags=["answer"]
v = 1.0
for _ in range(1000):
    v = (1 - 0.02) ** 2 * v + 0.02
print(v, 1 / (2 - 0.02))
assert np.isclose(v, 1 / (2 - 0.02))
