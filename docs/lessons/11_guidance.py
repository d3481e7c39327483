# %% [markdown]
# # 11. Guidance: asking for a seven
#
# So far the sampler draws any digit. To ask for a seven, the network is told the label: it becomes
# $\epsilon_\theta(x_t, t, c)$, trained on images with their labels $c$. (The label enters like $t$ does, [lesson
# 7](07_the_network.py).) That is conditioning, and nothing else changes. **Guidance goes further: it exaggerates what
# the label changes.** Images then fit their label better, and vary less.
#
# ## From Bayes' rule
#
# [Lesson 9](09_the_reverse_step.py)'s best guess of the noise is, up to a factor, the slope of $\log p(x_t)$:
#
# $$
# \nabla_{x_t} \log p(x_t) = -\frac{\epsilon}{\sqrt{1 - \bar\alpha_t}}
# $$
#
# To move along the slope is to move to where noisy images are more likely. Now Bayes' rule, for images of class $c$:
#
# $$
# \log p(x_t \mid c) = \log p(x_t) + \log p(c \mid x_t) - \log p(c)
# $$
#
# Take the slope in $x_t$, in which $\log p(c)$ is a constant, and multiply by $-\sqrt{1 - \bar\alpha_t}$:
#
# $$
# \epsilon(x_t, c) = \epsilon(x_t) - \sqrt{1 - \bar\alpha_t}\; \nabla_{x_t} \log p(c \mid x_t)
# $$
#
# So **the difference of two guesses, with the label and without, is the slope of a classifier**, which says in which
# direction the image looks more like a $c$. Go $s$ times as far in it:
#
# $$
# \hat\epsilon = \epsilon(x_t) + s \left( \epsilon(x_t, c) - \epsilon(x_t) \right)
# $$
#
# $s = 0$ ignores the label, $s = 1$ is plain conditioning, and $s > 1$ is guidance. Nobody had to train a classifier:
# hence the name classifier-free guidance (Ho & Salimans 2022, equation 6; their $w$ is $s - 1$).
#
# ```{source} reference.reverse.guided
# ```
#
# One network gives both guesses. In training, the labels of a part of the images, chosen at random, are replaced by
# "no label".
#
# ## Seen
#
# Two classes of two-pixel images, each a round cloud, that overlap. Both best guesses are known again: that of one
# class, and that of the mixture of both.

# %%
import matplotlib.pyplot as plt
import noisestep.reference as ref
import numpy as np
from noisestep.reference.samplers.ddim import ddim

plt.style.use("noisestep.lessons.pictures")

schedule = ref.Schedule.from_name("cosine", 1000)
centres, width = np.array([[-0.35, 0.0], [0.35, 0.0]]), 0.3


def p_class(x_t, t):
    """p(c | x_t) of both classes."""
    a, s_2 = schedule.sqrt_alpha_bar[t], schedule.one_minus_alpha_bar[t]
    away = ((x_t[:, None] - a * centres) ** 2).sum(axis=2)
    p = np.exp(-away / (2 * (a**2 * width**2 + s_2)))
    return p / p.sum(axis=1, keepdims=True)


def guesses(x_t, t):
    """The best eps for class 0, for class 1, and without a label."""
    a, s_2 = schedule.sqrt_alpha_bar[t], schedule.one_minus_alpha_bar[t]
    x_0 = [m + a * width**2 / (a**2 * width**2 + s_2) * (x_t - a * m) for m in centres]
    p = p_class(x_t, t)
    x_0.append(p[:, :1] * x_0[0] + p[:, 1:] * x_0[1])
    return [ref.eps_from_x_0(schedule, x_t, guess, t) for guess in x_0]


def with_guidance(scale):
    def model(x_t, t):
        left, _, unlabelled = guesses(x_t, t[0])
        return ref.guided(left, unlabelled, scale)

    return model


# %% alt="Points of the left class. Scale 0: both clouds; 1: the left one; 2 and 4: shifted to the left and narrower."
count, few = 1000, schedule.respace(100)
drawn = {scale: ref.sample(few, with_guidance(scale), (count, 2), sampler=ddim) for scale in (0.0, 1.0, 2.0, 4.0)}
figure, axes = plt.subplots(1, 4, figsize=(5.6, 1.7))
for axis, (scale, points) in zip(axes, drawn.items(), strict=True):
    axis.plot(*points.T, ".", markersize=1.2)
    axis.plot(*centres.T, "o", color="C1", markersize=4)
    axis.set(title=f"s = {scale:g}", xlim=(-1.7, 1.7), ylim=(-1.7, 1.7), aspect="equal")
    axis.set_xticks([])
    axis.set_yticks([])
    right = p_class(points, 0)[:, 0].mean()
    print(f"s = {scale:g}: certainty of the class {right:.2f}, width {points[:, 0].std():.2f}")

