"""`python -m benchmarks.compare A B`: what B changed, in time and in what is counted exactly.

A and B are two files of results (of `pytest benchmarks`, or of `benchmarks.device_day`), or two checkouts, which are
timed in turn. A time's verdict is that of a confidence interval, and never fails the command. A count is exact: one
that grew, or that is gone, is exit status 1.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from scipy.stats import quantile_test

from .worker import check_is_checkout, worker

CONFIDENCE = 0.99
Interval = tuple[float, float]
ANYTHING: Interval = (0.0, math.inf)
# of a count, what fails
FAILS = ("more", "gone")


@dataclass(frozen=True)
class Results:
    """What one side has.

    Parameters
    ----------
    samples : dict
        Seconds by (op, case, how it was timed).
    counts : dict
        Numbers by call and quantity, as `benchmarks.counts` has them.
    """

    samples: dict[tuple[str, str, str], list[float]] = field(default_factory=dict)
    counts: dict[str, dict[str, float]] = field(default_factory=dict)


def median_interval(samples: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Of the median, by order statistics; anything where there are too few samples to say."""
    found = quantile_test(samples, p=0.5).confidence_interval(confidence)
    return ANYTHING if math.isnan(found.low) or math.isnan(found.high) else (float(found.low), float(found.high))


def ratio_interval(a: Sequence[float], b: Sequence[float], *, in_turn: bool) -> Interval:
    """Of b / a: from the ratio of each turn, or from two intervals that hold together."""
    if in_turn:
        return median_interval([y / x for x, y in zip(a, b, strict=True)])
    of_a, of_b = (median_interval(samples, (1 + CONFIDENCE) / 2) for samples in (a, b))
    return ANYTHING if ANYTHING in (of_a, of_b) else (of_b[0] / of_a[1], of_b[1] / of_a[0])


def verdict(ratio: Interval, tolerance: float) -> str:
    """What an interval of B's time over A's says; a difference below the tolerance is none."""
    low, high = ratio
    if 1 / (1 + tolerance) <= low and high <= 1 + tolerance:
        return "same"
    if high < 1:
        return "faster"
    return "slower" if low > 1 else "unclear"


def count_changes(a: Mapping[str, Mapping[str, float]], b: Mapping[str, Mapping[str, float]]) -> Iterator[tuple]:
    """(call, quantity, in A, in B, "same", "fewer", "more", "new" or "gone") of every count."""
    for call in dict.fromkeys((*a, *b)):
        for quantity in dict.fromkeys((*a.get(call, ()), *b.get(call, ()))):
            x, y = (side.get(call, {}).get(quantity) for side in (a, b))
            if x is None or y is None:
                word = "new" if x is None else "gone"
            else:
                word = "same" if x == y else "fewer" if y < x else "more"
            yield call, quantity, x, y, word


def read(path: Path) -> Results:
    """A file of results.

    Raises
    ------
    ValueError
        If it is another one.
    """
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON") from error
    if "benchmarks" in found:
        return Results(dict(map(_of_pytest, found["benchmarks"])), found.get("counts", {}))
    if "parts" in found:
        rows = found["parts"].get("device", {"rows": {}})["rows"]
        return Results({_of_a_day(name): _samples(row) for name, row in rows.items() if isinstance(row, dict)})
    raise ValueError(f"{path} has neither the benchmarks of pytest nor the parts of benchmarks.device_day")


def _of_pytest(benchmark: dict[str, Any]) -> tuple[tuple[str, str, str], list[float]]:
    facts = benchmark["extra_info"]
    how = f"{facts['provider']}, {facts['clock']}" if "op" in facts else "pair"
    return (facts.get("op", benchmark["name"]), facts.get("case", ""), how), benchmark["stats"]["data"]


def _of_a_day(name: str) -> tuple[str, str, str]:
    op, provider, shape, dtype = name.split(" | ")
    return op, f"{shape}-{dtype}", f"{provider}, device"


def _samples(row: dict[str, Any]) -> list[float]:
    # older files have the median alone
    return [us * 1e-6 for us in row.get("rounds", [row["us"]])]


