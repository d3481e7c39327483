"""Image files written by hand, from the formats' descriptions: every depth, meaning, transparency and orientation.

PNG: W3C, "Portable Network Graphics (PNG) Specification"; TIFF: Adobe, "TIFF Revision 6.0".
"""

import io
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL
import pytest
from noisestep.accelerated.data import DataError, ImageStream, load_images
from noisestep.accelerated.data.pixels import open_image
from PIL import Image

HEIGHT, WIDTH = 3, 5  # odd, so that rows of fewer than 8 bits a sample end within a byte
PNG_DEPTHS = {"grey": (1, 2, 4, 8, 16), "rgb": (8, 16), "palette": (1, 2, 4, 8), "grey+alpha": (8, 16), "rgba": (8, 16)}
COLOUR_TYPE = {"grey": 0, "rgb": 2, "palette": 3, "grey+alpha": 4, "rgba": 6}
CHANNELS = {"grey": 1, "rgb": 3, "palette": 1, "grey+alpha": 2, "rgba": 4}


def samples(bits: int, channels: int) -> np.ndarray:
    """Samples (H, W, channels) of 0 .. 2^bits - 1; the lowest and the highest are among them."""
    values = np.random.default_rng(bits).integers(0, 2**bits, (HEIGHT, WIDTH, channels))
    values[0, 0], values[-1, -1] = 0, 2**bits - 1
    return values


def scaled(values: np.ndarray, bits: int) -> np.ndarray:
    """The nearest bytes."""
    return np.rint(values * 255 / (2**bits - 1)).astype(np.uint8)


def packed(values: np.ndarray, bits: int, order: str) -> list[bytes]:
    """The rows of samples: most significant bit first, each row padded to whole bytes; 16 bits in byte order."""
    flat = values.reshape(len(values), -1)
    if bits == 16:
        return [row.astype(f"{order}u2").tobytes() for row in flat]
    digits = flat[..., np.newaxis] >> np.arange(bits)[::-1] & 1
    return [row.tobytes() for row in np.packbits(digits.reshape(len(flat), -1).astype(np.uint8), axis=1)]


def ifd(tags: dict[int, tuple[int, ...]], order: str, place: int) -> bytes:
    """A directory of integers that lies at `place`, with the values that do not fit into it after it."""
    entries, after = b"", b""
    end = place + 2 + 12 * len(tags) + 4
    for tag, values in sorted(tags.items()):
        if len(values) == 1:
            # 32 bits, as places in the file need them
            entries += struct.pack(f"{order}HHII", tag, 4, 1, *values)
            continue
        content = struct.pack(f"{order}{len(values)}H", *values)
        if len(content) <= 4:
            entries += struct.pack(f"{order}HHI4s", tag, 3, len(values), content)
        else:
            entries += struct.pack(f"{order}HHII", tag, 3, len(values), end + len(after))
            after += content
    return struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + after


