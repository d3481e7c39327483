# %% [markdown]
# # 7. The network, by hand
#
# The network gets a noisy image $x_t$ and the step $t$, and answers with its guess of the noise, an array of the
# image's shape. Any function of this kind will do. This lesson takes the chapter's: three convolutions with ReLU
# between them. It is written in NumPy, forward and backward, with no automatic differentiation.
#
# ## Forward
#
# A **convolution** of size 3 × 3 computes each pixel of its output from the nine pixels around it in the input, with
# the same weights everywhere. **ReLU** replaces negative numbers by 0. Without it, three convolutions would be one
# linear function. The step $t$ comes in as a row of waves $e(t)$; a linear layer turns it into one number for each
# channel, which is added everywhere:
#
# $$
# \begin{aligned}
# h_1 &= \mathrm{ReLU}(W_1 * x_t + b_1 + V e(t) + c) \\
# h_2 &= \mathrm{ReLU}(W_2 * h_1 + b_2) \\
# \epsilon_\theta &= W_3 * h_2 + b_3
# \end{aligned}
# $$
#
# ```{source} reference.network.SimpleUNet.forward
# ```
#
# ## Telling it the time
#
# The same array can be an image with a little noise or noise with a little image. The network has to know $t$ to tell
# which. (The chapter's code accepts $t$ and never uses it.) The plain number $t$ would be a poor input, as it is far
# larger than all others. The **sinusoidal embedding** makes a row of numbers between −1 and 1 of it:
#
# $$
# e(t) = (\cos \omega_0 t, \dots, \cos \omega_{h-1} t,\ \sin \omega_0 t, \dots, \sin \omega_{h-1} t),
# \qquad \omega_i = 10000^{-i / h}
# $$
#
# ```{source} reference.network.timestep_embedding
# ```
#
# It is like the hands of a clock. Fast waves tell neighbouring steps apart, slow ones early from late.

# %% alt="A grey map of 64 features against t: fast stripes in the first rows of each half, slow ones in the last."
import matplotlib.pyplot as plt
import noisestep.reference as ref
import numpy as np

plt.style.use("noisestep.lessons.pictures")

embedding = ref.timestep_embedding(np.arange(1, 201), 64)
figure, axis = plt.subplots(figsize=(5.6, 2.4))
axis.imshow(embedding.T, aspect="auto", extent=(1, 200, 64, 0), vmin=-1, vmax=1)
axis.set(xlabel="t", ylabel="feature")

# cos^2 + sin^2 = 1 for each wave, so that all e(t) have the same length
np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), np.sqrt(32))

# %% [markdown]
# ## One convolution as one product of matrices
#
# Write the nine values that a pixel sees into one row, for all pixels one below the other. The rows times the
# weights, as a matrix, are the convolution. `_patches` makes the rows.
#
# ```{source} reference.network._convolve
# ```
#
# Below, the edge of a digit by hand: a difference of the pixel's right and left neighbour, by four lines of loops and
# by the network's function.

# %% alt="A digit, and its horizontal differences: bright where the digit begins from the left, dark where it ends."
from noisestep.reference import network

images, labels = ref.load_digits()
digit = images[0, 0]
weight = np.zeros((1, 1, 3, 3))
weight[0, 0, 1, 0], weight[0, 0, 1, 2] = -1, 1

padded = np.pad(digit, 1)
by_loops = np.zeros((8, 8))
for row in range(8):
    for column in range(8):
        by_loops[row, column] = np.sum(weight[0, 0] * padded[row : row + 3, column : column + 3])

by_matrices, patches = network._convolve(digit[None, :, :, None], weight, np.zeros(1))
print("rows of nine:", patches.shape, " output:", by_matrices.shape)
np.testing.assert_allclose(by_matrices[0, :, :, 0], by_loops, atol=1e-15)

figure, (left, right) = plt.subplots(1, 2, figsize=(3.6, 1.8))
left.imshow(digit, vmin=-1, vmax=1)
right.imshow(by_loops, vmin=-2, vmax=2)
for axis in (left, right):
    axis.axis("off")

# %% [markdown]
# ## Backward
#
# Training needs the **gradient**: how the loss $L$ changes with each weight. Let $g$ be the gradient of $L$ in a
# layer's output. The chain rule gives that of its inputs. It is applied from the last layer to the first.
#
# **The loss**, a mean over $n$ numbers:
#
# $$
# L = \frac1n \sum (\epsilon_\theta - \epsilon)^2
# \quad \Rightarrow \quad
# \frac{\partial L}{\partial \epsilon_\theta} = \frac2n (\epsilon_\theta - \epsilon)
# $$
#
# **The convolution**, $y_i = b + \sum_k W_k\, x_{i+k}$, where $k$ runs over the nine offsets. Look for each letter in
# the sum:
#
# $$
# \frac{\partial L}{\partial b} = \sum_i g_i, \qquad
# \frac{\partial L}{\partial W_k} = \sum_i g_i\, x_{i+k}, \qquad
# \frac{\partial L}{\partial x_j} = \sum_k W_k\, g_{j-k}
# $$
#
# The last one is a convolution again, of $g$, with the weights turned by 180°: $j - k$ in the place of $j + k$.
#
# **ReLU** passes $g$ where its output is positive, and stops it elsewhere. **A sum** passes $g$ to both of its parts.
#
# That is all. `backward` applies these rules line by line:
#
# ```{source} reference.network.SimpleUNet.backward
# ```
#
# ## Is the gradient right?
#
# Move one weight by a tiny $h$ to both sides, and look how the loss changes. This test needs no chain rule:
#
# $$
# \frac{\partial L}{\partial W} \approx \frac{L(W + h) - L(W - h)}{2 h}
# $$

