"""The features by which sets of images are compared: pixels, or those of a small network that learned the images.

Pixels serve images whose shorter side has fewer than `LEARNED_FROM` pixels. There they are few enough that a distance
between pixels says how alike two images look, and a network has hardly anything to pool. Of larger images it does not:
blurred photos are near to every other photo, and pass for real.

The network is a few convolutions. With labels it learns to tell the classes apart, and without to know an image again
after it was moved and a part of it covered (Chen et al. 2020, arXiv:2002.05709). Neither asks it to overlook blur or
noise, as a change of contrast would. Its features are the means of the maps of every block, from fine to coarse, turned
into their principal components, each scaled to unit variance: so no direction in which images differ drowns another.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

# images of a shorter side than this are compared by their pixels
LEARNED_FROM = 16
# images of twice this side or more are averaged down until they are smaller than that
_SIDE = 64
# channels of the last block; outputs without classes; how sharply these are told apart
_WIDEST, _OUTPUTS, _TEMPERATURE = 128, 64, 0.2
# images of a step, and those whose features are computed at a time
BATCH = 128
# dimensions of the features, and images for each of them; in which each has unit variance over these
_DIMENSIONS, _IMAGES_OF_A_DIMENSION = 64, 3
# a single image that is unlike all others must not outweigh them
_LIMIT = 4.0

Progress = Callable[[int], object]
Transform = Callable[[NDArray[np.uint8]], NDArray[np.float64]]
Predict = Callable[[NDArray[np.uint8]], NDArray[np.int64]]
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Features:
    """What images are compared by.

    Attributes
    ----------
    name : str
        As it stands beside the numbers.
    transform : callable
        Images, uint8 (N, C, H, W), to features, float64 (N, dimension).
    predict : callable or None
        Images to the class of each, int64 (N,), where the features are those of a classifier of the classes.
    """

    name: str
    transform: Transform
    predict: Predict | None = None

    @property
    def kind(self) -> str:
        """The name without what stands in brackets."""
        return self.name.split(" (")[0]


def _factor(shape: tuple[int, ...]) -> int:
    return max(1, min(shape[1:]) // _SIDE)


def _widths(shape: tuple[int, ...]) -> list[int]:
    blocks = max(2, round(np.log2(min(shape[1:]) // _factor(shape) / 4)))
    return [max(8, _WIDEST >> (blocks - 1 - number)) for number in range(blocks)]


def cost(shape: tuple[int, int, int]) -> tuple[int, int]:
    """Multiply-adds of the network for one image, and how many numbers it and all convolutions' outputs are."""
    channels, height, width = shape[0], *(side // _factor(shape) for side in shape[1:])
    products, numbers = 0, channels * height * width
    for block, wide in enumerate(_widths(shape)):
        height, width = -(-height // 2), -(-width // 2)
        products += height * width * wide * ((9 if block else 16) * channels + 9 * wide)
        numbers += 2 * height * width * wide
        channels = wide
    return products, numbers


def dimension(learned: int) -> int:
    """Of the features that were learned from so many images, at most."""
    return max(2, min(_DIMENSIONS, learned // _IMAGES_OF_A_DIMENSION))


class Network(nn.Module):
    """Blocks of two convolutions, each of which halves the image, up to about 4×4; `outputs` numbers from the last."""

    def __init__(self, shape: tuple[int, int, int], outputs: int) -> None:
        super().__init__()
        channels = shape[0]
        self.blocks = nn.ModuleList()
        for block, width in enumerate(_widths(shape)):
            self.blocks.append(
                nn.Sequential(
                    nn.Conv2d(channels, width, 3 if block else 4, stride=2, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                    nn.Conv2d(width, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                )
            )
            channels = width
        self.head = nn.Linear(channels, outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of pixels 0..255, (N, C, H, W): the outputs, and the means of the maps of all blocks (N, sum of widths)."""
        x = x / 127.5 - 1
        means = []
        for block in self.blocks:
            x = block(x)
            means.append(x.mean((2, 3)))
        return self.head(means[-1]), torch.cat(means, dim=1)


@dataclass(frozen=True)
class Learned:
    """A network that learned training images.

    Attributes
    ----------
    network : Network
    mean, directions : Tensor
        Features are (means of the maps − mean) @ directions, between ±`_LIMIT`; float64 (M,) and (M, dimension).
    images, classes : int
        How many images it learned, and their classes; 0 if it learned without.
    """

    network: Network
    mean: Tensor
    directions: Tensor
    images: int
    classes: int

    @classmethod
    def learn(
        cls,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64] | None,
        classes: int,
        *,
        steps: int,
        device: torch.device = CPU,
        seed: int = 0,
        progress: Progress = lambda images: None,
    ) -> Self:
        """Learn images, uint8 (N, C, H, W), and with labels their classes; the same for the same seed.

        `progress` is told `BATCH` images after each step.
        """
        # the caller's random numbers are not ours
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = Network(images.shape[1:], _OUTPUTS if labels is None else classes).to(device)
        images, rng = _smaller(images), np.random.default_rng(seed)
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
        for _ in range(steps):
            if labels is None:
                # half as many images, and two views of each
                rows = rng.choice(len(images), min(BATCH // 2, len(images)), replace=False)
                views = np.concatenate([_covered(_moved(images[rows], rng), rng) for _ in range(2)])
                loss = _unlike(network(_pixels(views, device))[0])
            else:
                rows = rng.choice(len(images), min(BATCH, len(images)), replace=False)
                outputs = network(_pixels(_moved(images[rows], rng), device))[0]
                loss = F.cross_entropy(outputs, torch.from_numpy(labels[rows]).to(device), label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            progress(BATCH)
        network.eval().requires_grad_(False)
        means = _means(network, images, device).double()
        centre = means.mean(0)
        _, sizes, axes = torch.linalg.svd((means - centre) / (len(images) - 1) ** 0.5, full_matrices=False)
        # a direction in which the images hardly differ is one of rounding errors
        kept = min(dimension(len(images)), int((sizes > 1e-4 * sizes[0]).sum()))
        directions = axes[:kept].T / sizes[:kept]
        return cls(network, centre, directions, len(images), 0 if labels is None else classes)

    @property
    def name(self) -> str:
        """What was learned from how many images, and the dimension."""
        kind, how = ("classifier", "") if self.classes else ("network", "without labels, ")
        dimensions = self.directions.shape[1]
        return f"learned {kind} (trained on {self.images} training images, {how}{dimensions} dimensions)"

    def features(self) -> Features:
        """To compare images by."""
        device = next(self.network.parameters()).device

        def transform(images: NDArray[np.uint8]) -> NDArray[np.float64]:
            x = (_means(self.network, images, device).double() - self.mean) @ self.directions
            return x.clamp(-_LIMIT, _LIMIT).cpu().numpy()

        def predict(images: NDArray[np.uint8]) -> NDArray[np.int64]:
            parts = [self.network(x)[0].argmax(1) for x in _batches(images, device)]
            return torch.cat(parts).cpu().numpy()

        return Features(self.name, transform, predict if self.classes else None)

    def record(self) -> dict[str, Any]:
        """What `restore` needs besides the tensors."""
        return {"images": self.images, "classes": self.classes, "outputs": self.network.head.out_features}

    def tensors(self) -> dict[str, Tensor]:
        """Everything that was learned."""
        return {"mean": self.mean, "directions": self.directions, **self.network.state_dict(prefix="network.")}

    @classmethod
    def restore(
        cls,
        shape: tuple[int, int, int],
        record: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        device: torch.device = CPU,
    ) -> Self:
        """What `record` and `tensors` describe; KeyError or RuntimeError if they do not fit together."""
        network = Network(shape, record["outputs"])
        prefix = "network."
        network.load_state_dict({k.removeprefix(prefix): x for k, x in tensors.items() if k.startswith(prefix)})
        network.to(device).eval().requires_grad_(False)
        mean, directions = (tensors[name].to(device) for name in ("mean", "directions"))
        return cls(network, mean, directions, record["images"], record["classes"])


def _batches(images: NDArray[np.uint8], device: torch.device) -> Iterator[Tensor]:
    for start in range(0, len(images), BATCH):
        yield _pixels(_smaller(images[start : start + BATCH]), device)


def _pixels(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    return torch.from_numpy(images).to(device).float()


def _smaller(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images averaged over squares, and no margin that a square does not fill, if they are large."""
    factor = _factor(images.shape[1:])
    if factor == 1:
        return images
    height, width = (side // factor for side in images.shape[2:])
    smaller = np.empty((*images.shape[:2], height, width), np.uint8)
    for image, out in zip(images[..., : height * factor, : width * factor], smaller, strict=True):
        out[...] = np.rint(image.reshape(-1, height, factor, width, factor).mean((2, 4)))
    return smaller


def _means(network: Network, images: NDArray[np.uint8], device: torch.device) -> Tensor:
    return torch.cat([network(x)[1] for x in _batches(images, device)])


def _moved(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Each image moved by up to an eighth of its side, what comes in mirrored."""
    count, _, height, width = images.shape
    far = max(1, min(height, width) // 8)
    padded = np.pad(images, ((0, 0), (0, 0), (far, far), (far, far)), mode="reflect")
    y, x = rng.integers(0, 2 * far + 1, (2, count, 1, 1))
    rows, columns = y + np.arange(height)[:, None], x + np.arange(width)
    # (N, H, W, C), from which the channels go back to the front
    return np.ascontiguousarray(padded[np.arange(count)[:, None, None], :, rows, columns].transpose(0, 3, 1, 2))


def _covered(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Each image with a grey rectangle of a third of its sides somewhere."""
    count, _, height, width = images.shape
    y, x = (rng.integers(0, side - side // 3 + 1, (count, 1)) for side in (height, width))
    rows, columns = ((at <= np.arange(n)) & (np.arange(n) < at + n // 3) for at, n in ((y, height), (x, width)))
    return np.where(rows[:, None, :, None] & columns[:, None, None, :], np.uint8(128), images)


def _unlike(outputs: Tensor) -> Tensor:
    """How badly each of 2 N outputs tells its other view, N rows on, from the others: the NT-Xent loss of SimCLR."""
    directions = F.normalize(outputs, dim=1)
    alike = (directions @ directions.T / _TEMPERATURE).fill_diagonal_(-torch.inf)
    count = len(outputs)
    return F.cross_entropy(alike, torch.arange(count, device=outputs.device).roll(count // 2))
