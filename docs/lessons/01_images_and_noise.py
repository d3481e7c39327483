# %% [markdown]
# # 1. Images as numbers, and noise
#
# A diffusion model knows two things: images and noise. Both are arrays of the same shape. This lesson makes one of
# each, adds them, and finds the one rule about sums that all later lessons use.
#
# ## An image is an array
#
# The pictures of this course are 1,797 handwritten digits of 8 × 8 pixels. In the file, a pixel is a whole number
# from 0 (paper) to 16 (ink). `load_digits` scales it to lie between −1 and 1:
#
# $$
# x = \frac{p}{8} - 1, \qquad p \in \{0, 1, \dots, 16\}, \qquad x \in [-1, 1]
# $$
#
# ```{source} reference.digits.load_digits
# ```
#
# Why −1 to 1? Noise, as we shall see, is centred at 0 and about 1 in size. Images with the same centre and size can
# be mixed with it. The shape is $(B, C, H, W)$: images, channels (one, for grey), rows, columns.

# %% alt="Left: the digit 0 in grey. Right: the same 8 by 8 pixels as numbers from minus 1 to 1."
import matplotlib.pyplot as plt
import noisestep.reference as ref
import numpy as np

plt.style.use("noisestep.lessons.pictures")

images, labels = ref.load_digits()
print("shape", images.shape, " lowest", images.min(), " highest", images.max())
assert images.shape == (1797, 1, 8, 8)
assert images.min() == -1
assert images.max() == 1

figure, (left, right) = plt.subplots(1, 2, figsize=(5.6, 2.8))
for axis in (left, right):
    axis.axis("off")
left.imshow(images[0, 0], vmin=-1, vmax=1)
right.set(xlim=(-0.5, 7.5), ylim=(7.5, -0.5), aspect="equal")
for (row, column), value in np.ndenumerate(images[0, 0]):
    right.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=7)

# %% [markdown]
# ## Noise is an array as well
#
# Noise, written $\epsilon$ (epsilon), has the shape of the image. Each of its numbers is drawn by itself from the
# **standard normal distribution**, with mean 0, variance 1 and the bell curve as its density:
#
# $$
# \epsilon_i \sim \mathcal{N}(0, 1), \qquad p(\epsilon_i) = \frac{1}{\sqrt{2 \pi}}\, e^{-\epsilon_i^2 / 2}
# $$
#
# For the whole array we write $\epsilon \sim \mathcal{N}(0, I)$. The $I$, the identity matrix, says that the numbers
# have variance 1 and do not depend on each other.
#
# In this project noise has an **address**: a seed, what it is for (`stream`), a step, and the number of the image.
# The same address gives the same noise, on every machine. So this page always shows the same pictures.
#
# ```{source} reference.noise.normal
# ```

# %% alt="Left: noise as an 8 by 8 grey image. Right: the histogram of all noise values lies on the bell curve."
eps = ref.normal(seed=0, stream=ref.FORWARD, step=0, sample=range(1797), shape=(1, 8, 8))
again = ref.normal(seed=0, stream=ref.FORWARD, step=0, sample=7, shape=(1, 8, 8))
assert np.array_equal(again[0], eps[7])

print(f"{eps.size:,} numbers: mean {eps.mean():.4f}, variance {eps.var():.4f}")
# the mean of n draws has standard deviation 1 / sqrt(n), their variance sqrt(2 / n)
assert abs(eps.mean()) < 5 / np.sqrt(eps.size)
assert abs(eps.var() - 1) < 5 * np.sqrt(2 / eps.size)

figure, (left, right) = plt.subplots(1, 2, width_ratios=(1, 1.6))
left.imshow(eps[0, 0], vmin=-3, vmax=3)
left.axis("off")
z = np.linspace(-4, 4, 201)
right.hist(eps.ravel(), bins=80, range=(-4, 4), density=True, color="C5", label="noise")
right.plot(z, np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi), "C1", label="bell curve")
right.set_xlabel(r"$\epsilon_i$")
right.legend(fontsize=8)

