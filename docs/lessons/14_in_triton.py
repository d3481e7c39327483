# %% [markdown]
# # 14. The same in Triton
#
# On a GPU, $x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon$ takes little arithmetic and much
# traffic. In plain PyTorch the noise is made and written to memory, read again, multiplied, written, read, added and
# written. **A fused kernel makes the noise where it is needed, in the registers of the thread, and touches memory
# twice: it reads $x_0$ and writes $x_t$.** This lesson reads that kernel line by line, and has you write small ones.
#
# Triton kernels are Python functions. You need no GPU to run one: with `TRITON_INTERPRET=1`, Triton executes them in
# NumPy, one program after the other. The variable must be set **before** the kernel is defined, and so before the
# first import of `triton`. This page needs PyTorch.

# %%
import os

os.environ["TRITON_INTERPRET"] = "1"

import matplotlib.pyplot as plt
import noisestep.reference as ref
import numpy as np
import torch
import triton
import triton.language as tl
from noisestep.accelerated import NoiseAddress
from noisestep.accelerated.backends import backend
from noisestep.accelerated.backends.triton import kernels
from noisestep.accelerated.ops import q_sample
from noisestep.accelerated.schedule import DeviceSchedule

plt.style.use("noisestep.lessons.pictures")

# %% [markdown]
# ## Programs and blocks
#
# A kernel is started many times at once. Each start is a **program**. It asks for its number, computes which part of
# the data is its own, loads that part, computes, and stores. It does not work on one number but on a block of them:
# `tl.arange` makes the numbers 0, 1, 2, ... of a block, and loading from `pointer + offsets` loads them all.
#
# Here is $x_t$ for one image whose noise is given. An image of 300 pixels is no multiple of the block of 128. The
# mask keeps the last program from reading and writing past the end.


# %%
@triton.jit
def mix(x_0_ptr, eps_ptr, x_t_ptr, who_ptr, signal, noise, n, BLOCK: tl.constexpr):
    program = tl.program_id(0)
    offsets = program * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    x_0 = tl.load(x_0_ptr + offsets, mask=mask)
    eps = tl.load(eps_ptr + offsets, mask=mask)
    tl.store(x_t_ptr + offsets, signal * x_0 + noise * eps, mask=mask)
    # for the picture below
    tl.store(who_ptr + offsets, tl.zeros((BLOCK,), tl.int32) + program, mask=mask)


schedule = ref.Schedule.from_name("linear", 1000)
t = 300
signal, noise = float(schedule.sqrt_alpha_bar[t]), float(schedule.sqrt_one_minus_alpha_bar[t])
x_0 = torch.linspace(-1, 1, 300)
eps = torch.from_numpy(ref.normal(seed=0, stream=ref.FORWARD, step=0, sample=0, shape=(300,)))[0]
x_t = torch.full((300,), float("nan"))
who = torch.zeros(300, dtype=torch.int32)

programs = triton.cdiv(300, 128)
mix[(programs,)](x_0, eps, x_t, who, signal, noise, 300, BLOCK=128)

expected = ref.q_sample(schedule, x_0[None].double().numpy(), t, eps[None].double().numpy())
# three roundings of float32 to numbers below 4
np.testing.assert_allclose(x_t[None].numpy(), expected, atol=3 * 4 * 2.0**-24)
print(f"{programs} programs computed {len(x_t)} pixels")

# %% [markdown]
# That the output begins as NaN is a habit worth taking: an element that no program wrote shows. Which program wrote
# which pixel, as an image of 15 rows:

# %% alt="An image of 15 rows of 20 pixels in three shades: the first 128 pixels in one, the next 128, and the last 44."
figure, axis = plt.subplots(figsize=(5.6, 2.2))
axis.imshow(who.reshape(15, 20), cmap="viridis", vmin=-0.5, vmax=2.5)
axis.set(xticks=[], yticks=[], title="program 0, 1 and 2")
assert torch.equal(who.bincount(), torch.tensor([128, 128, 44]))

