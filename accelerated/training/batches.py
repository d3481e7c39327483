"""The images of each optimizer step: which ones, with which labels, mirrored or not, all from an address."""

import signal
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from noisestep.reference.noise import permutation
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..address import AUGMENTATION, LABEL_DROPOUT, NoiseAddress
from ..data import DataError, ImageSet, ImageStream
from ..ops import uniform
from .config import TrainConfig

# a data set up to this size is copied to the device once; a larger one travels batch by batch
RESIDENT_BYTES = 2 << 30


def batch_rows(seed: int, step: int, batch_size: int, n: int) -> NDArray[np.int64]:
    """Numbers of the images of a step: the data in a new random order each epoch, every image once.

    Position p = step · batch_size + i of the run is image permutation(seed, p // n)[p mod n]; a batch may end
    one epoch and begin the next.

    Parameters
    ----------
    seed, step : int
        Of the run; steps count from 0.
    batch_size : int
    n : int
        Images in the data set, at least 1.

    Returns
    -------
    int64 array (batch_size,)
        In 0..n − 1.
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, places = np.divmod(positions, n)
    rows = np.empty(batch_size, np.int64)
    for epoch in np.unique(epochs).tolist():
        here = epochs == epoch
        rows[here] = _order(seed, epoch, n)[places[here]]
    return rows


# two epochs meet in a batch, and the next batch begins with the later one
@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, n: int) -> NDArray[np.int64]:
    return permutation(seed, epoch, n)


class Feed:
    """The batches of a training run.

    Parameters
    ----------
    config : TrainConfig
        Seed, batch size, flips, label dropout.
    images : ImageSet or ImageStream
        The images to train on.
    num_classes : int or None
        None withholds every label.
    device : torch.device
        Where the batches are wanted.
    pieces : list of range, optional
        The rows that a step is asked for, in turn: streamed images are decoded ahead of them.
    """

    def __init__(
        self,
        config: TrainConfig,
        images: ImageSet | ImageStream,
        num_classes: int | None,
        device: torch.device,
        pieces: list[range] | None = None,
    ) -> None:
        self._config, self._device, self._count = config, device, len(images)
        self._pixels: Callable[[int, range], Tensor]
        if isinstance(images, ImageStream):
            self._pixels = Decoder(config, images, device, pieces or [range(config.batch_size)])
        else:
            resident = images.images.nbytes <= RESIDENT_BYTES
            stored = torch.from_numpy(images.images).to(device if resident else "cpu")
            self._pixels = lambda step, rows: stored[self._numbers(step, rows).to(stored.device)]
        self._labels, self._withheld = None, 0
        if num_classes is not None and images.labels is not None:
            self._labels, self._withheld = torch.from_numpy(images.labels).to(device), num_classes

    def __call__(self, step: int, rows: range | None = None) -> tuple[Tensor, Tensor | None]:
        """Images and labels of an optimizer step, or of some rows of its batch.

        Parameters
        ----------
        step : int
            Counted from 0.
        rows : range, optional
            Of the global batch; all of them by default.

        Returns
        -------
        images : Tensor
            uint8 (rows, C, H, W).
        labels : Tensor or None
            int64 (rows,); num_classes where the label is withheld.
        """
        config, device = self._config, self._device
        rows = range(config.batch_size) if rows is None else rows
        count, first = len(rows), rows.start
        images = self._pixels(step, rows).to(device, non_blocking=True)
        if config.data.flip:
            mirrored = uniform(NoiseAddress(config.seed, AUGMENTATION, step, first), count, device) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        if self._labels is None:
            return images, None
        labels = self._labels[self._numbers(step, rows).to(device)]
        if config.label_dropout:
            withheld = (
                uniform(NoiseAddress(config.seed, LABEL_DROPOUT, step, first), count, device) < config.label_dropout
            )
            labels = torch.where(withheld, self._withheld, labels)
        return images, labels

    def close(self) -> None:
        """End the processes that decode, if there are any."""
        if isinstance(self._pixels, Decoder):
            self._pixels.close()

    def _numbers(self, step: int, rows: range) -> Tensor:
        batch = batch_rows(self._config.seed, step, self._config.batch_size, self._count)
        return torch.from_numpy(batch[rows.start : rows.stop])


class Decoder:
    """The pixels of streamed images, decoded by other processes ahead of the step that wants them.

    Parameters
    ----------
    config : TrainConfig
        Seed, batch size, steps, workers.
    images : ImageStream
    device : torch.device
        Where the pixels will go.
    pieces : list of range
        The rows that a step is asked for, in turn.
    """

    def __init__(self, config: TrainConfig, images: ImageStream, device: torch.device, pieces: list[range]) -> None:
        self._config, self._images, self._pieces = config, images, pieces
        self._pin = device.type == "cuda"
        self._next: tuple[int, range] | None = None
        self._decoded: Iterator[Any] = iter(())

    def __call__(self, step: int, rows: range) -> Tensor:
        """Pixels uint8 (rows, C, H, W) of some rows of a step; out of turn, what was decoded ahead is thrown away.

        Raises
        ------
        DataError
            An image that cannot be decoded, or that has another shape.
        """
        if self._next != (step, rows):
            self._turns = self._from(step, rows)
            numbers = (self._numbers(*turn) for turn in self._from(step, rows))
            self._decoded = iter(self._loader(numbers))
            next(self._turns)
        pixels = next(self._decoded)
        self._next = next(self._turns, None)
        if isinstance(pixels, DataError):
            raise pixels
        return pixels

    def close(self) -> None:
        """End the processes that decode; the next call starts others."""
        self._decoded, self._next = iter(()), None

    def _from(self, step: int, rows: range) -> Iterator[tuple[int, range]]:
        """The turns from one on, to the end of the run."""
        yield from ((step, piece) for piece in self._pieces[self._pieces.index(rows) :])
        for later in range(step + 1, self._config.steps):
            yield from ((later, piece) for piece in self._pieces)

    def _numbers(self, step: int, rows: range) -> NDArray[np.int64]:
        batch = batch_rows(self._config.seed, step, self._config.batch_size, len(self._images))
        return batch[rows.start : rows.stop]

    def _loader(self, numbers: Iterator[NDArray[np.int64]]) -> DataLoader[Any]:
        return DataLoader(
            _Pixels(self._images),
            # the sampler names a whole piece at a time
            sampler=numbers,
            batch_size=None,
            num_workers=self._config.data.workers,
            worker_init_fn=_outlive_signals,
            pin_memory=self._pin,
        )


class _Pixels(Dataset[Any]):
    def __init__(self, images: ImageStream) -> None:
        self._images = images

    def __getitem__(self, numbers: NDArray[np.int64]) -> Tensor | DataError:
        try:
            return torch.from_numpy(self._images.read(numbers))
        except DataError as error:
            # raised here, it would arrive as the page that tells where
            return error


def _outlive_signals(worker: int) -> None:
    # a signal to the whole group stops the loop after its step, which the workers have to live to see
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(30))
