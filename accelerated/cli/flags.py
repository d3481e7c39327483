"""The flags of the command line, made from the fields of the configuration: same range, default and help text."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import click

from ..training.config import CHANGEABLE, RECIPES, SECTIONS, EditConfig, TrainConfig, from_dict
from ..training.settings import Kind, Range, Switch

# a flag is called like its field, except these
NAMES = {"data.source": "--data", "schedule.name": "--schedule", "schedule.T": "--timesteps"}


# what the parts of a path before the dot name; an edit is not of a run's configuration, and has flags all the same
_KINDS = {"": TrainConfig, **SECTIONS, "edit": EditConfig}


def _section_flags(section: str, prefix: str = "--") -> dict[str, str]:
    paths = {item.name: f"{section}.{item.name}".lstrip(".") for item in fields(_KINDS[section])}
    flags = {path: NAMES.get(path, prefix + name.replace("_", "-")) for name, path in paths.items()}
    return {flag: path for path, flag in flags.items() if field_at(path).metadata}


def field_at(path: str) -> Any:
    """The dataclass field of the configuration at a path such as "steps" or "sample.steps"."""
    section, _, name = path.rpartition(".")
    return next(item for item in fields(_KINDS[section]) if item.name == name)


# flag -> path of the field that it sets
TRAIN_FLAGS = {
    **_section_flags("data"),
    **_section_flags("schedule"),
    **_section_flags(""),
    **_section_flags("sample", "--sample-"),
}
SAMPLE_FLAGS = _section_flags("sample")
EDIT_FLAGS = _section_flags("edit")
# what --resume can change
RESUME_FLAGS = tuple(flag for flag, path in TRAIN_FLAGS.items() if path in CHANGEABLE)


class FieldType(click.ParamType):
    """Parses the text of a flag and checks it by its field's kind."""

    name = "field"

    def __init__(self, kind: Kind) -> None:
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value; a usage error if the field does not take it."""
        try:
            parsed = self.kind.parse(value)
        except ValueError:
            parsed = None
        if not self.kind.admits(parsed):
            self.fail(f"{value!r} is not {self.kind}{self.kind.hint(value)}.", param, ctx)
        return parsed


def field_options(flags: Mapping[str, str], *, defaults: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that adds these flags to a command, which gets a keyword for each, None where it is not given.

    Parameters
    ----------
    flags : mapping
        Flag to path in the configuration; the keyword is `keyword(path)`.
    defaults : bool
        Whether the help texts show the recipes' defaults.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        # decorators apply from the last to the first, and the help shows flags in the order of the table
        for flag, path in reversed(list(flags.items())):
            command = _option(flag, path, defaults)(command)
        return command

    return decorate


def keyword(path: str) -> str:
    """The name of the parameter that a command gets for the field at `path`."""
    return path.replace(".", "_")


def given(values: Mapping[str, Any], flags: Mapping[str, str]) -> dict[str, Any]:
    """The values of the flags that were given, nested like the configuration; a command need not have all of them."""
    nested: dict[str, Any] = {}
    for path in flags.values():
        if (value := values.get(keyword(path))) is not None:
            section, _, name = path.rpartition(".")
            (nested.setdefault(section, {}) if section else nested)[name] = value
    return nested


def default_of(path: str, recipe: str) -> Any:
    """The default that `recipe` gives to the field at `path`."""
    value: Any = from_dict(RECIPES[recipe])
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _option(flag: str, path: str, defaults: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    metadata = field_at(path).metadata
    kind = metadata["kind"]
    notes = [kind.brief] if isinstance(kind, Range) else []
    if defaults:
        notes.append(f"default {_defaults(path)}")
    text = metadata["help"] + (f"  [{'; '.join(notes)}]" if notes else "")
    if isinstance(kind, Switch):
        return click.option(f"{flag}/--no-{flag[2:]}", keyword(path), default=None, help=text)
    return click.option(flag, keyword(path), type=FieldType(kind), metavar=kind.metavar, help=text)


def _defaults(path: str) -> str:
    digits, images = (_say(default_of(path, recipe)) for recipe in RECIPES)
    return digits if digits == images else f"{digits} for the digits, {images} for other images"


def _say(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "unchanged" if value is None else str(value)
