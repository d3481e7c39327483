# %% [markdown]
# # Why add noise while denoising, and why not at the end?
#
# A step back draws from $p(x_{t-1} \mid x_t)$, a distribution. Many $x_{t-1}$ could have led to this $x_t$. The mean is
# their average; **the noise picks one of them.** Without it, each step loses variance that the real $x_{t-1}$ has. The
# samples come together, and their differences are gone before the digits are decided. (DDIM adds no noise either, but
# its mean is another one, which keeps the variance right: [lesson 10](../lessons/10_sampling.py).)
#
# At $t = 1$ the result is the picture itself. Nothing comes after it that could take the noise off again, so
# noise there would only be seen. And if $x_0$ is known, there is nothing left to choose: $\tilde\beta_1 = 0$.
#
# ```{source} reference.reverse.reverse_step
# ```
#
# The experiment uses the best network that there can be for these 1,797 digits: its guess of $x_0$ is the mean of all
# digits, weighted by how likely it is that they led to $x_t$. It knows them by heart; only the sampling differs.

# %% alt="Three rows: ten different clean digits, then ten times the same digit, then ten different grainy digits."
import matplotlib.pyplot as plt
import noisestep.reference as ref
import numpy as np

plt.style.use("noisestep.lessons.pictures")

images, labels = ref.load_digits()
flat = images.reshape(-1, 64)
full = ref.Schedule.from_name("linear", 1000)
schedule = full.respace(20)


def network(x_t, t):
    x, signal = x_t.reshape(len(x_t), 64), full.sqrt_alpha_bar[t][:, None]
    # the square of x - signal * digit; x^2 is the same for all digits, and is left out
    squares = signal**2 * np.sum(flat**2, axis=1) - 2 * signal * x @ flat.T
    likely = -squares / (2 * full.one_minus_alpha_bar[t][:, None])
    weight = np.exp(likely - likely.max(axis=1, keepdims=True))
    return (weight @ flat / weight.sum(axis=1, keepdims=True)).reshape(x_t.shape)


shape = (10, 1, 8, 8)
right = ref.sample(schedule, network, shape, prediction="x_0")
none = ref.sample(schedule, network, shape, prediction="x_0", variance="zero")
z = ref.normal(seed=0, stream=ref.REVERSE, step=1, sample=range(10), shape=(1, 8, 8))
at_the_end = right + np.sqrt(schedule.beta[1]) * z

figure, axes = plt.subplots(3, 10, figsize=(5.6, 1.9))
rows = (("noise", right), ("never", none), ("at t = 1", at_the_end))
for row, (name, samples) in zip(axes, rows, strict=True):
    for axis, image in zip(row, samples, strict=True):
        axis.imshow(image[0], vmin=-1, vmax=1)
        axis.set(xticks=[], yticks=[])
    row[0].set_ylabel(name, fontsize=8)
    print(f"{name:8} standard deviation over the samples: {samples.std(axis=0).mean():.3f}")
assert none.std(axis=0).max() < 1e-6
assert right.std(axis=0).max() > 0.5

# %% [markdown]
# Top: with noise at all steps but the last. Middle: without any. Bottom: with noise at the last step too.
