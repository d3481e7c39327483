"""The images of each optimizer step: which ones, with which labels, mirrored or not, all from an address."""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .config import TrainConfig
from .data import ImageSet
from .noise import AUGMENTATION, LABEL_DROPOUT, Noise, permutation, uniform

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
    images : ImageSet
        The images to train on.
    num_classes : int or None
        None withholds every label.
    device : torch.device
        Where the batches are wanted.
    """

    def __init__(self, config: TrainConfig, images: ImageSet, num_classes: int | None, device: torch.device) -> None:
        self._config, self._device = config, device
        resident = images.images.nbytes <= RESIDENT_BYTES
        self._pixels = torch.from_numpy(images.images).to(device if resident else "cpu")
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
        places = batch_rows(config.seed, step, config.batch_size, len(self._pixels))[first : rows.stop]
        numbers = torch.from_numpy(places)
        images = self._pixels[numbers.to(self._pixels.device)].to(device)
        if config.data.flip:
            mirrored = uniform(Noise(config.seed, AUGMENTATION, step, first), count, device) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        if self._labels is None:
            return images, None
        labels = self._labels[numbers.to(device)]
        if config.label_dropout:
            withheld = uniform(Noise(config.seed, LABEL_DROPOUT, step, first), count, device) < config.label_dropout
            labels = torch.where(withheld, self._withheld, labels)
        return images, labels
