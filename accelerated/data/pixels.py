"""One image to the channels and the size that are asked for.

The rules:

- Transparency of any kind (an alpha channel, a transparent colour) makes four channels, palettes and other
  colour spaces make three, grey and black-and-white make one.
- To three channels or one, transparency is composited over white; to one, colour becomes luma (ITU-R 601-2).
- 16-bit grey is divided by 257 and rounded, so that 65535 becomes 255. Pillow itself reduces 16-bit colour to
  8 bits.
- An animation or a file of many pages gives its first. The EXIF orientation is applied.
- `fit="crop"` scales an image until it covers the size and keeps the centre; `fit="pad"` scales it until it
  fits inside and surrounds it with black, or with transparency. Both keep the proportions. Scaling is bicubic,
  with antialiasing; an image that has the right scale already keeps its pixels exactly.
"""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from .errors import DataError, reading

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's name for images of 1, 3 or 4 channels of 8 bits."""

FITS = ("crop", "pad")

# no more than these: Pillow also opens formats that run other programs (EPS) or fetch from elsewhere
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


def open_image(path: Path, content: bytes | None = None) -> Image.Image:
    """Decode an image file, or its content where it is a part of another file, to mode L, RGB or RGBA, upright.

    Raises
    ------
    DataError
        If it cannot be read, is none of `FORMATS`, is damaged, has 32 bits a channel, or is so large that Pillow
        takes it for a decompression bomb (half as large is enough where the caller turns
        `Image.DecompressionBombWarning` into an error).
    """
    with (
        reading(path, f"an image ({', '.join(FORMATS)})"),
        Image.open(path if content is None else io.BytesIO(content), formats=FORMATS) as image,
    ):
        deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
        if image.mode in ("I", "F") and not deep:
            raise DataError(f"{path}: expected 8 or 16 bits a channel, got 32 (Pillow mode {image.mode})")
        upright = ImageOps.exif_transpose(image)
        if deep:
            return Image.fromarray(np.rint(np.asarray(upright) / 257).astype(np.uint8))
        if upright.has_transparency_data:
            return upright.convert("RGBA")
        return upright.convert("L" if upright.mode in ("1", "L") else "RGB")


def channels_of(image: Image.Image) -> int:
    """The channels of an image of mode L, RGB or RGBA."""
    return next(channels for channels, mode in MODES.items() if mode == image.mode)


def conform(
    image: Image.Image, path: Path, shape: tuple[int, int, int], given: tuple[bool, bool], fit: str, first: Path | str
) -> NDArray[np.uint8]:
    """One image of a set to uint8 (C, H, W): brought to the channels and the size that were asked for.

    Where they were not, and `given` (channels, size) says so, an image that differs from the first one is refused.
    """
    depth, height, width = shape
    if not given[0] and channels_of(image) != depth:
        raise DataError(
            f"{path}: expected {depth} channel{'s' * (depth > 1)} as in {first}, "
            f"got {channels_of(image)}; pass --channels 1, 3 or 4 to convert them all"
        )
    if not given[1] and (image.height, image.width) != (height, width):
        raise DataError(
            f"{path}: expected {height}×{width} pixels (height × width) as in {first}, "
            f"got {image.height}×{image.width}; pass --size to bring them all to one size"
        )
    return render(image, depth, (height, width), fit)


def render(image: Image.Image, channels: int, size: tuple[int, int], fit: str) -> NDArray[np.uint8]:
    """Bring an image of mode L, RGB or RGBA to uint8 (channels, *size), where size is (H, W)."""
    pixels = np.asarray(_fitted(_converted(image, MODES[channels]), size, fit))
    return pixels.reshape(*size, channels).transpose(2, 0, 1)


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == "RGBA" and mode != "RGBA":
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert(mode)


def _fitted(image: Image.Image, size: tuple[int, int], fit: str) -> Image.Image:
    (height, width), (h, w) = size, (image.height, image.width)
    if (h, w) == (height, width):
        return image
    if fit == "pad":
        scale = min(height / h, width / w)
        inner = max(1, round(w * scale)), max(1, round(h * scale))
        corner = (width - inner[0]) // 2, (height - inner[1]) // 2
        canvas = Image.new(image.mode, (width, height))
        canvas.paste(image.resize(inner, Image.Resampling.BICUBIC), corner)
        return canvas
    scale = max(height / h, width / w)
    outer_h, outer_w = max(height, round(h * scale)), max(width, round(w * scale))
    # whole pixels of the scaled image, named in the original's coordinates: the parts cut off are never
    # computed, which would be without limit for a very long and thin image
    left, top = (outer_w - width) // 2, (outer_h - height) // 2
    box = (
        left * w / outer_w,
        top * h / outer_h,
        min(w, (left + width) * w / outer_w),
        min(h, (top + height) * h / outer_h),
    )
    return image.resize((width, height), Image.Resampling.BICUBIC, box=box)
