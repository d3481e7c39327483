# %% [markdown]
# # Why predict the noise, and not the image?
#
# Both say the same. From $x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon$, which the network
# sees, either follows from the other. What differs is **how an error spreads**. If $\epsilon$ is wrong by $e$, then
# $x_0$ is wrong by
#
# $$
# \frac{\sqrt{1 - \bar\alpha_t}}{\sqrt{\bar\alpha_t}}\, e = \frac{e}{\sqrt{\mathrm{SNR}(t)}}
# $$
#
# Where there is little noise, the factor is far below 1. The image is nearly there already, and the network only
# has to say what to take off: the fine details are safe. Also, the target has the variance 1 at every $t$, so that all
# steps teach in the same units. And it is what the bound asks for: the distance of the means of a step is a factor
# times the distance of the noises ([lesson 6](../lessons/06_the_bound.py)).
#
# Where there is much noise, the factor is huge, and $x_0$ is the better target. The velocity
# $v = \sqrt{\bar\alpha_t}\, \epsilon - \sqrt{1 - \bar\alpha_t}\, x_0$ is good at both ends, since its error counts by
# at most 1. `prediction.convert` changes one into another:

# %% alt="Error of x_0 against t: for eps it rises from 0.01 to 158, for v from 0.01 to 1, for x_0 it is 1 throughout."
import matplotlib.pyplot as plt
import noisestep.reference as ref
import numpy as np

plt.style.use("noisestep.lessons.pictures")

schedule = ref.Schedule.from_name("linear", 1000)
t = np.arange(1, 1001)
x_0, eps = np.full((1000, 1), 0.3), np.ones((1000, 1))
x_t = ref.q_sample(schedule, x_0, t, eps)
figure, axis = plt.subplots()
for name in ("eps", "x_0", "v"):
    right = ref.convert(schedule, x_t, eps, t, source="eps", target=name)
    error = ref.convert(schedule, x_t, right + 1, t, source=name, target="x_0") - x_0
    axis.semilogy(t, np.abs(error), label=f"{name} is wrong by 1")
    if name == "eps":
        np.testing.assert_allclose(np.abs(error[:, 0]), schedule.snr[1:] ** -0.5, rtol=1e-9)
    if name == "v":
        np.testing.assert_allclose(np.abs(error[:, 0]), schedule.sqrt_one_minus_alpha_bar[1:])
axis.set(xlabel="t", ylabel="error of $x_0$")
axis.legend()
