"""A table of what opcodes compute: patterns of opcodes, as an ISA's manual spells them, and a function for each."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from inspect import Parameter, signature
from typing import Any, TypeAlias

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
    keywords : frozenset of str
        What the function takes by keyword.
    reads : tuple of str
        The types of the sources, in which a named group in braces stands for what matched.
    writes : str
        The type of the result.
    modifiers : frozenset of str
        Modifiers beside the opcode that the function knows.
    """

    pattern: re.Pattern[str]
    function: Callable[..., Any]
    keywords: frozenset[str]
    reads: tuple[str, ...]
    writes: str
    modifiers: frozenset[str]

    def options(self, matched: dict[str, Any]) -> dict[str, Any]:
        """Those of the matched groups that the function takes."""
        return {name: value for name, value in matched.items() if name in self.keywords}


Found: TypeAlias = tuple[Operation, dict[str, Any]]


class Operations:
    """The operations of one ISA."""

    def __init__(self) -> None:
        self.all: list[Operation] = []
        self.find = cache(self._find)

    def define(
        self, *patterns: str, reads: str = "", writes: str = "{type}", modifiers: str = ""
    ) -> Callable[[Any], Any]:
        """Decorate a function with the opcodes that it computes.

        Parameters
        ----------
        *patterns : str
            Regular expressions.
        reads : str
            Types of the sources, separated by spaces; by default "{type}" for each positional parameter.
        writes : str
        modifiers : str
            Separated by spaces; any other one is an error.
        """

        def add(function: Any) -> Any:
            parameters = signature(function).parameters.values()
            positional = [p for p in parameters if p.kind is Parameter.POSITIONAL_OR_KEYWORD]
            keywords = frozenset(p.name for p in parameters if p.kind is Parameter.KEYWORD_ONLY)
            types = tuple(reads.split()) or ("{type}",) * len(positional)
            known = frozenset(modifiers.split())
            self.all += [
                Operation(re.compile(pattern), function, keywords, types, writes, known) for pattern in patterns
            ]
            return function

        return add

    def _find(self, opcode: str) -> Found | None:
        """The operation of an opcode and what its pattern matched, or None."""
        matches = ((operation, operation.pattern.fullmatch(opcode)) for operation in self.all)
        found = [(operation, match.groupdict()) for operation, match in matches if match]
        assert len(found) < 2, f"{opcode} has {len(found)} meanings"
        return found[0] if found else None


def unknown(opcode: str) -> UnknownInstruction:
    """The error for an opcode that no pattern matches, be it for a modifier."""
    return UnknownInstruction(f"unknown opcode or modifier: {opcode}")
