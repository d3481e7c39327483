"""What a configuration field may be: the check of a value, the wording of the check, and how a flag is parsed."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np


class Kind:
    """The values that a field takes; `str` of a kind ends the sentences "allowed: ..." and "... is not ..."."""

    @property
    def metavar(self) -> str:
        """What stands for the value in a list of flags."""
        return "TEXT"

    def admits(self, value: object) -> bool:
        """Whether `value` is one of them."""
        raise NotImplementedError

    def parse(self, text: str) -> Any:
        """The value that a command line's `text` stands for, not yet checked; ValueError if there is none."""
        return text

    def hint(self, value: object) -> str:
        """What to say besides of a value that is not one of them; begins with a semicolon if there is anything."""
        return ""


@dataclass(frozen=True)
class Range(Kind):
    """Numbers of type `kind` (int or float) from `low` to `high`; an open end is excluded."""

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
    def metavar(self) -> str:
        """N for an integer, X for a number."""
        return "N" if self.kind is int else "X"

    @property
    def brief(self) -> str:
        """The range in a few characters, for a list of flags."""
        if math.isinf(self.high):
            return f"{'above' if self.open_low else 'from'} {self.low}"
        power = (int(self.high) + 1).bit_length() - 1
        high = f"2^{power}-1" if power > 20 and self.high == 2**power - 1 else str(self.high)
        return f"{'above ' * self.open_low}{self.low}..{'below ' * self.open_high}{high}"

    def admits(self, value: object) -> bool:
        """Whether `value` is one of these numbers; True and False are not numbers, and NaN is in no range."""
        allowed = (int,) if self.kind is int else (int, float)
        if isinstance(value, bool) or not isinstance(value, allowed):
            return False
        above = self.low < value if self.open_low else self.low <= value
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def parse(self, text: str) -> Any:
        """An int or a float."""
        return self.kind(text)


@dataclass(frozen=True)
class Choice(Kind):
    """One of a few values; `elsewhere` has other libraries' names for them."""

    values: tuple[str | int, ...]
    elsewhere: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.values))}"

    @property
    def metavar(self) -> str:
        """The values."""
        return "|".join(map(str, self.values))

    def admits(self, value: object) -> bool:
        """Whether `value` is one of the values; True is not 1."""
        return not isinstance(value, bool) and value in self.values

    def parse(self, text: str) -> Any:
        """The value that is written like this, or None."""
        return next((value for value in self.values if str(value) == text), None)

    def hint(self, value: object) -> str:
        """What the value is called here."""
        here = self.elsewhere.get(value) if isinstance(value, str) else None
        return "" if here is None else f"; {value} is called {here} here"


class Switch(Kind):
    """On or off; on the command line --name and --no-name."""

    def __str__(self) -> str:
        return "true or false"

    def admits(self, value: object) -> bool:
        """Whether `value` is True or False, and not 1, "yes" or the like."""
        return isinstance(value, bool)


class Text(Kind):
    """A string with at least one character."""

    def __str__(self) -> str:
        return "a non-empty string"

    def admits(self, value: object) -> bool:
        """Whether `value` is a string with at least one character."""
        return isinstance(value, str) and value != "" and _is_encodable(value)


def _is_encodable(text: str) -> bool:
    """Whether a file may be called so: not what JSON's "\\ud800" and "\\u0000" stand for."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


class Size(Kind):
    """The height and width of an image."""

    side = Range(int, 1, 4096)

    @property
    def metavar(self) -> str:
        """One side, or both."""
        return "SIDE|HxW"

    def __str__(self) -> str:
        return f"height and width from {self.side.low} to {self.side.high}: [32, 48] in JSON, 32x48 or 32 as a flag"

    def admits(self, value: object) -> bool:
        """Whether `value` is (height, width)."""
        return isinstance(value, tuple) and len(value) == 2 and all(map(self.side.admits, value))

    def parse(self, text: str) -> Any:
        """Height x width, or one number for both."""
        sides = tuple(int(side) for side in text.lower().split("x"))
        return sides * 2 if len(sides) == 1 else sides


class Interval(Kind):
    """The ends of a range of numbers of at least 0, either of them included; the high one may be inf."""

    @property
    def metavar(self) -> str:
        """Both ends."""
        return "LOW,HIGH"

    def __str__(self) -> str:
        return "two numbers with 0 <= low <= high: [0.2, 5] in JSON, 0.2,5 as a flag"

    def admits(self, value: object) -> bool:
        """Whether `value` is (low, high)."""
        number = Range(float, 0, math.inf)
        return isinstance(value, tuple) and len(value) == 2 and all(map(number.admits, value)) and value[0] <= value[1]

    def parse(self, text: str) -> Any:
        """Two numbers with a comma between them."""
        return tuple(float(end) for end in text.split(","))


def setting(default: Any, kind: Kind, help: str) -> Any:
    """A dataclass field with its kind and help text; a field whose default is None takes None as well."""
    return field(default=default, metadata={"kind": kind, "help": help})


def plain(value: Any) -> Any:
    """NumPy's numbers as Python's, also inside lists, tuples and mappings: JSON knows no others."""
    if isinstance(value, Mapping):
        return {name: plain(inside) for name, inside in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(plain, value))
    return value.item() if isinstance(value, np.generic) else value


class Checked:
    """Base class of a configuration: the constructor refuses a value that is not of its field's kind."""

    def __post_init__(self) -> None:
        for item in fields(self):  # type: ignore[arg-type]
            value = plain(getattr(self, item.name))
            object.__setattr__(self, item.name, value)
            kind, optional = item.metadata.get("kind"), item.default is None
            if kind is not None and not kind.admits(value) and not (optional and value is None):
                allowed = f"{kind}{', or null' if optional else ''}{kind.hint(value)}"
                raise ValueError(f"{item.name} is {value!r}; allowed: {allowed}")