# %% alt="Gradients by hand against gradients by differences, four weights of each kind: all dots on the diagonal."
from noisestep.reference.training import simple_loss_gradients

schedule = ref.Schedule.from_name("cosine", 200)
parameters = ref.initial_parameters(seed=0, channels=1, width=6, embedding=8)
x_0, t = images[:4], np.array([5, 60, 120, 190])
eps = ref.normal(0, ref.FORWARD, 0, range(4), (1, 8, 8)).astype(np.float64)


def loss(parameters):
    return simple_loss_gradients(ref.SimpleUNet(parameters), schedule, x_0, t, eps)[0]


_, gradients = simple_loss_gradients(ref.SimpleUNet(parameters), schedule, x_0, t, eps)
h, pairs = 1e-6, []
for name, array in parameters.items():
    for place in np.linspace(0, array.size - 1, 4).astype(int):
        changed = []
        for step in (h, -h):
            moved = array.copy()
            moved.flat[place] += step
            changed.append(loss({**parameters, name: moved}))
        pairs.append((gradients[name].flat[place], (changed[0] - changed[1]) / (2 * h)))

by_hand, by_differences = np.array(pairs).T
print(f"{len(pairs)} gradients, largest difference {np.abs(by_hand - by_differences).max():.1e}")
# losses of about 1 are rounded to 2e-16, and the difference of two is divided by 2e-6
np.testing.assert_allclose(by_hand, by_differences, atol=2e-9, rtol=1e-6)

figure, axis = plt.subplots(figsize=(3.6, 2.8))
axis.axline((0, 0), slope=1, color="C5", linewidth=0.8)
axis.plot(by_differences, by_hand, ".")
axis.set(xlabel="by differences", ylabel="by hand")

# %% [markdown]
# ## What can it see?
#
# Three windows of 3 × 3 reach three pixels to each side. So a pixel of the answer depends on 7 × 7 pixels of the
# input, and on no others. The network's own `backward` shows it: send back a gradient from one pixel alone.

# %% alt="The input pixels that one output pixel depends on: a square of 7 by 7 pixels around it, zero outside."
model = ref.SimpleUNet(ref.initial_parameters(seed=0, channels=1, width=32))
x = ref.normal(0, ref.INITIAL, 0, 0, (1, 16, 16)).astype(np.float64)
_, activations = model.forward(x, np.array([100]))
one = np.zeros((1, 1, 16, 16))
one[0, 0, 8, 8] = 1
_, grad_x = model.backward(activations, one)

seen = np.abs(grad_x[0, 0]) > 0
rows, columns = np.nonzero(seen)
print(f"rows {rows.min()} to {rows.max()}, columns {columns.min()} to {columns.max()}")
assert seen[5:12, 5:12].all()
assert seen.sum() == 49

figure, axis = plt.subplots(figsize=(2.4, 2.4))
axis.imshow(np.abs(grad_x[0, 0]) ** 0.5)
axis.axis("off")

# %% [markdown]
# In the middle of a digit of 8 × 8 that is nearly all of it, but a pixel in a corner sees only 16 of the 64. Larger
# images need a network that shrinks the image on the way and enlarges it again, a real U-Net. [Training by hand](../training-by-hand.md) has the same network at its
# full size, and each rule in a few lines.
#
# ## Exercise: count
#
# How many numbers does the network learn, with one channel of input, a width of 128 and an embedding of 64? Count
# each layer: weights and biases.

# %% [markdown] tags=["answer"]
# - the linear layer of the time: $128 \cdot 64 + 128 = 8{,}320$
# - the first convolution: $128 \cdot 1 \cdot 9 + 128 = 1{,}280$
# - the second: $128 \cdot 128 \cdot 9 + 128 = 147{,}584$
# - the third: $1 \cdot 128 \cdot 9 + 1 = 1{,}153$
#
# Together 158,337. Nearly all of them are in the second.

# %% tags=["answer"]
shapes = ref.parameter_shapes(channels=1, width=128, embedding=64)
count = sum(int(np.prod(shape)) for shape in shapes.values())
print(f"{count:,}")
assert count == 8_320 + 1_280 + 147_584 + 1_153 == 158_337
