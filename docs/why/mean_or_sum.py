# %% [markdown]
# # Why MSE, when the formula has a sum?
#
# The chapter prints $\lVert \epsilon - \epsilon_\theta \rVert^2$, a sum over all $n$ pixels and channels, and codes
# `nn.MSELoss`, which is their mean. **The two differ by the factor $n$ and nothing else**: they have the same
# minimum, and gradients of the same direction.
#
# $$
# \nabla \lVert \epsilon - \epsilon_\theta \rVert^2 = n\, \nabla\, \tfrac1n \lVert \epsilon - \epsilon_\theta \rVert^2
# $$
#
# What the factor does depends on the optimizer. Plain gradient descent takes steps $n$ times as long, and diverges at
# a learning rate that suits the mean. Adam divides the gradient by its own size, so that its step is the same for
# both, up to the small number that it adds to the denominator. Clipping the gradient's norm and weight decay inside
# the loss do feel it. With the mean, a loss of 1 is that of a network that always says 0, whatever the size of the
# image. So compare losses of papers only when you know which one they print.
#
# ```{source} reference.loss.squared_error
# ```
#
# The experiment: one weight, $\epsilon_\theta = w\, x_t$, images of 64 pixels. The best $w$ is known.

# %% alt="w by step. Descent on the mean reaches the best w, on the sum it leaves the picture. Adam's two lines agree."
import matplotlib.pyplot as plt
import noisestep.reference as ref
import numpy as np

plt.style.use("noisestep.lessons.pictures")

schedule, t, n = ref.Schedule.from_name("linear", 1000), 300, 64
x_0 = ref.normal(1, ref.FORWARD, 0, range(500), (n,)).astype(float)
eps = ref.normal(0, ref.FORWARD, 0, range(500), (n,)).astype(float)
x_t = ref.q_sample(schedule, x_0, t, eps)
best = (eps * x_t).sum() / (x_t**2).sum()


def train(over, adam):
    w, optimizer, path = np.zeros(1), ref.Adam(), [0.0]
    for _ in range(60):
        pixels = 2 * (w * x_t - eps) * x_t
        gradient = np.array([(pixels.mean(axis=1) if over == "mean" else pixels.sum(axis=1)).mean()])
        if adam:
            moved, optimizer = optimizer.update({"w": w}, {"w": gradient}, learning_rate=0.05)
            w = moved["w"]
        else:
            w = w - 0.05 * gradient
        path.append(w[0])
    return np.array(path)


paths = {(over, adam): train(over, adam) for over in ("mean", "sum") for adam in (False, True)}
figure, axes = plt.subplots(1, 2, sharey=True)
for axis, adam, title in zip(axes, (False, True), ("gradient descent", "Adam"), strict=True):
    for over, style in (("mean", "-"), ("sum", "--")):
        path = paths[over, adam]
        # drawn until it leaves the picture
        axis.plot(path[: 1 + int(np.argmax(abs(path) > 2))] if abs(path).max() > 2 else path, style, label=over)
    axis.axhline(best, linestyle=":", color="C5", label="best w")
    axis.set(title=title, xlabel="step", ylim=(-0.2, 1.2))
axes[0].set_ylabel("w")
axes[1].legend()

losses = [ref.squared_error(best * x_t, eps, over=over).mean() for over in ("sum", "mean")]
assert np.isclose(losses[0], n * losses[1])
assert abs(paths["sum", False][-1]) > 1e6
assert abs(paths["mean", False][-1] - best) < 0.01
np.testing.assert_allclose(paths["sum", True], paths["mean", True], atol=1e-5)