# %% [markdown]
# ## The kernel of q_sample, line by line
#
# ```{source} accelerated.ops.q_sample._kernel
# ```
#
# - **The arguments.** Names with `_ptr` are places in memory. A tensor that is not there, such as `eps_ptr` where the
#   noise has an address, is `None`, and the lines that would use it are not compiled. Names in capitals are constants
#   (`tl.constexpr`): for each value there is a compiled kernel of its own. The address comes as words of 32 bits.
# - **`row, program`**: which image of the batch, and which part of it. There are as many programs as parts.
# - **`compute`** is the type of the table: float32, and float64 for images of float64.
# - **`coefficients`**: the row of the table that belongs to this image's $t$. `signal` is $\sqrt{\bar\alpha_t}$,
#   `noise` is $\sqrt{1 - \bar\alpha_t}$. Both were computed in float64 and rounded once ([lesson
#   4](04_schedules.py)).
# - **`fresh`**: the noise of all elements of this program, made from their address ([lesson
#   13](13_noise_with_an_address.py)). It is never written to memory, unless someone asks for it.
# - **The loop**: a thread takes its elements in portions of 16 bytes, as many as one instruction can load.
#   `TILING.whole` says that the image is a multiple of the block, so that no mask is needed.
# - **`x_t`**: the formula. Its two products and its sum round as PyTorch's do, since Triton may not fuse them here.
# - **`store`**: rounded once to the type of the result.
#
# The noise is the same function as the reference's, word for word:
#
# ```{source} accelerated.backends.triton.kernels.philox4x32
# ```
#
# Here the whole kernel runs in the interpreter. The 8×8 digits are of float32.

# %%
digits = torch.from_numpy(ref.load_digits()[0][:5]).float()
times = torch.tensor([1, 100, 300, 600, 1000])
with backend("triton"):
    noised = q_sample(
        DeviceSchedule(schedule), digits, times, NoiseAddress(seed=0, stream=ref.FORWARD, step=0, sample=0)
    )
eps = ref.normal(seed=0, stream=ref.FORWARD, step=0, sample=range(5), shape=(1, 8, 8)).astype(float)
expected = ref.q_sample(schedule, digits.double().numpy(), times.numpy(), eps)
# the noise is below 7, and the interpreter of Triton below 3.9 rounds its polynomials twice where a GPU does once
print("largest difference to the reference:", abs(noised.numpy() - expected).max())
assert abs(noised.numpy() - expected).max() < 7 * 2.0**-21

# %% alt="Five digits noised by the kernel at t = 1, 100, 300, 600 and 1000: from sharp to pure noise."
figure, axes = plt.subplots(1, 5, figsize=(5.6, 1.4))
for axis, image, step in zip(axes, noised, times, strict=True):
    axis.imshow(image[0], vmin=-1, vmax=1)
    axis.set_title(f"t = {step}", fontsize=8)
    axis.axis("off")

# %% [markdown]
# ## Puzzle 1: the mask
#
# Leave `mask=mask` away in the `store` of `mix`, and give it an output of 384 numbers, of which the last 84 belong to
# somebody else. What happens to them? Guess, then write it.

# %% [markdown] tags=["answer"]
# They are overwritten by whatever the arithmetic made of elements that were not loaded. No error says so. On a GPU
# the neighbour may be another tensor of your program.


