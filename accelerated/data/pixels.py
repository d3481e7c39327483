"""One image to the channels and the size that are asked for.

The rules, for a file in a folder and in a tar alike:

- Transparency of any kind (an alpha channel, a transparent colour) makes four channels, palettes and other
  colour spaces make three, grey and black-and-white make one.
- To three channels or one, transparency is composited over white; to one, colour becomes luma (ITU-R 601-2).
- A sample of fewer or more than 8 bits is scaled so that its largest value becomes 255, and rounded: 16 bits are
  divided by 257. A transparent colour is compared before that, at the full depth.
- White is 255, also where a TIFF counts from white down. CMYK becomes RGB without a colour profile; Lab is that of D50.
- Samples are unsigned integers of at most 16 bits; signed ones, floats and 32 bits are refused.
- An animation or a file of many pages gives its first. The EXIF orientation is applied.
- An image has at most twice `PIL.Image.MAX_IMAGE_PIXELS` pixels, 178,956,970 as Pillow sets it.
- `fit="crop"` scales an image until it covers the size and keeps the centre; `fit="pad"` scales it until it
  fits inside and surrounds it with black, or with transparency. Both keep the proportions. Scaling is bicubic,
  with antialiasing; an image that has the right scale already keeps its pixels exactly.
"""

import io
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from noisestep.reference._arguments import integer
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from ..files import open_file
from .errors import DataError, reading

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's name for images of 1, 3 or 4 channels of 8 bits."""

FITS = ("crop", "pad")

# no more than these: Pillow also opens formats that run other programs (EPS) or fetch from elsewhere
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")

# tags of a TIFF and their values (TIFF 6.0)
_BITS = 258
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_PLANES, _SEPARATE = 284, 2
_SAMPLE_FORMAT, _UNSIGNED = 339, 1
# the ends of Pillow's names for colours of 16 bits a sample: big-endian, little-endian, as the machine has it; of
# those premultiplied by alpha, "RGBa", it divides 8 bits alone
_WIDE = (";16B", ";16L", ";16N")


def checked_options(
    size: int | tuple[int, int] | None, channels: int | None, fit: str
) -> tuple[tuple[int, int] | None, int | None]:
    """(height, width) and channels that were asked for, or None; a `DataError` for what cannot be, `fit` included."""
    try:
        height, width = (size, size) if np.ndim(size) == 0 else tuple(size)  # type: ignore[arg-type,misc]
        sides = None if size is None else (integer("height", height, 1), integer("width", width, 1))
    except (TypeError, ValueError):
        raise DataError(
            f"size must be a whole number or (height, width), each of at least 1 pixel, got {size!r}"
        ) from None
    if channels is not None and (isinstance(channels, bool) or channels not in MODES):
        raise DataError(f"channels must be 1, 3 or 4, got {channels!r}")
    if fit not in FITS:
        raise DataError(f"fit must be {' or '.join(map(repr, FITS))}, got {fit!r}")
    return sides, None if channels is None else int(channels)


def open_image(path: Path, content: bytes | None = None) -> Image.Image:
    """Decode an image file, or its content where it is a part of another file, to mode L, RGB or RGBA, upright.

    Raises
    ------
    DataError
        If it cannot be read, is none of `FORMATS`, is damaged, has samples other than unsigned integers of at most 16
        bits, or has more pixels than the rules above allow.
    """
    expected = f"an image ({', '.join(FORMATS)})"
    with reading(path, expected):
        # always from memory, so that a file and a part of a tar are decoded in one way
        if content is None:
            with open_file(path) as file:
                content = file.read()
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                _check_samples(path, image)
                return _decoded(image, content)
        except UnidentifiedImageError:
            raise DataError(f"{path}: expected {expected}; it is damaged, or of a kind that is not read") from None
        except Image.DecompressionBombError:
            limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
            raise DataError(
                f"{path}: expected an image of at most {limit} pixels, twice PIL.Image.MAX_IMAGE_PIXELS; it announces "
                "more"
            ) from None


