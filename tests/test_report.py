"""The page is complete in itself, says what is missing, and shows text as text."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from noisestep.accelerated.cli.comparison_plot import comparison_plot
from noisestep.accelerated.cli.likelihood_plot import likelihood_plot
from noisestep.accelerated.cli.pictures import grid, save_gif, save_png
from noisestep.accelerated.cli.report import duration, write_report
from noisestep.accelerated.cli.run_folder import RunFolder
from noisestep.accelerated.evaluation.comparison import Cell, Comparison
from noisestep.accelerated.evaluation.evaluate import evaluate
from noisestep.accelerated.evaluation.likelihood_results import summarise

PICTURES = ("samples.png", "neighbours.png", "loss.png", "forward_strip.png", "reverse_strip.png", "denoising.gif")
CONFIG = {
    "data": {"source": "digits", "size": None},
    "model": {"channels": 1, "levels": [32, 64], "attention": {"heads": 4}},
    "steps": 2000,
    "compile": False,
}
RUN = {"command": "noisestep train", "device": "cpu", "versions": {"torch": "2.13.0"}}
LOG = "step,loss,learning_rate,images_per_second,seconds\n" + "".join(
    f"{20 * i},{1 / i},1e-3,{1000 + i},{i * 30}\n" for i in range(1, 21)
)
# elements that never have an end tag
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """What a reader of the page gets: elements in balance, pictures, and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.images: list[dict[str, str | None]] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += " ".join(data.split()) + "\n"


@pytest.fixture(scope="module")
def metrics() -> dict[str, object]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 30, 1, 4, 4), dtype=np.uint8)
    return evaluate(*(part for x in images for part in (x, None))).to_dict()


@pytest.fixture
def run(tmp_path: Path, metrics: dict[str, object]) -> Path:
    folder = tmp_path / "digits-001"
    folder.mkdir()
    for name, content in (("config", CONFIG), ("run", RUN), ("metrics", metrics)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "log.csv").write_text(LOG)
    for number, name in enumerate(PICTURES):
        images = np.full((2, 4, 1, 4, 4), 10 * number, np.uint8)
        if name.endswith(".gif"):
            save_gif(images, folder / name)
        else:
            save_png(grid(images[0]), folder / name)
    return folder


def read(folder: Path) -> Page:
    return Page(write_report(RunFolder(folder)).read_text(encoding="utf-8"))


def test_every_picture_is_within_the_page(run: Path) -> None:
    page = read(run)
    assert len(page.images) == len(PICTURES)
    inlined = {base64.b64decode(str(image["src"]).split(",", 1)[1]) for image in page.images}
    assert inlined == {(run / name).read_bytes() for name in PICTURES}
    for image in page.images:
        assert image["alt"]
        assert re.match(r"data:image/(png|gif);base64,", str(image["src"]))


def test_the_page_asks_for_nothing(run: Path) -> None:
    html = write_report(RunFolder(run)).read_text(encoding="utf-8")
    page = Page(html)
    assert all(address.startswith("data:") for address in page.addresses)
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    assert not re.search(r"https?:|url\(|@import|\bon\w+=", html)
    # and a browser is told to refuse it if it did
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in html


def test_the_page_tells_the_run(run: Path, metrics: dict[str, object]) -> None:
    text = read(run).text
    for words in ("digits-001", "trained on digits", "noisestep train", "versions.torch\n2.13.0"):
        assert words in text
    for words in ("steps\n2000", "compile\nno", "size\n–", "levels\n32, 64", "attention.heads\n4"):
        assert words in text
    for words in ("optimizer steps\n400", "time\n10 min 0 s", "(median)\n1,010", "at first\n1\n"):
        assert words in text
    # the last tenth of 20 lines is two: (1/19 + 1/20) / 2
    assert "loss in the last tenth (mean)\n0.05132" in text
    assert "missing" not in text


