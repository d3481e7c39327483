# %% [markdown]
# # Alpha-bar in bfloat16
#
# **Signs:** NaN or infinity in the last steps of sampling, or in the loss at small $t$, after
# `model.to(torch.bfloat16)` or `.half()` has also converted the schedule, which was a buffer of the model.
#
# A bfloat16 has 8 significant bits. Below 1 its numbers lie $2^{-8} = 0.004$ apart. $\bar\alpha_1 = 0.9999$ becomes
# 1, and $1 - \bar\alpha_1$, which the sampler divides by, becomes 0. What is left of $1 - \bar\alpha_t$ at small $t$
# is a staircase.
#
# **Mend it:** compute the tables in float64, take $1 - \bar\alpha_t$ from there (here it is a table of its own,
# `schedule.Schedule.one_minus_alpha_bar`), round only the final coefficients, to float32, and keep them out of what
# is converted with the model. Images and weights may be bfloat16: their errors are not amplified.

# %% alt="Standard deviation of the noise by t: a smooth line, and the staircase of bfloat16, 0 for ten steps."
import matplotlib.pyplot as plt
import noisestep.reference as ref
import numpy as np

plt.style.use("noisestep.lessons.pictures")


def bf16(x):
    """Rounded to the nearest bfloat16, ties to even."""
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


schedule = ref.Schedule.from_name("linear", 1000)
cast = np.sqrt(1 - bf16(schedule.alpha_bar))
t = np.arange(1, 61)
figure, axis = plt.subplots()
axis.plot(t, schedule.sqrt_one_minus_alpha_bar[t], label="float64")
axis.step(t, cast[t], where="mid", label=r"$\bar\alpha_t$ in bfloat16")
axis.set(xlabel="t", ylabel=r"$\sqrt{1 - \bar\alpha_t}$")
axis.legend()
zero = int((cast[1:] == 0).sum())
print(f"for the first {zero} steps there is no noise left at all")
assert zero > 5
assert bf16(0.9999) == 1

# %% [markdown]
# Sampling divides by it:

# %%
with np.errstate(divide="ignore"):
    factor = schedule.beta[1:] / cast[1:]
for step in (1, 5, 20, 50, 200):
    right = schedule.beta[step] / schedule.sqrt_one_minus_alpha_bar[step]
    print(f"t = {step:3}: the factor of eps is {factor[step - 1]:.4f}, should be {right:.4f}")
assert np.isinf(factor[0])