# %% [markdown]
# Could noise look like a digit by chance? In principle. But digits are a tiny part of all arrays: an array of 64
# random numbers looks like the one on the left, practically always. To make a digit is to find that tiny part. This is
# what the network will learn.
#
# ## The rule: variances add
#
# Take two numbers $a$ and $b$ that do not depend on each other, and let both have mean 0. (A mean only shifts
# everything.) The variance of their sum is
#
# $$
# \mathrm{Var}(a + b) = \mathbb{E}[(a + b)^2] = \mathbb{E}[a^2] + 2\, \mathbb{E}[a b] + \mathbb{E}[b^2]
# = \mathrm{Var}(a) + \mathrm{Var}(b)
# $$
#
# because $\mathbb{E}[ab] = \mathbb{E}[a]\, \mathbb{E}[b] = 0$. A factor $c$ comes out squared, since
# $\mathbb{E}[(c a)^2] = c^2\, \mathbb{E}[a^2]$. Together:
#
# $$
# \mathrm{Var}(c\, a + d\, b) = c^2\, \mathrm{Var}(a) + d^2\, \mathrm{Var}(b)
# $$
#
# And if $a$ and $b$ are normal, so is the sum. Only its mean and its variance have to be computed. To get noise with
# variance $\sigma^2$, multiply $\epsilon$ by $\sigma$, the **standard deviation**, and not by $\sigma^2$. It is the
# origin of every square root in the following lessons.

# %%
a = ref.normal(1, ref.FORWARD, 0, 0, (100_000,)).astype(float)
b = ref.normal(1, ref.FORWARD, 1, 0, (100_000,)).astype(float)
mixed = 0.6 * a + 0.8 * b
print(f"variance of 0.6 a + 0.8 b: {mixed.var():.3f}, by the rule {0.6**2 + 0.8**2:.3f}")
assert abs(mixed.var() - 1) < 5 * np.sqrt(2 / mixed.size)

# %% [markdown]
# ## Image and noise, mixed
#
# A diffusion model sees images like these: $c\, x_0 + d\, \epsilon$ with $c^2 + d^2 = 1$. From left to right there is
# less image and more noise. The index in $x_0$ says that it is the clean image.

# %% alt="Three digits in six mixtures each, from clean on the left to pure noise on the right."
weights = [1.0, 0.95, 0.8, 0.6, 0.3, 0.0]
figure, axes = plt.subplots(3, 6, figsize=(5.6, 3.1))
for row, number in enumerate((0, 3, 7)):
    for axis, c in zip(axes[row], weights, strict=True):
        d = np.sqrt(1 - c**2)
        axis.imshow(c * images[number, 0] + d * eps[number, 0], vmin=-1, vmax=1)
        axis.axis("off")
        if row == 0:
            axis.set_title(f"c = {c}\nd = {d:.2f}", fontsize=8)

# %% [markdown]
# At $c = 0.8$ you can still guess the digit. At $c = 0.3$ you hardly see that there is one, and at $c = 0$ nothing of
# it is left.
#
# ## Exercise: average the noise away
#
# Take one digit and add noise to it 16 times, $y_k = x_0 + \epsilon_k$, each time with new noise. What is the standard
# deviation of the noise that is left in the average of the 16? Use the rule, then check by a program. Why does this
# trick not help somebody who has only one noisy image?

# %% [markdown] tags=["answer"]
# The noise of the average is $\frac{1}{16} \sum_k \epsilon_k$. Every term has the variance $1 / 16^2$, and there are 16
# of them:
#
# $$
# 16 \cdot \frac{1}{16^2} = \frac{1}{16}, \qquad \text{standard deviation } \sqrt{\tfrac{1}{16}} = \tfrac14
# $$
#
# The average needs many noisy copies of *the same* image. With one copy you must know what images look like, and a
# network learns just that.

# %% tags=["answer"] alt="A digit with noise of standard deviation 1, and the much clearer average of 16 such images."
copies = images[0, 0] + ref.normal(2, ref.FORWARD, 0, range(16), (8, 8))
remaining = copies.mean(axis=0) - images[0, 0]
print(f"standard deviation of what is left: {remaining.std():.3f}")
# 64 draws: their standard deviation is uncertain by 1 / sqrt(2 * 64) of itself
assert abs(remaining.std() - 0.25) < 5 * 0.25 / np.sqrt(2 * 64)

figure, (left, right) = plt.subplots(1, 2, figsize=(3.6, 2.0))
left.imshow(copies[0], vmin=-1, vmax=1)
left.set_title("one copy")
right.imshow(copies.mean(axis=0), vmin=-1, vmax=1)
right.set_title("average of 16")
for axis in (left, right):
    axis.axis("off")