def _check_samples(path: Path, image: Image.Image) -> None:
    """Refuse what Pillow would misread or cannot bring to bytes."""
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    if _SAMPLE_FORMAT in tags and set(tags[_SAMPLE_FORMAT]) != {_UNSIGNED}:
        raise DataError(f"{path}: expected unsigned integers, got signed ones or floats (its tag SampleFormat)")
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        raise DataError(f"{path}: expected at most 16 bits a channel, got 32")
    if image.format == "TIFF" and _PHOTOMETRIC not in tags:
        raise DataError(
            f"{path}: expected a TIFF that says what its samples mean, but the tag PhotometricInterpretation is missing"
        )
    if tags.get(_PLANES) == _SEPARATE and max(tags.get(_BITS, (1,))) > 8:
        raise DataError(f"{path}: expected a TIFF of 16 bits whose channels stand together, got separate planes")


def _decoded(image: ImageFile.ImageFile, content: bytes) -> Image.Image:
    """An image that was opened and not yet loaded, in mode L, RGB or RGBA, upright."""
    raw = _raw_mode(image)
    transparent = image.info.get("transparency") if image.format == "PNG" else None
    if image.mode.startswith("I"):
        samples = np.asarray(ImageOps.exif_transpose(image)).astype(np.uint16)[..., np.newaxis]
    elif raw.endswith(_WIDE) and not raw.startswith("RGBa"):
        samples = _wide_samples(raw, content)
    else:
        largest = {"1": 1, "L;2": 3, "L;4": 15}.get(raw)
        if transparent is not None and largest is not None:
            # Pillow scales the samples, but not the transparent one
            image.info["transparency"] = (transparent & largest) * (255 // largest)
        return _plain(ImageOps.exif_transpose(image))
    top = 4095 if raw == "I;12" else 65535
    if image.mode.startswith("I") and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        samples = top - samples
    scaled = np.rint(samples.astype(np.float32) * np.float32(255 / top)).astype(np.uint8)
    if transparent is not None:
        alpha = np.where((samples == transparent).all(-1, keepdims=True), 0, 255).astype(np.uint8)
        scaled = np.concatenate([scaled, alpha], axis=-1)
    height, width, channels = scaled.shape
    mode = "CMYK" if image.mode == "CMYK" else {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    return _plain(Image.frombytes(mode, (width, height), scaled.tobytes()))


def _plain(image: Image.Image) -> Image.Image:
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _wide_samples(raw: str, content: bytes) -> NDArray[np.uint16]:
    """Samples of 16 bits, (H, W, C). Pillow gives one byte of each: the high one, or in the other order the low one."""
    if raw.startswith("LA"):
        # two channels of two bytes are laid out as four of one
        four = _pixels(content, "RGBA").astype(np.uint16)
        return four[..., [0, 2]] << np.uint16(8) | four[..., [1, 3]]
    layout, order = raw[:-1], raw[-1]
    little = order == "L" or (order == "N" and sys.byteorder == "little")
    high, low = (_pixels(content, layout + end).astype(np.uint16) for end in ("LB" if little else "BL"))
    return high << np.uint16(8) | low


def _pixels(content: bytes, raw: str) -> NDArray[np.uint8]:
    """The bytes of an upright image, decoded as if its samples were laid out as `raw` says."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        image.tile = [
            tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw) for tile in image.tile
        ]
        return np.asarray(ImageOps.exif_transpose(image))


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """Pillow's name for the layout of the samples in the file; other text where a decoder of its own knows it."""
    arguments = image.tile[0].args if image.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


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


def read_image(path: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """One image file as uint8 (C, H, W) of a given shape: converted to its channels, and refused if of another size.

    Raises
    ------
    DataError
        In one line, for a file that cannot be read, and for another size, with both sizes.
    """
    channels, height, width = shape
    # Pillow's warnings speak of metadata, which is not used, and of sizes that are allowed
    with warnings.catch_warnings(action="ignore"):
        image = open_image(path)
    if (image.height, image.width) != (height, width):
        raise DataError(f"{path}: expected {height}×{width} pixels (height × width), got {image.height}×{image.width}")
    return render(image, channels, (height, width), "crop")


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
