"""A grid of images as a PNG file, with nothing but the standard library."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._arguments import (
    floats,
    integer,
)


def image_grid(images: NDArray[np.floating[Any]], columns: int, *, zoom: int = 1) -> NDArray[np.uint8]:
    """Images side by side, row by row, with a grey line between them; what is missing in the last row stays grey.

    Parameters
    ----------
    images : ndarray, shape (B, 1, H, W)
        Grey images in [-1, 1]; what lies outside is clipped.
    columns : int
        Images in a row, in [1, 2^16).
    zoom : int
        Edge of the square that shows one pixel, in [1, 2^10).

    Returns
    -------
    ndarray of uint8, shape (height, width)
        0 is -1, 255 is 1.
    """
    (images,) = floats(images=images)
    if images.ndim != 4 or images.shape[1] != 1:
        raise ValueError(f"images must have shape (B, 1, H, W), got {images.shape}")
    columns, zoom = integer("columns", columns, 1, 1 << 16), integer("zoom", zoom, 1, 1 << 10)
    # half a pixel's worth is added so that truncation rounds to nearest
    pixels = ((np.clip(images[:, 0], -1, 1) + 1) * 127.5 + 0.5).astype(np.uint8)
    pixels = pixels.repeat(zoom, axis=1).repeat(zoom, axis=2)  # (B, zoom H, zoom W)
    batch, height, width = pixels.shape
    grid = np.full((-(-batch // columns) * (height + zoom) + zoom, columns * (width + zoom) + zoom), 96, np.uint8)
    for number, image in enumerate(pixels):
        row, column = divmod(number, columns)
        top, left = row * (height + zoom) + zoom, column * (width + zoom) + zoom
        grid[top : top + height, left : left + width] = image
    return grid


def write_png(path: str | Path, pixels: NDArray[np.uint8]) -> None:
    """A grey image as a PNG file (PNG specification, third edition, sections 5 and 11).

    Parameters
    ----------
    path : str or Path
        Written over if it exists.
    pixels : ndarray of uint8, shape (height, width)
        0 is black.

    Raises
    ------
    ValueError
        If `pixels` is not a table of uint8.
    OSError
        If the file cannot be written.
    """
    if not isinstance(pixels, np.ndarray):
        raise TypeError(f"pixels must be an array of uint8, got {type(pixels).__name__}")
    if pixels.dtype != np.uint8 or pixels.ndim != 2:
        raise ValueError(f"pixels must be uint8 of shape (height, width), got {pixels.dtype} {pixels.shape}")
    height, width = pixels.shape
    # bit depth 8, colour type 0 (grey), the only compression and filter methods, no interlacing
    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    # every row starts with the number of its filter, 0 for none
    rows = np.pad(pixels, ((0, 0), (1, 0))).tobytes()
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")]
    Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks))


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
