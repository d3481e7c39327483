# %% [markdown]
# # 13. Noise with an address
#
# Training draws noise, sampling draws noise. The usual way is a generator: a hidden state that changes with every
# number. Then what image 7 gets depends on who asked before it, on the size of the batch, on the number of machines.
# **Here a random number has an address, and its value is a function of the address.** There is no state to save, and
# no order to keep.
#
# $$
# \epsilon = f(\text{seed}, \text{stream}, \text{step}, \text{sample}, \text{element})
# $$
#
# The seed is that of the whole experiment, the stream says what the number is for (noise of the forward process,
# initial noise, ...), the step is the training step or the timestep, the sample is the number of the image, and the
# element the number of the pixel.

# %%
import matplotlib.pyplot as plt
import noisestep.reference as ref
import numpy as np

plt.style.use("noisestep.lessons.pictures")

alone = ref.normal(seed=0, stream=ref.INITIAL, step=0, sample=7, shape=(1, 8, 8))
batch = ref.normal(seed=0, stream=ref.INITIAL, step=0, sample=range(100), shape=(1, 8, 8))
assert np.array_equal(alone[0], batch[7])

# a generator, asked for one image and for the eighth of a batch
alone = np.random.default_rng(7).standard_normal((1, 8, 8))
batch = np.random.default_rng(7).standard_normal((100, 1, 8, 8))
assert not np.array_equal(alone, batch[7])
print("by address, image 7 is image 7; by generator, it depends on the batch")

# %% [markdown]
# ## From the address to random words
#
# $f$ has to look random, although addresses are as regular as can be: pixel 0, pixel 1, pixel 2. This is what a
# cipher does. Philox (Salmon et al. 2011) takes a counter of four 32-bit words, into which the address is packed, and
# a key of two, the seed. Ten times over it multiplies, keeps the high and the low half of the products, and crosses
# them:
#
# ```{source} reference.noise.philox4x32
# ```
#
# ```{source} reference.noise.words
# ```
#
# Change a single bit of the counter: after one round few bits have changed, and after ten each of the 128 bits has
# changed with probability one half.


# %% alt="Share of changed bits after each round: 0.15 after one and two, one half from round five on."
def rounds(counter, key, count):
    """Philox of so many rounds."""
    c0, c1, c2, c3 = (counter[:, i].astype(np.uint64) for i in range(4))
    k0, k1 = np.uint64(key[0]), np.uint64(key[1])
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    for _ in range(count):
        p, q = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (q >> half) ^ c1 ^ k0, q & low, (p >> half) ^ c3 ^ k1, p & low
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & low, (k1 + np.uint64(0xBB67AE85)) & low
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


counter = np.zeros((2000, 4), np.uint32)
counter[:, 0] = np.arange(2000)
flipped = counter ^ np.array([0, 0, 1, 0], np.uint32)
assert np.array_equal(rounds(counter, (5, 0), 10), ref.philox4x32(counter, [5, 0]))

changed = []
for count in range(11):
    difference = rounds(counter, (5, 0), count) ^ rounds(flipped, (5, 0), count)
    changed.append(np.unpackbits(difference.view(np.uint8)).mean())
figure, axis = plt.subplots()
axis.plot(range(11), changed, "o-")
axis.axhline(0.5, linestyle="--", color="C5")
axis.set(xlabel="rounds", ylabel="share of bits that change", ylim=(0, 0.6))
# 256,000 bits: their share of ones has a standard deviation of 0.001
assert abs(changed[10] - 0.5) < 0.005

# %% [markdown]
# ## From two words to two normals
#
# Two independent standard normals are a point in the plane, with the density $\frac{1}{2\pi} e^{-r^2 / 2}$. It
# depends on the distance $r$ from the middle alone, so that the direction is uniform. The probability to be farther
# out than $R$ is
#
# $$
# P(r > R) = \int_R^\infty \frac{1}{2\pi} e^{-r^2 / 2}\; 2\pi r\, dr = e^{-R^2 / 2}
# $$
#
# Call this probability $w$. It is uniform in $(0, 1)$, like every probability of this kind, and
# $R = \sqrt{-2 \ln w}$. So one uniform number gives the distance, another the direction $\theta$, and the point is
#
# $$
# z_0 = \sqrt{-2 \ln w}\, \cos \theta, \qquad z_1 = \sqrt{-2 \ln w}\, \sin \theta
# $$
#
# This is the method of Box and Muller (1958). The logarithm and the sine in the code are polynomials, every operation
# of which is rounded in one way that is written down. A library's logarithm differs in the last bit from machine to
# machine; these bits do not.
#
# ```{source} reference.noise.normal_pair
# ```

