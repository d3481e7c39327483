# %% [markdown]
# # Numerics
#
# The reference computes in float64. The ops take its tables, rounded once to float32, and compute in float32; each has a
# bound, [derived with its op](ops.md) and tested at every step. This page shows where a schedule loses precision if it
# is computed in another way, as many programs do, and how it is computed here. The noise has [bounds of its
# own](noise.md).
#
# All errors below are relative to the reference in float64, which agrees with sums in exact fractions to its rounding:
# `test_schedule.py::test_alpha_bar_and_its_complement_are_exact_to_rounding`.

# %%
import matplotlib.pyplot as plt
import noisestep.reference as ref
import numpy as np

plt.style.use("noisestep.lessons.pictures")

f32 = np.float32
u = 2.0**-24
t = np.arange(1, 1001)


def error(found, exact):
    """The relative error."""
    return np.abs(found.astype(np.float64) - exact) / np.abs(exact)


# %% [markdown]
# ## One minus alpha-bar, by subtraction
#
# Near $t = 0$, $\bar\alpha_t$ is close to 1. Rounded to float32 it has an error of up to $2^{-25}$, and so has
# $1 - \bar\alpha_t$, which is small. Its relative error is up to $2^{-25} / (1 - \bar\alpha_t)$. In bfloat16, with 8
# bits, [nothing is left](break/alpha_bar_in_bf16.py).
#
# Many programs also multiply the $\alpha_t$ in float32 (`torch.cumprod`). Every product is rounded, so that the
# error of $\bar\alpha_t$ grows with $t$ up to about $2 t u$, $u = 2^{-24}$: each $\alpha_t$ is rounded too.
#
# Here both are sums of logarithms, $\bar\alpha_t = e^L$ and $1 - \bar\alpha_t = -\mathrm{expm1}(L)$, and a table for
# each: `schedule.Schedule.one_minus_alpha_bar`. What is rounded once to float32 has the error $u$.

# %% alt="Relative error against t. Subtracted: 2e-4 at t = 1, then falling. Multiplied: rising to 7e-7. Rounded once: below 6e-8."
schedule = ref.Schedule.from_name("linear", 1000)
exact = schedule.one_minus_alpha_bar[1:]
subtracted = error(f32(1) - f32(schedule.alpha_bar[1:]), exact)
product = np.cumprod(f32(1) - f32(schedule.beta[1:]), dtype=f32)
multiplied = error(product, schedule.alpha_bar[1:])
rounded = error(f32(exact), exact)

figure, axis = plt.subplots(figsize=(5.6, 2.8))
axis.loglog(t, subtracted, linewidth=1, label=r"$1 - \bar\alpha_t$, subtracted in float32")
axis.loglog(t, multiplied, linewidth=1, label=r"$\bar\alpha_t$, multiplied in float32")
axis.loglog(t, rounded, linewidth=1, color="C5", label=r"$1 - \bar\alpha_t$, rounded once")
axis.set(xlabel="t", ylabel="relative error", ylim=(1e-10, 1e-2))
axis.legend(fontsize=8)
print(f"1 - alpha_bar_1: {subtracted[0]:.1e} subtracted, {rounded[0]:.1e} rounded once")
print(f"alpha_bar_1000 by products: {multiplied[-1]:.1e}, largest {multiplied.max():.1e}")

assert np.all(rounded <= u)
# half an ulp of a float32 in [1/2, 1] is 2^-25, and below that less; the subtraction is exact there or rounds once more
assert np.all(subtracted <= 2.0**-25 / exact + u)
assert subtracted[0] > 1e-4
# 2 t roundings, of the alphas and of the products, and one of the difference 1 - beta
assert np.all(multiplied <= 3 * t * u / (1 - 3 * t * u))
assert multiplied.max() > 10 * u

# %% [markdown]
# ## The last beta of the cosine schedule
#
# $\beta_t = 1 - \bar\alpha_t / \bar\alpha_{t-1}$ would be 1 at the end, since $\cos^2(\pi/2) = 0$; it is cut at 0.999. So
# $\bar\alpha_T$ is a product that ends in a cut, and not $\cos^2$ of anything. Whoever takes $\bar\alpha_T$
# from the cosine divides by a number that is 0 up to the rounding of $\pi$:

# %%
cosine = ref.Schedule.from_name("cosine", 1000)
angle = (t / 1000 + 0.008) / 1.008 * np.pi / 2
by_cosine = np.cos(angle) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
print(f"alpha_bar_T by the cosine {by_cosine[-1]:.1e}, with beta cut at 0.999 {cosine.alpha_bar[1000]:.1e}")
print(
    f"1 / sqrt(alpha_bar_T), by which an error of eps grows: {by_cosine[-1] ** -0.5:.0e}, {cosine.alpha_bar[1000] ** -0.5:.0f}"
)
assert cosine.beta[1000] == 0.999
assert by_cosine[-1] < 1e-30 < 1e-9 < cosine.alpha_bar[1000]
# up to the cut the two are one
np.testing.assert_allclose(by_cosine[:-1], cosine.alpha_bar[1:-1], rtol=1e-9)