def test_every_metric_stands_with_its_meaning_and_beside_real_images(
    run: Path, metrics: dict[str, dict[str, float]]
) -> None:
    text = read(run).text
    distance = metrics["frechet_distance"]
    assert f"{distance['samples']:.4f}\n{distance['real']:.4f}\n{distance['gaussian']:.4f}" in re.sub("\n+", "\n", text)
    assert "Fréchet distance\nby pixels\n" in re.sub("\n+", "\n", text)
    assert "30 held-out images are few" in text
    for words in ("do they look real?", "is every kind of image drawn?", "Not measured: no labels."):
        assert words in text


def test_the_likelihood_is_shown_where_it_was_measured(run: Path) -> None:
    assert "Not measured yet: noisestep evaluate RUN --likelihood does it." in read(run).text
    rows = np.random.default_rng(1).random((6, 1 + 2 * 3 + 2))
    options = dict(grid=[1, 4, 9], dequantisation="uniform", probes=1, clip_x0=True, seed=0)
    likelihood = summarise(rows, held_out=10, **options)
    (run / "likelihood.json").write_text(json.dumps(likelihood.to_dict()))
    page = read(run)
    assert "likelihood.png is missing" in page.text
    save_png(likelihood_plot(likelihood), run / "likelihood.png")
    page = read(run)
    assert len(page.images) == len(PICTURES) + 1
    assert "missing" not in page.text
    text = re.sub("\n+", "\n", page.text)
    for row in likelihood.rows():
        assert f"{row.name}\n{row.bits}\n{row.standard_error}\n{row.meaning}" in text
    for words in ("6 of 10 held out", "one of each of 3 strata of the 9", "Hutchinson's estimate"):
        assert words in text
    (run / "likelihood.json").write_text(json.dumps({**likelihood.to_dict(), "ode": {"total": 1}}))
    with pytest.raises(ValueError, match=r"likelihood\.json: .*missing 4 required"):
        read(run)


def test_the_samplers_are_compared_in_a_table_a_plot_and_a_picture(run: Path) -> None:
    assert "Not compared yet: noisestep evaluate RUN --samplers ddim,unipc does it." in read(run).text
    cells = tuple(
        Cell(name, "uniform", calls, (calls / 10, calls / 5)) for calls in (5, 20) for name in ("ddim", "unipc")
    )
    comparison = Comparison("pixels (64 dimensions)", 0.5, 200, (0, 1), cells)
    (run / "comparison.json").write_text(json.dumps(comparison.to_dict()))
    page = read(run)
    assert page.text.count("is missing") == 2
    save_png(comparison_plot(comparison, "uniform"), run / "comparison.png")
    save_png(grid(np.zeros((4, 1, 8, 8), np.uint8)), run / "comparison_samples.png")
    page = read(run)
    assert len(page.images) == len(PICTURES) + 2
    assert "is missing" not in page.text
    text = re.sub("\n+", "\n", page.text)
    # 5 / 10 and 5 / 5 are 1 and 2 times what real images have
    for words in ("calls\n5\n20\n", "ddim\n1.50\n± 0.50\n6.00\n± 2.00\n", "200 from each of the seeds 0 to 1"):
        assert words in text
    (run / "comparison.json").write_text("{}")
    with pytest.raises(ValueError, match=r"comparison\.json: not a comparison: missing keys"):
        read(run)


def test_samples_over_training_are_shown_with_their_steps(run: Path) -> None:
    assert "Samples over training" not in read(run).text
    (run / "samples").mkdir()
    for step in range(1, 21):
        save_png(grid(np.full((2, 1, 4, 4), step, np.uint8)), run / "samples" / f"step_{50 * step:06d}.png")
    page = read(run)
    shown = [image["alt"] for image in page.images if str(image["alt"]).startswith("Samples after step")]
    # at most six, the first and the last among them
    assert shown == [f"Samples after step {step}" for step in (50, 250, 450, 600, 800, 1000)]
    assert "Step 600\n" in page.text


