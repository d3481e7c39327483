# %% [markdown]
# # Does t begin at 0 or at 1?
#
# At 1 in the papers, at 0 in most code, and both are right, **as long as the tables and the loop agree.** Papers
# count the noisy images $x_1, \dots, x_T$; $x_0$ is clean and $\bar\alpha_0 = 1$. Code often has tables of length $T$
# whose entry 0 is $\bar\alpha_1$; its `t` is the papers' $t - 1$. The tables here have $T + 1$ rows, so that
# `alpha_bar[t]` is $\bar\alpha_t$.
#
# - The **first step of noise** is $t = 1$: $x_1 = \sqrt{1 - \beta_1}\, x_0 + \sqrt{\beta_1}\, \epsilon$. In training,
#   $t$ is drawn from 1 to $T$.
# - The **last step of sampling** leads from $x_1$ to $x_0$. So a loop has to take $t = T, \dots, 1$, which is $T$
#   steps. With a table counted from 0, that is `reversed(range(T))`.
#
# The chapter mixes the two: its tables are counted from 0, its `t` from 1, and its loop is `reversed(range(1, T))`.
# One step is missing, and the result is $x_1$ in place of $x_0$. Its noise has the standard deviation
# $\sqrt{1 - \bar\alpha_1}$. Who samples with a thousand steps does not see it. Who takes ten does:

# %% alt="A digit with one step missing: of 1000 steps it looks clean, of 50 a little grainy, of 10 very grainy."
import matplotlib.pyplot as plt
import noisestep.reference as ref
import numpy as np

plt.style.use("noisestep.lessons.pictures")

digit = ref.load_digits()[0][:1]
schedule = ref.Schedule.from_name("linear", 1000)
figure, axes = plt.subplots(1, 3, figsize=(5.6, 1.9))
for axis, steps in zip(axes, (1000, 50, 10), strict=True):
    few = schedule.respace(steps)
    # a network that knows the answer
    film = ref.sample(few, lambda x, t: digit, digit.shape, prediction="x_0", trajectory=True)
    np.testing.assert_allclose(film[0], digit, atol=1e-12)
    axis.imshow(film[1, 0, 0], vmin=-1, vmax=1)
    axis.set_title(f"{steps} steps: noise {few.sqrt_one_minus_alpha_bar[1]:.2f}", fontsize=9)
    axis.axis("off")
