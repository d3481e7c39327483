"""Everything a run can be told, in one place: the value, what it may be, and what it means.

Each field of a configuration carries its default, its range and its help text, so that the command line,
the file `config.json` and a caller in Python share one definition.  Nothing here imports torch: a bad value
is refused before the slow part of the program is loaded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from noisestep.reference.betas import BETA_SCHEDULES
from noisestep.reference.schedule import Schedule

from .settings import Checked, Choice, Pair, Range, Switch, Text, setting

if TYPE_CHECKING:
    from ..models import UNetConfig

_SEED = Range(int, 0, 2**64 - 1)
_UNIT = Range(float, 0.0, 1.0)


@dataclass(frozen=True)
class DataConfig(Checked):
    """Which images, what shape they are given, and which part of them is held out for judging the samples."""

    source: str = setting(
        "digits", Text(), "'digits', a folder of images, an .npz or .npy, IDX files, or tar files by a pattern"
    )
    size: tuple[int, int] | None = setting(None, Pair(), "bring all images to this size")
    channels: int | None = setting(None, Choice((1, 3, 4, None)), "bring all images to grey, RGB or RGBA")
    fit: str = setting("crop", Choice(("crop", "pad")), "how an image of another shape is fitted to the size")
    flip: bool = setting(False, Switch(), "mirror every second image, at random, while training")
    held_out: float = setting(
        0.5, Range(float, 0, 1, open_low=True, open_high=True), "share of the images kept from training"
    )
    split_seed: int = setting(0, Range(int, 0, 2**32 - 1), "seed of the split into training and held-out images")
    stream: bool = setting(
        False, Switch(), "decode images when they are needed, instead of all of them first; tar files always are"
    )
    workers: int = setting(2, Range(int, 0, 256), "processes that decode streamed images, for each device")


@dataclass(frozen=True)
class ScheduleConfig(Checked):
    """The forward process: a schedule of β by name, its number of steps T, and parameters of the named function."""

    name: str = setting("cosine", Choice(tuple(BETA_SCHEDULES)), "schedule of the noise")
    T: int = setting(1000, Range(int, 1, 1_000_000), "steps T of the forward process")
    zero_terminal_snr: bool = setting(False, Switch(), "rescale the schedule so that x_T is noise alone")
    parameters: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            self.build()
        except (TypeError, ValueError) as error:
            raise ValueError(f"schedule {self.name}: {error}") from None

    def build(self) -> Schedule:
        """The schedule, its tables computed."""
        return Schedule.from_name(self.name, self.T, zero_terminal_snr=self.zero_terminal_snr, **self.parameters)


@dataclass(frozen=True)
class SampleConfig(Checked):
    """How images are drawn from a trained model, and how many of them are judged after training.

    The defaults for the digits: at 50 steps DDIM loses some of the variance, which a temperature gives back; and with
    900 samples the noise of the seed alone moves the Fréchet ratio by 0.1, so that the seed is a part of the recipe.
    """

    sampler: str = setting("ddim", Choice(("ddim", "ddpm")), "DDIM, or the ancestral DDPM update")
    steps: int = setting(50, Range(int, 1, 1_000_000), "steps from x_T to x_0, at most T")
    eta: float = setting(0.5, _UNIT, "DDIM only: 0 adds no noise on the way, 1 as much as DDPM")
    variance: Literal["posterior", "beta", "zero"] = setting(
        "posterior", Choice(("posterior", "beta", "zero")), "DDPM only: variance of a step"
    )
    clip: bool = setting(True, Switch(), "keep the predicted x_0 in [-1, 1] at every step")
    guidance: float = setting(
        1.0, Range(float, 0, 100), "weight of classifier-free guidance; 1 is none, and needs no label dropout"
    )
    temperature: float = setting(
        1.07, Range(float, 0, 2), "what all noise is multiplied by; above 1 for more variety, below for less"
    )
    count: int = setting(900, Range(int, 1, 10_000_000), "number of images")
    seed: int = setting(1, _SEED, "seed of the images")
    batch_size: int = setting(100, Range(int, 1, 65_536), "images drawn together; changes no image")


@dataclass(frozen=True)
class TrainConfig(Checked):
    """A whole training run.  The defaults are the recipe for the embedded digits.

    `model` is None until the images are known, and then `UNetConfig.for_image` of their shape.
    """

    data: DataConfig = field(default_factory=DataConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    model: UNetConfig | None = None
    prediction: Literal["eps", "x_0", "v"] = setting("eps", Choice(("eps", "x_0", "v")), "what the network predicts")
    weighting: str = setting(
        "none", Choice(("none", "min_snr", "p2", "truncated_snr")), "weight of a timestep in the loss"
    )
    conditional: bool = setting(True, Switch(), "tell the network the class of an image, where there are classes")
    label_dropout: float = setting(0.0, _UNIT, "share of the labels that is withheld, for guidance")
    dropout: float = setting(
        0.1, Range(float, 0, 1, open_high=True), "share of activations dropped in the network while training"
    )
    steps: int = setting(1200, Range(int, 1, 2**28 - 1), "optimizer steps")
    batch_size: int = setting(128, Range(int, 1, 65_536), "images in a step, on all devices together")
    micro_batch: int = setting(
        0, Range(int, 0, 65_536), "most images that a device computes at once; 0: all that it has of a step"
    )
    learning_rate: float = setting(2e-3, Range(float, 0, 1, open_low=True), "highest learning rate of AdamW")
    warmup: int = setting(100, Range(int, 0, 2**28 - 1), "steps in which the learning rate rises to its highest")
    decay: str = setting(
        "cosine", Choice(("cosine", "linear", "constant")), "way of the learning rate from its highest to zero"
    )
    beta_1: float = setting(0.9, Range(float, 0, 1, open_high=True), "decay of AdamW's mean gradient")
    beta_2: float = setting(0.99, Range(float, 0, 1, open_high=True), "decay of AdamW's mean squared gradient")
    weight_decay: float = setting(0.0, Range(float, 0, 1), "AdamW's weight decay")
    clip_gradient: float = setting(1.0, Range(float, 0, math.inf, open_low=True), "largest norm of the gradient")
    ema: float = setting(0.998, Range(float, 0, 1, open_high=True), "decay of the averaged weights")
    precision: str = setting(
        "auto",
        Choice(("auto", "float32", "bf16")),
        "arithmetic of the network; auto: bf16 on a GPU that has it, float32 elsewhere",
    )
    channels_last: bool = setting(False, Switch(), "keep images in channels-last memory order")
    compile: bool = setting(False, Switch(), "run the network through torch.compile")
    seed: int = setting(0, _SEED, "seed of every random choice in training")
    log_every: int = setting(20, Range(int, 1, 2**28 - 1), "steps between two lines of the log")
    sample_every: int = setting(300, Range(int, 0, 2**28 - 1), "steps between two sample grids; 0: none")
    checkpoint_every: int = setting(300, Range(int, 1, 2**28 - 1), "steps between two checkpoints")
    keep: int = setting(2, Range(int, 1, 1000), "number of checkpoints kept")
    sample: SampleConfig = field(default_factory=SampleConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sample.steps > self.schedule.T:
            raise ValueError(
                f"{self.sample.steps} sampling steps, but the schedule has T = {self.schedule.T}: at most that many"
            )
        if self.prediction == "eps" and self.schedule.build().zero_terminal_snr:
            raise ValueError(
                f"prediction is 'eps', but schedule {self.schedule.name} ends in noise alone, which says nothing "
                "about x_0; allowed: x_0, v"
            )
        if self.warmup >= self.steps:
            raise ValueError(f"warmup is {self.warmup} of {self.steps} steps; it must be smaller than steps")
        check_guidance(self.sample.guidance, label_dropout=self.label_dropout, conditional=self.conditional)


def check_guidance(guidance: float, *, label_dropout: float, conditional: bool) -> None:
    """Refuse a guidance weight other than 1 for a model that never saw an image without its label."""
    if guidance != 1.0 and not (conditional and label_dropout > 0):
        raise ValueError(
            f"guidance is {guidance:g}; other than 1 it needs a model that was trained with and without its labels: "
            "conditional, with a label dropout such as 0.1"
        )


# what differs from the defaults for images that are not the digits: the learning rate, warm-up and average of
# Ho et al. 2020 (appendix B), shortened to a run that a single machine can finish
RECIPES: dict[str, dict[str, Any]] = {
    "digits": {},
    "images": {
        "steps": 20_000,
        "batch_size": 64,
        "learning_rate": 2e-4,
        "warmup": 1000,
        "decay": "constant",
        "beta_2": 0.999,
        "ema": 0.999,
        "label_dropout": 0.1,
        "log_every": 100,
        "sample_every": 2000,
        "checkpoint_every": 1000,
        "data": {"held_out": 0.1},
        "sample": {"count": 1000, "eta": 0.0, "temperature": 1.0, "seed": 0},
    },
}


def recipe_name(source: object) -> str:
    """Which recipe the defaults come from: "digits" for the embedded digits, "images" for everything else."""
    return "digits" if source in (None, DataConfig().source) else "images"


def train_config(changes: Mapping[str, Any]) -> TrainConfig:
    """The recipe for the data that `changes` names, with `changes` on top.

    A number of steps that is changed alone takes the warm-up along, at most a tenth of it, and a short schedule
    the steps of sampling.

    Parameters
    ----------
    changes : mapping
        Nested like the configuration: `{"steps": 100, "data": {"source": "photos"}}`.

    Returns
    -------
    TrainConfig

    Raises
    ------
    ValueError
        An unknown name, or a value that its field does not admit.
    """
    data = changes.get("data", {})
    source = data.get("source") if isinstance(data, Mapping) else None
    merged = merge(RECIPES[recipe_name(source)], changes)
    # a short run is not told to warm up for longer than it lasts, nor a short chain to be sampled in more steps
    if "steps" in changes and "warmup" not in changes and isinstance(changes["steps"], int):
        merged["warmup"] = min(merged.get("warmup", TrainConfig.warmup), changes["steps"] // 10)
    T = merged.get("schedule", {}).get("T", ScheduleConfig.T)
    if "steps" not in changes.get("sample", {}) and isinstance(T, int):
        merged["sample"] = {**merged.get("sample", {}), "steps": min(SampleConfig.steps, T)}
    return from_dict(merged)


def to_json(config: TrainConfig) -> str:
    """`config` as JSON text, every field written out, so that a later default cannot change what a run was."""
    return json.dumps(asdict(config), indent=2) + "\n"


def from_json(text: str) -> TrainConfig:
    """The configuration in JSON text that `to_json` wrote.

    Raises
    ------
    ValueError
        Text that is not a JSON object, and as `from_dict`.
    """
    return from_dict(read_json(text))


def read_json(text: str) -> dict[str, Any]:
    """Nested plain values from JSON text.

    Raises
    ------
    ValueError
        Text that is not a JSON object.
    """
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"a JSON object is expected, got {text.strip()[:40]!r}")
    return content


def from_dict(content: object) -> TrainConfig:
    """The configuration in nested plain values, `dataclasses.asdict` of one; fields left out have their defaults.

    Raises
    ------
    ValueError
        Not a mapping, an unknown name, or a value that its field does not admit.
    """
    config = _build(TrainConfig, content, "")
    assert isinstance(config, TrainConfig)
    return config


def with_sample(config: TrainConfig, changes: Mapping[str, Any]) -> TrainConfig:
    """`config` with some of its sampling settings changed, and checked against the rest of it.

    Raises
    ------
    ValueError
        A value that its field does not admit, or more steps than the schedule has, or guidance without label dropout.
    """
    return replace(config, sample=replace(config.sample, **changes))


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` on top, nested mappings merged likewise."""
    merged = dict(base)
    for name, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = merge(merged[name], value) if nested else value
    return merged


def default_of(path: str, recipe: str) -> Any:
    """The default that `recipe` gives to the field at `path`, such as "steps" or "sample.steps"."""
    value: Any = from_dict(RECIPES[recipe])
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _build(kind: type, content: object, where: str) -> Any:
    if not isinstance(content, Mapping):
        raise ValueError(f"{where or 'the configuration'} is {content!r}; it must be an object of names and values")
    known = {item.name: item for item in fields(kind)}
    unknown = sorted(set(content) - set(known))
    if unknown:
        place = f" in {where}" if where else ""
        raise ValueError(f"unknown name {unknown[0]!r}{place}; known: {', '.join(known)}")
    values = {name: _value(known[name], value) for name, value in content.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from None


def _value(item: Any, value: Any) -> Any:
    if item.name == "model" and value is not None:
        from ..models import UNetConfig

        return _build(UNetConfig, value, item.name)
    # a section, such as "data": its default is made by its class
    if isinstance(item.default_factory, type) and is_dataclass(item.default_factory):
        return _build(item.default_factory, value, item.name)
    # JSON has no tuples
    return tuple(value) if isinstance(value, list) else value
