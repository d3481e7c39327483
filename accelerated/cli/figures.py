"""Pictures of images: grids, strips over time, an animated denoising, the loss curve."""

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.signal import lfilter

# a tile at least this many pixels across can be made out on a screen: 8×8 digits are drawn six times as large
TILE = 48
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def to_uint8(x: torch.Tensor | np.ndarray) -> np.ndarray:
    """Pixels of images in [-1, 1]: round(127.5 (x + 1)), the inverse of x = pixel / 127.5 - 1.

    Parameters
    ----------
    x : Tensor or ndarray
        Floating point, any shape, nominally in [-1, 1]; what lies outside is clipped.

    Returns
    -------
    ndarray
        uint8, the same shape. Ties go to the even pixel value.

    Raises
    ------
    TypeError
        If x is not floating point.
    ValueError
        If x holds NaN, which is no colour.
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
        Images a row; by default as near to a square as it goes.
    scale : int, optional
        Each pixel is drawn as scale × scale pixels; by default 1, or what makes a small image 48 pixels wide.
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
    """Images over time: a row an image, the first frame on the left and the last on the right.

    Parameters
    ----------
    frames : ndarray
        uint8 (S, N, C, H, W), or (S, C, H, W) for one image: S moments of N images.
    count : int
        At most this many moments are shown, evenly spaced, the first and the last among them.
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
    """Two sets of images, side by side two by two: samples and their nearest training images.

    Parameters
    ----------
    left, right : ndarray
        uint8 (N, C, H, W), the same shape.
    columns : int, optional
        Pairs a row.
    scale, padding : int
        As in `grid`; pairs stand four paddings apart.
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
    path: str | Path,
    *,
    columns: int | None = None,
    scale: int | None = None,
    milliseconds: int = 80,
    hold: int = 2000,
) -> Path:
    """An animation that repeats for ever, each moment a grid, written in one piece.

    Parameters
    ----------
    frames : ndarray
        uint8 (S, N, C, H, W): S moments of N images.
    path : path
        Where to write.
    columns, scale : int, optional
        As in `grid`.
    milliseconds, hold : int
        How long a moment stays, and the last one.
    """
    _check_images(frames, rank=5)
    moments = [grid(frame, columns=columns, scale=scale) for frame in frames]
    # GIF knows a pixel as opaque or not at all, so that transparency is laid on the white of the grid
    moments = [_on_white(moment) if moment.mode == "RGBA" else moment for moment in moments]
    durations = [milliseconds] * (len(moments) - 1) + [hold]
    buffer = io.BytesIO()
    moments[0].save(buffer, "GIF", save_all=True, append_images=moments[1:], duration=durations, loop=0, optimize=False)
    return write_atomically(path, buffer.getvalue())


def loss_figure(log: str | Path | Mapping[str, Any]) -> Image.Image:
    """The loss, its running mean and the learning rate over the steps.

    Parameters
    ----------
    log : path or mapping
        A CSV file with the columns step, loss and learning_rate, or the columns themselves by name.

    Returns
    -------
    Image
        A Pillow image, 1350 × 780.

    Raises
    ------
    ValueError
        If a column is missing, empty, not numeric, or not as long as the others.
    """
    # a figure is drawn once in a while: whoever only wants a grid does not wait for matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    name = "the log" if isinstance(log, Mapping) else str(log)
    columns = log if isinstance(log, Mapping) else read_log(log)
    step, loss, rate = (_column(columns, key, name) for key in ("step", "loss", "learning_rate"))
    if not len(step) == len(loss) == len(rate):
        raise ValueError(f"{name}: columns of different lengths: {len(step)}, {len(loss)}, {len(rate)}")
    figure = Figure(figsize=(9, 5.2), dpi=150, layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    top.plot(step, loss, color="#9db8d2", linewidth=0.8, label="loss")
    finite = np.isfinite(loss)
    top.plot(step[finite], _running_mean(loss[finite]), color="#1f4e79", linewidth=1.8, label="running mean")
    # a logarithmic axis shows the slow end of a fall; over a short range it would have too few marks
    if finite.any() and loss[finite].min() > 0 and loss[finite].max() > 3 * loss[finite].min():
        top.set_yscale("log")
        top.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
        top.yaxis.set_major_formatter("{x:g}")
        top.yaxis.set_minor_locator(NullLocator())
    top.set_ylabel("loss")
    top.legend(frameon=False)
    bottom.plot(step, rate, color="#b5651d", linewidth=1.5)
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("optimizer step")
    bottom.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    for axes in (top, bottom):
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def save_png(image: Image.Image, path: str | Path) -> Path:
    """Write a picture as PNG, in one piece: a reader sees the old file or the new one, never half of it."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return write_atomically(path, buffer.getvalue())


def write_atomically(path: str | Path, data: bytes) -> Path:
    """Write a file under a temporary name beside its place, sync it, and rename it."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def read_log(path: str | Path) -> dict[str, np.ndarray]:
    """The columns of a training log (CSV with one line of names), float64, by name."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    if len(rows) < 2:
        raise ValueError(f"{path}: expected a line of column names and at least one line of numbers")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(rows[0]):
            raise ValueError(f"{path}, line {number}: expected {len(rows[0])} values, found {len(row)}")
    return {name: _column({name: values}, name, str(path)) for name, *values in zip(*rows, strict=True)}


def _column(columns: Mapping[str, Any], key: str, name: str) -> np.ndarray:
    if key not in columns:
        raise ValueError(f"{name}: no column {key!r} among {', '.join(columns)}")
    try:
        values = np.asarray(columns[key], dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"{name}: column {key!r} holds something that is not a number") from error
    if values.ndim != 1 or not len(values):
        raise ValueError(f"{name}: column {key!r} must be a list of numbers, not of shape {values.shape}")
    return values


def _running_mean(values: np.ndarray) -> np.ndarray:
    # exponential, over about a fiftieth of the run, divided by the weight it has gathered so far
    decay = 1.0 - 1.0 / max(1.0, len(values) / 50)
    gathered = 1.0 - decay ** np.arange(1, len(values) + 1)
    return np.asarray(lfilter([1.0 - decay], [1.0, -decay], values)) / gathered


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
