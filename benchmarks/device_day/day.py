"""Runs parts one after the other within a time, and writes every row to the results file as soon as it is found."""

import json
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Clock = Callable[[], float]
# the last lines of a traceback say what failed
_TRACEBACK = 3000


@dataclass(frozen=True)
class Budget:
    """What a part may spend.

    Parameters
    ----------
    quick : bool
        Small sizes and few repetitions.
    until : float
        When the part has to end, on `clock`.
    clock : function
        Seconds.
    """

    quick: bool
    until: float
    clock: Clock = time.perf_counter

    @property
    def left(self) -> float:
        """Seconds left to this part."""
        return self.until - self.clock()


@dataclass(frozen=True)
class Part:
    """A part of the day.

    Parameters
    ----------
    rows : function of a Budget
        Yields (name, value) as they are found; the same name again replaces the value.
    seconds : float
        The most that it may take; it is cut after the row that passes them.
    """

    rows: Callable[[Budget], Iterator[tuple[str, Any]]]
    seconds: float


def choose(parts: Mapping[str, Part], only: str | None) -> list[str]:
    """The names in a list like "right,device", in the order of the day; all of them by default.

    Raises
    ------
    ValueError
        For a name that no part has, with those allowed.
    """
    if only is None:
        return list(parts)
    wanted = [name.strip() for name in only.split(",")]
    if unknown := [name for name in wanted if name not in parts]:
        raise ValueError(f"no part is called {', '.join(map(repr, unknown))}; allowed: {', '.join(parts)}")
    return [name for name in parts if name in wanted]


def run(
    parts: Mapping[str, Part],
    names: Sequence[str],
    results: Path,
    *,
    facts: Mapping[str, Any],
    seconds: float,
    quick: bool = False,
    clock: Clock = time.perf_counter,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Run parts in turn; one that fails leaves its traceback, and the next one runs.

    Parameters
    ----------
    parts : mapping of str to Part
    names : sequence of str
        Which of them, in turn.
    results : Path
        A JSON file, replaced after every row.
    facts : mapping
        What the file says besides.
    seconds : float
        For all parts together. A part begins only while some are left.
    quick : bool
    clock, say : function

    Returns
    -------
    dict
        What the file holds: {**facts, "parts": {name: {"rows", "seconds", "failed" or "cut" or "skipped"}}}.
    """
    end = clock() + seconds
    found: dict[str, Any] = {**facts, "quick": quick, "parts": {}}
    for name in names:
        part, begun = parts[name], clock()
        record: dict[str, Any] = {"rows": {}}
        found["parts"][name] = record
        if begun >= end:
            record["skipped"] = f"the {seconds:g} seconds are over"
            say(f"== {name}: skipped, {record['skipped']}")
            _write(found, results)
            continue
        budget = Budget(quick, min(begun + part.seconds, end), clock)
        say(f"== {name}, {budget.left:.0f} s at the most")
        try:
            for key, value in part.rows(budget):
                record["rows"][key] = value
                _write(found, results)
                if value is not True:
                    say(f"   {key}: {value}")
                if budget.left <= 0:
                    record["cut"] = f"after {key}"
                    say(f"   cut {record['cut']}")
                    break
        except Exception:
            record["failed"] = traceback.format_exc()[-_TRACEBACK:]
            say(record["failed"])
        record["seconds"] = round(clock() - begun, 1)
        _write(found, results)
    return found


def _write(found: Mapping[str, Any], results: Path) -> None:
    # a process that is killed while it writes leaves the file as it was
    part = results.with_suffix(".part")
    part.write_text(json.dumps(found, indent=1) + "\n")
    os.replace(part, results)
