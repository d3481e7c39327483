"""The batches: the images of each optimizer step, their labels, flips and dropped labels, all from addresses."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from functools import lru_cache
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import torch
from noisestep.reference.noise import permutation
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..address import AUGMENTATION, LABEL_DROPOUT, NoiseAddress
from ..data import DataError, ImageSet, ImageStream
from ..errors import RunError
from ..ops import uniform
from .config import TrainConfig

# a data set up to this size is copied to the device once; of a larger one, each batch is
RESIDENT_BYTES = 2 << 30
# indices that are copied to the device at a time, those of several steps
_INDICES_AHEAD = 1 << 13


def batch_rows(seed: int, step: int, batch_size: int, n: int) -> NDArray[np.int64]:
    """Indices of the images of a step: each epoch is a new random permutation of the data.

    Position p = step · batch_size + i of the run is image permutation(seed, p // n)[p mod n]; a batch may contain the
    end of one epoch and the start of the next.

    Parameters
    ----------
    seed, step : int
        Steps count from 0.
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


# a batch may span two epochs, and the next batch starts in the later one
@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, n: int) -> NDArray[np.int64]:
    return permutation(seed, epoch, n)


def upload(x: Tensor, device: torch.device) -> Tensor:
    """x of the CPU on the device. The host does not wait: a GPU copies from pinned memory while the host goes on."""
    return x if device.type == "cpu" else x.pin_memory().to(device, non_blocking=True)


