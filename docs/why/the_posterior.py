# %% [markdown]
# # Why the posterior, and not the chapter's update?
#
# The chapter's update (equation 11 of Ho et al. 2020) goes from $\epsilon_\theta$ straight to the mean:
#
# $$
# \mu = \frac{1}{\sqrt{\alpha_t}} \left( x_t - \frac{1 - \alpha_t}{\sqrt{1 - \bar\alpha_t}}\, \epsilon_\theta \right)
# $$
#
# Much code takes a detour. It computes the $x_0$ that $\epsilon_\theta$ implies, then the mean of the posterior,
# $\tilde\mu_t(x_t, x_0)$ ([lesson 5](../lessons/05_the_posterior.py)). On paper the two are equal. The detour has two
# advantages. **On the way there is an $x_0$, and it can be clipped** to $[-1, 1]$, where pixels live. At large $t$ a
# small error of $\epsilon_\theta$ is a large one of $x_0$ ([why predict the noise](predict_the_noise.py)); the clip
# keeps it in bounds. And the detour serves networks that predict $x_0$ or $v$ as well.
#
# ```{source} reference.reverse.reverse_mean
# ```
#
# The experiment: each pixel is $-1$ or $1$, for which the best network is known,
# $x_\theta = \tanh(\sqrt{\bar\alpha_t}\, x_t / (1 - \bar\alpha_t))$. Its $\epsilon$ is made 1 % too small. Ten steps of
# the cosine schedule go back, and $x_t$ should keep the standard deviation 1 all the way. The first step of
# equation 11 divides by $\sqrt{\alpha_t} = 0.0003$.

# %% alt="Deviation of x_t on the way back. By equation 11 it jumps to 32 at once; with the clip it stays near 1."
import matplotlib.pyplot as plt
import noisestep.reference as ref
import numpy as np

plt.style.use("noisestep.lessons.pictures")

full = ref.Schedule.from_name("cosine", 1000)
schedule = full.respace(10)
print(f"square root of alpha in the first step back: {np.sqrt(schedule.alpha[10]):.5f}")


def network(x_t, t):
    signal, variance = full.sqrt_alpha_bar[t][:, None], full.one_minus_alpha_bar[t][:, None]
    x_0 = np.tanh(signal * x_t / variance)
    return 0.99 * (x_t - signal * x_0) / np.sqrt(variance)


figure, axis = plt.subplots()
for name, clip in (("equation 11", None), ("posterior, $x_0$ clipped", (-1, 1))):
    chain = ref.sample(schedule, network, (1000, 1), clip=clip, trajectory=True)
    deviation = chain.std(axis=(1, 2))
    axis.semilogy(schedule.timesteps, deviation, ".-", label=name)
    first, last = deviation[9], deviation[0]
    print(f"{name}: deviation {first:.2f} after the first step, {last:.2f} at the end")
axis.set(xlabel="t", ylabel="standard deviation of $x_t$", xlim=(1020, -20))
axis.legend()

# without a clip the two means are the same, up to rounding
x_t, t = ref.normal(1, ref.INITIAL, 0, range(10), (1,)).astype(np.float64), 5
eps = network(x_t, np.full(10, 500))
x_0 = ref.x_0_from_eps(schedule, x_t, eps, t)
mean = ref.posterior_mean(schedule, x_0, x_t, t)
np.testing.assert_allclose(ref.mu_from_eps(schedule, x_t, eps, t), mean, rtol=1e-12, atol=1e-12)

# %% [markdown]
# This network recovers, since it answers well even at 32. A trained network has never seen an $x_t$ of that size, and
# nobody knows what it answers.
