"""docs/gpu.md from a results file: its tables stand between marks, and the picture beside it."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE, PICTURES = ROOT / "docs" / "gpu.md", ROOT / "docs" / "images"
COUNTS = ROOT / "benchmarks" / "results" / "kernel_cost.json"
_MARKED = re.compile(r"<!-- measured: ([\w-]+) -->\n.*?<!-- end -->", re.DOTALL)
_PROVIDERS = ("noisestep", "noisestep, without autograd", "torch.compile", "eager", "diffusers")
_SHAPES = ("4x4x64x64", "64x4x64x64", "64x4x1024x1024")
_DTYPES = ("bfloat16", "float32")
Results = dict[str, Any]


def newest(folder: Path) -> Path:
    """The results file with the latest date in its name, of all cards.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    files = sorted(folder.glob("*/*.json"), key=lambda path: path.name)
    if not files:
        raise FileNotFoundError(f"there are no results below {folder}")
    return files[-1]


def write(results: Path, page: Path = PAGE, pictures: Path = PICTURES) -> tuple[Path, ...]:
    """Replace the marked parts of the page and draw its pictures into a folder; returns the paths.

    Raises
    ------
    ValueError
        If the page has no marks, or unknown ones.
    """
    from .picture import draw_roofline, draw_throughput

    found = json.loads(results.read_text())
    text = page.read_text()
    marks = _MARKED.findall(text)
    if not marks or not set(marks) <= set(SECTIONS):
        raise ValueError(f"{page} marks {', '.join(marks) or 'nothing'}; known: {', '.join(SECTIONS)}")

    def part(match: re.Match[str]) -> str:
        name = match.group(1)
        return f"<!-- measured: {name} -->\n{SECTIONS[name](found)}\n<!-- end -->"

    page.write_text(_MARKED.sub(part, text))
    pictures.mkdir(parents=True, exist_ok=True)
    throughput, roofline = pictures / "gpu.png", pictures / "roofline.png"
    draw_throughput(rows(found, "device"), found["card"], throughput)
    draw_roofline(found, json.loads(COUNTS.read_text()), roofline)
    return page, throughput, roofline


def rows(found: Results, part: str) -> dict[str, Any]:
    """The rows of a part; none if it did not run."""
    return found["parts"].get(part, {"rows": {}})["rows"]


def timed_ops(timed: Iterable[str]) -> list[str]:
    """The ops of rows that are named "op | provider...", in their order, without the passes over memory."""
    named = (name.split(" | ") for name in timed)
    return list(dict.fromkeys(op for op, provider, *_ in named if provider != "torch"))


def _table(head: Sequence[str], body: Iterable[Sequence[object]]) -> str:
    """A Markdown table: text in the first column, numbers in the others."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _grid(corner: str, cells: dict[tuple[str, str], str]) -> str:
    """A table of what stands at (row, column), without the columns that have nothing."""
    lines, columns = (list(dict.fromkeys(key[i] for key in cells)) for i in range(2))
    columns = [column for column in columns if any(cells[line, column] != "–" for line in lines)]
    return _table((corner, *columns), [(line, *(cells[line, column] for column in columns)) for line in lines])


def _number(value: float) -> str:
    """Three digits, and all of those before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _run(found: Results) -> str:
    facts = rows(found, "machine")
    versions = ", ".join(f"{name} {facts[name]}" for name in ("torch", "triton", "python", "driver") if name in facts)
    seconds = sum(part.get("seconds", 0) for part in found["parts"].values())
    lines = [
        f"{found['card']}, {found['date']}, commit {found['commit']}, {versions}: "
        f"`python -m benchmarks.device_day`, {seconds:.0f} seconds."
    ]
    for name, part in found["parts"].items():
        lines += [f"The part {name} {word}: {part[word]}." for word in ("cut", "skipped") if word in part]
        if "measured at" in part:
            lines.append(f"The part {name} was measured before, {part['measured at']}.")
        if "failed" in part:
            lines.append(f"The part {name} failed: `{part['failed'].strip().splitlines()[-1]}`.")
    speeds = [f"{_number(value)} ({name.removesuffix(', TB/s')})" for name, value in facts.items() if "TB/s" in name]
    lines.append(f"Memory, TB/s read and written: {', '.join(speeds)}.")
    return "\n".join(lines)


