"""The flags of the command line, made from the fields of the configuration: one range, one default, one help text."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import click

from ..training.config import RECIPES, DataConfig, SampleConfig, ScheduleConfig, TrainConfig, default_of
from ..training.settings import Choice, Pair, Range, Switch

SECTIONS = {"": TrainConfig, "data": DataConfig, "schedule": ScheduleConfig, "sample": SampleConfig}

# flag -> the field of the configuration that it sets
TRAIN_FLAGS = {
    "--data": "data.source",
    "--stream": "data.stream",
    "--workers": "data.workers",
    "--size": "data.size",
    "--channels": "data.channels",
    "--fit": "data.fit",
    "--flip": "data.flip",
    "--held-out": "data.held_out",
    "--split-seed": "data.split_seed",
    "--schedule": "schedule.name",
    "--timesteps": "schedule.T",
    "--zero-terminal-snr": "schedule.zero_terminal_snr",
    "--prediction": "prediction",
    "--weighting": "weighting",
    "--conditional": "conditional",
    "--label-dropout": "label_dropout",
    "--dropout": "dropout",
    "--steps": "steps",
    "--batch-size": "batch_size",
    "--micro-batch": "micro_batch",
    "--learning-rate": "learning_rate",
    "--warmup": "warmup",
    "--decay": "decay",
    "--weight-decay": "weight_decay",
    "--clip-gradient": "clip_gradient",
    "--ema": "ema",
    "--precision": "precision",
    "--channels-last": "channels_last",
    "--compile": "compile",
    "--seed": "seed",
    "--log-every": "log_every",
    "--sample-every": "sample_every",
    "--checkpoint-every": "checkpoint_every",
    "--keep": "keep",
    "--sampler": "sample.sampler",
    "--sampling-steps": "sample.steps",
    "--eta": "sample.eta",
    "--variance": "sample.variance",
    "--clip": "sample.clip",
    "--guidance": "sample.guidance",
    "--temperature": "sample.temperature",
    "--sample-count": "sample.count",
    "--sample-seed": "sample.seed",
    "--sample-batch-size": "sample.batch_size",
}
SAMPLE_FLAGS = {
    "--count": "sample.count",
    "--seed": "sample.seed",
    "--sampler": "sample.sampler",
    "--steps": "sample.steps",
    "--eta": "sample.eta",
    "--variance": "sample.variance",
    "--clip": "sample.clip",
    "--guidance": "sample.guidance",
    "--temperature": "sample.temperature",
    "--batch-size": "sample.batch_size",
}
# what a resumed run may be told anew: nothing that changes what a step which is yet to be made computes (up to the
# masks of dropout, which are those of a micro-batch), but how many there are
RESUME_FLAGS = (
    "--data",
    "--steps",
    "--log-every",
    "--sample-every",
    "--checkpoint-every",
    "--keep",
    "--micro-batch",
    "--workers",
)


class Setting(click.ParamType):
    """Text from the command line as the value of a field, refused in the words of the field's own range."""

    name = "setting"

    def __init__(self, allowed: object) -> None:
        self.allowed = allowed

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse, and check against the range."""
        try:
            parsed = _parse(self.allowed, value)
        except ValueError:
            parsed = None
        if parsed is None or not self.allowed.admits(parsed):  # type: ignore[attr-defined]
            self.fail(f"{value!r} is not {_expected(self.allowed)}.", param, ctx)
        return parsed


def _parse(allowed: object, text: str) -> Any:
    match allowed:
        case Range():
            return allowed.kind(text)
        case Pair():
            sides = tuple(int(side) for side in text.lower().split("x"))
            return sides * 2 if len(sides) == 1 else sides
        case Choice():
            return next((value for value in allowed.values if value is not None and str(value) == text), None)
    return text


def _expected(allowed: object) -> str:
    if isinstance(allowed, Pair):
        low, high = allowed.side.low, allowed.side.high
        return f"a side such as 32, or height x width such as 32x48, each from {low} to {high}"
    if isinstance(allowed, Choice):
        return "one of " + ", ".join(str(value) for value in allowed.values if value is not None)
    return str(allowed)


def field_at(path: str) -> Any:
    """The dataclass field of the configuration at a path such as "steps" or "sample.steps"."""
    section, _, name = path.rpartition(".")
    return next(item for item in fields(SECTIONS[section]) if item.name == name)


def settings(flags: Mapping[str, str], *, defaults: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that gives a command these flags; the command gets them as keywords, None where not given.

    Parameters
    ----------
    flags : mapping
        Flag to path in the configuration; a keyword is the path, with "_" for its dot.
    defaults : bool
        Whether the help texts tell the recipes' defaults.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        # decorators apply from the last to the first, and the help lists flags in the order of the table
        for flag, path in reversed(list(flags.items())):
            command = _option(flag, path, defaults)(command)
        return command

    return decorate


def _option(flag: str, path: str, defaults: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    item = field_at(path)
    allowed, key = item.metadata["allowed"], path.replace(".", "_")
    notes = [allowed.brief] if isinstance(allowed, Range) else []
    if defaults:
        notes.append(f"default {_defaults(path)}")
    text = item.metadata["help"] + (f"  [{'; '.join(notes)}]" if notes else "")
    if isinstance(allowed, Switch):
        return click.option(f"{flag}/--no-{flag[2:]}", key, default=None, help=text)
    return click.option(flag, key, type=Setting(allowed), metavar=_metavar(allowed), help=text)


def _metavar(allowed: object) -> str:
    match allowed:
        case Range():
            return "N" if allowed.kind is int else "X"
        case Pair():
            return "SIDE|HxW"
        case Choice():
            return "|".join(str(value) for value in allowed.values if value is not None)
    return "DATA"


def _defaults(path: str) -> str:
    said = {recipe: _say(default_of(path, recipe)) for recipe in RECIPES}
    if len(set(said.values())) == 1:
        return said["digits"]
    return f"{said['digits']} for the digits, {said['images']} for other images"


def _say(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "as they are" if value is None else str(value)


def changes(values: Mapping[str, Any], flags: Mapping[str, str]) -> dict[str, Any]:
    """The flags that were given, nested like the configuration."""
    nested: dict[str, Any] = {}
    for path in flags.values():
        if (value := values[path.replace(".", "_")]) is not None:
            section, _, name = path.rpartition(".")
            (nested.setdefault(section, {}) if section else nested)[name] = value
    return nested
