# %% [markdown]
# # Why sample with averaged weights (EMA)?
#
# Every training step sees another batch, other $t$ and other noise. So the weights never settle: they **wander around
# the best ones**, and where they are when you stop is chance. An average over the last steps is nearer to the middle:
#
# $$
# \bar\theta \leftarrow d\, \bar\theta + (1 - d)\, \theta
# $$
#
# It remembers about $1 / (1 - d)$ steps. Were the weights of each step independent with variance $v$, its variance
# would be $\frac{1 - d}{1 + d} v$: the squares of the factors $(1 - d)\, d^k$ add up to that. A smaller learning rate
# at the end does something similar; the average does it at any moment, without ending the training. Diffusion profits
# much, since its loss is noisier than most: a batch is one draw of $t$ and $\epsilon$ for each image. A sampler also
# calls the network a thousand times, and repeats its error.
#
# ```{source} reference.optimizer.ema
# ```
#
# The experiment: one weight, $\epsilon_\theta = w\, x_t$, trained with small batches. The best $w$ is known. Too
# large a decay is wrong, too: in the first $1 / (1 - d)$ steps the average still holds the weights of the start.

# %% alt="The weight jitters around the best value; its average with decay 0.98 stays close to it after a slow start."
import matplotlib.pyplot as plt
import noisestep.reference as ref
import numpy as np

plt.style.use("noisestep.lessons.pictures")

schedule, t = ref.Schedule.from_name("linear", 1000), 300
# pixels of N(0, 1): E[eps x_t] / E[x_t^2]
best = schedule.sqrt_one_minus_alpha_bar[t]

w, mean, path = np.zeros(1), {"w": np.zeros(1)}, []
for step in range(1000):
    x_0 = ref.normal(1, ref.FORWARD, step, 0, (1, 16)).astype(float)
    eps = ref.normal(0, ref.FORWARD, step, 0, (1, 16)).astype(float)
    x_t = ref.q_sample(schedule, x_0, t, eps)
    w = w - 0.1 * np.mean(2 * (w * x_t - eps) * x_t)
    mean = ref.ema(mean, {"w": w}, 0.98)
    path.append((w[0], mean["w"][0]))
path = np.array(path)

figure, axis = plt.subplots()
axis.plot(path[:, 0], linewidth=0.8, label="w")
axis.plot(path[:, 1], label="EMA of w")
axis.axhline(best, linestyle="--", color="C5", label="best w")
axis.set(xlabel="step", ylim=(0, 1.2))
axis.legend(loc="lower right")
error = np.sqrt(np.mean((path[300:] - best) ** 2, axis=0))
print(f"root mean square error after step 300: {error[0]:.3f}, of the average {error[1]:.3f}")
assert error[1] < 0.6 * error[0]
