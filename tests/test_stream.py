"""Streamed images: what reaches the network is what an image set in memory would have sent, and memory stays flat."""

import io
import json
import re
import signal
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from noisestep.accelerated.data import DataError, ImageStream, is_tar, load_images
from noisestep.accelerated.data.index import _rows_of_tars, expand
from noisestep.accelerated.evaluation.evaluate import in_memory
from noisestep.accelerated.training.batches import Batches
from noisestep.accelerated.training.config import merge, train_config
from noisestep.accelerated.training.data import Split
from PIL import Image
from safetensors.torch import load_file
from tiny_run import SETTINGS, run, tiny_config

CPU = torch.device("cpu")
COUNT, CLASSES = 60, 3


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def place(folder: Path, count: int = COUNT, side: int = 8) -> None:
    """The same images as `photos/CLASS/NUMBER.png` and in `shards/0.tar`, `shards/1.tar`, in the same order."""
    rng = np.random.default_rng(0)
    (folder / "shards").mkdir(parents=True)
    members = []
    for number in range(count):
        label = number * CLASSES // count
        content = png(rng.integers(0, 256, (side, side, 3), np.uint8))
        (folder / "photos" / str(label)).mkdir(parents=True, exist_ok=True)
        (folder / "photos" / str(label) / f"{number}.png").write_bytes(content)
        members += [(f"{number:06d}.png", content), (f"{number:06d}.cls", str(label).encode())]
    half = count // 2 * 2
    write_tar(folder / "shards" / "0.tar", members[:half])
    write_tar(folder / "shards" / "1.tar", members[half:])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("stream")
    place(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        patch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
        yield folder


def sources(folder: Path) -> list[str]:
    return [str(folder / "photos"), str(folder / "shards" / "{0..1}.tar"), str(folder / "shards" / "*.tar")]


def stream(source: str, **options: Any) -> ImageStream:
    return ImageStream.open(source, **{"size": None, "channels": None, "fit": "crop", **options})


# the same images


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_stream_holds_what_an_image_set_in_memory_holds(folder: Path, which: int) -> None:
    whole, streamed = load_images(folder / "photos"), stream(sources(folder)[which])
    assert len(streamed) == len(whole) == COUNT
    assert streamed.shape == whole.shape
    assert streamed.class_names == whole.class_names
    np.testing.assert_array_equal(streamed.labels, whole.labels)
    numbers = np.array([59, 0, 31, 30, 29])
    np.testing.assert_array_equal(streamed.read(numbers), whole.images[numbers])
    part = streamed.subset(numbers).load(3)
    np.testing.assert_array_equal(part.images, whole.images[numbers[:3]])
    np.testing.assert_array_equal(part.labels, whole.labels[numbers[:3]])


def test_a_stream_is_brought_to_channels_and_size_as_an_image_set_is(folder: Path) -> None:
    whole = load_images(folder / "photos", size=(6, 4), channels=1, fit="pad")
    streamed = stream(sources(folder)[1], size=(6, 4), channels=1, fit="pad")
    np.testing.assert_array_equal(streamed.read(np.arange(COUNT)), whole.images)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("which", [0, 1])
def test_batches_are_the_same_bytes_in_the_same_order_whatever_decodes_them(
    folder: Path, which: int, workers: int
) -> None:
    config = tiny_config(batch_size=14, steps=9, data={"flip": True, "workers": workers})
    whole = Batches(config, load_images(folder / "photos"), CLASSES, CPU)
    # a second process's rows, in two micro-batches
    micro_batches = [range(7, 11), range(11, 14)]
    with closing(Batches(config, stream(sources(folder)[which]), CLASSES, CPU, micro_batches)) as streamed:
        # 9 steps of 14 are two epochs and more; then back, as after a resume
        turns = [(step, rows) for step in [*range(9), 4, 5] for rows in micro_batches]
        for step, rows in [*turns, (7, micro_batches[1])]:
            for actual, expected in zip(streamed(step, rows), whole(step, rows), strict=True):
                assert torch.equal(actual, expected)
                assert actual.dtype == expected.dtype


# the index


def test_the_index_is_made_once_and_again_when_the_images_change(tmp_path: Path, folder: Path) -> None:
    place(tmp_path, 12)
    source = str(tmp_path / "photos")
    first = stream(source)
    files = [file["filename"] for file in first.table.cache_files]
    assert [file["filename"] for file in stream(source).table.cache_files] == files
    (tmp_path / "photos" / "0" / "0.png").unlink()
    second = stream(source)
    assert len(second) == 11
    assert second.fingerprint != first.fingerprint


def test_a_set_that_was_moved_is_the_same_set(tmp_path: Path, folder: Path) -> None:
    for kind in ("photos", "shards"):
        place(tmp_path / kind, 12)
    (tmp_path / "elsewhere").mkdir()
    for name in ("photos", "shards/*.tar"):
        before = stream(str(tmp_path / "photos" / name)).fingerprint
        (tmp_path / "photos" / name.split("/")[0]).rename(tmp_path / "elsewhere" / name.split("/")[0])
        assert stream(str(tmp_path / "elsewhere" / name)).fingerprint == before


def test_patterns_name_files_in_order(tmp_path: Path) -> None:
    assert expand("a/{008..011}.tar") == ["a/008.tar", "a/009.tar", "a/010.tar", "a/011.tar"]
    for name in ("b.tar", "a.tar"):
        (tmp_path / name).touch()
    assert expand(str(tmp_path / "*.tar")) == [str(tmp_path / "a.tar"), str(tmp_path / "b.tar")]


BAD_TARS: list[tuple[list[tuple[str, bytes]], str]] = [
    ([("a.txt", b"")], r"expected images \(.+\) in the tar files, found none"),
    ([("a.png", b""), ("a.cls", b"cat")], r"expected a class number of 0 or more in a\.cls, got 'cat'"),
    ([("a.png", b""), ("a.cls", b"1"), ("b.png", b"")], r"expected a \.cls beside every image or none, and b"),
    ([("a.png", b"not an image")], r"0\.tar \(byte 512\): expected an image"),
    ([("a.png", b""), ("a.seg.png", b"")], r"one image and at most one \.cls .+, found a\.png and a\.seg\.png"),
    ([("a.png", b""), ("a.jpg", b"")], r"expected one image .+, found a\.png and a\.jpg"),
    ([("a.png", b""), ("a.png", b"")], r"expected one image .+, found a\.png and a\.png"),
    ([("a.cls", b"0"), ("a.png", b""), ("a.x.cls", b"1")], r"at most one \.cls .+, found a\.cls and a\.x\.cls"),
    ([("d/a.png", b""), ("b.png", b""), ("d/a.png", b"")], r"expected each sample once, found d/a\.png after others"),
    (
        [("a.png", b""), ("b.png", b""), ("a.cls", b"0"), ("b.cls", b"1")],
        r"expected an image next to a\.cls, found none; .+ `tar --sort=name`",
    ),
    ([("a.png", b""), ("a.cls", b"0"), ("b.CLS", b"1")], r"expected an image next to b\.CLS, found none"),
    ([("a.png", b""), ("a.cls", b"1" + b" " * 20 + b"2")], r"expected a class number of 0 or more in a\.cls, got '1'"),
    ([("a.png", b""), ("a.cls", b"\xef\xbb\xbf1")], r"expected a class number of 0 or more in a\.cls, got"),
    ([("a.png", b""), ("a.cls", b"")], r"expected a class number of 0 or more in a\.cls, got ''"),
    ([("a.png", b""), ("a.cls", b"1" * 19)], r"expected a class number of 0 or more in a\.cls, got '1{19}'"),
]


@pytest.mark.parametrize(("members", "message"), BAD_TARS)
def test_tar_files_that_cannot_be_used_are_refused_in_one_line(
    tmp_path: Path, folder: Path, members: list[tuple[str, bytes]], message: str
) -> None:
    write_tar(tmp_path / "0.tar", members)
    with pytest.raises(DataError, match=message) as caught:
        stream(str(tmp_path / "*.tar"))
    assert "\n" not in str(caught.value)


def rows(path: Path) -> list[dict[str, Any]]:
    return list(_rows_of_tars(((str(path), 0, 0, 0),)))


def test_what_lies_between_the_files_of_a_sample_does_not_part_them(tmp_path: Path) -> None:
    names = [
        ".hidden.png",
        "./a.png",
        "._a.png",
        "a.txt",
        "./a.cls",
        "folder/.cache/c.png",
        "folder/a.v2.png",
        "README",
    ]
    write_tar(tmp_path / "0.tar", [(name, b"0") for name in [*names, "folder/a.cls"]])
    assert [(row["size"], row["label"]) for row in rows(tmp_path / "0.tar")] == [(1, 0), (1, 0)]


LAYOUTS: dict[str, tuple[int, list[str]]] = {
    "long names, PAX": (tarfile.PAX_FORMAT, ["d" * 150 + "/" + "e" * 200, "é" * 120]),
    "long names, GNU": (tarfile.GNU_FORMAT, ["d" * 150 + "/" + "e" * 200, "é" * 120]),
    "long names, ustar": (tarfile.USTAR_FORMAT, ["d" * 60 + "/" + "e" * 80]),
    "from the folder above": (tarfile.PAX_FORMAT, ["../photos/a", "../photos/b"]),
    "from the root": (tarfile.PAX_FORMAT, ["/photos/a", "/photos/b"]),
    "a folder with dots": (tarfile.PAX_FORMAT, ["v1.2/a", "v1.2/b", "c.png/d"]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_names_is_read(tmp_path: Path, layout: str) -> None:
    kind, names = LAYOUTS[layout]
    suffixes = [(".png", ".cls"), (".PNG", ".CLS"), (".Jpeg", ".cls")]
    with tarfile.open(tmp_path / "0.tar", "w", format=kind) as tar:
        for number, name in enumerate(names):
            folder = tarfile.TarInfo(f"{name}.png")
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
            # what WebDataset puts beside an image is no image and no class
            for suffix in (".caption.txt", suffixes[number][1], suffixes[number][0], ".json"):
                content = str(number).encode()
                info = tarfile.TarInfo(name + suffix)
                info.size, info.pax_headers = len(content), {"comment": "x" * 600}
                tar.addfile(info, io.BytesIO(content))
    content = (tmp_path / "0.tar").read_bytes()
    read = [(content[row["offset"] :][: row["size"]], row["label"]) for row in rows(tmp_path / "0.tar")]
    assert read == [(str(number).encode(), number) for number in range(len(names))]


def test_tar_files_are_known_by_their_names(tmp_path: Path) -> None:
    for name in ("a.tar", "A.TAR", "{000..099}.tar", "*.tar", "a.tar.gz", "a.tgz", "a.tar*"):
        assert is_tar(str(tmp_path / name))
    (tmp_path / "unpacked.tar").mkdir()
    for name in ("a.target", "unpacked.tar", "tar", "a.npz"):
        assert not is_tar(str(tmp_path / name))


def test_a_tar_file_that_was_cut_or_damaged_is_refused_wherever(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [(f"{number}.png", bytes([number]) * 600) for number in range(3)])
    whole = (tmp_path / "0.tar").read_bytes()
    assert len(rows(tmp_path / "0.tar")) == 3
    end = 3 * 3 * 512
    for place in range(0, end + 512, 100):
        (tmp_path / "0.tar").write_bytes(whole[:place])
        with pytest.raises(DataError, match=r"0\.tar: expected"):
            rows(tmp_path / "0.tar")
    # headers, each at its checksum
    for place in range(148, end, 3 * 512):
        (tmp_path / "0.tar").write_bytes(whole[:place] + b"9" + whole[place + 1 :])
        with pytest.raises(DataError, match=r"0\.tar: expected"):
            rows(tmp_path / "0.tar")
    # an end mark of one block is enough
    (tmp_path / "0.tar").write_bytes(whole[: end + 512])
    assert len(rows(tmp_path / "0.tar")) == 3


def test_tar_files_that_were_joined_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [("0.png", b"")])
    (tmp_path / "0.tar").write_bytes((tmp_path / "0.tar").read_bytes() * 2)
    with pytest.raises(DataError, match="expected nothing after the end mark at byte 512"):
        rows(tmp_path / "0.tar")


def test_links_and_devices_in_a_tar_file_are_refused(tmp_path: Path) -> None:
    for kind in (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
        with tarfile.open(tmp_path / "0.tar", "w") as tar:
            tar.addfile(tarfile.TarInfo("0.png"))
            link = tarfile.TarInfo("1.png")
            link.type, link.linkname = kind, "0.png"
            tar.addfile(link)
        with pytest.raises(DataError, match=r"expected plain files, but 1\.png is a link"):
            rows(tmp_path / "0.tar")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none/*.tar", r"none/\*\.tar: no such file"),
        ("{3..1}.tar", "expected a range from a lower to a higher number"),
        ("nowhere", "nowhere: no such file or folder"),
        ("empty", r"empty: expected images \(.+\) or subfolders of them, found none"),
        *((name, f"{name}: expected an uncompressed tar file") for name in ("a.tar.gz", "b.tgz", "c.tar.xz", "d.TBZ2")),
    ],
)
def test_sources_that_cannot_be_used_are_refused_in_one_line(
    tmp_path: Path, folder: Path, source: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    for name, kind in (("a.tar.gz", "w:gz"), ("b.tgz", "w:gz"), ("c.tar.xz", "w:xz"), ("d.TBZ2", "w:bz2")):
        with tarfile.open(name, kind):
            pass
    with pytest.raises(DataError, match=message) as caught:
        stream(source)
    assert "\n" not in str(caught.value)


def test_without_the_library_the_way_to_get_it_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'noisestep\[stream\]'"):
        stream(str(folder / "photos"))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_of_another_shape_stops_the_step_that_needs_it(tmp_path: Path, folder: Path, workers: int) -> None:
    place(tmp_path, 12)
    (tmp_path / "photos" / "2" / "99.png").write_bytes(png(np.zeros((9, 8, 3), np.uint8)))
    config = tiny_config(batch_size=13, data={"workers": workers})
    with (
        closing(Batches(config, stream(str(tmp_path / "photos")), CLASSES, CPU)) as batches,
        pytest.raises(DataError, match=r"photos/2/99\.png: expected 8×8 pixels .+, got 9×8; pass --size"),
    ):
        batches(0)


# whole runs


def streamed_config(source: str) -> dict[str, Any]:
    model = {**SETTINGS["model"], "in_channels": 3, "out_channels": 3, "num_classes": CLASSES}
    data = {"source": source, "stream": True, "held_out": 0.4}
    return merge(SETTINGS, {"model": model, "data": data, "steps": 12, "sample": {"count": 20}})


def test_the_evaluation_loads_a_part_of_a_stream(folder: Path) -> None:
    config = train_config(streamed_config(sources(folder)[0]))
    split = Split.load(config.data)
    assert isinstance(split.train, ImageStream)
    assert (len(split.train), len(split.held_out)) == (36, 24)
    assert len(in_memory(split.train, 100)) == 36
    few = in_memory(split.train, 10)
    np.testing.assert_array_equal(few.images, split.train.read(np.arange(10)))


# strikes its own process with a signal at the end of a step
STRUCK = """
import os, sys
from noisestep.accelerated.training import loop as training
from noisestep.accelerated.cli import main

number, last = int(sys.argv.pop(1)), int(sys.argv.pop(1))
update_ema = training.update_ema

def strike(ema, model, step, decay):
    update_ema(ema, model, step, decay)
    if step == last:
        os.kill(os.getpid(), number)

training.update_ema = strike
main()
"""


@pytest.mark.slow
def test_a_streamed_run_is_the_run_in_memory_and_resumes_to_the_same_bits(folder: Path) -> None:
    for name, source, stream in (
        ("memory", sources(folder)[0], False),
        ("tar", sources(folder)[1], True),
    ):
        config = streamed_config(source)
        config["data"] = {**config["data"], "stream": stream}
        (folder / f"{name}.json").write_text(json.dumps(config))
    run("train", "--config", "memory.json", "--out", "memory", cwd=folder)
    kill = (str(int(signal.SIGKILL)), "7", "train")
    run(*kill, "--config", "tar.json", "--out", "tar", cwd=folder, program=STRUCK, status=-signal.SIGKILL)
    said = run("train", "--resume", "tar", "--workers", "1", cwd=folder)
    assert "going on after step 5 of 12" in said
    whole, cut = (load_file(folder / name / "checkpoints" / "step_000000012.safetensors") for name in ("memory", "tar"))
    for name, x in whole.items():
        assert torch.equal(cut[name], x), name
    assert (folder / "tar" / "report.html").exists()


@pytest.mark.slow
def test_memory_is_flat_while_images_stream(folder: Path) -> None:
    """At a small size; docs/large-data.md has the figures for 100 000 images."""
    program = Path(__file__).parents[1] / "benchmarks" / "large_data.py"
    arguments = [sys.executable, str(program), "--count", "4000", "--side", "64"]
    said = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    megabytes = {int(images): float(size) for images, size in re.findall(r"after (\d+) images ([\d.]+) MB", said)}
    assert list(megabytes) == list(range(400, 4001, 400))
    # the images are 49 MB as bytes, of which 39 MB are decoded between the two; some megabytes come and go
    assert megabytes[4000] - megabytes[800] < 20


def test_the_example_of_the_page_reads_images(folder: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "large-data.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {"source": sources(folder)[1]}
    exec(example, names)
    whole = load_images(folder / "photos")
    np.testing.assert_array_equal(names["pixels"], whole.images[[5, 0, 2]])
    np.testing.assert_array_equal(names["part"].load(COUNT).images, whole.images[::2])
