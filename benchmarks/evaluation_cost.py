"""What an evaluation costs: python -m benchmarks.evaluation_cost --train 1000000 --classes 10000 --shape 3,32,32.

It makes images that a few waves make up, evaluates some of them against others in this process, and prints the plan,
the time, and how far the memory of the process grew beyond the images.
"""

import argparse
import resource
import time
from math import prod

import numpy as np
from noisestep.accelerated.evaluation.evaluate import evaluate
from noisestep.accelerated.evaluation.features import Learned
from noisestep.accelerated.evaluation.plan import Plan


def make(
    rng: np.random.Generator, count: int, shape: tuple[int, int, int], classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, C, H, W) of classes, each of which has waves of its own."""
    values = prod(shape)
    waves = rng.standard_normal((256, values))
    images, labels = np.empty((count, values), np.uint8), rng.integers(0, classes, count)
    for start in range(0, count, 1000):
        own = labels[start : start + 1000]
        weights = np.stack([np.cos(own), np.sin(own), np.ones(len(own))], axis=1) @ waves[:3]
        x = (
            weights
            + rng.standard_normal((len(own), 16)) @ waves[16:32] / 4
            + rng.standard_normal((len(own), values)) / 8
        )
        images[start : start + 1000] = 255 / (1 + np.exp(-x))
    return images.reshape(-1, *shape), labels


def main() -> None:
    """Print what was planned and what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("samples", 1000), ("train", 60_000), ("held-out", 10_000), ("classes", 10)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--shape", default="1,28,28", help="C,H,W")
    parser.add_argument("--seeds", type=int, default=4, help="sets of samples")
    parser.add_argument("--features", choices=("pixels", "learned"), default="learned")
    given = parser.parse_args()
    channels, height, width = map(int, given.shape.split(","))
    shape = (channels, height, width)
    sets = [
        make(np.random.default_rng(seed), count, shape, given.classes)
        for seed, count in enumerate((given.seeds * given.samples, given.train, given.held_out))
    ]
    plan = Plan(given.samples, given.train, given.held_out, shape, given.classes, given.seeds, given.features)
    print("planned:", plan.describe())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    (samples, asked), (train, labels), real = sets
    # every set of samples is asked for the same labels
    asked = asked[: plan.compared]
    features = None
    if given.features == "learned":
        known = labels[: plan.learned] if plan.learns_classes else None
        features = Learned.learn(train[: plan.learned], known, given.classes, steps=plan.steps).features()
        print(f"learning the features: {time.perf_counter() - start:.1f} s")
    split = [part[: plan.compared] for part in np.split(samples, given.seeds)]
    result = evaluate(split, asked, train, labels, *real, features=features, plan=plan)
    seconds = time.perf_counter() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    size = sum(images.nbytes for images, _ in sets)
    print(f"measured: {grown / 1e9:.2f} GB and {seconds:.1f} s; the images take {size / 1e9:.2f} GB")
    print(result.table())


if __name__ == "__main__":
    main()
