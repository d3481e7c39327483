# %% [markdown]
# # 8. Training
#
# All parts are there. Training puts them into a loop of a few lines: take some images, a random $t$ for each, and
# noise; mix; let the network guess the noise; change its weights a little, so that the guess becomes better. After
# a few thousand rounds it draws digits.
#
# ## What is the network asked for?
#
# The loss is a mean square (the chapter's $\mathcal{L}_{\text{simple}}$, [lesson 6](06_the_bound.py)):
#
# $$
# \mathcal{L}_{\text{simple}} = \mathbb{E}_{x_0, \epsilon, t} \left[ \left\lVert \epsilon - \epsilon_\theta(x_t, t) \right\rVert^2 \right]
# $$
#
# Many pairs of image and noise give the same $x_t$. The network sees only $x_t$, so it has to give one answer $a$
# for all of them. Which one is best? For one pixel, split the error at the mean $m = \mathbb{E}[\epsilon \mid x_t]$:
#
# $$
# \mathbb{E}\left[ (\epsilon - a)^2 \mid x_t \right] = \mathbb{E}\left[ (\epsilon - m)^2 \mid x_t \right] + (m - a)^2
# $$
#
# (The mixed term is $2 (m - a)\, \mathbb{E}[\epsilon - m \mid x_t] = 0$.) The first part does not depend on $a$; the
# second is 0 at $a = m$. **The best answer is the mean of all noises that could have made this $x_t$.** And the
# loss never reaches 0: the first part stays.
#
# ## One step
#
# The loss of a batch and its gradients. The network's `backward` was [lesson 7](07_the_network.py).
#
# ```{source} reference.training.simple_loss_gradients
# ```
#
# The weights then take a step against the gradient, by **Adam** (Kingma & Ba 2015). It keeps a running mean
# of the gradient $g$ and of its square, and divides:
#
# $$
# \begin{aligned}
# m_k &= \beta_1 m_{k-1} + (1 - \beta_1)\, g, \qquad v_k = \beta_2 v_{k-1} + (1 - \beta_2)\, g^2 \\
# \theta_k &= \theta_{k-1} - \eta\, \frac{m_k / (1 - \beta_1^k)}{\sqrt{v_k / (1 - \beta_2^k)} + \varepsilon}
# \end{aligned}
# $$
#
# (These $\beta$ and $\varepsilon$ are Adam's own, and have nothing to do with the noise.) The divisions by
# $1 - \beta^k$ correct for the start at 0: after $k$ steps the factors before the gradients, $(1 - \beta)\beta^j$, add
# up to $1 - \beta^k$ and not to 1.
#
# ```{source} reference.optimizer.Adam.update
# ```
#
# Each batch is another, so the weights jitter. Images are drawn with a running average of them, the **EMA**:
#
# ```{source} reference.optimizer.ema
# ```
#
# ## The loop
#
# Below is the whole of training. `reference.training.train` is the same loop; the last lines check that it gives the
# same weights. This page trains a network of a quarter of the width for 800 steps, which takes ten seconds.

# %%
import matplotlib.pyplot as plt
import noisestep.reference as ref
import numpy as np
from noisestep.reference.training import Recipe, batches, simple_loss_gradients, train

plt.style.use("noisestep.lessons.pictures")

images, labels = ref.load_digits()
recipe = Recipe(steps=800, width=32)
schedule = ref.Schedule.from_name("cosine", recipe.T)


def training_steps(recipe):
    """Yields the loss and the averaged weights after each step."""
    parameters = ref.initial_parameters(recipe.seed, 1, recipe.width, dtype=recipe.dtype)
    mean, adam = parameters, ref.Adam()
    numbers = np.arange(recipe.batch)
    order = batches(recipe.seed, len(images), recipe.batch)
    for k in range(recipe.steps):
        x_0 = images[next(order)]
        t = ref.integers(recipe.seed, ref.TIMESTEP, k, numbers, 1, recipe.T)
        eps = ref.normal(recipe.seed, ref.FORWARD, k, numbers, (1, 8, 8))
        network = ref.SimpleUNet(parameters)
        loss, gradients = simple_loss_gradients(network, schedule, x_0, t, eps)
        # up over the first steps, then down to zero
        rate = recipe.learning_rate * min((k + 1) / recipe.warmup, 1 - k / recipe.steps)
        parameters, adam = adam.update(parameters, gradients, learning_rate=rate)
        mean = ref.ema(mean, parameters, min(recipe.ema_decay, (1 + k) / (10 + k)))
        yield loss, mean