# %% tags=["answer"]
@triton.jit
def careless(x_0_ptr, eps_ptr, x_t_ptr, signal, noise, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    x_0 = tl.load(x_0_ptr + offsets, mask=mask, other=0.0)
    eps = tl.load(eps_ptr + offsets, mask=mask, other=0.0)
    tl.store(x_t_ptr + offsets, signal * x_0 + noise * eps)


memory = torch.full((384,), 5.0)
careless[(3,)](x_0, torch.zeros(300), memory, signal, noise, 300, BLOCK=128)
print("of the neighbour's 84 fives,", int((memory[300:] == 5).sum()), "are left")
assert not (memory[300:] == 5).any()

# %% [markdown]
# ## Puzzle 2: a batch
#
# Write `mix_batch` for a batch of shape (rows, n), where each row has a $t$ of its own. Start it on a grid of two
# axes, `(rows, programs)`. Each program loads `t` of its row, then the two coefficients from a table of shape
# ($T + 1$, 2). The frame:
#
# ```python
# @triton.jit
# def mix_batch(x_0_ptr, eps_ptr, x_t_ptr, t_ptr, table_ptr, n, BLOCK: tl.constexpr):
#     row, program = tl.program_id(0), tl.program_id(1)
#     t = ...
#     signal, noise = ...
#     ...
# ```

# %% [markdown] tags=["answer"]
# One row lies `n` elements after the one before, and a row of the table two. The mask is for the place within the
# row: a program that passes the end of its row would write into the next one.


# %% tags=["answer"]
@triton.jit
def mix_batch(x_0_ptr, eps_ptr, x_t_ptr, t_ptr, table_ptr, n, BLOCK: tl.constexpr):
    row, program = tl.program_id(0), tl.program_id(1)
    t = tl.load(t_ptr + row)
    signal, noise = tl.load(table_ptr + 2 * t), tl.load(table_ptr + 2 * t + 1)
    within = program * BLOCK + tl.arange(0, BLOCK)
    offsets, mask = row * n + within, within < n
    x_0 = tl.load(x_0_ptr + offsets, mask=mask)
    eps = tl.load(eps_ptr + offsets, mask=mask)
    tl.store(x_t_ptr + offsets, signal * x_0 + noise * eps, mask=mask)


columns = [schedule.sqrt_alpha_bar, schedule.sqrt_one_minus_alpha_bar]
table = torch.from_numpy(np.stack(columns, axis=1)).float()
flat, x_t = digits.reshape(5, 64), torch.full((5, 64), float("nan"))
given = torch.from_numpy(eps).float().reshape(5, 64)
mix_batch[(5, 2)](flat, given, x_t, times, table, 64, BLOCK=32)
np.testing.assert_allclose(x_t.numpy(), expected.reshape(5, 64), atol=3 * 8 * 2.0**-24)
print("as the reference says")

# %% [markdown]
# ## Puzzle 3: the noise in registers
#
# Get rid of `eps_ptr`. Block $b$ of a sample, which is its elements $4b$ to $4b + 3$, has the counter ($b$, stream
# and step, sample, 0) and the seed as key. Use `kernels.philox4x32` and `kernels.normal_pair` for one image of 64
# pixels, with stream and step 0. A thread has four elements then: four loads and four stores.

# %% [markdown] tags=["answer"]
# `tl.arange(0, 16)` numbers the blocks. The counter's words are tensors of uint32. `tl.static_range` is a loop that
# is written out when the kernel is compiled.


# %% tags=["answer"]
@triton.jit
def with_noise(x_0_ptr, x_t_ptr, signal, noise, seed, sample, BLOCKS: tl.constexpr):
    block = tl.arange(0, BLOCKS).to(tl.uint32)
    zero = tl.zeros((BLOCKS,), tl.uint32)
    w0, w1, w2, w3 = kernels.philox4x32(block, zero, zero + sample, zero, zero + seed, zero)
    z0, z1 = kernels.normal_pair(w0, w1)
    z2, z3 = kernels.normal_pair(w2, w3)
    fresh = (z0, z1, z2, z3)
    for i in tl.static_range(4):
        offsets = 4 * tl.arange(0, BLOCKS) + i
        x_0 = tl.load(x_0_ptr + offsets)
        tl.store(x_t_ptr + offsets, signal * x_0 + noise * fresh[i])


for k in range(5):
    x_t = torch.full((64,), float("nan"))
    a, b = table[times[k]].tolist()
    with_noise[(1,)](flat[k], x_t, a, b, 0, k, BLOCKS=16)
    assert abs(x_t.numpy() - expected[k].ravel()).max() < 7 * 2.0**-21
print("the noise of five images, made by the kernel")

# %% [markdown]
# How the kernels go through memory is in `accelerated/backends/triton/tiling.py`. To change one and test it without a
# GPU: [your first kernel variant](../first-kernel-variant.md). What each of them costs: [kernel
# cost](../kernel-cost.md).