# %% alt="Left: 3000 pairs of normals, a round cloud. Right: histogram of 60,000 normals on the bell curve."
words = ref.words(seed=0, stream=ref.FORWARD, step=0, sample=0, count=60_000)[0]
z_0, z_1 = ref.normal_pair(words[0::2], words[1::2])
z = ref.normal(seed=0, stream=ref.FORWARD, step=0, sample=0, shape=(60_000,))[0]
assert np.array_equal(z[0::2], z_0)
assert np.array_equal(z[1::2], z_1)

figure, (left, right) = plt.subplots(1, 2)
left.plot(z_0[:3000], z_1[:3000], ".", markersize=1.5)
left.set(xlabel="$z_0$", ylabel="$z_1$", aspect="equal", xlim=(-4, 4), ylim=(-4, 4))
right.hist(z, bins=80, density=True, alpha=0.6)
x = np.linspace(-4, 4, 200)
right.plot(x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), color="C1")
right.set(xlabel="z")

print(f"mean {z.mean():.4f}, variance {z.var():.4f}, fourth moment {(z**4).mean():.3f}")
# standard deviations of the three: 1, sqrt(2) and sqrt(96) over sqrt(60,000)
n = np.sqrt(60_000)
assert abs(z.mean()) < 5 / n
assert abs((z**2).mean() - 1) < 5 * np.sqrt(2) / n
assert abs((z**4).mean() - 3) < 5 * np.sqrt(96) / n

# %% [markdown]
# ## Streams keep apart what must be independent
#
# The danger of addresses is to use one twice. Suppose that sampling took its noise of step $t$ from the address of
# the start: each new number would be one that is there already. The streams make this hard to do by mistake. On the
# left two streams, on the right one stream used for both:


# %% alt="Left: noise of two streams against each other, a round cloud. Right: one stream used twice, a straight line."
def draws(stream):
    return ref.normal(seed=0, stream=stream, step=1, sample=range(20), shape=(100,)).ravel()


figure, (left, right) = plt.subplots(1, 2, figsize=(5.6, 2.6))
for axis, second, title in ((left, ref.REVERSE, "two streams"), (right, ref.FORWARD, "one stream, twice")):
    axis.plot(draws(ref.FORWARD), draws(second), ".", markersize=1.5)
    axis.set(title=title, aspect="equal", xlim=(-4, 4), ylim=(-4, 4))
correlation = np.corrcoef(draws(ref.FORWARD), draws(ref.REVERSE))[0, 1]
print(f"correlation of two streams: {correlation:.3f}")
# 2000 independent pairs
assert abs(correlation) < 5 / np.sqrt(2000)

# %% [markdown]
# The whole address, bit by bit, with the numbers of all streams and how exact the normals are, is on [the page of the
# noise](../noise.md).
#
# ## Exercise: find one number by hand
#
# Which counter, which key and which of the four words belong to element 10 of image 3 at step 17 of the stream
# REVERSE, with the seed 42? Compute the normal with `philox4x32` and `normal_pair` alone, and compare it with
# `normal`. (A block holds four words. Elements 10 and 11 are a pair.)

# %% [markdown] tags=["answer"]
# Element 10 has word 10: word $10 \bmod 4 = 2$ of block $\lfloor 10 / 4 \rfloor = 2$. The counter is (block, stream
# and step in one word, low half of the sample, high half of the sample), and the key is the low and the high half of
# the seed. The pair is words 2 and 3 of the block, and element 10 is its first half.

# %% tags=["answer"]
block = ref.philox4x32([2, ref.REVERSE << 28 | 17, 3, 0], [42, 0])
by_hand = ref.normal_pair(block[2], block[3])[0]
by_address = ref.normal(seed=42, stream=ref.REVERSE, step=17, sample=3, shape=(12,))[0, 10]
print(by_hand, by_address)
assert by_hand == by_address
