"""The readers of what somebody else made: whatever bytes they get, they return, or raise the one error they promise."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from noisestep.accelerated.data import DataError, load_images
from noisestep.accelerated.data.index import _rows_of_tars
from noisestep.accelerated.data.pixels import open_image
from noisestep.accelerated.errors import CheckpointError
from noisestep.accelerated.training import checkpoint as checkpoints
from noisestep.accelerated.training import tensor_file
from noisestep.accelerated.training.checkpoint_files import path_of
from noisestep.accelerated.training.config import read_json, train_config

# a folder in memory, where there is one
PLACE = Path(tempfile.mkdtemp(prefix="fuzzing-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))


def idx(data: bytes) -> None:
    _file("train-images-idx3-ubyte", data, load_images)


def array(data: bytes) -> None:
    _file("images.npy", data, load_images)


def archive(data: bytes) -> None:
    _file("images.npz", data, load_images)


def tar(data: bytes) -> None:
    _file("images.tar", data, lambda path: list(_rows_of_tars(((str(path), 0, 0, 0),))))


def image(data: bytes) -> None:
    try:
        decoded = open_image(Path("image"), data)
    except DataError:
        return
    assert decoded.mode in ("L", "RGB", "RGBA")
    assert np.asarray(decoded).dtype == np.uint8


def configuration(data: bytes) -> None:
    try:
        train_config(read_json(data.decode("utf-8")))
    except ValueError as error:
        _check(error)


def checkpoint(data: bytes) -> None:
    # with the right digest, or nothing behind it would be read
    place = tensor_file._DIGITS
    if len(data) >= place.stop:
        before, after = data[: place.start], data[place.stop :]
        data = before + tensor_file._digest(before, after) + after
    path = path_of(PLACE, 3)
    path.write_bytes(data)
    try:
        checkpoints.load(path)
    except CheckpointError as error:
        _check(error)


READERS: dict[str, Callable[[bytes], None]] = {
    one.__name__: one for one in (idx, array, archive, tar, image, configuration, checkpoint)
}


def _file(name: str, data: bytes, read: Callable[[Path], object]) -> None:
    (PLACE / name).write_bytes(data)
    try:
        read(PLACE / name)
    except DataError as error:
        _check(error)


def _check(error: Exception) -> None:
    assert "\n" not in str(error)