def png(values: np.ndarray, bits: int, kind: str, *, palette: bytes = b"", trns: bytes = b"", turn: int = 1) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", values.shape[1], len(values), bits, COLOUR_TYPE[kind], 0, 0, 0)
    rows = b"".join(b"\0" + row for row in packed(values, bits, ">"))
    exif = struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 274, 3, 1, turn, 0, 0)
    chunks = [(b"IHDR", header), (b"PLTE", palette), (b"tRNS", trns), (b"eXIf", exif), (b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks if one[1]) + chunk(b"IEND", b"")


def tiff(
    values: np.ndarray, bits: int, photometric: int | None, *, order: str = "<", turn: int = 1, **tags: tuple[int, ...]
) -> bytes:
    """One strip; tags beyond the required ones are given as T339=(2,)."""
    data = b"".join(packed(values, bits, order))
    if tags.get("T259") == (8,):
        data = zlib.compress(data)
    if tags.get("T266") == (2,):
        data = np.packbits(np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")).tobytes()
    height, width, channels = values.shape
    known = {256: (width,), 257: (height,), 258: (bits,) * channels, 259: (1,), 273: (8,), 274: (turn,)}
    known |= {277: (channels,), 278: (height,), 279: (len(data),)}
    if photometric is not None:
        known[262] = (photometric,)
    known |= {int(name[1:]): value for name, value in tags.items()}
    start = 8 + len(data) + len(data) % 2
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, start)
    return head + data + bytes(len(data) % 2) + ifd(known, order, start)


def with_alpha(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Grey or RGB bytes (H, W, 1 or 3) and alpha (H, W) as RGBA."""
    return np.concatenate([np.broadcast_to(colour, (*alpha.shape, 3)), alpha[..., np.newaxis]], axis=-1)


def png_cases(turn: int) -> dict[str, tuple[bytes, np.ndarray]]:
    cases = {}
    for kind, depths in PNG_DEPTHS.items():
        for bits in depths:
            name, values = f"png {kind} {bits}", samples(bits, CHANNELS[kind])
            colour = scaled(values, bits)
            if kind == "palette":
                table = np.random.default_rng(9).integers(0, 256, (2**bits, 3), np.uint8)
                alphas = np.arange(2**bits - 1, dtype=np.uint8) * 3
                cases[name] = png(values, bits, kind, palette=table.tobytes(), turn=turn), table[values[..., 0]]
                # a tRNS may be shorter than the palette; the rest is opaque
                expected = with_alpha(table[values[..., 0]], np.append(alphas, 255).astype(np.uint8)[values[..., 0]])
                content = png(values, bits, kind, palette=table.tobytes(), trns=alphas.tobytes(), turn=turn)
                cases[f"{name}, transparent"] = content, expected
                continue
            if kind in ("grey+alpha", "rgba"):
                colour = with_alpha(colour[..., :-1], colour[..., -1])
            cases[name] = png(values, bits, kind, turn=turn), colour
            if kind in ("grey", "rgb"):
                # another pixel differs from the transparent one in its last bit alone
                key = values[1, 2]
                values[1, 3] = key ^ 1
                alpha = np.where((values == key).all(-1), 0, 255).astype(np.uint8)
                content = png(values, bits, kind, trns=key.astype(">u2").tobytes(), turn=turn)
                cases[f"{name}, transparent"] = content, with_alpha(scaled(values, bits), alpha)
    return cases


def tiff_cases(turn: int) -> dict[str, tuple[bytes, np.ndarray]]:
    cases: dict[str, tuple[bytes, np.ndarray]] = {}

    def add(name: str, expected: np.ndarray, *arguments: Any, **tags: Any) -> None:
        for order in ("<", ">"):
            for compression in (1, 8):
                key = f"tiff {name}, {'II' if order == '<' else 'MM'}, {'deflate' if compression == 8 else 'raw'}"
                cases[key] = tiff(*arguments, order=order, turn=turn, T259=(compression,), **tags), expected

    for bits in (1, 2, 4, 8, 16):
        values = samples(bits, 1)
        add(f"grey {bits}", scaled(values, bits), values, bits, 1)
        if bits < 16:
            add(f"white is zero {bits}", scaled(2**bits - 1 - values, bits), values, bits, 0)
            add(f"grey {bits}, last bit first", scaled(values, bits), values, bits, 1, T266=(2,))
            table = np.random.default_rng(9).integers(0, 2**16, (3, 2**bits))
            # Pillow, as others, takes the high byte of the 16 bits of a palette
            add(
                f"palette {bits}", (table >> 8).astype(np.uint8).T[values[..., 0]], values, bits, 3, T320=(*table.flat,)
            )
    # these in one byte order alone; see REFUSED
    values = samples(12, 1)
    cases["tiff grey 12, II"] = tiff(values, 12, 1, turn=turn), scaled(values, 12)
    values = samples(16, 1)
    cases["tiff white is zero 16, II"] = tiff(values, 16, 0, turn=turn), scaled(65535 - values, 16)
    for bits in (8, 16):
        values = samples(bits, 4)
        rgb = scaled(values[..., :3], bits)
        add(f"rgb {bits}", rgb, values[..., :3], bits, 2)
        add(f"rgb {bits} and a channel that means nothing", rgb, values, bits, 2, T338=(0,))
        add(f"rgba {bits}", with_alpha(rgb, scaled(values[..., 3], bits)), values, bits, 2, T338=(2,))
        # premultiplied: what is opaque is what it is, and what is not is black
        opaque = values.copy()
        opaque[..., 3] = (2**bits - 1) * (np.arange(WIDTH) % 2)
        opaque[..., :3] *= opaque[..., 3:] > 0
        expected = with_alpha(scaled(opaque[..., :3], bits), scaled(opaque[..., 3], bits))
        if bits == 8:
            add("rgba 8, premultiplied", expected, opaque, bits, 2, T338=(1,))
        inks = samples(1, 4) * (2**bits - 1)
        # each ink takes its colour away, and black takes all
        expected = np.where((inks[..., :3] > 0) | (inks[..., 3:] > 0), 0, 255).astype(np.uint8)
        add(f"cmyk {bits}", expected, inks, bits, 5)
    values = samples(8, 2)
    add("grey and alpha 8", with_alpha(values[..., :1], values[..., 1]), values, 8, 1, T338=(2,))
    values[..., 1] = 255 * (np.arange(WIDTH) % 2)
    values[..., 0] *= values[..., 1] > 0
    # which older Pillows do not read
    if int(PIL.__version__.split(".")[0]) >= 13:
        add("grey and alpha 8, premultiplied", with_alpha(values[..., :1], values[..., 1]), values, 8, 1, T338=(1,))
    return cases


def turned(pixels: np.ndarray, turn: int) -> np.ndarray:
    """(H, W, C) as it is to be shown: what the tag Orientation says of its first row and column."""
    return {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(pixels),
    }[turn]


def pixels_of(image: Image.Image) -> np.ndarray:
    return np.asarray(image).reshape(image.height, image.width, -1)


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_depth_meaning_and_transparency_in_every_orientation(turn: int, tmp_path: Path) -> None:
    for name, (content, expected) in (png_cases(turn) | tiff_cases(turn)).items():
        path = tmp_path / "image"
        path.write_bytes(content)
        for image in (open_image(path), open_image(Path("part of a tar"), content)):
            np.testing.assert_array_equal(pixels_of(image), turned(expected, turn), err_msg=f"{name}, turned {turn}")


@pytest.mark.parametrize("bits", [12, 16])
def test_every_deep_value_becomes_the_nearest_byte(bits: int) -> None:
    values = np.arange(2**bits).reshape(2 ** (bits // 2), -1, 1)
    contents = [tiff(values, bits, 1)] + [png(values, bits, "grey")] * (bits == 16)
    for content in contents:
        np.testing.assert_array_equal(pixels_of(open_image(Path("all"), content)), scaled(values, bits))


def test_lab_is_that_of_d50() -> None:
    # white, black, a middle grey (L* = 50 is 119 in sRGB), and the red of sRGB
    lab = np.array([[[255, 0, 0], [0, 0, 0], [128, 0, 0], [138, 81, 70]]])
    pixels = pixels_of(open_image(Path("lab.tif"), tiff(lab & 255, 8, 8)))
    expected = np.array([[[255, 255, 255], [0, 0, 0], [119, 119, 119], [255, 0, 0]]])
    # the coordinates of the red are whole numbers here, and one step of them is up to 3 levels
    assert np.abs(pixels.astype(int) - expected).max() <= 5


def test_a_folder_a_tar_and_a_stream_give_the_same_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    cases = png_cases(1) | tiff_cases(1)
    folder, tar = tmp_path / "folder", tmp_path / "all.tar"
    folder.mkdir()
    with tarfile.open(tar, "w") as file:
        for number, (name, (content, _)) in enumerate(cases.items()):
            (folder / f"{number}.{name[:4].strip()}").write_bytes(content)
            info = tarfile.TarInfo(f"{number}.{name[:4].strip()}")
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    options: dict[str, Any] = {"size": (HEIGHT, WIDTH), "channels": 4, "fit": "crop"}
    whole = load_images(folder, **options).images
    for source in (folder, tar):
        streamed = ImageStream.open(str(source), **options)
        np.testing.assert_array_equal(streamed.read(np.arange(len(cases))), whole)
    for pixels, (name, (_, expected)) in zip(whole, cases.items(), strict=True):
        rgba = expected if expected.shape[-1] == 4 else with_alpha(expected, np.full((HEIGHT, WIDTH), 255, np.uint8))
        np.testing.assert_array_equal(pixels.transpose(1, 2, 0), rgba, err_msg=name)


GREY = samples(16, 1)
NOT_READ = "it is damaged, or of a kind that is not read"
REFUSED: dict[str, tuple[bytes, str]] = {
    "signed 8": (tiff(samples(8, 1), 8, 1, T339=(2,)), "expected unsigned integers, got signed ones or floats"),
    "signed 16": (tiff(GREY, 16, 1, T339=(2,)), "expected unsigned integers, got signed ones or floats"),
    "signed 16, MM": (tiff(GREY, 16, 1, order=">", T339=(2,)), "expected unsigned integers, got signed ones or floats"),
    "no meaning": (tiff(GREY, 16, None), "the tag PhotometricInterpretation is missing"),
    "planes of 16": (tiff(samples(16, 3), 16, 2, T284=(2,)), "got separate planes"),
    # what Pillow does not read
    "10 bits": (tiff(samples(10, 1), 10, 1), NOT_READ),
    "12 bits, MM": (tiff(samples(12, 1), 12, 1, order=">"), NOT_READ),
    "12 bits, white is zero": (tiff(samples(12, 1), 12, 0), NOT_READ),
    "white is zero 16, MM": (tiff(GREY, 16, 0, order=">"), NOT_READ),
    "grey and alpha 16": (tiff(samples(16, 2), 16, 1, T338=(2,)), NOT_READ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_misread_is_refused(name: str) -> None:
    content, message = REFUSED[name]
    with pytest.raises(DataError, match=message) as caught:
        open_image(Path("a.tif"), content)
    assert str(caught.value).startswith("a.tif: expected ")
    assert "\n" not in str(caught.value)


def test_a_large_photo_is_taken_and_a_larger_one_refused_in_a_folder_and_in_a_tar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    # Pillow warns above it, and refuses above twice as much
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH - 1)
    content = png(samples(8, 1), 8, "grey")
    for folder, limit in (("taken", HEIGHT * WIDTH - 1), ("refused", 7)):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(content)
        with tarfile.open(tmp_path / f"{folder}.tar", "w") as file:
            file.add(tmp_path / folder / "a.png", "a.png")
        for source in (folder, f"{folder}.tar"):
            if folder == "taken":
                stream = ImageStream.open(str(tmp_path / source), size=None, channels=None, fit="crop")
                np.testing.assert_array_equal(stream.read(np.arange(1))[0, 0], samples(8, 1)[..., 0])
            else:
                with pytest.raises(DataError, match="expected an image of at most 14 pixels"):
                    ImageStream.open(str(tmp_path / source), size=None, channels=None, fit="crop")
        if folder == "taken":
            assert load_images(tmp_path / folder).shape == (1, HEIGHT, WIDTH)
        else:
            with pytest.raises(DataError, match="expected an image of at most 14 pixels"):
                load_images(tmp_path / folder)
    assert not [warning for warning in recwarn if "Decompression" in warning.category.__name__]