def test_the_report_of_a_run_that_trains_shows_no_evaluation_of_earlier_weights(run: Path) -> None:
    (run / "samples").mkdir()
    save_png(grid(np.zeros((2, 1, 4, 4), np.uint8)), run / "samples" / "step_000010.png")
    (run / "metrics.json").write_text("of another version")
    page = Page(write_report(RunFolder(run), training=True).read_text(encoding="utf-8"))
    assert [image["alt"] for image in page.images] == [
        "Samples after step 10",
        "Loss and learning rate over the optimizer steps",
    ]
    for words in ("Training goes on.", "optimizer steps\n400", "steps\n2000"):
        assert words in page.text
    assert "missing" not in page.text
    # before the first entry
    (run / "log.csv").write_text("step,loss,learning_rate,images_per_second,seconds\n")
    (run / "loss.png").unlink()
    page = Page(write_report(RunFolder(run), training=True).read_text(encoding="utf-8"))
    assert "missing" not in page.text


@pytest.mark.parametrize("name", [*PICTURES, "metrics.json", "log.csv", "run.json"])
def test_what_is_missing_is_named_and_the_rest_is_shown(run: Path, name: str) -> None:
    (run / name).unlink()
    page = read(run)
    assert f"{name} is missing" in page.text
    assert page.text.count("is missing") == 1
    assert len(page.images) == len(PICTURES) - (name in PICTURES)


def test_a_folder_with_a_configuration_alone_gives_a_page(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    page = read(tmp_path)
    assert page.images == []
    assert page.text.count("is missing") == len(PICTURES) + 3


def test_a_damaged_picture_is_named(run: Path) -> None:
    (run / "samples.png").write_bytes(b"")
    (run / "denoising.gif").write_bytes(b"<svg onload=alert(1)>")
    page = read(run)
    assert "samples.png is damaged: it does not begin like a PNG file." in page.text
    assert "denoising.gif is damaged: it does not begin like a GIF file." in page.text
    assert len(page.images) == len(PICTURES) - 2


def test_text_is_shown_as_text(run: Path) -> None:
    evil = '<script src="https://example.org/x.js"></script>&"'
    (run / "config.json").write_text(json.dumps({"data": {"source": evil}, evil: evil, "group": {evil: [evil]}}))
    (run / "run.json").write_text(json.dumps({"command": evil}))
    page = read(run)
    assert "script" not in page.tags
    assert page.addresses == [image["src"] for image in page.images]
    # the heading, then data, the key and its value, the group's key and value, and the command
    assert page.text.count(evil) == 7


BAD_RUNS = {
    "config.json": ("", r"config\.json: not JSON"),
    "config.json ": ("[1, 2]", r"config\.json: a JSON object is expected, got '\[1, 2\]'"),
    "metrics.json": ('{"fid": 3.17}', r"metrics\.json: not an evaluation: missing keys .*unknown keys \['fid'\]"),
    "metrics.json ": ("{", r"metrics\.json: not JSON"),
    "run.json": ("null", r"run\.json: a JSON object is expected, got 'null'"),
    "log.csv": ("step,loss\n1\n", r"log\.csv, line 2: expected 2 values, found 1"),
    "log.csv ": ("step,loss\n1,2\n", r"log\.csv lacks the columns learning_rate, images_per_second, seconds"),
}


@pytest.mark.parametrize(("name", "content", "message"), [(n, *rest) for n, rest in BAD_RUNS.items()])
def test_a_file_that_cannot_be_understood_is_named(run: Path, name: str, content: str, message: str) -> None:
    (run / name.strip()).write_text(content)
    with pytest.raises(ValueError, match=message):
        write_report(RunFolder(run))
    assert not (run / "report.html").exists()


def test_metrics_of_another_form_are_refused_by_name(run: Path, metrics: dict[str, object]) -> None:
    (run / "metrics.json").write_text(json.dumps({**metrics, "recall": {"value": 1}}))
    with pytest.raises(ValueError, match=r"metrics\.json: .*unexpected keyword argument 'value'"):
        write_report(RunFolder(run))


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=r"is not a run folder: it has no config\.json"):
            write_report(RunFolder(folder))
        assert not (folder / "report.html").exists()


def test_a_second_report_replaces_the_first(run: Path) -> None:
    first = write_report(RunFolder(run)).read_bytes()
    assert write_report(RunFolder(run)).read_bytes() == first
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (4.21, "4.2 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (192, "3 min 12 s"),
        (3599.7, "1 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_duration_is_what_a_person_says(seconds: float, text: str) -> None:
    assert duration(seconds) == text