tiny = Recipe(steps=3, width=4)
*_, (_, by_hand) = training_steps(tiny)
in_code, _ = train(images, tiny)
for name, array in by_hand.items():
    np.testing.assert_array_equal(array, in_code.parameters[name])

# %% [markdown]
# ## Pictures on the way
#
# The same noise, turned into images by the network after 1, 50, 200 and 800 steps. Compare a column from top to
# bottom. The strokes are there at the end; more steps and a wider network make digits of them.

# %% alt="Samples after 1, 50, 200 and 800 steps: black and white squares, grey noise, blots, strokes like digits."
losses, kept = [], {}
for step, (loss, mean) in enumerate(training_steps(recipe), 1):
    losses.append(loss)
    if step in (1, 50, 200, 800):
        kept[step] = mean
        print(f"step {step:4}: loss {np.mean(losses[-50:]):.3f}")

figure, axes = plt.subplots(4, 10, figsize=(5.6, 2.5))
for row, (step, mean) in zip(axes, kept.items(), strict=True):
    network = ref.SimpleUNet(mean)
    x_0 = ref.sample(schedule, network, (10, 1, 8, 8), seed=0, clip=(-1, 1))
    for axis, image in zip(row, x_0, strict=True):
        axis.imshow(image[0], vmin=-1, vmax=1)
        axis.set(xticks=[], yticks=[])
    row[0].set_ylabel(step, fontsize=8)

# %% [markdown]
# ## The curve
#
# A network that answers 0 has the loss 1, since noise has variance 1. The loss falls fast, then hardly at all. It
# is noisy: each batch draws its own $t$, and some $t$ are harder than others. At the right, the
# trained network's error at each $t$. Where there is much noise ($t$ near 200) nearly all of $x_t$ *is* the noise,
# and it is easy to say what it was. Where there is little, it drowns in the image.

# %% alt="Left: the loss falls below 0.3 in 300 steps, then slowly to 0.24. Right: the error falls with t, from 0.98 to 0.03."
times = np.arange(1, recipe.T + 1, 3)
errors = []
for t in times:
    eps = ref.normal(1, ref.FORWARD, int(t), range(200), (1, 8, 8)).astype(np.float64)
    x_t = ref.q_sample(schedule, images[:200], t, eps)
    errors.append(ref.simple_loss(network(x_t, np.full(200, t)).astype(np.float64), eps))

figure, (left, right) = plt.subplots(1, 2, figsize=(5.6, 2.6), sharey=True)
left.plot(losses, color="C5", linewidth=0.5, label="each batch")
average = np.convolve(losses, np.ones(50) / 50, "valid")
left.plot(np.arange(50, len(losses) + 1), average, label="mean of the last 50")
left.set(xlabel="step", ylabel="loss", ylim=(0, 1.5))
left.legend(fontsize=8)
right.plot(times, errors)
right.set(xlabel="t", title="error at t")

print(f"mean error over t: {np.mean(errors):.3f}")
assert np.mean(losses[-200:]) < 0.35
assert errors[0] > 0.5 > 0.05 > errors[-1]

# %% [markdown]
# The command `python -m noisestep.reference.training` trains the network of full width for 4,000 steps, in a minute
# and a half on two cores. [Training by hand](../training-by-hand.md) shows what it draws.
#
# ## Exercise: the first step of Adam
#
# By how much does a weight change in the first step, if its gradient is $g = 0.001$? And if it is 1000? Put $k = 1$
# into the formula.

# %% [markdown] tags=["answer"]
# $m_1 = (1 - \beta_1)\, g$ and $v_1 = (1 - \beta_2)\, g^2$. The corrections divide by just these factors, so
#
# $$
# \theta_1 = \theta_0 - \eta\, \frac{g}{\sqrt{g^2} + \varepsilon} \approx \theta_0 - \eta \cdot \mathrm{sign}(g)
# $$
#
# By the learning rate $\eta$, in both cases. The size of a gradient does not matter, only how steady it is.

# %% tags=["answer"]
for g in (0.001, 1000.0):
    moved, _ = ref.Adam().update({"w": np.zeros(1)}, {"w": np.full(1, g)}, learning_rate=0.003)
    print(f"gradient {g:8}: the weight moves by {moved['w'][0]:.6f}")
    assert np.isclose(moved["w"][0], -0.003, rtol=2e-5)
