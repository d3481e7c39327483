"""A table of what opcodes compute: patterns of opcodes, as an ISA's manual spells them, and a function for each."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from inspect import Parameter, signature
from typing import Any

from .machine import UnknownInstruction


@dataclass(frozen=True)
class Operation:
    """What an opcode that matches `pattern` does.

    Parameters
    ----------
    pattern : re.Pattern
        Of whole opcodes, with a named group for each part that the function or the types need.
    function : callable
        For an arithmetic operation from arrays to an array, the named groups it wants by keyword. For another one from
        a statement and the matched groups to a decoded instruction's parts.
    reads : tuple of str
        The types of the sources, in which a named group in braces stands for what matched.
    writes : str
        The type of the result.
    """

    pattern: re.Pattern[str]
    function: Callable[..., Any]
    reads: tuple[str, ...]
    writes: str

    def options(self, matched: dict[str, Any]) -> dict[str, Any]:
        """Those of the matched groups that the function takes."""
        named = [p.name for p in signature(self.function).parameters.values() if p.kind is Parameter.KEYWORD_ONLY]
        return {name: matched[name] for name in named if name in matched}

    def wants(self, name: str) -> bool:
        """Whether the function has a parameter of this name."""
        return name in signature(self.function).parameters


class Operations:
    """The operations of one ISA; an opcode that none or several of them match is an error."""

    def __init__(self) -> None:
        self.all: list[Operation] = []
        self.find = cache(self._find)

    def define(self, *patterns: str, reads: str = "", writes: str = "{type}") -> Callable[[Any], Any]:
        """Decorate a function with the opcodes that it computes.

        Parameters
        ----------
        *patterns : str
            Regular expressions.
        reads : str
            Types of the sources, separated by spaces; by default "{type}" for each positional parameter.
        writes : str
        """

        def add(function: Any) -> Any:
            positional = [
                p for p in signature(function).parameters.values() if p.kind is Parameter.POSITIONAL_OR_KEYWORD
            ]
            types = tuple(reads.split()) or ("{type}",) * len(positional)
            self.all += [Operation(re.compile(pattern), function, types, writes) for pattern in patterns]
            return function

        return add

    def _find(self, opcode: str) -> tuple[Operation, dict[str, Any]]:
        matches: Iterable[tuple[Operation, re.Match[str] | None]] = (
            (operation, operation.pattern.fullmatch(opcode)) for operation in self.all
        )
        found = [(operation, match.groupdict()) for operation, match in matches if match]
        if not found:
            raise UnknownInstruction(f"unknown opcode or modifier: {opcode}")
        if len(found) > 1:
            raise AssertionError(f"{opcode} has {len(found)} meanings")
        return found[0]
