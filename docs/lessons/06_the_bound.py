# %% [markdown]
# # 6. The bound, and how it becomes the loss
#
# Why does the chapter train with $\lVert \epsilon - \epsilon_\theta \rVert^2$? The aim is another: **real images
# should be likely under the model.** This lesson goes from the one to the other. [The derivation](../derivation.md)
# has every line of it, with a check for each; here are the ideas.
#
# ## 1. A likelihood that nobody can compute
#
# The model draws $x_T \sim \mathcal{N}(0, I)$, then $x_{T-1}$, and so on down to $x_0$. The probability of an image
# $x_0$ is an integral over all the chains that end at it. It has no formula. But we know chains that lead to $x_0$:
# those of $q$, read backwards. Multiply and divide by $q$:
#
# $$
# -\log p_\theta(x_0) = -\log \int q\, \frac{p_\theta(x_{0:T})}{q(x_{1:T} \mid x_0)}\, dx_{1:T}
# = -\log \mathbb{E}_q\!\left[ \frac{p_\theta(x_{0:T})}{q(x_{1:T} \mid x_0)} \right]
# $$
#
# Now **Jensen's inequality**: as $-\log$ is convex, the minus-log of an average is at most the average of the
# minus-logs. So
#
# $$
# -\log p_\theta(x_0) \le \mathbb{E}_q\!\left[ -\log \frac{p_\theta(x_{0:T})}{q(x_{1:T} \mid x_0)} \right]
# $$
#
# The right side is the **variational bound**. We make it small; the left side is smaller still.

# %%
import matplotlib.pyplot as plt
import noisestep.reference as ref
import numpy as np

plt.style.use("noisestep.lessons.pictures")

ratios = np.array([0.1, 0.5, 1.0, 4.0])
print(f"minus-log of the average {-np.log(ratios.mean()):.3f}")
print(f"average of the minus-logs {-np.log(ratios).mean():.3f}")
assert -np.log(ratios.mean()) < -np.log(ratios).mean()

# %% [markdown]
# ## 2. One term for each step
#
# Both chains are products of steps, so the logarithm is a sum. Bayes' rule turns each step of $q$ around
# ([lesson 5](05_the_posterior.py)), so that it goes from $x_t$ to $x_{t-1}$ as the model does. What is left is one
# comparison for each step, of the right step back (the posterior) with the step of the model:
#
# $$
# \begin{aligned}
# L_T &= D_{\mathrm{KL}}(q(x_T \mid x_0) \,\|\, \mathcal{N}(0, I)) \\
# L_{t-1} &= D_{\mathrm{KL}}(q(x_{t-1} \mid x_t, x_0) \,\|\, p_\theta(x_{t-1} \mid x_t)), \quad t > 1 \\
# L_0 &= -\log p_\theta(x_0 \mid x_1)
# \end{aligned}
# $$
#
# The bound is the expectation of $L_T + L_{T-1} + \dots + L_0$. There is nothing to train in $L_T$; it is the
# distance that [lesson 4](04_schedules.py) computed.
#
# ## 3. A formula for each term
#
# $D_{\mathrm{KL}}(a \,\|\, b) = \mathbb{E}_a[\log a - \log b]$ is the Kullback–Leibler divergence. It is 0 where $a$
# and $b$ are equal, and positive elsewhere. For two normal distributions the logarithms are parabolas. With
# $\mathbb{E}_a[(x - m_1)^2] = v_1$ and $\mathbb{E}_a[(x - m_2)^2] = v_1 + (m_1 - m_2)^2$,
#
# $$
# \begin{aligned}
# D_{\mathrm{KL}} &= \mathbb{E}_a\!\left[ -\tfrac12 \log v_1 - \frac{(x - m_1)^2}{2 v_1} + \tfrac12 \log v_2 + \frac{(x - m_2)^2}{2 v_2} \right] \\
# &= \tfrac12 \left( \frac{v_1}{v_2} - 1 - \log \frac{v_1}{v_2} + \frac{(m_1 - m_2)^2}{v_2} \right)
# \end{aligned}
# $$
#
# ```{source} reference.bound.normal_kl
# ```
#
# If the variances are fixed, **only the distance of the means is left to be learned**, and it enters squared.

