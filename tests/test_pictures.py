"""Every pixel of a picture is where it belongs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from noisestep.accelerated.cli.pictures import grid, pairs, save_gif, save_png, strip, to_uint8
from PIL import Image, ImageSequence


def images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# pixels


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_to_uint8_undoes_the_scaling_of_every_pixel(dtype: torch.dtype) -> None:
    pixels = torch.arange(256)
    scaled = (pixels.to(dtype) / 127.5 - 1).reshape(4, 1, 8, 8)
    expected = pixels.numpy().reshape(4, 1, 8, 8)
    for x in (scaled, scaled.numpy(), scaled.requires_grad_()):
        assert to_uint8(x).dtype == np.uint8
        np.testing.assert_array_equal(to_uint8(x), expected)


@given(hnp.arrays(np.float32, 7, elements=st.floats(-1024, 1024, width=32)))
def test_to_uint8_rounds_to_the_nearest_and_clips(x: np.ndarray) -> None:
    exact = np.clip(127.5 * (x.astype(np.float64) + 1), 0, 255)
    # no pixel value is nearer than the one chosen; one rounding of a number up to 255 is 2^-45
    assert (np.abs(to_uint8(x) - exact) <= 0.5 + 2.0**-45).all()


def test_to_uint8_takes_low_precision_and_infinity() -> None:
    x = torch.tensor([-torch.inf, -1, 0, 1, torch.inf], dtype=torch.bfloat16)
    assert to_uint8(x).tolist() == [0, 0, 128, 255, 255]


def test_to_uint8_refuses_what_is_no_picture() -> None:
    with pytest.raises(ValueError, match="1 of 2 values are NaN"):
        to_uint8(torch.tensor([0.0, torch.nan]))
    for x in (torch.zeros(3, dtype=torch.int64), np.zeros(3, dtype=np.uint8)):
        with pytest.raises(TypeError, match=r"floating point in \[-1, 1\]; got .*int"):
            to_uint8(x)


# grids


@given(
    count=st.integers(1, 7),
    channels=st.sampled_from([1, 3, 4]),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    columns=st.integers(1, 8),
    scale=st.integers(1, 3),
    padding=st.integers(0, 3),
)
def test_grid_holds_every_pixel_in_its_place(
    count: int, channels: int, height: int, width: int, columns: int, scale: int, padding: int
) -> None:
    x = images(count, channels, height, width)
    picture = grid(x, columns=columns, scale=scale, padding=padding)
    assert picture.mode == {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    canvas = np.array(picture).reshape(picture.height, picture.width, channels)
    white = np.ones(canvas.shape[:2], bool)
    columns = min(columns, count)
    assert canvas.shape[1] == columns * (width * scale + padding) + padding
    for n in range(count):
        top = padding + (n // columns) * (height * scale + padding)
        left = padding + (n % columns) * (width * scale + padding)
        for i in range(scale):
            for j in range(scale):
                rows = slice(top + i, top + height * scale, scale)
                cols = slice(left + j, left + width * scale, scale)
                np.testing.assert_array_equal(canvas[rows, cols], x[n].transpose(1, 2, 0))
                white[rows, cols] = False
    assert (canvas[white] == 255).all()


@pytest.mark.parametrize(
    ("count", "columns", "size", "scale"),
    [
        (9, None, (8, 8), 24),
        (100, 10, (8, 8), 20),
        (64, 8, (32, 32), 6),
        (16, 4, (32, 32), 6),
        (96, 16, (32, 32), 3),
        (16, 4, (256, 256), 1),
        (9, 3, (600, 600), 1),
        (2, 2, (64, 32), 3),
        (10, 10, (1, 60), 2),
    ],
)
def test_images_are_enlarged_until_they_fill_the_page_or_are_large(
    count: int, columns: int | None, size: tuple[int, int], scale: int
) -> None:
    picture = grid(images(count, 1, *size), columns=columns)
    per_row = columns or 3
    assert picture.width == per_row * (scale * size[1] + 4) + 4
    assert picture.height == -(-count // per_row) * (scale * size[0] + 4) + 4
    # no whole scale fills it better, unless the images would be larger than 192
    larger = per_row * ((scale + 1) * size[1] + 4) + 4
    assert picture.width <= 1680 < larger or scale == 192 // max(size) or scale == 1


def test_texts_stand_above_columns_and_beside_rows_and_move_no_pixel() -> None:
    x = images(6, 1, 8, 8)
    plain = np.asarray(grid(x, columns=3))
    annotated = np.asarray(grid(x, columns=3, above=["t = 1000", "500", ""], beside=["ddim", "a name\n2 lines"]))
    top, left = annotated.shape[0] - plain.shape[0], annotated.shape[1] - plain.shape[1]
    np.testing.assert_array_equal(annotated[top:, left:], plain)
    step = plain.shape[1] // 3
    dark = annotated < 128
    # each text is over its column or beside its row
    assert [dark[:top, left + k * step : left + (k + 1) * step].any() for k in range(3)] == [True, True, False]
    assert not dark[:top, :left].any()
    rows = plain.shape[0] // 2
    assert all(dark[top + k * rows : top + (k + 1) * rows, :left].any() for k in range(2))
    # where it is 360 pixels wide, capital letters are 6 pixels high or more
    height = np.ptp(np.flatnonzero(dark[:top, left : left + step].any(axis=1))) + 1
    assert height * 360 / annotated.shape[1] >= 6


def test_a_text_keeps_the_colours_of_its_picture() -> None:
    for channels in (3, 4):
        x = images(2, channels, 8, 8)
        plain, annotated = grid(x, columns=2), grid(x, columns=2, above=["0", "1"])
        assert annotated.mode == plain.mode
        assert annotated.crop((0, annotated.height - plain.height, *annotated.size)).tobytes() == plain.tobytes()


def test_strip_has_a_row_an_image_and_both_ends() -> None:
    frames = images(51, 2, 1, 4, 4)
    picture = np.array(strip(frames, count=6, scale=1, padding=0))
    assert picture.shape == (8, 24)
    for row in range(2):
        for column, moment in enumerate((0, 10, 20, 30, 40, 50)):
            tile = picture[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            np.testing.assert_array_equal(tile, frames[moment, row, 0])
    np.testing.assert_array_equal(strip(frames[:3, 0], scale=1), strip(frames[:3, :1], scale=1))


def test_a_strip_has_the_text_of_each_frame_that_it_shows() -> None:
    frames = images(51, 2, 1, 4, 4)
    shown = grid(frames[[0, 25, 50]].swapaxes(0, 1).reshape(6, 1, 4, 4), columns=3, above=["t = 50", "t = 25", "t = 0"])
    drawn = strip(frames, texts=[f"t = {50 - number}" for number in range(51)], count=3)
    np.testing.assert_array_equal(drawn, shown)


def test_pairs_stand_closer_than_strangers() -> None:
    left, right = images(4, 3, 8, 8), images(4, 3, 8, 8, seed=1)
    picture = np.array(pairs(left, right, columns=2, scale=1, padding=1))
    assert picture.shape == (2 * 8 + 3 * 4, 2 * 17 + 3 * 4, 3)
    np.testing.assert_array_equal(picture[4:12, 4:12], left[0].transpose(1, 2, 0))
    np.testing.assert_array_equal(picture[4:12, 13:21], right[0].transpose(1, 2, 0))
    np.testing.assert_array_equal(picture[16:24, 34:42], right[3].transpose(1, 2, 0))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_gif_plays_every_moment_for_ever_and_rests_on_the_last(tmp_path: Path, channels: int) -> None:
    frames = images(5, 4, channels, 8, 8)
    path = save_gif(frames, tmp_path / "a.gif", milliseconds=50, hold=900)
    with Image.open(path) as animation:
        assert animation.n_frames == 5
        assert animation.info["loop"] == 0
        # a quarter of the page's 192 pixels an image, and a pixel between
        assert animation.size == (2 * 49 + 1, 2 * 49 + 1)
        durations = [frame.info["duration"] for frame in ImageSequence.Iterator(animation)]
    assert durations == [50, 50, 50, 50, 900]


def test_gif_shows_grey_exactly_and_transparency_on_white(tmp_path: Path) -> None:
    frames = images(2, 1, 1, 8, 8)
    with Image.open(save_gif(frames, tmp_path / "grey.gif", scale=1)) as animation:
        animation.seek(1)
        np.testing.assert_array_equal(animation.convert("L"), grid(frames[1], scale=1, padding=1))
    clear = np.zeros((2, 1, 4, 8, 8), np.uint8)
    with Image.open(save_gif(clear, tmp_path / "clear.gif")) as animation:
        assert animation.convert("L").getextrema() == (255, 255)


BAD_PICTURES = {
    "floats": (lambda: grid(np.zeros((1, 1, 2, 2))), TypeError, r"uint8 array \(N, C, H, W\); got float64"),
    "a tensor": (lambda: grid(torch.zeros(1, 1, 2, 2)), TypeError, "got Tensor"),
    "channels last": (lambda: grid(images(2, 8, 8, 3)), ValueError, r"C of 1, 3 or 4.*got \(2, 8, 8, 3\)"),
    "rank": (lambda: grid(images(8, 8)), ValueError, r"got \(8, 8\)"),
    "no images": (lambda: grid(images(0, 1, 8, 8)), ValueError, r"got \(0, 1, 8, 8\)"),
    "no columns": (lambda: grid(images(1, 1, 8, 8), columns=0), ValueError, "got columns=0"),
    "no scale": (lambda: pairs(images(1, 1, 8, 8), images(1, 1, 8, 8), scale=0), ValueError, "scale=0"),
    "padding": (lambda: grid(images(1, 1, 8, 8), padding=-1), ValueError, "padding=-1"),
    "one moment": (lambda: strip(images(3, 1, 8, 8), count=1), ValueError, "at least its two ends; got count=1"),
    "strip of images": (lambda: strip(images(3, 8, 8)), ValueError, r"\(S, N, C, H, W\).*got \(3, 8, 8\)"),
    "gif of a grid": (lambda: save_gif(images(3, 1, 8, 8), "a.gif"), ValueError, r"got \(3, 1, 8, 8\)"),
    "texts": (lambda: grid(images(4, 1, 8, 8), above=["a"]), ValueError, r"1 texts cannot stand at 2 places: \['a'\]"),
    "texts of rows": (
        lambda: grid(images(4, 1, 8, 8), beside=["a"] * 3),
        ValueError,
        "3 texts cannot stand at 2 places",
    ),
    "texts of frames": (lambda: strip(images(3, 1, 1, 8, 8), texts=["a"]), ValueError, "1 texts for 3 frames"),
    "unlike pairs": (lambda: pairs(images(1, 1, 8, 8), images(2, 1, 8, 8)), ValueError, "sets of one shape"),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD_PICTURES.values(), ids=BAD_PICTURES)
def test_bad_pictures_are_refused(call: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_save_png_keeps_every_pixel(tmp_path: Path) -> None:
    picture = grid(images(3, 4, 5, 5))
    path = save_png(picture, tmp_path / "a.png")
    with Image.open(path) as read:
        assert read.mode == "RGBA"
        assert read.tobytes() == picture.tobytes()
