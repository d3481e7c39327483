"""The configuration of a run: every setting with its default, what it may be, and its help text.

The command line, `config.json` and Python share this one definition.  Nothing here imports torch, so that the command
line refuses a bad value before it loads anything slow.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from noisestep.reference.betas import BETA_SCHEDULES
from noisestep.reference.grids import GRIDS, GRIDS_ELSEWHERE
from noisestep.reference.loss import LOSS_WEIGHTINGS
from noisestep.reference.prediction import Prediction
from noisestep.reference.samplers.editing import repaint_walk, start_step
from noisestep.reference.schedule import Schedule

from ..files import printable
from ..samplers import ELSEWHERE, SAMPLERS
from ..samplers.sampler import check_maskable
from .settings import Checked, Choice, Interval, Range, Size, Switch, Text, plain, setting

if TYPE_CHECKING:
    from ..models import UNetConfig

_SEED = Range(int, 0, 2**64 - 1)
_STEPS = 2**28 - 1


@dataclass(frozen=True)
class DataConfig(Checked):
    """The images: where they are, their size and channels, and how many are held out for the evaluation."""

    source: str = setting(
        "digits", Text(), "digits, a folder of images, .npz, .npy, IDX files, or tar files (a pattern)"
    )
    size: tuple[int, int] | None = setting(None, Size(), "resize all images to this height and width")
    channels: int | None = setting(None, Choice((1, 3, 4)), "convert all images to grey (1), RGB (3) or RGBA (4)")
    fit: str = setting(
        "crop", Choice(("crop", "pad")), "how to fit an image whose aspect ratio differs from the size's"
    )
    flip: bool = setting(False, Switch(), "mirror each training image left to right with probability 1/2")
    held_out: float = setting(
        0.5, Range(float, 0, 1, open_low=True, open_high=True), "fraction of the images held out for evaluation"
    )
    split_seed: int = setting(0, Range(int, 0, 2**32 - 1), "seed of the split into training and held-out images")
    stream: bool = setting(
        False, Switch(), "decode images when a step needs them instead of loading all of them; tar files always stream"
    )
    workers: int = setting(2, Range(int, 0, 256), "processes per device that decode streamed images")


@dataclass(frozen=True)
class ScheduleConfig(Checked):
    """The forward process: the name of the beta schedule, its number of steps T, and its parameters."""

    name: str = setting(
        "cosine", Choice(tuple(BETA_SCHEDULES)), "beta schedule; flow: the noise levels of flow matching"
    )
    T: int = setting(1000, Range(int, 1, 1_000_000), "number of diffusion timesteps T")
    zero_terminal_snr: bool = setting(False, Switch(), "rescale the schedule so that x_T is pure noise")
    parameters: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.parameters, Mapping):
            raise ValueError(f"parameters is {self.parameters!r}; it must be an object of names and values")
        try:
            self.build()
        except (TypeError, ValueError) as error:
            raise ValueError(printable(f"schedule {self.name}: {error}")) from None

    def build(self) -> Schedule:
        """The schedule with its tables."""
        return Schedule.from_name(self.name, self.T, zero_terminal_snr=self.zero_terminal_snr, **self.parameters)


def _takers(name: str) -> str:
    return ", ".join(sampler.name for sampler in SAMPLERS.values() if name in sampler.settings)


def _two_calls() -> str:
    return ", ".join(sampler.name for sampler in SAMPLERS.values() if sampler.correct is not None)


@dataclass(frozen=True)
class SampleConfig(Checked):
    """How to draw samples from a trained model, and how many to draw for the evaluation.

    The defaults are for the digits; DDIM draws as good ones in 25 steps as in 50. Seed and temperature are what
    they are without a choice: one that the measures made would flatter the model.
    """

    sampler: str = setting(
        "ddim",
        Choice(tuple(SAMPLERS), ELSEWHERE),
        "; ".join(f"{name}: {sampler.title}" for name, sampler in SAMPLERS.items()),
    )
    steps: int = setting(
        25,
        Range(int, 1, 1_000_000),
        f"sampling steps from x_T to x_0, at most T; n steps are n network calls, 2 n - 1 with {_two_calls()}",
    )
    grid: str = setting(
        "uniform",
        Choice(tuple(GRIDS), GRIDS_ELSEWHERE),
        "which timesteps the sampling steps are: evenly spaced by default",
    )
    eta: float = setting(
        0.0, Range(float, 0.0, 1.0), f"{_takers('eta')} only: 0 is deterministic, 1 adds as much noise as DDPM"
    )
    variance: Literal["posterior", "beta", "zero"] = setting(
        "posterior",
        Choice(("posterior", "beta", "zero")),
        f"{_takers('variance')} only: variance of a reverse step",
    )
    churn: float = setting(
        0.0, Range(float, 0, 1e6), f"{_takers('churn')} only: how much noise is added before steps, S_churn of EDM"
    )
    s_min: float = setting(0.0, Range(float, 0, 1e6), f"{_takers('s_min')} only: no churn where sigma is below this")
    s_max: float = setting(
        math.inf, Range(float, 0, math.inf), f"{_takers('s_max')} only: no churn where sigma is above this"
    )
    s_noise: float = setting(1.0, Range(float, 0, 100), f"{_takers('s_noise')} only: factor on the noise of churn")
    clip_x0: bool = setting(True, Switch(), "clip the predicted x_0 to [-1, 1] at every step")
    guidance: float = setting(
        1.0, Range(float, 0, 100), "classifier-free guidance scale; 1 is no guidance, others need label dropout"
    )
    guidance_interval: tuple[float, float] = setting(
        (0.0, math.inf),
        Interval(),
        "guide only where sigma, the noise level sqrt((1 - alpha_bar) / alpha_bar), is in this range",
    )
    guidance_rescale: float = setting(
        0.0, Range(float, 0, 1), "how far guidance keeps the contrast of the unguided output; 0 is not at all"
    )
    temperature: float = setting(
        1.0, Range(float, 0, 2), "factor on all noise; above 1 gives more variety, below 1 less"
    )
    count: int = setting(900, Range(int, 1, 10_000_000), "number of samples")
    seed: int = setting(0, _SEED, "seed of the samples")
    seeds: int = setting(
        8, Range(int, 1, 1000), "seeds, from the seed on, of which the evaluation draws samples and takes the mean"
    )
    batch_size: int = setting(100, Range(int, 1, 65_536), "samples drawn at a time; does not change them")


@dataclass(frozen=True)
class EditConfig(Checked):
    """An image file that samples start from, or of which they keep a part; no part of a run's configuration."""

    image: str | None = setting(None, Text(), "image file to edit, of the size of the run's images")
    strength: float | None = setting(
        None,
        Range(float, 0, 1, open_low=True),
        "how much to change the image: noise it by this fraction of the sampling steps, rounded up; sample from there",
    )
    mask: str | None = setting(
        None, Text(), "image file of the same size: what is white (128 or more of 255) is made anew, the rest is kept"
    )
    resample: int = setting(
        1, Range(int, 1, 128), "RePaint, with --mask: how often to take each stretch of steps; 1 is plain replacement"
    )
    jump: int = setting(10, Range(int, 1, 1_000_000), "RePaint: number of steps in a stretch")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image is None:
            for name in ("strength", "mask"):
                if (value := getattr(self, name)) is not None:
                    raise ValueError(f"{name} is {value}, but there is no image to edit")
        elif self.strength is None and self.mask is None:
            raise ValueError(f"image is {self.image}; it also needs a strength, a mask, or both")
        if self.mask is None and self.resample > 1:
            raise ValueError(f"resample is {self.resample}; without a mask there is nothing to resample")

    def check(self, sample: SampleConfig) -> None:
        """Raise ValueError where these samples cannot be drawn this way: their sampler, or too few steps."""
        if self.mask is not None:
            check_maskable(SAMPLERS[sample.sampler])
            steps = sample.steps if self.strength is None else start_step(sample.steps, self.strength)
            repaint_walk(steps, resample=self.resample, jump=self.jump)