# %% [markdown]
# In float32 the first $\beta$ is lost as well, where $\bar\alpha_t / \bar\alpha_{t-1}$ is close to 1. Here $\beta_t$ is the
# product $\sin(b - a) \sin(b + a) / \cos^2 a$ of the two angles (`betas.cosine_beta`), which subtracts nothing that is nearly
# equal.

# %% alt="Relative error of beta_t of the cosine schedule, against t: up to 7e-4 at first if subtracted in float32, then falling."
whole = np.concatenate([[1.0], by_cosine]).astype(f32)
beta_error = error(f32(1) - whole[1:-1] / whole[:-2], cosine.beta[1:-1])
figure, axis = plt.subplots()
axis.loglog(t[:-1], beta_error, linewidth=1, label=r"$1 - \bar\alpha_t / \bar\alpha_{t-1}$ in float32")
axis.loglog(t[:-1], error(f32(cosine.beta[1:-1]), cosine.beta[1:-1]), linewidth=1, color="C5", label="rounded once")
axis.set(xlabel="t", ylabel=r"relative error of $\beta_t$", ylim=(1e-10, 1e-1))
axis.legend(fontsize=8)
# two rounded numbers and their quotient, each within u of 1, over a small difference; then the difference is rounded
assert np.all(beta_error <= (3 * u + 4 * u**2) / cosine.beta[1:-1] + u)
assert beta_error[0] > 1e-4

# %% [markdown]
# ## The logarithm of the first posterior variance
#
# The posterior's variance is 0 at $t = 1$, and its logarithm $-\infty$. Two customs stand beside each other: to take that
# of $t = 2$ (Ho et al.'s code), and to cut the variance at $10^{-20}$. `Schedule.first_log_variance` names which one. The
# update at $t = 1$ adds no noise in either case; the bound and a learned variance see the difference.
# `test_schedule.py::test_log_variance_at_the_first_step_is_a_named_choice` holds it.

# %%
for choice in ("reuse", "clip"):
    log_variance = ref.Schedule.from_name("linear", 1000, first_log_variance=choice).posterior_log_variance
    print(f"{choice}: {log_variance[1]:.2f} at t = 1, {log_variance[2]:.2f} at t = 2")
    assert np.isfinite(log_variance).all()
assert schedule.posterior_variance[1] == 0

# %% [markdown]
# ## A step of DDIM
#
# $x_{t-1} = \sqrt{\bar\alpha_{t-1}}\, x_0 + \sqrt{1 - \bar\alpha_{t-1}}\, \epsilon$ is often written as
# $a\, x_t + b\, \epsilon$ with $a = \sqrt{\bar\alpha_{t-1} / \bar\alpha_t}$ and
# $b = \sqrt{1 - \bar\alpha_{t-1}} - a \sqrt{1 - \bar\alpha_t}$. Of a thousand steps each changes little, so that $b$
# is a difference of two nearly equal numbers. In float32 it loses as many digits as they share. Here coefficients are
# made in float64, and rounded once.

# %% alt="Relative error of DDIM's b against t: of a thousand steps up to 5e-5, of twenty up to 8e-7."
figure, axis = plt.subplots()
worst = {}
for steps, color in ((1000, "C0"), (20, "C1")):
    few = cosine.respace(steps)
    signal, noise = few.sqrt_alpha_bar, few.sqrt_one_minus_alpha_bar
    # in float64 there are digits to spare
    exact_b = noise[:-1] - signal[:-1] / signal[1:] * noise[1:]
    narrow = f32(noise[:-1]) - f32(signal[:-1]) / f32(signal[1:]) * f32(noise[1:])
    b_error = error(narrow, exact_b)
    worst[steps] = b_error[1:].max()
    axis.loglog(few.timesteps[1:], b_error, ".-", markersize=3, linewidth=0.8, color=color, label=f"{steps} steps")
axis.set(xlabel="t", ylabel="relative error of $b$")
axis.legend(fontsize=8)
print({steps: f"{largest:.1e}" for steps, largest in worst.items()})
assert worst[1000] > 10 * worst[20] > 10 * u

# %% [markdown]
# ## What holds this
#
# - The tables: `test_schedule.py::test_tables_are_what_their_names_say`,
#   `test_schedule.py::test_every_table_is_finite_and_read_only`.
# - The mixing in every dtype, at every $t$: `test_q_sample.py::test_within_its_bound_of_the_reference_at_every_t`.
# - What becomes of an error in the last steps: [alpha-bar in bfloat16](break/alpha_bar_in_bf16.py), [why predict the
#   noise](why/predict_the_noise.py).
