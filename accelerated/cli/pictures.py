"""Pictures of images: grids, strips over time, pairs, animations."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..training.atomic import write_atomically

# how wide a picture becomes by enlarging its images: twice the column of the report, for screens of high resolution
PAGE = 1680
# no image is enlarged beyond this, so that a picture of few images is no poster
TILE = 192
PADDING = 4
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
    if isinstance(x, torch.Tensor):
        # NumPy has no bfloat16
        x = x.detach().cpu()
        values = (x.float() if x.dtype == torch.bfloat16 else x).numpy()
    else:
        values = np.asarray(x)
    if values.dtype.kind != "f":
        raise TypeError(f"images must be floating point in [-1, 1]; got {values.dtype}")
    if np.isnan(values).any():
        raise ValueError(f"{np.isnan(values).sum()} of {values.size} values are NaN, which is no colour")
    pixels = np.empty(values.shape, np.uint8)
    # a part at a time, since float64 takes eight times the memory of the pixels, and there are several of it
    size, flat, source = 1 << 20, pixels.reshape(-1), values.reshape(-1)
    for start in range(0, values.size, size):
        part = source[start : start + size].astype(np.float64)
        flat[start : start + size] = np.rint(np.clip(127.5 * (part + 1.0), 0.0, 255.0))
    return pixels


def grid(
    images: np.ndarray,
    *,
    columns: int | None = None,
    scale: int | None = None,
    padding: int = PADDING,
    above: Sequence[str] = (),
    beside: Sequence[str] = (),
) -> Image.Image:
    """Images side by side in reading order, on white.

    Parameters
    ----------
    images : ndarray
        uint8 (N, C, H, W); C is 1 (grey), 3 (RGB) or 4 (RGBA).
    columns : int, optional
        Images per row; by default the grid is nearly square.
    scale : int, optional
        Draw each pixel as scale × scale pixels; by default so many that the images are together at most 1680 pixels
        wide, and none more than 192.
    padding : int
        White pixels around every image.
    above, beside : sequence of str
        A text for each column, over it, or for each row, on its left; a line break in it is kept.

    Returns
    -------
    Image
        A Pillow image of mode L, RGB or RGBA.
    """
    _check_images(images, rank=4)
    _check_layout(columns, scale, padding)
    count = len(images)
    columns = min(count, columns or int(np.ceil(np.sqrt(count))))
    rows = -(-count // columns)
    for texts, places in ((above, columns), (beside, rows)):
        if texts and len(texts) != places:
            raise ValueError(f"{len(texts)} texts cannot stand at {places} places: {list(texts)}")
    tiles = _enlarge(images, scale or _scale(images.shape[-2:], columns, padding))
    channels, height, width = tiles.shape[1:]
    canvas = np.full(
        (channels, rows * (height + padding) + padding, columns * (width + padding) + padding), 255, np.uint8
    )
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        top, left = padding + row * (height + padding), padding + column * (width + padding)
        canvas[:, top : top + height, left : left + width] = tile
    # Pillow takes (H, W) for grey and (H, W, C) for colour
    picture = Image.fromarray(canvas[0] if channels == 1 else np.ascontiguousarray(canvas.transpose(1, 2, 0)))
    return _annotate(picture, (height + padding, width + padding), above, beside) if above or beside else picture


def strip(
    frames: np.ndarray,
    *,
    texts: Sequence[str] = (),
    count: int = 8,
    scale: int | None = None,
    padding: int = PADDING,
) -> Image.Image:
    """Images over time: one row per image, the first frame on the left and the last on the right.

    Parameters
    ----------
    frames : ndarray
        uint8 (S, N, C, H, W), or (S, C, H, W) for one image: S frames of N images.
    texts : sequence of str
        What stands above each frame: S of them, or none.
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
    if texts and len(texts) != len(frames):
        raise ValueError(f"{len(texts)} texts for {len(frames)} frames")
    shown = np.rint(np.linspace(0, len(frames) - 1, min(count, len(frames)))).astype(int)
    by_image = frames[shown].swapaxes(0, 1)
    above = [texts[number] for number in shown] if texts else []
    return grid(by_image.reshape(-1, *frames.shape[2:]), columns=len(shown), scale=scale, padding=padding, above=above)


def pairs(
    left: np.ndarray,
    right: np.ndarray,
    *,
    columns: int | None = None,
    scale: int | None = None,
    padding: int = PADDING,
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
    columns = min(len(left), columns or int(np.ceil(np.sqrt(len(left)))))
    scale = scale or _scale(left.shape[-2:], 2 * columns, 3 * padding)
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
    columns : int, optional
        As in `grid`.
    scale : int, optional
        As in `grid`; by default a grid is a quarter as wide as one of `grid`, since every frame takes its space.
    milliseconds, hold : int
        How long a frame is shown, and the last frame.
    """
    _check_images(frames, rank=5)
    columns = min(frames.shape[1], columns or int(np.ceil(np.sqrt(frames.shape[1]))))
    scale = scale or _scale(frames.shape[-2:], columns, 1, shrink=4)
    grids = [grid(frame, columns=columns, scale=scale, padding=1) for frame in frames]
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


def _scale(size: tuple[int, ...], columns: int, padding: int, *, shrink: int = 1) -> int:
    """The enlargement that fills a page with columns of images of this height and width."""
    by_page = ((PAGE // shrink - padding) // columns - padding) // size[1]
    return max(1, min(by_page, TILE // shrink // max(size)))


def _annotate(picture: Image.Image, step: tuple[int, int], above: Sequence[str], beside: Sequence[str]) -> Image.Image:
    """A grid with texts above its columns and beside its rows, which are `step` pixels high and wide."""
    # a text of size 100 is measured, to have a 35th of the whole width as the size: ten pixels on a telephone
    measure, reference = ImageDraw.Draw(picture), ImageFont.load_default(100)
    widest = max((measure.multiline_textbbox((0, 0), text, reference)[2] / 100 for text in beside), default=0) + 0.3
    widest *= bool(beside)
    size = max(10, round(picture.width / max(10, 35 - widest)))
    font, left, top = ImageFont.load_default(size), round(widest * size), round(1.5 * size) * bool(above)
    annotated = Image.new(picture.mode, (left + picture.width, top + picture.height), "white")
    annotated.paste(picture, (left, top))
    pen = ImageDraw.Draw(annotated)
    for column, text in enumerate(above):
        pen.text((left + (column + 0.5) * step[1], top / 2), text, "black", font, anchor="mm")
    for row, text in enumerate(beside):
        pen.multiline_text((PADDING, top + (row + 0.5) * step[0]), text, "black", font, anchor="lm")
    return annotated


def _enlarge(images: np.ndarray, scale: int) -> np.ndarray:
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
