"""The data: what goes in comes out, in one order; and what is refused, with the message it gets."""

import gzip
import io
import os
import re
import struct
import sys
import tempfile
import traceback
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from noisestep.accelerated.data import DataError, ImageSet, load_images, stratified_split
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

COLOURS = np.arange(2 * 6 * 5 * 3, dtype=np.uint8).reshape(2, 6, 5, 3)
GREYS = COLOURS[..., 0]
SUFFIXES = ".png, .jpg, .jpeg, .bmp, .gif, .webp, .tif, .tiff"
FORMATS = "PNG, JPEG, BMP, GIF, WEBP, TIFF"


def idx_bytes(array: np.ndarray, kind: int = 8) -> bytes:
    """An IDX file, written from the format's description and not with the code under test."""
    return struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape) + array.tobytes()


def npy_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz_bytes(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def image_bytes(pixels: np.ndarray | Image.Image, format: str = "PNG", **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def png_header(width: int, height: int) -> bytes:
    """The start of a PNG: what a decompression bomb announces before any pixel."""
    content = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    header = struct.pack(">I", 13) + content + struct.pack(">I", zlib.crc32(content))
    return b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 8) + b"IDAT"


def npz_bomb() -> bytes:
    """A small archive whose directory announces 32 TiB."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("images.npy", npy_bytes(GREYS))
        archive.filelist[0].file_size = 2**45
    return buffer.getvalue()


def damaged(content: bytes, place: int) -> bytes:
    return content[:place] + bytes((content[place] ^ 0xFF,)) + content[place + 1 :]


PICKLED = npy_bytes(np.array([{"a": 1}], dtype=object))
PNG = image_bytes(COLOURS[0])
KEYS = (
    "expected the images under one key of images, x, x_train, train_images, arr_0 "
    "and the labels, if any, under one of labels, y, y_train, train_labels, arr_1"
)
LAYOUTS = "(N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1, 3 or 4"
IDX3 = "an IDX file of unsigned bytes with 3 axes"
IDX1 = "an IDX file of unsigned bytes with 1 axis"
UBYTE = "train-images-idx3-ubyte"
UBYTE_LABELS = "train-labels-idx1-ubyte"

# files to write; what to load (a path in their folder); the options; the message, in which `...` stands for anything
# and {at} for the folder
BAD_DATA: dict[str, tuple[dict[str, bytes], str, dict[str, Any], str]] = {
    "missing": ({}, "nowhere", {}, "{at}/nowhere: no such file or folder"),
    "null byte": ({}, "a\0b", {}, r"{at}/a\x00b: expected a folder or a file; ...null..."),
    "text file": (
        {"notes.txt": b"hello"},
        "notes.txt",
        {},
        f"{{at}}/notes.txt: expected a folder of images ({SUFFIXES}), an .npz, an .npy or IDX images, "
        "got none of these",
    ),
    "empty file": ({"empty": b""}, "empty", {}, "{at}/empty: expected a folder of images ..., got none of these"),
    "one image": (
        {"a.png": PNG},
        "a.png",
        {},
        "{at}/a.png: expected a folder of images ..., got one image: name the folder it is in",
    ),
    "npy empty": ({"x.npy": b""}, "x.npy", {}, "{at}/x.npy: expected a .npy array of numbers; ..."),
    "npy not numpy": (
        {"x.npy": b"hello, world"},
        "x.npy",
        {},
        "{at}/x.npy: expected a .npy array of numbers; the magic string is not correct...",
    ),
    "npy pickled": (
        {"x.npy": PICKLED},
        "x.npy",
        {},
        "{at}/x.npy: expected a .npy array of numbers; Object arrays cannot be loaded when allow_pickle=False",
    ),
    "npy truncated": (
        {"x.npy": npy_bytes(GREYS)[:-1]},
        "x.npy",
        {},
        "{at}/x.npy: expected a .npy array of numbers; ... 59 ...",
    ),
    "npy announces more than memory": (
        {"x.npy": npy_bytes(GREYS).replace(b"(2, 6, 5), }            ", b"(2, 1000000, 1000000000)")},
        "x.npy",
        {},
        "{at}/x.npy: expected a .npy array of numbers...",
    ),
    "npy int64": (
        {"x.npy": npy_bytes(GREYS.astype(np.int64))},
        "x.npy",
        {},
        "{at}/x.npy: expected images of uint8, bool, or float in [0, 1] or [−1, 1], got int64 (2, 6, 5)",
    ),
    "npy complex": (
        {"x.npy": npy_bytes(GREYS.astype(complex))},
        "x.npy",
        {},
        "{at}/x.npy: expected images of uint8, bool, or float ..., got complex128 (2, 6, 5)",
    ),
    "npy of 2 axes": (
        {"x.npy": npy_bytes(GREYS[0])},
        "x.npy",
        {},
        f"{{at}}/x.npy: expected images of shape {LAYOUTS}, got uint8 (6, 5)",
    ),
    "npy of 0 axes": ({"x.npy": npy_bytes(np.uint8(1))}, "x.npy", {}, "{at}/x.npy: ..., got uint8 ()"),
    "npy of 7 channels": (
        {"x.npy": npy_bytes(np.zeros((2, 7, 8, 9), np.uint8))},
        "x.npy",
        {},
        f"{{at}}/x.npy: expected images of shape {LAYOUTS}, got uint8 (2, 7, 8, 9)",
    ),
    "npy of two readings": (
        {"x.npy": npy_bytes(np.zeros((2, 3, 8, 4), np.uint8))},
        "x.npy",
        {},
        "{at}/x.npy: expected a shape with one reading, but (2, 3, 8, 4) may be (N, H, W, C) as well as (N, C, H, W)",
    ),
    "npy NaN": (
        {"x.npy": npy_bytes(np.where(np.arange(2)[:, None, None] == 1, np.nan, GREYS / 255))},
        "x.npy",
        {},
        "{at}/x.npy: expected floats in [0, 1] or [−1, 1], got nan..nan, first in image 1 (counted from 0)",
    ),
    "npy infinity": (
        {"x.npy": npy_bytes(np.full((2, 6, 5), np.inf, np.float32))},
        "x.npy",
        {},
        "{at}/x.npy: expected floats in [0, 1] or [−1, 1], got inf..inf, first in image 0 (counted from 0)",
    ),
    "npy floats up to 255": (
        {"x.npy": npy_bytes(GREYS.astype(np.float64))},
        "x.npy",
        {},
        "{at}/x.npy: expected floats in [0, 1] or [−1, 1], got 0.0..177.0, first in image 0 (counted from 0)",
    ),
    "npy no images": (
        {"x.npy": npy_bytes(GREYS[:0])},
        "x.npy",
        {},
        "{at}/x.npy: expected at least one image of at least one pixel, got (0, 1, 6, 5)",
    ),
    "npy no float images": ({"x.npy": npy_bytes(GREYS[:0] / 255)}, "x.npy", {}, "{at}/x.npy: ..., got (0, 1, 6, 5)"),
    "npy no pixels": ({"x.npy": npy_bytes(GREYS[:, :0])}, "x.npy", {"size": 4}, "{at}/x.npy: ..., got (2, 1, 0, 5)"),
    "npz not a zip": (
        {"x.npz": b"hello"},
        "x.npz",
        {},
        "{at}/x.npz: expected a .npz archive of NumPy arrays; File is not a zip file",
    ),
    "npz truncated": (
        {"x.npz": npz_bytes(x=GREYS)[:-30]},
        "x.npz",
        {},
        "{at}/x.npz: expected a .npz archive of NumPy arrays; ...",
    ),
    "npz damaged": (
        {"x.npz": damaged(npz_bytes(x=GREYS), 200)},
        "x.npz",
        {},
        "{at}/x.npz: expected a .npz archive of NumPy arrays; Bad CRC-32 for file 'x.npy'",
    ),
    "npz of nothing": ({"x.npz": npz_bytes()}, "x.npz", {}, f"{{at}}/x.npz: {KEYS}; found no keys"),
    "npz of other keys": (
        {"x.npz": npz_bytes(pictures=GREYS, y=np.arange(2))},
        "x.npz",
        {},
        f"{{at}}/x.npz: {KEYS}; found pictures, y",
    ),
    "npz of two sets": (
        {"x.npz": npz_bytes(x=GREYS, images=GREYS)},
        "x.npz",
        {},
        f"{{at}}/x.npz: {KEYS}; found x, images",
    ),
    "npz bomb": (
        {"x.npz": npz_bomb()},
        "x.npz",
        {},
        "{at}/x.npz: expected data that fits into this machine's memory of ... GiB, "
        "but its header announces 32768.0 GiB",
    ),
    "npz pickled labels": (
        {"x.npz": npz_bytes(x=GREYS, y=np.array([1, None]))},
        "x.npz",
        {},
        "{at}/x.npz: expected a .npz archive of NumPy arrays; Object arrays cannot be loaded ...",
    ),
    "npz label count": (
        {"x.npz": npz_bytes(x=GREYS, y=np.arange(3))},
        "x.npz",
        {},
        "{at}/x.npz: expected 2 labels, one for each image, got int64 (3,)",
    ),
    "npz float labels": (
        {"x.npz": npz_bytes(x=GREYS, y=np.arange(2.0))},
        "x.npz",
        {},
        "{at}/x.npz: expected labels that are integers or text, got float64 (2,)",
    ),
    "npz negative labels": (
        {"x.npz": npz_bytes(x=GREYS, y=np.array([0, -1]))},
        "x.npz",
        {},
        "{at}/x.npz: expected labels of 0 or more, got -1",
    ),
    "idx of floats": (
        {UBYTE: idx_bytes(GREYS.astype(">f4"), kind=0x0D)},
        UBYTE,
        {},
        f"{{at}}/{UBYTE}: expected {IDX3}, which starts with 00 00 08 03, got '00 00 0d 03'",
    ),
    "idx labels as images": (
        {UBYTE: idx_bytes(GREYS[0, 0])},
        UBYTE,
        {},
        f"{{at}}/{UBYTE}: expected {IDX3}, which starts with 00 00 08 03, got '00 00 08 01'",
    ),
    "idx empty": ({UBYTE: b""}, "", {}, f"{{at}}/{UBYTE}: expected {IDX3}, which starts with 00 00 08 03, got ''"),
    "idx ends in the header": (
        {UBYTE: idx_bytes(GREYS)[:14]},
        "",
        {},
        f"{{at}}/{UBYTE}: expected {IDX3}, but it ends inside its header",
    ),
    "idx truncated": (
        {UBYTE: idx_bytes(GREYS)[:-1]},
        "",
        {},
        f"{{at}}/{UBYTE}: expected the 60 bytes that its header (2, 6, 5) announces, found 59",
    ),
    "idx too long": (
        {UBYTE: idx_bytes(GREYS) + b"!"},
        "",
        {},
        f"{{at}}/{UBYTE}: expected the 60 bytes that its header (2, 6, 5) announces, found more",
    ),
    "idx of several sets": (
        {f"emnist-{name}-train-images-idx3-ubyte": b"" for name in ("digits", "letters")},
        "",
        {},
        "{at}: expected the IDX images of one set, found emnist-digits-train-images-idx3-ubyte and "
        "emnist-letters-train-images-idx3-ubyte: name one of them",
    ),
    "idx written twice": (
        {UBYTE: b"", "train-images.idx3-ubyte": b""},
        "",
        {},
        f"{{at}}: expected the IDX images of one set, found {UBYTE} and train-images.idx3-ubyte: name one of them",
    ),
    "idx labels of several axes": (
        {"qmnist-train-images-idx3-ubyte": idx_bytes(GREYS), "qmnist-train-labels-idx2-int": b""},
        "",
        {},
        "{at}/qmnist-train-labels-idx2-int: expected the labels of qmnist-train-images-idx3-ubyte to have one axis, in "
        "a file qmnist-train-labels-idx1-ubyte",
    ),
    "idx announces more than memory": (
        {UBYTE: struct.pack(">HBB3I", 0, 8, 3, 2**31, 2**10, 2**10)},
        "",
        {},
        f"{{at}}/{UBYTE}: expected data that fits into this machine's memory of ... GiB, "
        "but its header announces 2097152.0 GiB",
    ),
    "idx no images": ({UBYTE: idx_bytes(GREYS[:0])}, "", {}, f"{{at}}/{UBYTE}: ..., got (0, 1, 6, 5)"),
    "idx label count": (
        {UBYTE: idx_bytes(GREYS), UBYTE_LABELS: idx_bytes(GREYS[0, 0])},
        "",
        {},
        f"{{at}}/{UBYTE}: expected 2 labels, one for each image, got uint8 (5,)",
    ),
    "idx labels are images": (
        {UBYTE: idx_bytes(GREYS), UBYTE_LABELS: idx_bytes(GREYS)},
        "",
        {},
        f"{{at}}/{UBYTE_LABELS}: expected {IDX1}, which starts with 00 00 08 01, got '00 00 08 03'",
    ),
    "gzip truncated": (
        {f"{UBYTE}.gz": gzip.compress(idx_bytes(GREYS))[:-10]},
        "",
        {},
        f"{{at}}/{UBYTE}.gz: expected {IDX3}; Compressed file ended before the end-of-stream marker was reached",
    ),
    "gzip checksum": (
        {f"{UBYTE}.gz": damaged(gzip.compress(idx_bytes(GREYS)), -6)},
        "",
        {},
        f"{{at}}/{UBYTE}.gz: expected {IDX3}; CRC check failed ...",
    ),
    "gzip of text": (
        {"x.gz": gzip.compress(b"hello")},
        "x.gz",
        {},
        f"{{at}}/x.gz: expected {IDX3}, which starts with 00 00 08 03, got '68 65 6c 6c'",
    ),
    "folder empty": ({}, "", {}, f"{{at}}: expected images ({SUFFIXES}) or subfolders of them, found none"),
    "folder of other files": ({"a.txt": b"", ".b.png": PNG}, "", {}, "{at}: ..., found none"),
    "folder of both": (
        {"a.png": PNG, "cats/b.png": PNG},
        "",
        {},
        "{at}: expected images, or one subfolder of images for each class, but found both (a.png and cats/b.png)",
    ),
    "class empty": (
        {"cats/a.png": PNG, "dogs/b.txt": b""},
        "",
        {},
        f"{{at}}/dogs: expected images ({SUFFIXES}) in a class's folder, found none",
    ),
    "class with a folder": (
        {"cats/a.png": PNG, "cats/more/b.png": PNG},
        "",
        {},
        "{at}/cats: expected images alone in a class's folder, found the folder more",
    ),
    "image is text": (
        {"a.png": b"hello"},
        "",
        {},
        f"{{at}}/a.png: expected an image ({FORMATS}); it is damaged, or of a kind that is not read",
    ),
    "image empty": ({"a.png": PNG, "b.png": b""}, "", {}, "{at}/b.png: expected an image ..."),
    "image of another format": (
        {"a.png": image_bytes(COLOURS[0], "PPM")},
        "",
        {},
        f"{{at}}/a.png: expected an image ({FORMATS}); it is damaged, or of a kind that is not read",
    ),
    "png truncated": (
        {"a.png": PNG, "b.png": PNG[:50]},
        "",
        {},
        f"{{at}}/b.png: expected an image ({FORMATS}); image file is truncated...",
    ),
    "jpg truncated": (
        {"a.jpg": image_bytes(np.tile(COLOURS[0], (9, 9, 1)), "JPEG")[:700]},
        "",
        {},
        f"{{at}}/a.jpg: expected an image ({FORMATS}); image file is truncated...",
    ),
    "png checksum": ({"a.png": damaged(PNG, 18)}, "", {}, "{at}/a.png: expected an image ..."),
    "png bomb": (
        {"a.png": png_header(60000, 60000)},
        "",
        {},
        "{at}/a.png: expected an image of at most 178956970 pixels, ...; it announces more",
    ),
    "image of floats": (
        {"a.tif": image_bytes(np.zeros((4, 4), np.float32), "TIFF")},
        "",
        {},
        "{at}/a.tif: expected unsigned integers, got signed ones or floats (its tag SampleFormat)",
    ),
    "mixed sizes": (
        {"a/1.png": PNG, "b/1.png": image_bytes(COLOURS[0][:4])},
        "",
        {},
        "{at}/b/1.png: expected 6×5 pixels (height × width) as in {at}/a/1.png, got 4×5; "
        "pass --size to bring them all to one size",
    ),
    "mixed channels": (
        {"1.png": image_bytes(GREYS[0]), "2.png": PNG},
        "",
        {},
        "{at}/2.png: expected 1 channel as in {at}/1.png, got 3; pass --channels 1, 3 or 4 to convert them all",
    ),
    "mixed transparency": (
        {"1.png": PNG, "2.png": image_bytes(Image.new("RGBA", (5, 6)))},
        "",
        {},
        "{at}/2.png: expected 3 channels as in {at}/1.png, got 4; pass --channels 1, 3 or 4 to convert them all",
    ),
    "line break in a name": ({"a\nb.png": b"", "c.png": PNG}, "", {}, r"{at}/a\nb.png: expected an image ..."),
    "size for a folder beyond memory": (
        {"a.png": PNG},
        "",
        {"size": (10**6, 10**7)},
        "{at}: expected data that fits into this machine's memory of ...",
    ),
    "size for an array beyond memory": (
        {"x.npy": npy_bytes(GREYS)},
        "x.npy",
        {"size": (10**6, 10**7)},
        "{at}/x.npy: expected data that fits into this machine's memory of ...",
    ),
    "size 0": (
        {},
        "",
        {"size": 0},
        "size must be a whole number or (height, width), each of at least 1 pixel, got 0",
    ),
    "size with a fraction": ({}, "", {"size": (8, 2.5)}, "size must be ..., got (8, 2.5)"),
    "size of three": ({}, "", {"size": (3, 8, 8)}, "size must be ..., got (3, 8, 8)"),
    "size as text": ({}, "", {"size": "8"}, "size must be ..., got '8'"),
    "channels 2": ({}, "", {"channels": 2}, "channels must be 1, 3 or 4, got 2"),
    "fit unknown": ({}, "", {"fit": "stretch"}, "fit must be 'crop' or 'pad', got 'stretch'"),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data_gets_one_line(name: str, tmp_path: Path) -> None:
    files, source, options, expected = BAD_DATA[name]
    with pytest.raises(DataError) as caught:
        load_images(write(tmp_path, files) / source, **options)
    check_message(caught.value, expected.replace("{at}", str(tmp_path)))


def check_message(error: DataError, expected: str) -> None:
    """One printable line, as expected, with nothing of another library's traceback behind it."""
    message = str(error)
    assert re.fullmatch(".*".join(map(re.escape, expected.split("..."))), message), message
    assert message.isprintable()
    assert "During handling" not in "".join(traceback.format_exception(error))
    assert error.__cause__ is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to give up rights, and take them back")
@pytest.mark.parametrize("locked", ["folder", "folder/a.png", "x.npy", "x.npz", "x-images-idx3-ubyte"])
def test_permission_denied(locked: str, tmp_path: Path) -> None:
    arrays = {"x.npy": npy_bytes(GREYS), "x.npz": npz_bytes(x=GREYS), "x-images-idx3-ubyte": idx_bytes(GREYS)}
    # not under tmp_path, which other users cannot even enter
    with tempfile.TemporaryDirectory() as name:
        root = write(Path(name), {"folder/a.png": PNG, **arrays})
        root.chmod(0o755)
        (root / locked).chmod(0)
        source = root / Path(locked).parts[0]
        # once with all rights: what is imported on the way is imported then
        load_images(source)
        os.seteuid(65534)
        try:
            with pytest.raises(DataError) as caught:
                load_images(source)
        finally:
            os.seteuid(0)
    check_message(caught.value, f"{root / locked}: permission denied")


IMAGES = hnp.arrays(np.uint8, st.tuples(*map(st.integers, (1, 1, 1), (5, 6, 6))))


# which IDX files archives leave where: a file of images holds its place in the list, one of labels that of its images
IDX_LAYOUTS: dict[str, tuple[list[str], int, bool]] = {
    "as published": (
        ["t10k-images-idx3-ubyte.gz", "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"],
        1,
        True,
    ),
    "unpacked": ([UBYTE, UBYTE_LABELS], 0, True),
    "packed as well": ([f"{UBYTE}.gz", UBYTE, UBYTE_LABELS], 1, True),
    "dots": (["train-images.idx3-ubyte", "train-labels.idx1-ubyte"], 0, True),
    "dots and hyphens": (["train-images.idx3-ubyte", "train-labels-idx1-ubyte.gz"], 0, True),
    "test images alone": (["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"], 0, True),
    "no labels": ([UBYTE], 0, False),
    "another set's labels": ([UBYTE, "t10k-labels-idx1-ubyte"], 0, False),
    "torchvision": (["raw/t10k-images-idx3-ubyte", f"raw/{UBYTE}", f"raw/{UBYTE}.gz", f"raw/{UBYTE_LABELS}"], 1, True),
    "a folder each": ([f"{UBYTE}/{UBYTE}", f"{UBYTE_LABELS}/{UBYTE_LABELS}"], 0, True),
    "a folder each, and other names inside": (
        [
            "t10k-images-idx3-ubyte/t10k-images.idx3-ubyte",
            f"{UBYTE}/train-images.idx3-ubyte",
            f"{UBYTE_LABELS}/train-labels.idx1-ubyte",
        ],
        1,
        True,
    ),
    "every file twice": (["train-images.idx3-ubyte", f"{UBYTE}/{UBYTE}", "train-labels.idx1-ubyte"], 0, True),
    "labels beside the folder": ([f"{UBYTE}/{UBYTE}", "train-labels.idx1-ubyte"], 0, True),
    "one of EMNIST": (["emnist-mnist-train-images-idx3-ubyte", "emnist-mnist-train-labels-idx1-ubyte"], 0, True),
}


@pytest.mark.parametrize("name", IDX_LAYOUTS)
def test_idx_files_are_found_where_archives_leave_them(name: str, tmp_path: Path) -> None:
    files, place, labelled = IDX_LAYOUTS[name]
    contents = {}
    for number, file in enumerate(files):
        content = idx_bytes(np.full(2, 7, np.uint8) if "labels" in file else np.full((2, 3, 4), number, np.uint8))
        contents[file] = gzip.compress(content) if file.endswith(".gz") else content
    images = load_images(write(tmp_path, contents))
    assert images.images[0, 0, 0, 0] == place
    assert images.class_names == (("7",) if labelled else ())
    assert images.source == str(tmp_path / files[place])


@given(images=IMAGES, zipped=st.booleans(), labelled=st.booleans(), as_folder=st.booleans())
def test_idx_round_trip(images: np.ndarray, zipped: bool, labelled: bool, as_folder: bool) -> None:
    labels = np.arange(len(images), dtype=np.uint8)[::-1] * 2
    pack: Callable[[bytes], bytes] = gzip.compress if zipped else bytes
    ending = ".gz" if zipped else ""
    with tempfile.TemporaryDirectory() as name:
        root = write(Path(name), {f"{UBYTE}{ending}": pack(idx_bytes(images))})
        if labelled:
            # the labels are found packed or not, however the images are
            write(root, {UBYTE_LABELS: idx_bytes(labels)})
        loaded = load_images(root if as_folder else root / f"{UBYTE}{ending}")
    np.testing.assert_array_equal(actual=loaded.images, desired=images[:, np.newaxis])
    if labelled:
        assert loaded.class_names == tuple(str(2 * k) for k in range(len(images)))
        np.testing.assert_array_equal(actual=loaded.labels, desired=np.arange(len(images))[::-1])
    else:
        assert (loaded.labels, loaded.class_names) == (None, ())


@given(
    images=hnp.arrays(
        np.uint8, st.tuples(st.integers(1, 3), st.sampled_from([1, 3, 4]), st.integers(5, 7), st.integers(5, 7))
    ),
    dtype=st.sampled_from([np.uint8, np.float16, np.float32, np.float64]),
    signed=st.booleans(),
    last=st.booleans(),
    text=st.booleans(),
)
def test_npz_round_trip(images: np.ndarray, dtype: type, signed: bool, last: bool, text: bool) -> None:
    # without a byte of 0, [−1, 1] has no −1 in it and need not have any sign to tell it by
    images[0, 0, 0, 0] = 0
    stored = images
    if dtype is not np.uint8:
        stored = (images / 127.5 - 1 if signed else images / 255).astype(dtype)
    if last:
        stored = stored.transpose(0, 2, 3, 1)
    labels = np.arange(len(images))[:, np.newaxis]
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "x.npz"
        np.savez_compressed(path, train_images=stored, train_labels=labels.astype(str) if text else labels)
        loaded = load_images(path)
    np.testing.assert_array_equal(actual=loaded.images, desired=images)
    np.testing.assert_array_equal(actual=loaded.labels, desired=labels[:, 0])
    assert loaded.class_names == tuple(map(str, range(len(images))))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_byte_survives_as_a_float(dtype: type, tmp_path: Path) -> None:
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    for stored in ((every / 255).astype(dtype), (every / 127.5 - 1).astype(dtype)):
        np.save(tmp_path / "x.npy", stored)
        np.testing.assert_array_equal(actual=load_images(tmp_path / "x.npy").images[:, 0], desired=every)


@pytest.mark.parametrize("source", [UBYTE, f"{UBYTE}.gz", "8.npy", "64.npy", "x.npz", "folder"])
def test_images_suit_torch(source: str, tmp_path: Path) -> None:
    idx, last = idx_bytes(GREYS), COLOURS / 255
    write(tmp_path, {UBYTE: idx, f"{UBYTE}.gz": gzip.compress(idx), "folder/a.png": PNG})
    write(tmp_path, {"8.npy": npy_bytes(COLOURS), "64.npy": npy_bytes(last), "x.npz": npz_bytes(x=COLOURS)})
    images = load_images(tmp_path / source).images
    assert images.flags.c_contiguous
    # torch.from_numpy warns otherwise
    assert images.flags.writeable


def test_bool_is_black_and_white(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", GREYS % 2 == 1)
    np.testing.assert_array_equal(actual=load_images(tmp_path / "x.npy").images[:, 0], desired=GREYS % 2 * 255)


@given(
    images=hnp.arrays(np.uint8, st.tuples(st.integers(1, 12), st.just(4), st.just(5), st.sampled_from([1, 3, 4]))),
    classes=st.integers(0, 3),
    data=st.data(),
)
def test_folder_round_trip_in_any_order_of_writing(images: np.ndarray, classes: int, data: st.DataObject) -> None:
    # class 0 first, then class 1, ...; no class is empty
    classes = min(classes, len(images))
    labels = np.sort(np.arange(len(images)) % max(classes, 1))
    squeezed = images[..., 0] if images.shape[-1] == 1 else images
    # 9 and 10 tell natural order from that of characters
    files = {
        (f"class {8 + label}/" if classes else "") + f"Image{7 + number}.PNG": image_bytes(pixels)
        for number, (label, pixels) in enumerate(zip(labels, squeezed, strict=True))
    }
    order = data.draw(st.permutations(list(files)))
    with tempfile.TemporaryDirectory() as name:
        loaded = load_images(write(Path(name), {file: files[file] for file in order}))
    np.testing.assert_array_equal(actual=loaded.images, desired=images.transpose(0, 3, 1, 2))
    if classes:
        np.testing.assert_array_equal(actual=loaded.labels, desired=labels)
    assert loaded.class_names == tuple(f"class {8 + k}" for k in range(classes))


def test_order_of_names(tmp_path: Path) -> None:
    # 2 before 10, b after A; what differs in case or leading zeros alone has an order too
    names = ["1.png", "2.png", "02b.png", "10.png", "a1.png", "A1.png", "B.png", "a01.png"]
    expected = ["1.png", "2.png", "02b.png", "10.png", "A1.png", "a01.png", "a1.png", "B.png"]
    write(tmp_path, {n: image_bytes(np.full((2, 2), expected.index(n), np.uint8)) for n in names})
    np.testing.assert_array_equal(actual=load_images(tmp_path).images[:, 0, 0, 0], desired=range(len(expected)))


RED, CLEAR = (255, 0, 0), (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (Image.new("1", (2, 2), 1), {}, [255]),
        (Image.new("L", (2, 2), 7), {}, [7]),
        (Image.fromarray(np.full((2, 2), 65535, np.uint16)), {}, [255]),
        (Image.fromarray(np.full((2, 2), 385, np.uint16)), {}, [1]),
        (Image.fromarray(np.full((2, 2), 386, np.uint16)), {}, [2]),
        (Image.new("P", (2, 2), RED), {}, [255, 0, 0]),
        (Image.new("LA", (2, 2), (9, 128)), {}, [9, 9, 9, 128]),
        (Image.new("RGB", (2, 2), RED), {}, [255, 0, 0]),
        (Image.new("RGB", (2, 2), RED), {"transparency": RED}, [255, 0, 0, 0]),
        (Image.new("RGBA", (2, 2), (1, 2, 3, 4)), {}, [1, 2, 3, 4]),
    ],
    ids=["1 bit", "grey", "16 bits", "16 bits down", "16 bits up", "palette", "grey and alpha", "RGB", "key", "RGBA"],
)
def test_modes_have_their_channels(image: Image.Image, options: Any, expected: list[int], tmp_path: Path) -> None:
    write(tmp_path, {"a.png": image_bytes(image, **options)})
    loaded = load_images(tmp_path).images
    assert loaded.shape == (1, len(expected), 2, 2)
    np.testing.assert_array_equal(actual=loaded[0, :, 1, 1], desired=expected)


@pytest.mark.parametrize(
    ("colour", "channels", "expected"),
    [
        # 0.299 R, 0.587 G, 0.114 B
        ((200, 100, 50), 1, [124]),
        ((200, 100, 50), 4, [200, 100, 50, 255]),
        (CLEAR, 3, [255, 255, 255]),
        # half over white: 128/255 · 100 + 127/255 · 255 = 177.2
        ((100, 100, 100, 128), 1, [177]),
        ((100, 100, 100, 128), 3, [177, 177, 177]),
    ],
)
def test_channels_are_converted(colour: tuple[int, ...], channels: int, expected: list[int], tmp_path: Path) -> None:
    image = Image.new("RGB" if len(colour) == 3 else "RGBA", (7, 8), colour)
    write(tmp_path, {"folder/a.png": image_bytes(image)})
    np.save(tmp_path / "x.npy", np.asarray(image)[np.newaxis])
    for source in ("folder", "x.npy"):
        loaded = load_images(tmp_path / source, channels=channels).images
        assert loaded.shape == (1, channels, 8, 7)
        np.testing.assert_array_equal(actual=loaded[0, :, 5, 5], desired=expected)


def test_mixed_folder_is_read_when_channels_and_size_are_given(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": PNG, "b.jpg": image_bytes(GREYS[0], "JPEG"), "c.gif": image_bytes(GREYS[1], "GIF")})
    assert load_images(tmp_path, channels=3, size=(4, 7)).images.shape == (3, 3, 4, 7)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_exif_orientation(format: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    # 0x0112 is Orientation; 6 says that the camera was turned, and to show the picture turned by 90° clockwise
    exif[0x0112] = 6
    left_black = Image.fromarray(np.repeat(np.repeat(np.array([[0, 255]], np.uint8), 16, 0), 24, 1))
    write(tmp_path, {f"a.{format.lower()}": image_bytes(left_black.convert("RGB"), format, exif=exif)})
    loaded = load_images(tmp_path).images[0, 0]
    assert loaded.shape == (48, 16)
    # away from the edge, which a lossy format blurs
    assert (loaded[:16] < 8).all()
    assert (loaded[32:] > 247).all()


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("L", (4, 4), grey) for grey in (10, 200)]
    write(tmp_path, {"a.gif": image_bytes(frames[0], "GIF", save_all=True, append_images=frames[1:])})
    np.testing.assert_array_equal(actual=load_images(tmp_path, channels=1).images, desired=np.full((1, 1, 4, 4), 10))


sides = st.integers(1, 12)


@given(inner=st.tuples(sides, sides), excess=st.integers(0, 5), axis=st.integers(0, 1), seed=st.integers(0, 99))
def test_fitting_keeps_pixels_at_their_scale(inner: tuple[int, int], excess: int, axis: int, seed: int) -> None:
    # longer on one axis alone, so that the scale is 1 both ways
    outer = tuple(side + excess * (place == axis) for place, side in enumerate(inner))
    large = np.random.default_rng(seed).integers(1, 256, outer, np.uint8)
    before = [(big - small) // 2 for big, small in zip(outer, inner, strict=True)]
    middle = tuple(slice(start, start + side) for start, side in zip(before, inner, strict=True))
    padded = np.zeros_like(large)
    padded[middle] = large[middle]
    with tempfile.TemporaryDirectory() as name:
        np.save(Path(name) / "large.npy", large[np.newaxis])
        np.save(Path(name) / "small.npy", large[middle][np.newaxis])
        crop = load_images(Path(name) / "large.npy", size=inner).images
        pad = load_images(Path(name) / "small.npy", size=outer, fit="pad").images
    np.testing.assert_array_equal(actual=crop[0, 0], desired=large[middle])
    np.testing.assert_array_equal(actual=pad[0, 0], desired=padded)


@given(grey=st.integers(0, 255), shape=st.tuples(sides, sides), size=st.tuples(sides, sides))
def test_fitting_keeps_a_constant(grey: int, shape: tuple[int, int], size: tuple[int, int]) -> None:
    with tempfile.TemporaryDirectory() as name:
        np.save(Path(name) / "x.npy", np.full((1, *shape), grey, np.uint8))
        crop = load_images(Path(name) / "x.npy", size=size).images
        pad = load_images(Path(name) / "x.npy", size=size, fit="pad").images
    np.testing.assert_array_equal(actual=crop, desired=np.full((1, 1, *size), grey))
    # the middle is inside, whatever the proportions
    assert pad[0, 0, (size[0] - 1) // 2, (size[1] - 1) // 2] == grey
    assert set(np.unique(pad)) <= {0, grey}


def test_crop_of_a_long_thin_image_takes_no_memory(tmp_path: Path) -> None:
    # scaled as a whole to cover 64×64 it would have 64 · 6.4 million pixels
    image = Image.fromarray(np.full((1, 100_000), 5, np.uint8))
    write(tmp_path, {"a.png": image_bytes(image)})
    np.testing.assert_array_equal(actual=load_images(tmp_path, size=64).images, desired=np.full((1, 1, 64, 64), 5))


@pytest.mark.parametrize("shape", [(1, 1000), (1000, 1)])
def test_pad_of_a_long_thin_image_leaves_a_line(shape: tuple[int, int], tmp_path: Path) -> None:
    write(tmp_path, {"a.png": image_bytes(np.full(shape, 5, np.uint8))})
    loaded = load_images(tmp_path, size=9, fit="pad").images[0, 0]
    expected = np.zeros((9, 9))
    # the long side fills 9 pixels, the short one would be 0.009 of one
    expected[(4, slice(None)) if shape[0] == 1 else (slice(None), 4)] = 5
    np.testing.assert_array_equal(actual=loaded, desired=expected)


def test_digits() -> None:
    digits, real = load_images("digits"), load_digits()
    assert len(digits) == 1797
    assert digits.class_names == tuple("0123456789")
    # within half a byte of v · 255 / 16
    assert np.abs(digits.images[:, 0] - real.images * 255 / 16).max() <= 0.5
    np.testing.assert_array_equal(actual=digits.labels, desired=real.target)
    assert load_images("digits", size=16, channels=3).images.shape == (1797, 3, 16, 16)


def test_fingerprint_is_of_images_and_labels() -> None:
    images, labels = COLOURS.transpose(0, 3, 1, 2), np.array([0, 1])
    base = ImageSet(images, labels, ("a", "b"), "here").fingerprint
    # SHA-256 of the text, the 180 bytes in C order and two little-endian integers of 64 bits
    assert base == "2ea5d6cfe37fdcf8225e4523e9e5aa19acf934bb908728851fef8f46d7a543a1"
    assert ImageSet(images.copy(), labels.copy(), ("c", "d"), "there").fingerprint == base
    other = images.copy()
    other[1, 2, 3, 4] ^= 1
    different = [
        ImageSet(other, labels, ("a", "b"), "here"),
        ImageSet(images, labels[::-1], ("a", "b"), "here"),
        ImageSet(images, None, (), "here"),
        ImageSet(images.reshape(2, 3, 5, 6), labels, ("a", "b"), "here"),
        ImageSet(images[::-1], labels, ("a", "b"), "here"),
    ]
    assert len({base, *(one.fingerprint for one in different)}) == 1 + len(different)


@pytest.mark.parametrize(
    ("images", "labels", "class_names", "expected"),
    [
        (GREYS, None, (), "here: images must be uint8 (N, C, H, W), got uint8 (2, 6, 5)"),
        (COLOURS / 255, None, (), "here: images must be uint8 (N, C, H, W), got float64 (2, 6, 5, 3)"),
        (COLOURS[:0], None, (), "here: expected at least one image of at least one pixel, got (0, 6, 5, 3)"),
        (COLOURS, None, ("a",), "here: 1 class names, but no labels"),
        (COLOURS, np.arange(3), ("a",), "here: labels must be int64 (2,), one an image, got int64 (3,)"),
        (COLOURS, np.arange(2.0), ("a",), "here: labels must be int64 (2,), one an image, got float64 (2,)"),
        (COLOURS, np.arange(2), ("a",), "here: labels must be in 0..0, one for each class name, got 0..1"),
    ],
)
def test_image_set_refuses_what_disagrees(images: Any, labels: Any, class_names: Any, expected: str) -> None:
    with pytest.raises(DataError) as caught:
        ImageSet(images, labels, class_names, "here")
    check_message(caught.value, expected)


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_on_a_terminal_only(terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys, "stderr", stream)
    load_images(write(tmp_path, {"a.png": PNG}))
    assert ("reading images" in stream.getvalue()) == terminal


@given(count=st.integers(2, 60), classes=st.integers(0, 3), percent=st.integers(10, 90), seed=st.integers(0, 2**32 - 1))
def test_split_is_that_of_scikit_learn(count: int, classes: int, percent: int, seed: int) -> None:
    labels = np.arange(count) % classes if classes else None
    fraction = percent / 100
    try:
        expected = train_test_split(np.arange(count), test_size=fraction, stratify=labels, random_state=seed)
    except ValueError:
        # what it refuses, this does too
        with pytest.raises(DataError):
            stratified_split(count if labels is None else labels, fraction=fraction, seed=seed)
        return
    parts = stratified_split(count if labels is None else labels, fraction=fraction, seed=seed)
    for part, desired in zip(parts, expected, strict=True):
        np.testing.assert_array_equal(actual=part, desired=desired)
    np.testing.assert_array_equal(actual=np.sort(np.concatenate(parts)), desired=np.arange(count))


def test_split_of_the_digits() -> None:
    labels = load_digits().target
    expected = train_test_split(np.arange(1797), test_size=0.5, stratify=labels, random_state=0)
    parts = stratified_split(load_images("digits").labels)
    for part, desired in zip(parts, expected, strict=True):
        np.testing.assert_array_equal(actual=part, desired=desired)
    assert [len(part) for part in parts] == [898, 899]
    # the halves of a class differ by one image at most
    train, held_out = (np.bincount(labels[part], minlength=10) for part in parts)
    assert np.abs(train - held_out).max() <= 1


BAD_SPLITS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "nothing held out": (9, {"fraction": 0.0}, "the fraction held out must be ... 0 and 1, both excluded, got 0.0"),
    "all held out": (9, {"fraction": 1}, "the fraction held out must be between 0 and 1, both excluded, got 1"),
    "NaN": (9, {"fraction": float("nan")}, "the fraction held out must be ..., got nan"),
    "seed": (9, {"seed": 2**32}, "the seed of a split must be in 0..2**32 - 1, got 4294967296"),
    "one image": (1, {}, "a split needs at least 2 images, got 1"),
    "none to train on": (9, {"fraction": 0.95}, "holding out 0.95 of 9 images leaves none to train on"),
    "class of one": ([3, 3, 5], {}, "a split needs 2 images of each class or more, class 5 has 1"),
    "more classes than held out": (
        [0, 0, 0, 1, 1, 1],
        {"fraction": 0.1},
        "6 images with 0.1 held out split into 5 and 1, but each part needs one of each of the 2 classes",
    ),
}


@pytest.mark.parametrize("name", BAD_SPLITS)
def test_bad_splits_get_one_line(name: str) -> None:
    labels, options, expected = BAD_SPLITS[name]
    with pytest.raises(DataError) as caught:
        stratified_split(labels if isinstance(labels, int) else np.array(labels), **options)
    check_message(caught.value, expected)
