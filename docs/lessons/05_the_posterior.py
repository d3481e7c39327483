# %% [markdown]
# # 5. The posterior, by Bayes' rule
#
# Noise was added in steps; an image is made by going back. What is the right step back from $x_t$? Many images could
# have led to this $x_t$, and which did is what a network has to guess. But **if somebody told us the image $x_0$, the
# step back would be a formula.** It is the target that the network is trained towards, and the step that is taken in
# the end with the network's guess in place of $x_0$.
#
# ## Two hints
#
# Two things are known about $x_{t-1}$. From behind, it came from $x_0$ by $t - 1$ steps, which are one jump (lesson
# 3):
#
# $$
# q(x_{t-1} \mid x_0) = \mathcal{N}(x_{t-1};\ \sqrt{\bar\alpha_{t-1}}\, x_0,\ (1 - \bar\alpha_{t-1}) I)
# $$
#
# From ahead, one step ([lesson 2](02_one_step_of_q.py)) made $x_t$ from it, with $\alpha_t = 1 - \beta_t$:
#
# $$
# q(x_t \mid x_{t-1}) = \mathcal{N}(x_t;\ \sqrt{\alpha_t}\, x_{t-1},\ \beta_t I)
# $$
#
# Bayes' rule multiplies the two; what does not contain $x_{t-1}$ is a constant:
#
# $$
# q(x_{t-1} \mid x_t, x_0) = \frac{q(x_t \mid x_{t-1})\, q(x_{t-1} \mid x_0)}{q(x_t \mid x_0)}
# \;\propto\; q(x_t \mid x_{t-1})\, q(x_{t-1} \mid x_0)
# $$
#
# (The step does not look at $x_0$, so $q(x_t \mid x_{t-1}, x_0) = q(x_t \mid x_{t-1})$.)
#
# ## Multiply two Gaussians
#
# The logarithm of each is a parabola in $x_{t-1}$, and the sum of two parabolas is a parabola: the product is a
# Gaussian. For one pixel, up to a constant,
#
# $$
# -\frac{(x_t - \sqrt{\alpha_t}\, x_{t-1})^2}{2 \beta_t} - \frac{(x_{t-1} - \sqrt{\bar\alpha_{t-1}}\, x_0)^2}{2 (1 - \bar\alpha_{t-1})}
# = -\frac12 \left( \frac{1}{\tilde\beta_t} x_{t-1}^2 - \frac{2 \tilde\mu_t}{\tilde\beta_t} x_{t-1} \right) + \dots
# $$
#
# What stands before $x_{t-1}^2$ gives the variance. Precisions, one over the variance, add:
#
# $$
# \frac{1}{\tilde\beta_t} = \frac{\alpha_t}{\beta_t} + \frac{1}{1 - \bar\alpha_{t-1}}
# = \frac{\alpha_t (1 - \bar\alpha_{t-1}) + \beta_t}{\beta_t (1 - \bar\alpha_{t-1})} = \frac{1 - \bar\alpha_t}{\beta_t (1 - \bar\alpha_{t-1})}
# $$
#
# since $\alpha_t - \alpha_t \bar\alpha_{t-1} + \beta_t = 1 - \bar\alpha_t$. What stands before $x_{t-1}$ gives the
# mean:
#
# $$
# \tilde\mu_t = \tilde\beta_t \left( \frac{\sqrt{\alpha_t}}{\beta_t}\, x_t + \frac{\sqrt{\bar\alpha_{t-1}}}{1 - \bar\alpha_{t-1}}\, x_0 \right)
# = \frac{\sqrt{\bar\alpha_{t-1}}\, \beta_t}{1 - \bar\alpha_t}\, x_0 + \frac{\sqrt{\alpha_t}\, (1 - \bar\alpha_{t-1})}{1 - \bar\alpha_t}\, x_t
# $$
#
# These are equations 6 and 7 of Ho et al. (2020). In the code the two fractions are tables over $t$:
#
# ```{source} reference.posterior.posterior_mean
# ```
#
# ```{source} reference.schedule.Schedule.posterior_variance
# ```
#
# ## Seen
#
# One pixel with $x_0 = 0.8$ that has become $x_t = -0.5$ at $t = 10$ of 20 steps. The code's formula is drawn as a
# line, and the product of the two Gaussians, computed point by point and divided by its area, as dots.

# %% alt="Three bell curves over x_(t-1): where x_0 puts it, where x_t puts it, and the narrower posterior between them."
import matplotlib.pyplot as plt
import noisestep.reference as ref
import numpy as np