class Order:
    """The indices of the images of each step, on the CPU and on the device; those of several steps at a time.

    Parameters
    ----------
    seed, batch_size, n : int
        As for `batch_rows`.
    device : torch.device
    """

    def __init__(self, seed: int, batch_size: int, n: int, device: torch.device) -> None:
        self._seed, self._batch_size, self._n, self._device = seed, batch_size, n, device
        self._steps = max(1, _INDICES_AHEAD // batch_size)
        self._window: int | None = None

    def __call__(self, step: int, rows: range, device: torch.device) -> Tensor:
        """Indices int64 (rows,) of some rows of a step, on the CPU or on the device; not to be changed."""
        window, place = divmod(step, self._steps)
        if window != self._window:
            # a batch of several steps has the positions of their batches
            whole = batch_rows(self._seed, window, self._steps * self._batch_size, self._n)
            self._here = torch.from_numpy(whole).view(self._steps, self._batch_size)
            self._there, self._window = upload(self._here, self._device), window
        indices = self._here if device.type == "cpu" else self._there
        return indices[place, rows.start : rows.stop]


class Batches:
    """The batches of a training run.

    Parameters
    ----------
    config : TrainConfig
        Seed, batch size, flips, label dropout.
    images : ImageSet or ImageStream
        The images to train on.
    num_classes : int or None
        None for a network without labels.
    device : torch.device
        Device of the batches.
    micro_batches : list of range, optional
        The rows that each step asks for, in order, so that streamed images are decoded ahead; all by default.
    """

    def __init__(
        self,
        config: TrainConfig,
        images: ImageSet | ImageStream,
        num_classes: int | None,
        device: torch.device,
        micro_batches: list[range] | None = None,
    ) -> None:
        self._config, self._device = config, device
        self._order = Order(config.seed, config.batch_size, len(images), device)
        # on a CPU the ops are faster on contiguous images
        arranged = config.channels_last and device.type != "cpu"
        self._format = torch.channels_last if arranged else torch.contiguous_format
        self._decoder: Decoder | None = None
        self._pixels: Callable[[int, range], Tensor]
        if isinstance(images, ImageStream):
            decoder = self._decoder = Decoder(config, images, device, micro_batches or [range(config.batch_size)])
            self._pixels = lambda step, rows: decoder(step, rows).to(device, non_blocking=True)
        elif images.images.nbytes <= RESIDENT_BYTES:
            pixels = torch.from_numpy(images.images).to(device, memory_format=self._format)
            self._pixels = lambda step, rows: pixels[self._order(step, rows, device)]
        else:
            pixels = torch.from_numpy(images.images)
            self._pixels = lambda step, rows: upload(pixels[self._order(step, rows, pixels.device)], device)
        self._labels, self._null_label = None, 0
        if num_classes is not None and images.labels is not None:
            self._labels, self._null_label = torch.from_numpy(images.labels).to(device), num_classes

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
            uint8 (rows, C, H, W); on a GPU in the memory format of the network, channels-last or contiguous.
        labels : Tensor or None
            int64 (rows,); num_classes where the label is dropped.
        """
        config, device = self._config, self._device
        rows = range(config.batch_size) if rows is None else rows
        count, first = len(rows), rows.start
        images = self._pixels(step, rows).contiguous(memory_format=self._format)
        if config.data.flip:
            flipped = uniform(NoiseAddress(config.seed, AUGMENTATION, step, first), count, device) < 0.5
            images = torch.where(flipped[:, None, None, None], images.flip(-1), images)
        if self._labels is None:
            return images, None
        labels = self._labels[self._order(step, rows, device)]
        if config.label_dropout:
            dropped = (
                uniform(NoiseAddress(config.seed, LABEL_DROPOUT, step, first), count, device) < config.label_dropout
            )
            labels = labels.masked_fill(dropped, self._null_label)
        return images, labels

    @property
    def waiting(self) -> bool:
        """Whether a call is waiting for worker processes at the moment."""
        return self._decoder is not None and self._decoder.waiting

    def close(self) -> None:
        """End the worker processes, if there are any."""
        if self._decoder is not None:
            self._decoder.close()


class Decoder:
    """The pixels of streamed images, decoded by worker processes ahead of the step that needs them.

    Parameters
    ----------
    config : TrainConfig
        Seed, batch size, steps, workers.
    images : ImageStream
    device : torch.device
        Where the pixels will be copied; for a GPU they are pinned.
    micro_batches : list of range
        The rows that each step asks for, in order.
    """

    def __init__(
        self, config: TrainConfig, images: ImageStream, device: torch.device, micro_batches: list[range]
    ) -> None:
        self._config, self._images, self._micro_batches = config, images, micro_batches
        self._pin = device.type == "cuda"
        self._next: tuple[int, range] | None = None
        self._decoded: Iterator[Any] = iter(())
        self._workers: list[BaseProcess] = []
        # whether a call waits for the workers at the moment
        self.waiting = False

    def __call__(self, step: int, rows: range) -> Tensor:
        """Pixels uint8 (rows, C, H, W) of some rows of a step; unless they are the next ones, decoding restarts there.

        Raises
        ------
        DataError
            An image that cannot be decoded, or that has another shape.
        RunError
            A worker process was ended.
        """
        if self._next != (step, rows):
            self._requests = self._requests_from(step, rows)
            self.close()
            self._start(self._indices(*request) for request in self._requests_from(step, rows))
            next(self._requests)
        pixels = self._wait()
        self._next = next(self._requests, None)
        if isinstance(pixels, DataError):
            raise pixels
        return pixels

    def close(self) -> None:
        """End the worker processes, also those that stand still; the next call starts new ones."""
        for worker in self._workers:
            worker.kill()
        self._decoded, self._next, self._workers = iter(()), None, []

    def _start(self, indices: Iterator[NDArray[np.int64]]) -> None:
        others = set(multiprocessing.active_children())
        handler = signal.getsignal(signal.SIGCHLD)
        self._decoded = iter(self._loader(indices))
        if signal.getsignal(signal.SIGCHLD) is not handler:
            # the loader's handler raises wherever the process is, for instance while the optimizer changes the weights
            signal.signal(signal.SIGCHLD, handler)
        self._workers = [child for child in multiprocessing.active_children() if child not in others]

    def _wait(self) -> Any:
        self.waiting = True
        try:
            return next(self._decoded)
        except (EOFError, OSError, RuntimeError):
            # what the loader raises depends on the moment at which a worker ends
            if not connection.wait([worker.sentinel for worker in self._workers], timeout=1):
                raise
            raise RunError(
                "a process that decodes images was ended; if memory ran out, fewer --workers need less"
            ) from None
        finally:
            self.waiting = False

    def _requests_from(self, step: int, rows: range) -> Iterator[tuple[int, range]]:
        """The calls from this one to the end of the run."""
        yield from ((step, later) for later in self._micro_batches[self._micro_batches.index(rows) :])
        for later_step in range(step + 1, self._config.steps):
            yield from ((later_step, rows) for rows in self._micro_batches)

    def _indices(self, step: int, rows: range) -> NDArray[np.int64]:
        batch = batch_rows(self._config.seed, step, self._config.batch_size, len(self._images))
        return batch[rows.start : rows.stop]

    def _loader(self, indices: Iterator[NDArray[np.int64]]) -> DataLoader[Any]:
        return DataLoader(
            _Pixels(self._images),
            # the sampler gives the indices of a whole micro-batch at a time
            sampler=indices,
            batch_size=None,
            num_workers=self._config.data.workers,
            worker_init_fn=_ignore_signals,
            pin_memory=self._pin,
        )


class _Pixels(Dataset[Any]):
    def __init__(self, images: ImageStream) -> None:
        self._images = images

    def __getitem__(self, indices: NDArray[np.int64]) -> Tensor | DataError:
        try:
            return torch.from_numpy(self._images.read(indices))
        except DataError as error:
            # raising in the worker would wrap it in a long traceback
            return error


def _ignore_signals(worker: int) -> None:
    # a signal to the whole process group stops the loop after its step, for which the workers are still needed
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(30))
