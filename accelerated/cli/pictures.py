"""Pictures of images: grids, strips over time, pairs, animations."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..training.atomic import write_atomically

# images smaller than this are enlarged, so that one can see them: 8×8 digits are drawn six times as large
TILE = 48
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def to_uint8(x: torch.Tensor | np.ndarray) -> np.ndarray:
    """Pixels of images in [-1, 1]: round(127.5 (x + 1)), the inverse of x = pixel / 127.5 - 1.

    Parameters
    ----------
    x : Tensor or ndarray
        Floating point, any shape, nominally in [-1, 1]; values outside are clipped.

    Returns
    -------
    ndarray
        uint8, the same shape. Ties go to the even pixel value.

    Raises
    ------
    TypeError
        If x is not floating point.
    ValueError
        If x holds NaN.
    """
    values = x.detach().to("cpu", torch.float64).numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
    dtype = x.dtype if isinstance(x, torch.Tensor) else values.dtype
    if not (dtype.is_floating_point if isinstance(dtype, torch.dtype) else dtype.kind == "f"):
        raise TypeError(f"images must be floating point in [-1, 1]; got {dtype}")
    if np.isnan(values).any():
        raise ValueError(f"{np.isnan(values).sum()} of {values.size} values are NaN, which is no colour")
    return np.rint(np.clip(127.5 * (values.astype(np.float64) + 1.0), 0.0, 255.0)).astype(np.uint8)


def grid(images: np.ndarray, *, columns: int | None = None, scale: int | None = None, padding: int = 2) -> Image.Image:
    """Images side by side in reading order, on white.

    Parameters
    ----------
    images : ndarray
        uint8 (N, C, H, W); C is 1 (grey), 3 (RGB) or 4 (RGBA).
    columns : int, optional
        Images per row; by default the grid is nearly square.
    scale : int, optional
        Draw each pixel as scale × scale pixels; by default 1, or more for an image smaller than 48 pixels.
    padding : int
        White pixels around every image.

    Returns
    -------
    Image
        A Pillow image of mode L, RGB or RGBA.
    """
    _check_images(images, rank=4)
    _check_layout(columns, scale, padding)
    count = len(images)
    columns = min(count, columns or int(np.ceil(np.sqrt(count))))
    tiles = _enlarge(images, scale)
    channels, height, width = tiles.shape[1:]
    rows = -(-count // columns)
    canvas = np.full(
        (channels, rows * (height + padding) + padding, columns * (width + padding) + padding), 255, np.uint8
    )
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        top, left = padding + row * (height + padding), padding + column * (width + padding)
        canvas[:, top : top + height, left : left + width] = tile
    # Pillow takes (H, W) for grey and (H, W, C) for colour
    return Image.fromarray(canvas[0] if channels == 1 else np.ascontiguousarray(canvas.transpose(1, 2, 0)))


def strip(frames: np.ndarray, *, count: int = 10, scale: int | None = None, padding: int = 2) -> Image.Image:
    """Images over time: one row per image, the first frame on the left and the last on the right.

    Parameters
    ----------
    frames : ndarray
        uint8 (S, N, C, H, W), or (S, C, H, W) for one image: S frames of N images.
    count : int
        Maximum number of frames shown, evenly spaced, including the first and the last.
    scale, padding : int
        As in `grid`.
    """
    if frames.ndim == 4:
        frames = frames[:, None]
    _check_images(frames, rank=5)
    if count < 2:
        raise ValueError(f"a strip shows at least its two ends; got {count=}")
    if len(frames) > count:
        frames = frames[np.rint(np.linspace(0, len(frames) - 1, count)).astype(int)]
    by_image = frames.swapaxes(0, 1)
    return grid(by_image.reshape(-1, *frames.shape[2:]), columns=len(frames), scale=scale, padding=padding)


def pairs(
    left: np.ndarray,
    right: np.ndarray,
    *,
    columns: int | None = None,
    scale: int | None = None,
    padding: int = 2,
) -> Image.Image:
    """Pairs of images side by side: samples and their nearest training images.

    Parameters
    ----------
    left, right : ndarray
        uint8 (N, C, H, W), the same shape.
    columns : int, optional
        Pairs per row.
    scale, padding : int
        As in `grid`; there are four paddings between pairs.
    """
    _check_images(left, rank=4)
    _check_images(right, rank=4)
    if left.shape != right.shape:
        raise ValueError(f"pairs need two sets of one shape; got {left.shape} and {right.shape}")
    _check_layout(columns, scale, padding)
    left, right = _enlarge(left, scale), _enlarge(right, scale)
    gap = np.full((*left.shape[:3], padding), 255, np.uint8)
    return grid(np.concatenate([left, gap, right], axis=3), columns=columns, scale=1, padding=4 * padding)


def save_gif(
    frames: np.ndarray,
    path: Path,
    *,
    columns: int | None = None,
    scale: int | None = None,
    milliseconds: int = 80,
    hold: int = 2000,
) -> Path:
    """Write an endless animation, each frame a grid, atomically.

    Parameters
    ----------
    frames : ndarray
        uint8 (S, N, C, H, W): S frames of N images.
    path : path
        The GIF file.
    columns, scale : int, optional
        As in `grid`.
    milliseconds, hold : int
        How long a frame is shown, and the last frame.
    """
    _check_images(frames, rank=5)
    grids = [grid(frame, columns=columns, scale=scale) for frame in frames]
    # a pixel of a GIF cannot be half transparent, so transparent images are drawn on white
    grids = [_on_white(picture) if picture.mode == "RGBA" else picture for picture in grids]
    durations = [milliseconds] * (len(grids) - 1) + [hold]
    buffer = io.BytesIO()
    grids[0].save(buffer, "GIF", save_all=True, append_images=grids[1:], duration=durations, loop=0, optimize=False)
    return write_atomically(path, buffer.getvalue())


def save_png(image: Image.Image, path: Path) -> Path:
    """Write a PNG file, atomically."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return write_atomically(path, buffer.getvalue())


def _enlarge(images: np.ndarray, scale: int | None) -> np.ndarray:
    if scale is None:
        scale = max(1, TILE // max(images.shape[-2:]))
    return images.repeat(scale, axis=-2).repeat(scale, axis=-1)


def _on_white(image: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _check_layout(columns: int | None, scale: int | None, padding: int) -> None:
    if (columns is not None and columns < 1) or (scale is not None and scale < 1) or padding < 0:
        raise ValueError(f"columns and scale count from 1, padding from 0; got {columns=}, {scale=}, {padding=}")


def _check_images(images: np.ndarray, rank: int) -> None:
    names = {4: "(N, C, H, W)", 5: "(S, N, C, H, W)"}[rank]
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        found = images.dtype if isinstance(images, np.ndarray) else type(images).__name__
        raise TypeError(f"images must be a uint8 array {names}; got {found}")
    if images.ndim != rank or not images.size or images.shape[-3] not in MODES:
        raise ValueError(f"images must be {names} with C of 1, 3 or 4 and none of them 0; got {images.shape}")