# %% alt="The divergence of two normal distributions against the distance of their means: a parabola, with dots on it."
x = np.linspace(-12, 12, 4001)


def log_normal(mean, variance):
    return -((x - mean) ** 2) / (2 * variance) - np.log(2 * np.pi * variance) / 2


v_1, v_2 = 0.5, 0.6
distances = np.linspace(-2, 2, 17)
a = log_normal(0.0, v_1)
by_sum = [np.sum(np.exp(a) * (a - log_normal(d, v_2))) * (x[1] - x[0]) for d in distances]
by_formula = ref.normal_kl(np.zeros(17), np.log([v_1]), distances, np.log([v_2]))
# a sum over a fine grid is exact for smooth functions that vanish at both ends, up to rounding
np.testing.assert_allclose(by_formula, by_sum, rtol=1e-9)

figure, axis = plt.subplots(figsize=(5.6, 2.2))
axis.plot(distances, by_formula, label="formula")
axis.plot(distances, by_sum, ".", label="definition, summed on a grid")
axis.set(xlabel="$m_2 - m_1$", ylabel="divergence", ylim=(0, None))
axis.legend(fontsize=8)

# %% [markdown]
# ## 4. From means to noise
#
# The posterior's mean contains $x_0$, which the network is not told. Put
# $x_0 = (x_t - \sqrt{1 - \bar\alpha_t}\, \epsilon) / \sqrt{\bar\alpha_t}$ into it, and it becomes
#
# $$
# \tilde\mu_t = \frac{1}{\sqrt{\alpha_t}} \left( x_t - \frac{\beta_t}{\sqrt{1 - \bar\alpha_t}}\, \epsilon \right)
# $$
#
# The network is told $x_t$; only $\epsilon$ is unknown. So let it guess $\epsilon$, and build $\mu_\theta$ from the
# guess $\epsilon_\theta$ in the same way. The difference of the two means is then a factor times the difference of
# the noises, and the divergence is
#
# $$
# L_{t-1} = w_t \left\lVert \epsilon - \epsilon_\theta(x_t, t) \right\rVert^2 + C_t,
# \qquad
# w_t = \frac{\beta_t^2}{2 \sigma_t^2\, \alpha_t\, (1 - \bar\alpha_t)}
# $$
#
# $\sigma_t^2$ is the variance of the model's step. $C_t$ does not depend on the network, and is 0 for
# $\sigma_t^2 = \tilde\beta_t$, which we take here. **Up to this point only the inequality was given away.**
#
# ## 5. Drop the weights
#
# The last step is a decision and not a derivation. Ho et al. (2020) set $w_t = 1$:
#
# $$
# \mathcal{L}_{\text{simple}} = \mathbb{E}_{x_0, \epsilon, t} \left[ \left\lVert \epsilon - \epsilon_\theta(x_t, t) \right\rVert^2 \right]
# $$
#
# ```{source} reference.loss.simple_loss
# ```
#
# ## Seen
#
# A bound needs a network. Here is one that needs no training: it acts as if the digits were one large Gaussian, with
# the mean $m$ and the covariance $S$ of the data. Then $x_t$ has the mean $\sqrt{\bar\alpha_t}\, m$ and the
# covariance $V_t = \bar\alpha_t S + (1 - \bar\alpha_t) I$, and the best guess of the noise is linear in $x_t$:
#
# $$
# \epsilon_\theta(x_t, t) = \sqrt{1 - \bar\alpha_t}\; V_t^{-1} \left( x_t - \sqrt{\bar\alpha_t}\, m \right)
# $$
#
# It also knows that a pixel has only 17 levels, $1/8$ apart. At the first few steps, where the noise is much smaller
# than that, it takes the nearest level for the pixel.

# %% alt="Left: the weight against t falls from 0.6 to 0.005. Right: error and term fall from t = 7 on."
images, labels = ref.load_digits()
schedule = ref.Schedule.from_name("linear", 1000)
flat = images.reshape(len(images), 64)
m = flat.mean(axis=0)
variances, axes = np.linalg.eigh(np.cov(flat.T))