@dataclass(frozen=True)
class TrainConfig(Checked):
    """A whole training run.  The defaults are the recipe for the embedded digits.

    `model` is None until the images are known; `training.model_config.with_model` sets it.
    """

    data: DataConfig = field(default_factory=DataConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    model: UNetConfig | None = None
    prediction: Literal["eps", "x_0", "v", "flow"] = setting(
        "eps", Choice(get_args(Prediction)), "what the network predicts; flow: the velocity ε − x_0 of flow matching"
    )
    weighting: str = setting("none", Choice(tuple(LOSS_WEIGHTINGS)), "weight of each timestep in the loss")
    conditional: bool = setting(True, Switch(), "condition the network on the class, if the images have labels")
    label_dropout: float = setting(
        0.0, Range(float, 0.0, 1.0), "probability of dropping a label, for classifier-free guidance"
    )
    dropout: float = setting(0.1, Range(float, 0, 1, open_high=True), "dropout rate of the network")
    steps: int = setting(1200, Range(int, 1, _STEPS), "optimizer steps")
    batch_size: int = setting(128, Range(int, 1, 65_536), "images per optimizer step, over all devices")
    micro_batch: int = setting(0, Range(int, 0, 65_536), "micro-batch size per device; 0: no gradient accumulation")
    learning_rate: float = setting(2e-3, Range(float, 0, 1, open_low=True), "peak learning rate of AdamW")
    warmup: int = setting(100, Range(int, 0, _STEPS), "steps of linear learning-rate warm-up")
    lr_schedule: str = setting(
        "cosine", Choice(("cosine", "linear", "constant")), "learning-rate schedule after warm-up"
    )
    adam_beta1: float = setting(0.9, Range(float, 0, 1, open_high=True), "beta_1 of AdamW")
    adam_beta2: float = setting(0.99, Range(float, 0, 1, open_high=True), "beta_2 of AdamW")
    weight_decay: float = setting(0.0, Range(float, 0, 1), "weight decay of AdamW")
    max_grad_norm: float = setting(
        1.0, Range(float, 0, math.inf, open_low=True), "clip the gradient to this norm; inf: no clipping"
    )
    ema: float = setting(0.998, Range(float, 0, 1, open_high=True), "decay of the EMA of the weights")
    precision: str = setting(
        "auto", Choice(("auto", "float32", "bf16")), "autocast type of the network; auto: bf16 on GPUs that have it"
    )
    channels_last: bool = setting(False, Switch(), "use the channels-last memory format")
    compile: bool = setting(False, Switch(), "compile the network with torch.compile")
    cuda_graph: bool = setting(
        False,
        Switch(),
        "capture the training step in a CUDA graph and replay it; for small networks, whose launches take longer than "
        "they run",
    )
    seed: int = setting(0, _SEED, "seed of the training run")
    log_every: int = setting(20, Range(int, 1, _STEPS), "steps between log entries")
    sample_every: int = setting(300, Range(int, 0, _STEPS), "steps between grids of samples; 0: none")
    checkpoint_every: int = setting(300, Range(int, 1, _STEPS), "steps between checkpoints")
    keep: int = setting(2, Range(int, 1, 1000), "number of checkpoints to keep")
    sample: SampleConfig = field(default_factory=SampleConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sample.steps > self.schedule.T:
            raise ValueError(
                f"{self.sample.steps} sampling steps, but the schedule has T = {self.schedule.T}: at most that many"
            )
        if self.prediction == "eps" and self.schedule.build().zero_terminal_snr:
            raise ValueError(
                f"prediction is 'eps', but x_T of schedule {self.schedule.name} is pure noise, which says nothing "
                "about x_0; allowed: x_0, v, flow"
            )
        sampler, chain = SAMPLERS[self.sample.sampler], self.schedule.build()
        if sampler.tables is not None:
            # what cannot start on this schedule says so
            own = {name: getattr(self.sample, name) for name in sampler.settings}
            sampler.tables(chain.respace(self.sample.steps, self.sample.grid), **own)
        if self.warmup >= self.steps:
            raise ValueError(f"warmup is {self.warmup} of {self.steps} steps; it must be smaller than steps")
        if self.cuda_graph and self.micro_batch:
            raise ValueError(
                f"cuda_graph is on and micro_batch is {self.micro_batch}; a captured step computes its batch at once: "
                "micro_batch must be 0, or cuda_graph off"
            )
        if self.sample.guidance != 1.0 and not (self.conditional and self.label_dropout > 0):
            raise ValueError(
                f"guidance is {self.sample.guidance:g}; other than 1 it needs a model trained with and without labels: "
                "conditional, with a label dropout such as 0.1"
            )
        if self.sample.guidance == 1.0:
            for name in ("guidance_interval", "guidance_rescale"):
                if (value := getattr(self.sample, name)) != getattr(SampleConfig, name):
                    raise ValueError(f"{name} is {value}, but guidance is 1: there is none")


# what may change within a run: the number of steps, and what does not change the result of a step (a micro-batch has
# its own dropout masks, which are equally random)
CHANGEABLE = (
    "data.source",
    "data.workers",
    "steps",
    "micro_batch",
    "cuda_graph",
    "log_every",
    "sample_every",
    "checkpoint_every",
    "keep",
)

SECTIONS = {"data": DataConfig, "schedule": ScheduleConfig, "sample": SampleConfig}

# what differs from the defaults for images other than the digits: learning rate, warm-up and EMA of Ho et al. 2020
# (appendix B), shortened to a run that a single machine can finish
RECIPES: dict[str, dict[str, Any]] = {
    "digits": {},
    "images": {
        "steps": 20_000,
        "batch_size": 64,
        "learning_rate": 2e-4,
        "warmup": 1000,
        "lr_schedule": "constant",
        "adam_beta2": 0.999,
        "ema": 0.999,
        "label_dropout": 0.1,
        "log_every": 100,
        "sample_every": 2000,
        "checkpoint_every": 1000,
        "data": {"held_out": 0.1},
        "sample": {"steps": 50, "count": 1000, "seeds": 4},
    },
}


def train_config(changes: Mapping[str, Any]) -> TrainConfig:
    """The recipe for the data that `changes` names, with `changes` on top.

    Without a warm-up of its own, a run that is given its steps warms up for at most a tenth of them; without sampling
    steps of its own, a short schedule is sampled in T steps.

    Parameters
    ----------
    changes : mapping
        Nested like the configuration: `{"steps": 100, "data": {"source": "photos"}}`.

    Raises
    ------
    ValueError
        An unknown name, or a value that its field does not take.
    """
    changes = plain(changes)
    data, schedule = (x if isinstance(x := changes.get(name), Mapping) else {} for name in ("data", "schedule"))
    base = RECIPES["digits" if data.get("source", DataConfig.source) == DataConfig.source else "images"]
    if isinstance(steps := changes.get("steps"), int):
        base = merge(base, {"warmup": min(base.get("warmup", TrainConfig.warmup), steps // 10)})
    if isinstance(T := schedule.get("T"), int):
        base = merge(base, {"sample": {"steps": min(SampleConfig.steps, max(1, T))}})
    return from_dict(merge(base, changes))


def with_sampler(config: TrainConfig, sampler: str, calls: int) -> SampleConfig:
    """The sampling settings of `config` with another sampler, its own settings by default, and so many network calls.

    Raises
    ------
    ValueError
        A sampler of another name, or one that cannot start on this schedule; more steps than the schedule has.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"no sampler {sampler!r}; there are {', '.join(SAMPLERS)}")
    method = SAMPLERS[sampler]
    sample = {"sampler": sampler, "steps": method.steps_within(calls), **method.settings}
    try:
        return from_dict(merge(asdict(config), {"sample": sample})).sample
    except ValueError as error:
        raise ValueError(f"{sampler} with {calls} network calls: {error}") from None


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` on top; nested mappings are merged, too."""
    merged = dict(base)
    for name, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = merge(merged[name], value) if nested else value
    return merged


def difference(config: TrainConfig, other: TrainConfig) -> str | None:
    """The first setting, other than those in `CHANGEABLE`, that two configurations do not share, with both values."""
    one, two = _flat(asdict(config)), _flat(asdict(other))
    for path in {**one, **two}:
        if path not in CHANGEABLE and one.get(path) != two.get(path):
            return f"{path} is {one.get(path)!r}, not {two.get(path)!r}"
    return None


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def to_json(config: TrainConfig) -> str:
    """`config` as JSON text with every field, so that a later change of a default does not change an old run."""
    return json.dumps(asdict(config), indent=2) + "\n"


def read_json(text: str) -> dict[str, Any]:
    """The JSON object in `text`, for `from_dict` or `train_config`; ValueError if it is none, or has a name twice."""
    try:
        content = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    except RecursionError:
        raise ValueError("not a configuration: its brackets are nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError(f"a JSON object is expected, got {text.strip()[:40]!r}")
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"each name is expected once, and {twice!r} comes twice")
    return content


def from_dict(content: object) -> TrainConfig:
    """The inverse of `dataclasses.asdict`; fields left out have their defaults.

    Raises
    ------
    ValueError
        Not a mapping, an unknown name, or a value that its field does not take.
    """
    config = _build(TrainConfig, content, "")
    assert isinstance(config, TrainConfig)
    return config


def _build(kind: type, content: object, where: str) -> Any:
    if not isinstance(content, Mapping):
        raise ValueError(f"{where or 'the configuration'} is {content!r}; it must be an object of names and values")
    known = [item.name for item in fields(kind)]
    unknown = sorted(set(content) - set(known))
    if unknown:
        place = f" in {where}" if where else ""
        raise ValueError(f"unknown name {unknown[0]!r}{place}; known: {', '.join(known)}")
    try:
        return kind(**{name: _value(kind, name, value) for name, value in content.items()})
    except TypeError as error:
        raise ValueError(printable(f"{where}: {error}")) from None


def _value(kind: type, name: str, value: Any) -> Any:
    if kind is TrainConfig and name in SECTIONS:
        return _build(SECTIONS[name], value, name)
    if kind is TrainConfig and name == "model" and value is not None:
        from ..models import UNetConfig

        return _build(UNetConfig, value, name)
    # JSON has no tuples
    return tuple(value) if isinstance(value, list) else value
