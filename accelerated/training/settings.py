"""What a field of a configuration admits, said once: as a check, as words for a message, as a range for a flag."""

import math
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Range:
    """The numbers that a field admits: `kind` int or float, from `low` to `high`, ends open where said."""

    kind: type
    low: float
    high: float
    open_low: bool = False
    open_high: bool = False

    def __str__(self) -> str:
        noun = "an integer" if self.kind is int else "a number"
        if math.isinf(self.high):
            return f"{noun} {'above' if self.open_low else 'of at least'} {self.low}"
        ends = [f"{self.low} excluded"] * self.open_low + [f"{self.high} excluded"] * self.open_high
        return f"{noun} from {self.low} to {self.high}" + (f", {' and '.join(ends)}" if ends else "")

    @property
    def brief(self) -> str:
        """The range in a few characters, for a list of flags."""
        if math.isinf(self.high):
            return f"{'above' if self.open_low else 'from'} {self.low}"
        power = isinstance(self.high, int) and self.high > 10**6 and (self.high + 1).bit_length() - 1
        high = f"2^{power}-1" if power and self.high == 2**power - 1 else str(self.high)
        return f"{'above ' * self.open_low}{self.low}..{'below ' * self.open_high}{high}"

    def admits(self, value: object) -> bool:
        """Whether `value` is one of these numbers; True and False are not numbers, and NaN is in no range."""
        allowed = (int,) if self.kind is int else (int, float)
        if isinstance(value, bool) or not isinstance(value, allowed):
            return False
        above = self.low < value if self.open_low else self.low <= value
        below = value < self.high if self.open_high else value <= self.high
        return above and below


@dataclass(frozen=True)
class Choice:
    """The few values that a field admits; null is written None."""

    values: tuple[str | int | None, ...]

    def __str__(self) -> str:
        return "one of " + ", ".join("null" if value is None else str(value) for value in self.values)

    def admits(self, value: object) -> bool:
        """Whether `value` is one of the values; True is not 1."""
        return not isinstance(value, bool) and value in self.values


class Switch:
    """A field that is on or off."""

    def __str__(self) -> str:
        return "true or false"

    def admits(self, value: object) -> bool:
        """Whether `value` is True or False itself, and not something that would pass for it."""
        return isinstance(value, bool)


class Text:
    """A field of free text."""

    def __str__(self) -> str:
        return "a non-empty string"

    def admits(self, value: object) -> bool:
        """Whether `value` is a string with something in it."""
        return isinstance(value, str) and value != ""


@dataclass(frozen=True)
class Pair:
    """A height and a width, or null."""

    side: Range = Range(int, 1, 4096)

    def __str__(self) -> str:
        return f"[height, width], each from {self.side.low} to {self.side.high}, or null"

    def admits(self, value: object) -> bool:
        """Whether `value` is None or (height, width)."""
        return value is None or (isinstance(value, tuple) and len(value) == 2 and all(map(self.side.admits, value)))


def setting(default: Any, allowed: object, help: str) -> Any:
    """A dataclass field with a default, a range (one of the classes above) and a help text."""
    return field(default=default, metadata={"allowed": allowed, "help": help})


class Checked:
    """Refuses, at construction, any field whose value its own range does not admit."""

    def __post_init__(self) -> None:
        for item in fields(self):  # type: ignore[arg-type]
            allowed = item.metadata.get("allowed")
            value = getattr(self, item.name)
            if allowed is not None and not allowed.admits(value):
                raise ValueError(f"{item.name} is {value!r}; allowed: {allowed}")