def gaussian_network(x_t, t):
    signal = schedule.sqrt_alpha_bar[t][:, None]
    noise = schedule.sqrt_one_minus_alpha_bar[t][:, None]
    x = x_t.reshape(len(x_t), 64)
    centred = x - signal * m
    # V_t has the eigenvectors of S
    eps = noise * (centred @ axes) / (signal**2 * variances + noise**2) @ axes.T
    x_0 = np.round(8 * (x - noise * eps) / signal) / 8
    eps = np.where(noise < 0.03, (x - signal * x_0) / noise, eps)
    return eps.reshape(x_t.shape)


x_0 = images[::72]
bound = ref.variational_bound(schedule, gaussian_network, x_0, levels=17)

# the same terms as weighted errors, with the noise that the bound used
t = np.arange(2, 1001)
beta, rest = schedule.beta[t], schedule.one_minus_alpha_bar[t]
w = beta**2 / (2 * schedule.posterior_variance[t] * schedule.alpha[t] * rest)
error = np.empty(999)
for row, step in enumerate(t):
    eps = ref.normal(0, ref.FORWARD, step, range(len(x_0)), (1, 8, 8)).astype(np.float64)
    x_t = ref.q_sample(schedule, x_0, step, eps)
    error[row] = ref.simple_loss(gaussian_network(x_t, np.full(len(x_0), step)), eps)
# in bits: nats over log 2
terms = bound.terms[2:].mean(axis=1)
np.testing.assert_allclose(w * error / np.log(2), terms, rtol=1e-9, atol=1e-12)

figure, (left, right) = plt.subplots(1, 2, figsize=(5.6, 2.7))
left.loglog(t, w)
left.set(xlabel="t", title="$w_t$")
right.loglog(t, error, label="error of $\\epsilon$ a pixel", linewidth=1)
right.loglog(t, w * error / np.log(2), label="term, bits a pixel", linewidth=1)
right.set(xlabel="t", ylim=(1e-7, 2))
right.legend(fontsize=8)

# %% [markdown]
# A code that knows nothing about digits stores each of the 17 levels with $\log_2 17 = 4.09$ bits a pixel. How many
# bits does this model need?

# %%
print(f"L_T            {bound.prior.mean():.5f}")
print(f"L_1 .. L_(T-1) {bound.terms[2:].sum(axis=0).mean():.3f}")
print(f"L_0            {bound.terms[1].mean():.3f}")
print(f"total          {bound.total.mean():.3f} bits a pixel, against {np.log2(17):.3f}")
assert bound.total.mean() < np.log2(17)
first = bound.terms[2:101].sum() / bound.terms[2:].sum()
print(f"the steps 2 to 100 make {first:.0%} of L_1 .. L_(T-1)")

# %% [markdown]
# (The Gaussian was fitted to the images that it is judged by. An honest figure needs other images.)
#
# Most of the bits are spent at small $t$, on noise that no eye sees. A network that is trained on the bound works
# mostly on them. $\mathcal{L}_{\text{simple}}$ gives all steps the same weight. It bounds the likelihood no
# longer, but the network's effort moves to the large noise, where the shape of an image is decided. Pictures become
# better and code lengths worse (Ho et al. 2020, sections 3.4 and 4.1).
#
# ## Exercise: the network that says nothing
#
# A network answers 0, always. What is its $\mathcal{L}_{\text{simple}}$ (the mean over pixels, as the code
# has it)? And to what do its terms $L_1, \dots, L_{T-1}$ add up, in bits a pixel? Use `w`.

# %% [markdown] tags=["answer"]
# Its error is $\epsilon$ itself, and $\mathbb{E}[\epsilon_i^2] = 1$. So $\mathcal{L}_{\text{simple}} = 1$: the number
# that every training has to beat. Each term is then $w_t$ nats a pixel, and the sum is $\sum_{t > 1} w_t / \log 2$.

# %% tags=["answer"]
silent = ref.variational_bound(schedule, lambda x_t, t: np.zeros_like(x_t), x_0)
terms = silent.terms[2:].sum(axis=0).mean()
print(f"{terms:.2f} bits a pixel; by the sum of the weights {w.sum() / np.log(2):.2f}")
# the mean square of k normal numbers has variance 2 / k, and the steps have noise of their own
spread = np.sqrt(np.sum(w**2) * 2 / x_0.size) / np.log(2)
assert abs(terms - w.sum() / np.log(2)) < 5 * spread