plt.style.use("noisestep.lessons.pictures")


def gaussian(x, mean, variance):
    return np.exp(-((x - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)


schedule = ref.Schedule.from_name("cosine", 20)
t, x_0, x_t = 10, np.array([[0.8]]), np.array([[-0.5]])

x = np.linspace(-2.5, 2.5, 1001)
behind = gaussian(x, *(value.item() for value in ref.q_mean_variance(schedule, x_0, t - 1)))
# the step, looked at as a function of where it began
ahead = gaussian(x_t.item(), np.sqrt(schedule.alpha[t]) * x, schedule.beta[t])
product = behind * ahead
product /= product.sum() * (x[1] - x[0])

mean, variance = (value.item() for value in ref.posterior_mean_variance(schedule, x_0, x_t, t))
np.testing.assert_allclose(gaussian(x, mean, variance), product, atol=1e-6)

figure, axis = plt.subplots()
axis.plot(x, behind, label="$q(x_{t-1} | x_0)$: from behind")
axis.plot(x, ahead, label="$q(x_t | x_{t-1})$: from ahead")
axis.plot(x, gaussian(x, mean, variance), label=r"posterior $N(\tilde\mu_t, \tilde\beta_t)$")
axis.plot(x[::25], product[::25], ".", label="product of the two")
axis.set(xlabel="$x_{t-1}$", ylabel="density")
axis.legend(loc="upper right")

# %% [markdown]
# The posterior is narrower than both: two hints are better than one. It lies nearer to the one that is surer. At
# large $t$, where $\bar\alpha_{t-1}$ is small, $x_0$ says little about $x_{t-1}$, and the step follows $x_t$. At
# small $t$ it is the other way round:

# %% alt="The weights of x_0 and of x_t against t: x_0 has nearly all of it in the first steps, x_t from there on."
schedule = ref.Schedule.from_name("linear", 1000)
figure, (left, right) = plt.subplots(1, 2)
left.semilogx(range(1, 1001), schedule.posterior_mean_coef_x_0[1:], label="weight of $x_0$")
left.semilogx(range(1, 1001), schedule.posterior_mean_coef_x_t[1:], label="weight of $x_t$")
left.set_xlabel("t")
left.legend()
right.semilogx(range(1, 1001), schedule.posterior_variance[1:] / schedule.beta[1:])
right.set(xlabel="t", title=r"$\tilde\beta_t / \beta_t$", ylim=(0, 1.1))

# %% [markdown]
# At $t = 1$ the step before *is* $x_0$: the weights are 1 and 0, and the variance is 0. Every formula above says so
# without a special case, because row 0 of the tables has $\bar\alpha_0 = 1$:

# %%
noise = ref.normal(seed=0, stream=ref.FORWARD, step=1, sample=0, shape=(1,))
x_1 = ref.q_sample(schedule, x_0, 1, noise)
mean, variance = ref.posterior_mean_variance(schedule, x_0, x_1, 1)
print(f"x_0 {x_0.item():.4f}, x_1 {x_1.item():.4f}: mean {mean.item():.4f}, variance {variance}")
assert np.isclose(mean, x_0)
assert variance == 0

# %% [markdown]
# ## Exercise: how much noise?
#
# $\tilde\beta_t$ is never above $\beta_t$. Why not? Find a reason in words, and one in the formula. Where is the
# difference large, and where can you forget it? (The right-hand picture.)

# %% [markdown] tags=["answer"]
# In words: a hint more, $x_0$, cannot make us less sure. In the formula:
#
# $$
# \frac{\tilde\beta_t}{\beta_t} = \frac{1 - \bar\alpha_{t-1}}{1 - \bar\alpha_t} < 1
# \qquad \text{because} \qquad \bar\alpha_t = \alpha_t\, \bar\alpha_{t-1} < \bar\alpha_{t-1}
# $$
#
# Both parts of the fraction are near 1 once the image is well mixed with noise, and $\tilde\beta_t \approx \beta_t$
# there. In the first steps the fraction is far from 1: it is 0 at $t = 1$.

# %% tags=["answer"]
ratio = schedule.posterior_variance[1:] / schedule.beta[1:]
assert ratio[0] == 0
assert np.all(ratio < 1)
first = 1 + int(np.argmax(ratio > 0.95))
print(f"within 5 % of each other from t = {first} of 1000 on")
