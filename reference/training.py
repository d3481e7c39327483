"""The chapter's training step and loop by hand: real digits in, new digits out, with NumPy alone.

Run as ``python -m noisestep.reference.training``. One step draws a batch of images, a timestep for each and noise,
mixes them (:mod:`.forward`), asks the network for the noise (:mod:`.network`), and moves the weights against the
gradient of the squared error (:mod:`.optimizer`). Sampling from the averaged weights follows at the end
(:mod:`.sampling`).
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from ._arguments import MOST_ROWS, floats, integer
from .digits import load_digits
from .forward import q_sample
from .network import Parameters, SimpleUNet, initial_parameters
from .noise import FORWARD, TIMESTEP, integers, normal, permutation
from .optimizer import Adam, ema
from .picture import image_grid, write_png
from .samplers.loop import sample
from .schedule import Schedule


def simple_loss_gradients(
    model: SimpleUNet,
    schedule: Schedule,
    x_0: NDArray[np.float64],
    t: NDArray[np.int64],
    eps: NDArray[np.floating],
) -> tuple[float, Parameters]:
    """L_simple of a batch and its gradients in the network's parameters, the chapter's ``training_step``.

        x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps
        L = mean (eps_theta(x_t, t) - eps)^2,    dL/d eps_theta = 2 (eps_theta - eps) / n

    The mean is taken over all n elements, as the chapter's ``MSELoss`` does. Neither x_t nor eps depends on the
    parameters, so the gradient passes through the network alone.

    Returns
    -------
    loss : float
    gradients : dict of str to ndarray
    """
    x_0, eps = floats(x_0=x_0, eps=eps)
    x_t = q_sample(schedule, x_0, t, eps)
    output, activations = model.forward(x_t, schedule.timesteps[t])
    difference = output - eps
    gradients, _ = model.backward(activations, 2 * difference / difference.size)
    return float(np.mean(difference**2)), gradients


def batches(seed: int, count: int, batch: int) -> Iterator[NDArray[np.int64]]:
    """The rows of the data for each training step, without end: a new random order in every epoch.

    Place p = step * batch + i of the run is row permutation(seed, p // count)[p mod count]; a batch may end one
    epoch and begin the next. No image is left out, and none comes twice before all have come.

    Parameters
    ----------
    count, batch : int
        Images in the data and in a batch, at least 1.

    Yields
    ------
    ndarray of int64, shape (batch,), in 0..count - 1
    """
    count, batch = integer("count", count, 1, MOST_ROWS), integer("batch", batch, 1, MOST_ROWS)
    epoch, rows = 0, np.empty(0, np.int64)
    while True:
        while len(rows) < batch:
            rows = np.concatenate([rows, permutation(seed, epoch, count)])
            epoch += 1
        yield rows[:batch]
        rows = rows[batch:]


@dataclass(frozen=True)
class Recipe:
    """How to train: everything, besides the images, that the weights depend on.

    Attributes
    ----------
    seed : int
        Of every random number.
    steps, batch : int
        Optimizer steps, and images in each.
    T : int
        Steps of the diffusion, with the cosine schedule.
    width : int
        Channels of the network's hidden layers.
    learning_rate : float
        After warm-up; falls to zero along a straight line.
    warmup : int
        Steps over which the learning rate rises.
    ema_decay : float
        Of the average of the weights: min(ema_decay, (1 + k) / (10 + k)) at step k, so that a short run forgets its
        first weights too.
    dtype : {"float32", "float64"}
        What the network computes in; the schedule is float64 always.
    """

    seed: int = 0
    steps: int = 4000
    batch: int = 32
    T: int = 200
    width: int = 128
    learning_rate: float = 3e-3
    warmup: int = 100
    ema_decay: float = 0.998
    dtype: Literal["float32", "float64"] = "float32"


def train(
    images: NDArray[np.float64],
    recipe: Recipe,
    *,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> tuple[SimpleUNet, Schedule]:
    """Trains the chapter's network on images: L_simple, Adam, and an average of the weights.

    Every random number has its address: at step k = 0, 1, .. the timestep of image i of the batch comes from
    stream TIMESTEP and its noise from stream FORWARD, both at step k and sample i. The same recipe gives the same
    weights, as far as the machine adds numbers in the same order.

    Parameters
    ----------
    images : ndarray of float64, shape (N, C, H, W), in [-1, 1]
        Real images.
    recipe : Recipe
        The settings.
    report : callable
        Called after each step with the number of steps done and the loss of the batch.

    Returns
    -------
    model : SimpleUNet
        With the averaged weights.
    schedule : Schedule
        The chain that it was trained on.
    """
    # freeing one large block tells glibc's allocator to keep freed memory, instead of fetching every array's pages anew
    # from the kernel: a third of the time
    np.empty(31 << 20, np.uint8)
    schedule = Schedule.from_name("cosine", recipe.T)
    parameters = initial_parameters(recipe.seed, images.shape[1], recipe.width, dtype=recipe.dtype)
    mean, adam = parameters, Adam()
    sample_number = np.arange(recipe.batch)
    order = batches(recipe.seed, len(images), recipe.batch)
    for k in range(recipe.steps):
        x_0 = images[next(order)]
        t = integers(recipe.seed, TIMESTEP, k, sample_number, 1, recipe.T)
        eps = normal(recipe.seed, FORWARD, k, sample_number, images.shape[1:])
        loss, gradients = simple_loss_gradients(SimpleUNet(parameters), schedule, x_0, t, eps)
        rate = recipe.learning_rate * min((k + 1) / recipe.warmup, 1 - k / recipe.steps)
        parameters, adam = adam.update(parameters, gradients, learning_rate=rate)
        mean = ema(mean, parameters, min(recipe.ema_decay, (1 + k) / (10 + k)))
        report(k + 1, loss)
    return SimpleUNet(mean), schedule


class _OneLineParser(argparse.ArgumentParser):
    """Says what is wrong with an argument in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def _whole(low: int, high: int) -> Callable[[str], int]:
    """Reads an integer in low..high."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return value

    return read


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0, up to 1")
    return value


def _png(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() != ".png" or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} does not name a .png file")
    if not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"the folder of {text!r} does not exist or cannot be written to")
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains on the digits, draws new ones and writes their picture; ``--help`` lists the options.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line; that of the process if left out.
    """
    defaults = Recipe()
    parser = _OneLineParser("python -m noisestep.reference.training", description=__doc__)
    parser.add_argument("--seed", type=_whole(0, 2**64 - 1), default=defaults.seed, help="of every random number")
    parser.add_argument("--steps", type=_whole(1, 2**28 - 1), default=defaults.steps, help="optimizer steps")
    parser.add_argument("--batch", type=_whole(1, 2**16), default=defaults.batch, help="images a step")
    parser.add_argument("--T", type=_whole(1, 10_000), default=defaults.T, help="diffusion steps")
    parser.add_argument("--width", type=_whole(1, 1024), default=defaults.width, help="hidden channels")
    parser.add_argument("--learning-rate", type=_rate, default=defaults.learning_rate, help="after warm-up")
    parser.add_argument("--count", type=_whole(1, 10_000), default=100, help="digits to draw")
    parser.add_argument("--out", type=_png, default="numpy_digits.png", help="picture to write")
    options = vars(parser.parse_args(arguments))
    count, out = options.pop("count"), options.pop("out")
    recipe = Recipe(**options)
    try:
        images, _ = load_digits()
    except FileNotFoundError as missing:
        parser.error(str(missing))

    started, recent = time.perf_counter(), 1.0
    every = max(1, recipe.steps // 20)

    def report(step: int, loss: float) -> None:
        nonlocal recent
        # the first losses count in full; later the mean runs over about a hundred steps
        recent += (loss - recent) * max(1 / step, 0.01)
        if step % every == 0 or step == recipe.steps:
            seconds = time.perf_counter() - started
            print(
                f"step {step} of {recipe.steps}  loss {recent:.4f}  "
                f"{step * recipe.batch / seconds:.0f} images/s  {seconds:.0f} s",
                flush=True,
            )

    model, schedule = train(images, recipe, report=report)
    x_0 = sample(schedule, model, (count, *images.shape[1:]), seed=recipe.seed, clip=(-1, 1))
    write_png(out, image_grid(x_0, columns=min(count, 10), zoom=6))
    print(f"{count} new digits in {out}, {time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()