# %% [markdown]
# The dots are the centres of the classes. With $s = 1$ the left class is drawn as it is: some of its images could be
# of either class. With $s = 4$ hardly any of them could. They are all at the far side of their class, and closer
# together. What guidance costs is variety, and that images look exaggerated.

# %%
# s = 1 is the class itself: mean and width to 5 standard errors
assert abs(drawn[1.0][:, 0].mean() + 0.35) < 5 * width / np.sqrt(count)
# plus 2 percent for 100 steps in place of infinitely many
assert abs(drawn[1.0][:, 0].std() - width) < 5 * width / np.sqrt(2 * count) + 0.02 * width
assert drawn[4.0][:, 0].mean() < drawn[2.0][:, 0].mean() < drawn[1.0][:, 0].mean()

# %% [markdown]
# ## What it is not
#
# One often reads that guidance draws from $p(x_0)\, p(c \mid x_0)^s$, suitably normalised. At each single $t$ the
# slope is that of $p(x_t)\, p(c \mid x_t)^s$. But these are not the noisy versions of one distribution of images, and
# the film from one to the next ends elsewhere. Here both can be computed:

# %% alt="Histogram of the first pixel for s = 4. The product formula gives a curve that lies to its right."
scale = 4.0
x = np.linspace(-2, 1, 600)
at_x = np.stack([x, np.zeros_like(x)], axis=1)
both = np.exp(-((at_x[:, None] - centres) ** 2).sum(axis=2) / (2 * width**2)).sum(axis=1)
product = both * p_class(at_x, 0)[:, 0] ** scale
product /= product.sum() * (x[1] - x[0])
figure, axis = plt.subplots()
axis.hist(drawn[scale][:, 0], bins=40, density=True, alpha=0.6, label="guided samples, s = 4")
axis.plot(x, product, color="C1", label=r"$p(x_0)\, p(c\,|\,x_0)^4$")
axis.set(xlabel="first pixel")
axis.legend(loc="upper right")
product_mean = (x * product).sum() * (x[1] - x[0])
print(f"mean of the samples {drawn[scale][:, 0].mean():.2f}, of the formula {product_mean:.2f}")

# %% [markdown]
# ## More ways
#
# - Only in a part of the chain: `guidance.guided_steps`. Where there is much noise, guidance leads all images of a
#   class to the same few; where there is little, it changes hardly anything.
# - With the contrast of the unguided output: `guidance.rescaled`.
# - With a real classifier: `guidance.classifier_output`.
#
# ## Exercise: find the classifier
#
# The text says that $\epsilon(x_t, c) - \epsilon(x_t)$ is $-\sqrt{1 - \bar\alpha_t}\, \nabla \log p(c \mid x_t)$.
# Check it at one point with `p_class` and finite differences. Then see that guidance with scale 3 is
# `classifier_output` with scale 3.

# %% [markdown] tags=["answer"]
# A central difference in each of the two pixels gives the slope of $\log p(c \mid x_t)$. The two sides agree to the
# accuracy of the difference, which is about the square of the step:

# %% tags=["answer"]
t, h = 400, 1e-4
x_t = np.array([[0.2, -0.5]])
left, _, unlabelled = guesses(x_t, t)
slope = np.zeros((1, 2))
for pixel in range(2):
    step = h * np.eye(2)[pixel]
    up, down = p_class(x_t + step, t)[:, 0], p_class(x_t - step, t)[:, 0]
    slope[:, pixel] = (np.log(up) - np.log(down)) / (2 * h)
print("difference of the guesses:", left - unlabelled)
print("from the classifier:      ", -schedule.sqrt_one_minus_alpha_bar[t] * slope)
by_classifier = ref.classifier_output(schedule, unlabelled, t, slope, 3.0)
# h^2 from the difference, and 1e-16 / h from its rounding
np.testing.assert_allclose(by_classifier, ref.guided(left, unlabelled, 3.0), atol=1e-7)