def _right(found: Results) -> str:
    checks, tests = rows(found, "right"), rows(found, "tests")
    wrong = {name: reason for name, reason in checks.items() if reason is not True}
    lines = [f"{len(checks) - len(wrong)} of {len(checks)} checks are right."]
    lines += [f"- wrong: {name}: {reason}" for name, reason in wrong.items()]
    lines += ["", f"{tests.get('passed', 0)} of the kernels' tests passed, {tests.get('failed', 0)} failed."]
    lines += [f"- failed: `{name}`" for name in tests.get("failures", ())]
    return "\n".join(lines)


def _device(found: Results) -> str:
    timed = rows(found, "device")
    tables = []
    for shape in _SHAPES:
        cells = {
            (f"{op}, {dtype}", name): _cell(timed.get(f"{op} | {name} | {shape} | {dtype}"))
            for op in timed_ops(timed)
            for dtype in _DTYPES
            for name in _PROVIDERS
        }
        one_pass = [
            f"{name} {_cell(timed.get(f'{op} | torch | {shape} | {dtype}'))} ({dtype})"
            for op, name in (("copy", "a copy"), ("multiply", "x · 2"))
            for dtype in _DTYPES
            if f"{op} | torch | {shape} | {dtype}" in timed
        ]
        title = f"**{shape.replace('x', ' × ')}**, µs (TB/s). One pass of PyTorch: {', '.join(one_pass)}."
        tables.append(f"{title}\n\n{_grid('', cells)}")
    return "\n\n".join(tables)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, str):
        return "failed"
    star = "" if value["how"] == "graph" else "\\*"
    return f"{_number(value['us'])}{star} ({value['tbs']:.2f})"


def _host(found: Results) -> str:
    timed = rows(found, "host")
    cells = {}
    for op in timed_ops(timed):
        for name in _PROVIDERS:
            value = timed.get(f"{op} | {name}")
            cells[op, name] = "–" if value is None else "failed" if isinstance(value, str) else _number(value)
    return _grid("µs", cells)


def _train(found: Results) -> str:
    measured = rows(found, "train")
    names = [name for name in next(iter(measured.values()), {}) if name != "waits"]
    body = [(name, *(values.get(name, "–") for values in measured.values())) for name in names]
    lines = [_table(("", *measured), body), ""]
    for name, values in measured.items():
        waits = "; ".join(f"`{wait}`" for wait in values.get("waits", ())) or "nowhere"
        lines.append(f"Waits for the device, {name}: {waits}.")
    return "\n".join(lines)


def _sizes(found: Results) -> str:
    timed = {tuple(name.split(" | ")): value for name, value in rows(found, "variants").items()}
    tables = []
    for op in dict.fromkeys(key[0] for key in timed):
        columns = dict.fromkeys(key[1:3] for key in timed if key[0] == op)
        body = [
            (size, *(_size(timed.get((op, *column, size))) for column in columns))
            for size in dict.fromkeys(key[3] for key in timed if key[0] == op)
        ]
        head = (f"{op}, µs", *(f"{shape}, {dtype}" for shape, dtype in columns))
        tables.append(_table(head, body))
    different = [" ".join(key) for key, value in timed.items() if isinstance(value, dict) and not value["same"]]
    tables.append(f"Other bits than the op's: {', '.join(different) or 'none'}.")
    return "\n\n".join(tables)


def _size(value: Any) -> str:
    return "–" if value is None else _number(value["us"])


def _tools(found: Results) -> str:
    measured = rows(found, "tools")
    lines = []
    if "memcheck" in measured:
        last = measured["memcheck"]["output"].strip().rpartition("\n")[2].strip("= ")
        lines.append(f"compute-sanitizer, memcheck: {last}.")
    counted = {name: values for name, values in measured.items() if isinstance(values, dict) and "kernel" in values}
    if counted:
        names = [name for name in next(iter(counted.values())) if name != "kernel"]
        body = [(op, *(_number(values[name]) for name in names)) for op, values in counted.items()]
        lines += ["", _table(("Nsight Compute", *names), body)]
    else:
        lines.append("Nsight Compute counted none of our kernels.")
    return "\n".join(lines)


SECTIONS = {
    "run": _run,
    "right": _right,
    "device": _device,
    "host": _host,
    "train": _train,
    "sizes": _sizes,
    "tools": _tools,
}