def measured(a: Path, b: Path, *, ops: Sequence[str] | None, case: str, turns: int, timed: bool) -> list[Results]:
    """Both checkouts, in turn."""
    with ExitStack() as stack:
        workers = [stack.enter_context(worker(checkout)) for checkout in (a, b)]
        known = [[op for op in w.launches if ops is None or op in ops] for w in workers]
        for op in ops or ():
            if not any(op in names for names in known):
                raise ValueError(f"no op {op!r}; allowed: {', '.join(workers[1].launches)}")
        sides = [
            Results(counts={f"{op}, a call": {"launches": w.launches[op]} for op in names} | w.counts(names))
            for w, names in zip(workers, known, strict=True)
        ]
        calls = [
            (clock, name)
            for clock, names in workers[0].timed.items()
            for name in names
            if clock != "plain" and name in workers[1].timed.get(clock, ()) and name.split()[0] in known[0]
            if timed and case in name
        ]
        for turn in range(turns):
            for clock, name in calls:
                op, _, rest = name.partition(" ")
                # one side first, then the other
                for side, w in list(zip(sides, workers, strict=True))[:: 1 if turn % 2 else -1]:
                    side.samples.setdefault((op, rest, clock), []).append(w.seconds(clock, name))
    return sides


def report(a: Results, b: Results, *, in_turn: bool, tolerance: float) -> tuple[list[str], bool]:
    """The lines to print, and whether no count fails."""
    lines, words = [], Counter[str]()
    rows = []
    for name in (name for name in a.samples if name in b.samples):
        x, y = (sorted(side.samples[name]) for side in (a, b))
        low, high = ratio_interval(a.samples[name], b.samples[name], in_turn=in_turn)
        word = verdict((low, high), tolerance)
        words[word] += 1
        between = "–" if high == math.inf else f"{low:.3f} to {high:.3f}"
        rows.append((", ".join(filter(None, name)), _time(x[len(x) // 2]), _time(y[len(y) // 2]), between, word))
    if rows:
        lines += [*_aligned([("time", "A", "B", "B / A", "verdict"), *rows]), ""]
    changes = list(count_changes(a.counts, b.counts))
    kinds = Counter(change[-1] for change in changes)
    changed = [(f"{c}: {q}", _number(x), _number(y), word) for c, q, x, y, word in changes if word != "same"]
    if changed:
        lines += [*_aligned([("count", "A", "B", "verdict"), *changed]), ""]
    for what, counted in (("times", words), ("counts", kinds)):
        lines.append(f"{what}: {', '.join(f'{n} {word}' for word, n in counted.items()) or 'none on both sides'}")
    return lines, not any(kinds[word] for word in FAILS)


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.4g} µs"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.6g}"


def _aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _only(side: Results, ops: Sequence[str] | None, case: str) -> Results:
    kept = {
        name: samples for name, samples in side.samples.items() if (ops is None or name[0] in ops) and case in name[1]
    }
    wanted = {
        call: counted for call, counted in side.counts.items() if ops is None or any(call.startswith(op) for op in ops)
    }
    return Results(kept, wanted)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("a", type=click.Path(exists=True, path_type=Path))
@click.argument("b", type=click.Path(exists=True, path_type=Path))
@click.option("--op", metavar="OP,...", help="Compare these ops alone.")
@click.option("--case", metavar="TEXT", default="", help="Compare the times of cases alone whose name has this.")
@click.option("--turns", type=click.IntRange(1), default=15, help="Of two checkouts; below 8 all times are unclear.")
@click.option("--tolerance", type=click.FloatRange(0), default=0.03, help="A smaller difference of times is none.")
@click.option("--counts", is_flag=True, help="Compare the counts alone.")
def main(a: Path, b: Path, op: str | None, case: str, turns: int, tolerance: float, counts: bool) -> None:
    """Compare two files of results, or two checkouts of the project (A the older one).

    Exit status 1 if something that is counted (launches, instructions, bytes) grew or is gone. Times never fail.
    """
    ops = None if op is None else [name.strip() for name in op.split(",")]
    if a.is_dir() != b.is_dir():
        raise click.UsageError("give two files or two checkouts, not one of each")
    try:
        if a.is_dir():
            for checkout in (a, b):
                check_is_checkout(checkout)
            sides = measured(a, b, ops=ops, case=case, turns=turns, timed=not counts)
        else:
            sides = [_only(read(path), ops, case) for path in (a, b)]
    except (ValueError, RuntimeError) as error:
        raise click.ClickException(str(error)) from error
    if counts:
        sides = [Results(counts=side.counts) for side in sides]
    lines, passed = report(*sides, in_turn=a.is_dir(), tolerance=tolerance)
    click.echo("\n".join(lines))
    if not passed:
        raise SystemExit(1)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.compare")
