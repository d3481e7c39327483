# %% [markdown]
# # The chapter's code, and its two off-by-one errors
#
# **Signs:** an `IndexError` once in a while during training, or samples with a fine grain that more training does not
# remove.
#
# The chapter's equations count $t$ from 1 to $T$. Its tables are Python tensors, which count from 0:
#
# ```python
# alpha_bar = torch.cumprod(alpha, dim=0)
# # t: timestep indices uniformly sampled in [1, T]
# sqrt_alpha_bar = torch.sqrt(alpha_bar[t])[:, None, None, None]
# ```
#
# Entry 0 of the table is $\bar\alpha_1$. So `alpha_bar[t]` is $\bar\alpha_{t+1}$: the network never sees
# $\bar\alpha_1$, and $t = T$ reads past the end. The second error is in the sampling loop:
#
# ```python
# for t in reversed(range(1, T)):
#     ...
#     if t > 1:
# ```
#
# It takes $T - 1$ steps. The one that is missing is the last, from $x_1$ to $x_0$. And the fresh noise is left out
# one step early.
#
# **Mend it** in one of two ways: draw `t` from `[0, T - 1]`, loop over `reversed(range(T))`, and ask `if t > 0`; or
# give the tables a row for $t = 0$, as `schedule.Schedule` does, and loop over `range(T, 0, -1)`.

# %%
import matplotlib.pyplot as plt
import noisestep.reference as ref
import numpy as np

plt.style.use("noisestep.lessons.pictures")

T = 10
schedule = ref.Schedule.from_name("linear", 1000).respace(T)
# the chapter's tables
beta = schedule.beta[1:]
alpha = 1 - beta
alpha_bar = np.cumprod(alpha)

np.testing.assert_allclose(alpha_bar[3], schedule.alpha_bar[4])
try:
    alpha_bar[T]
except IndexError as error:
    print("t = T:", error)

# %% [markdown]
# Ten steps show what a thousand hide. The network is the best that there can be for 300 digits, so that all errors
# are those of the loop. It is asked with the number of the step whose noise $x_t$ has.

# %% alt="Two rows of digits. By the chapter's loop they are grainy, with all steps they are clean."
images = ref.load_digits()[0][:300]
flat = images.reshape(-1, 64)


def network(x_t, t):
    """The best guess of x_0 if the data are these 300 digits."""
    a, s_2 = schedule.sqrt_alpha_bar[t[0]], schedule.one_minus_alpha_bar[t[0]]
    x = x_t.reshape(-1, 64)
    score = (2 * a * x @ flat.T - a**2 * (flat**2).sum(axis=1)) / (2 * s_2)
    share = np.exp(score - score.max(axis=1, keepdims=True))
    return (share @ flat / share.sum(axis=1, keepdims=True)).reshape(x_t.shape)


def chapter_sample(x, steps, last):
    for t in steps:
        model_t = np.full(len(x), t + 1)
        x_0 = network(x, model_t)
        eps = ref.eps_from_x_0(schedule, x, x_0, t + 1)
        x = 1 / np.sqrt(alpha[t]) * (x - (1 - alpha[t]) / np.sqrt(1 - alpha_bar[t]) * eps)
        if t > last:
            z = ref.normal(seed=0, stream=ref.REVERSE, step=t, sample=range(8), shape=(1, 8, 8))
            x = x + np.sqrt(beta[t]) * z
    return x


x_T = ref.normal(seed=0, stream=ref.INITIAL, step=0, sample=range(8), shape=(1, 8, 8)).astype(float)
rows = {
    "the chapter": chapter_sample(x_T, reversed(range(1, T)), last=1),
    "all steps": chapter_sample(x_T, reversed(range(T)), last=0),
}
figure, axes = plt.subplots(2, 8, figsize=(5.6, 1.7))
for row, (name, digits) in zip(axes, rows.items(), strict=True):
    off = ((digits.reshape(8, 1, 64) - flat) ** 2).mean(axis=2).min(axis=1) ** 0.5
    print(f"{name}: {off.mean():.3f} off the nearest digit")
    for axis, digit in zip(row, digits, strict=True):
        axis.imshow(digit[0], vmin=-1, vmax=1)
        axis.set(xticks=[], yticks=[])
    row[0].set_ylabel(name, fontsize=7)
