"""Files that are not what they seem, or do not stay so: read right, or refused in one line; nothing hangs."""

import io
import os
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from click.testing import CliRunner
from noisestep.accelerated.cli import commands
from noisestep.accelerated.data import DataError, ImageStream, load_images, read_image
from noisestep.accelerated.data import index as indexing
from noisestep.accelerated.files import open_file, printable, read_text
from noisestep.accelerated.training.config import read_json, train_config
from PIL import Image


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def png(value: int, side: int = 4) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: str, labels: list[int], **how: Any) -> None:
    with tarfile.open(path, "w", **how) as tar:
        for number, label in enumerate(labels):
            for name, content in ((f"{number}.png", png(number)), (f"{number}.cls", str(label).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def stream(source: str) -> ImageStream:
    return ImageStream.open(source, size=None, channels=None, fit="crop")


def device(path: str) -> None:
    # a device without a name of its own needs rights that tests have not
    Path(path).symlink_to("/dev/zero")


def unix_socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path)


READERS: dict[str, Callable[[str], object]] = {
    "a.npy": load_images,
    "a.npz": load_images,
    "a-images-idx3-ubyte": load_images,
    "a.gz": load_images,
    "a.png": lambda path: read_image(Path(path), (1, 4, 4)),
    "a.tar": stream,
    "photos/a.png": lambda path: load_images("photos"),
    "photos/b.png": lambda path: stream("photos"),
    "config.json": lambda path: read_text(Path(path)),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("make", [os.mkfifo, device, unix_socket], ids=["pipe", "device", "socket"])
def test_what_is_no_file_is_refused_and_not_waited_for(name: str, make: Callable[[str], None]) -> None:
    Path("photos").mkdir()
    make(name)
    with pytest.raises(
        (DataError, OSError), match=r"It is a pipe, a device or a socket|No such device or address"
    ) as caught:
        READERS[name](name)
    assert "\n" not in str(caught.value)


def test_a_file_is_opened_and_a_folder_is_not() -> None:
    Path("file").write_bytes(b"content")
    with open_file("file") as file:
        assert file.read() == b"content"
    with pytest.raises(IsADirectoryError):
        open_file(".")
    Path("large").write_bytes(b" " * (2**24 + 1))
    with pytest.raises(ValueError, match="a text of at most 16777216 bytes is expected"):
        read_text(Path("large"))


@pytest.mark.parametrize("pattern", ["{000..999999999999}.tar", "{0..1000000}.tar", "{0.." + "9" * 5000 + "}.tar"])
def test_a_range_of_more_files_than_there_can_be_is_refused(pattern: str) -> None:
    with pytest.raises(DataError, match="expected a range of at most 1000000 files"):
        stream(pattern)


def test_a_tar_of_equal_size_and_time_has_an_index_of_its_own() -> None:
    write_tar("a.tar", [0, 1, 2, 1])
    before = os.stat("a.tar")
    assert stream("a.tar").labels.tolist() == [0, 1, 2, 1]
    write_tar("a.tar", [2, 1, 0, 0])
    os.utime("a.tar", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (os.stat("a.tar").st_size, os.stat("a.tar").st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert stream("a.tar").labels.tolist() == [2, 1, 0, 0]


def test_a_file_that_changes_during_the_run_stops_it() -> None:
    write_tar("a.tar", [0, 1])
    Path("photos").mkdir()
    Path("photos/a.png").write_bytes(png(3))
    for source, path, hint in (("a.tar", "a.tar", "at the next start$"), ("photos", "photos/a.png", "touch it$")):
        images = stream(source)
        assert images.read(np.array([0])).shape == (1, 1, 4, 4)
        content = Path(path).read_bytes()
        # others of equal size, one cut short, and none
        Path(path).write_bytes(content)
        os.utime(path, (1, 1))
        with pytest.raises(DataError, match=rf"^{path}: expected the file as it was when its index was made.+{hint}"):
            images.read(np.array([0]))
        Path(path).write_bytes(content[:-1])
        with pytest.raises(DataError, match=f"^{path}: expected the file as it was"):
            images.read(np.array([0]))
        Path(path).unlink()
        with pytest.raises(DataError, match="no such file or folder"):
            images.read(np.array([0]))


def test_a_tar_that_changes_while_its_index_is_made_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    write_tar("a.tar", [0, 1])
    rows = indexing._rows_of_tars

    def growing(paths: Any) -> Any:
        yield from rows(paths)
        os.utime("a.tar", (1, 1))

    monkeypatch.setattr(indexing, "_rows_of_tars", growing)
    with pytest.raises(DataError, match=r"a\.tar: expected files that stay as they are, but some changed"):
        stream("a.tar")


@pytest.mark.slow
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_no_bit_of_a_header_loses_images(form: int) -> None:
    write_tar("a.tar", [0, 1, 2], format=form)
    whole = Path("a.tar").read_bytes()
    stamp = (("a.tar", 0, 0, 0),)
    expected = list(indexing._rows_of_tars(stamp))
    refused = 0
    header = 4 * 512
    assert whole[header : header + 5] == b"1.png"
    for bit in range(8 * header, 8 * (header + 512)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        Path("a.tar").write_bytes(flipped)
        try:
            found = list(indexing._rows_of_tars(stamp))
        except DataError:
            refused += 1
        else:
            # what stands behind the checksum's digits means nothing
            assert found == expected, bit
    assert refused >= 8 * (512 - 8)


CONFIGS = {
    "brackets": ("[" * 100_000 + "]" * 100_000, "its brackets are nested too deeply"),
    "objects": ('{"a":' * 3000 + "1" + "}" * 3000, "its brackets are nested too deeply"),
    "a name twice": ('{"steps": 5, "steps": 6}', "'steps' comes twice"),
    "NaN": ('{"learning_rate": NaN}', "learning_rate is nan; allowed: a number from 0 to 1"),
    "infinity": ('{"steps": Infinity}', "steps is inf; allowed: an integer"),
    "a long number": ('{"steps": ' + "9" * 5000 + "}", r"Exceeds the limit \(4300 digits\)"),
    "half a character": (r'{"data": {"source": "\ud800"}}', "source is"),
    "a zero byte": (r'{"data": {"source": "a\u0000b"}}', "source is"),
    "no object": ("3", "a JSON object is expected, got '3'"),
    "a list of parameters": ('{"schedule": {"parameters": [1]}}', r"parameters is \(1,\); it must be an object"),
    "a list for a name": ('{"sample": {"sampler": ["ddim"]}}', r"sampler is \('ddim',\); allowed"),
    "a number for a list": ('{"model": {"attention": 5}}', "attention must be a sequence of ints, got 5"),
    "a name of two lines": (r'{"schedule": {"parameters": {"a\nb": 1}}}', r"unexpected keyword argument .a\\nb"),
    "a null": ('{"schedule": {"name": "cosine", "parameters": {"s": null}}}', "s must be a number, got None"),
    "no number": ('{"schedule": {"name": "linear", "parameters": {"start": "x"}}}', "start must be a number, got 'x'"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_an_odd_configuration_is_refused_in_one_line(name: str) -> None:
    text, message = CONFIGS[name]
    with pytest.raises(ValueError, match=message) as caught:
        train_config(read_json(text))
    assert "\n" not in str(caught.value)


def test_names_of_files_and_classes_do_not_reach_the_terminal_as_they_are() -> None:
    assert printable("a\x1b[31m\r\nb\u202ec é") == r"a\x1b[31m\r\nb\u202ec é"
    Path("odd.json").write_text('{"\\u001b[31mred": 1}')
    for arguments in (["--config", "odd.json"], ["--config", "no\x1b[31msuch.json"], ["--data", "no\x1b[31msuch"]):
        done = CliRunner().invoke(commands.main, ["train", "--out", "out", *arguments])
        assert done.exit_code in (1, 2)
        assert r"\x1b[31m" in done.output
        assert "\x1b" not in done.output
