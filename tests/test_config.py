"""The configuration: what it admits, what it refuses and in which words, and its way through JSON."""

import json
import math
import subprocess
import sys
from dataclasses import asdict, fields
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from noisestep.accelerated.data.pixels import FITS, MODES
from noisestep.accelerated.training.config import (
    RECIPES,
    DataConfig,
    EditConfig,
    SampleConfig,
    ScheduleConfig,
    TrainConfig,
    from_dict,
    read_json,
    to_json,
    train_config,
)
from noisestep.accelerated.training.settings import Choice, Range
from noisestep.reference.betas import BETA_SCHEDULES
from noisestep.reference.loss import LOSS_WEIGHTINGS
from noisestep.reference.prediction import Prediction

BAD_CONFIGS: list[tuple[Any, str]] = [
    ([], r"the configuration is \[\]; it must be an object"),
    ({"stepz": 1}, "unknown name 'stepz'; known: data, schedule, model, prediction"),
    ({"data": {"sauce": "x"}}, "unknown name 'sauce' in data; known: source, size"),
    ({"model": {"width": 3}}, "unknown name 'width' in model"),
    ({"model": {"channels": "wide"}}, "model: "),
    ({"sample": 3}, "sample is 3; it must be an object"),
    ({"schedule": None}, "schedule is None; it must be an object"),
    ({"steps": None}, "steps is None; allowed: an integer"),
    ({"steps": 0}, r"steps is 0; allowed: an integer from 1 to 268435455"),
    ({"steps": 1.5}, "steps is 1.5; allowed: an integer"),
    ({"steps": True}, "steps is True; allowed: an integer"),
    ({"steps": "10"}, "steps is '10'; allowed: an integer"),
    ({"learning_rate": 0}, "learning_rate is 0; allowed: a number from 0 to 1, 0 excluded"),
    ({"learning_rate": float("nan")}, "learning_rate is nan; allowed: a number"),
    ({"max_grad_norm": float("-inf")}, "max_grad_norm is -inf; allowed: a number above 0"),
    ({"ema": 1.0}, "ema is 1.0; allowed: a number from 0 to 1, 1 excluded"),
    ({"label_dropout": -0.1}, "label_dropout is -0.1; allowed"),
    ({"prediction": "epsilon"}, "prediction is 'epsilon'; allowed: one of eps, x_0, v, flow"),
    ({"compile": 1}, "compile is 1; allowed: true or false"),
    ({"seed": 2**64}, "seed is 18446744073709551616; allowed: an integer from 0 to 18446744073709551615"),
    ({"data": {"source": ""}}, "source is ''; allowed: a non-empty string"),
    (
        {"data": {"size": [32]}},
        r"size is \(32,\); allowed: height and width from 1 to 4096: \[32, 48\] in JSON, .*, or null",
    ),
    ({"data": {"size": [0, 32]}}, r"size is \(0, 32\); allowed"),
    ({"data": {"channels": 2}}, "channels is 2; allowed: one of 1, 3, 4, or null"),
    ({"data": {"channels": True}}, "channels is True; allowed: one of 1, 3, 4, or null"),
    ({"schedule": {"name": "cos"}}, "name is 'cos'; allowed: one of linear, "),
    ({"schedule": {"parameters": {"z": 1}}}, "schedule cosine: .*unexpected keyword argument 'z'"),
    ({"schedule": {"name": "linear", "parameters": {"end": 1.5}}}, "schedule linear: .*1.5"),
    ({"schedule": {"zero_terminal_snr": True}}, "prediction is 'eps', but x_T of schedule cosine is pure noise"),
    ({"schedule": {"T": 20}}, "25 sampling steps, but the schedule has T = 20"),
    ({"steps": 100}, "warmup is 100 of 100 steps; it must be smaller"),
    ({"sample": {"guidance": 2}}, "guidance is 2; other than 1 it needs a model trained with and without labels"),
    ({"sample": {"guidance": 2}, "label_dropout": 0.1, "conditional": False}, "guidance is 2; other than 1 it needs"),
    (
        {"sample": {"guidance_interval": [2, 1]}},
        r"guidance_interval is \(2, 1\); allowed: two numbers with 0 <= low",
    ),
    ({"sample": {"guidance_interval": 3}}, "guidance_interval is 3; allowed: two numbers"),
    ({"sample": {"guidance_interval": [0.2, 5]}}, r"guidance_interval is \(0.2, 5\), but guidance is 1: there is none"),
    ({"sample": {"guidance_rescale": 0.7}}, "guidance_rescale is 0.7, but guidance is 1: there is none"),
]


@pytest.mark.parametrize(("content", "message"), BAD_CONFIGS)
def test_bad_values_are_named_with_what_is_allowed(content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_dict(content)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "digits"}, "data is 'digits'; it must be an object"),
        ({"schedule": 3}, "schedule is 3; it must be an object"),
        ({"sample": 3}, "sample is 3; it must be an object"),
        ({"steps": -5}, "steps is -5; allowed"),
        ({"schedule": {"T": -5}}, "T is -5; allowed"),
    ],
)
def test_bad_changes_of_a_recipe_are_named_too(changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_config(changes)


@pytest.mark.parametrize(("text", "message"), [("{", "not JSON: "), ("[1]", r"a JSON object is expected, got '\[1\]'")])
def test_text_that_is_no_json_object_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_json(text)


@pytest.mark.parametrize(
    ("edit", "sample", "message"),
    [
        ({"strength": 0.5}, {}, "strength is 0.5, but there is no image to edit"),
        ({"mask": "m.png"}, {}, "mask is m.png, but there is no image to edit"),
        ({"image": "i.png"}, {}, "image is i.png; it also needs a strength, a mask, or both"),
        ({"image": "i.png", "strength": 0}, {}, "strength is 0; allowed: a number from 0 to 1, 0 excluded, or null"),
        ({"image": "i.png", "strength": 1, "resample": 2}, {}, "resample is 2; without a mask there is nothing"),
        (
            {"image": "i.png", "mask": "m.png"},
            {"sampler": "heun"},
            "a mask changes x .*, and sampler heun looks",
        ),
        ({"image": "i.png", "mask": "m.png", "resample": 2}, {"steps": 10}, "jump is 10, and the chain has 10 steps"),
        (
            {"image": "i.png", "mask": "m.png", "strength": 0.1, "resample": 2},
            {},
            "the chain has 3 steps",
        ),
    ],
)
def test_an_edit_that_cannot_be_is_refused(edit: dict[str, Any], sample: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EditConfig(**edit).check(SampleConfig(**sample))


@given(
    steps=st.integers(200, 2**28 - 1),
    rate=st.floats(1e-300, 1.0),
    seed=st.integers(0, 2**64 - 1),
    size=st.none() | st.tuples(st.integers(1, 4096), st.integers(1, 4096)),
    prediction=st.sampled_from(get_args(Prediction)),
    end=st.floats(0.001, 0.999),
    interval=st.tuples(st.floats(0, 1), st.floats(1, math.inf)),
)
def test_json_and_back_is_the_same_configuration(
    steps: int,
    rate: float,
    seed: int,
    size: tuple[int, int] | None,
    prediction: Any,
    end: float,
    interval: tuple[float, float],
) -> None:
    config = TrainConfig(
        steps=steps,
        learning_rate=rate,
        seed=seed,
        prediction=prediction,
        data=DataConfig(size=size),
        schedule=ScheduleConfig(name="linear", T=100, parameters={"end": end}),
        label_dropout=0.1,
        sample=SampleConfig(guidance=2.0, guidance_interval=interval),
    )
    assert from_dict(read_json(to_json(config))) == config


@pytest.mark.parametrize("recipe", RECIPES)
def test_json_holds_every_field_of_a_recipe(recipe: str) -> None:
    config = from_dict(RECIPES[recipe])
    content = json.loads(to_json(config))
    assert set(content) == {item.name for item in fields(TrainConfig)}
    assert from_dict(read_json(to_json(config))) == config


def test_a_model_goes_through_json() -> None:
    from noisestep.accelerated.models import UNetConfig

    config = TrainConfig(model=UNetConfig.for_image(1, 8, 8, 10))
    assert from_dict(read_json(to_json(config))) == config


def test_the_recipe_follows_the_data_and_changes_win() -> None:
    assert train_config({}) == TrainConfig()
    photos = train_config({"data": {"source": "photos"}, "ema": 0.5})
    assert photos.steps == RECIPES["images"]["steps"]
    assert photos.data.held_out == RECIPES["images"]["data"]["held_out"]
    assert photos.ema == 0.5


def test_a_short_run_warms_up_for_a_tenth_and_a_short_chain_is_sampled_whole() -> None:
    assert train_config({"steps": 50}).warmup == 5
    assert train_config({"steps": 50, "warmup": 7}).warmup == 7
    assert train_config({"steps": 10**6}).warmup == TrainConfig.warmup
    assert train_config({"schedule": {"T": 20}}).sample.steps == 20


def test_the_names_are_those_of_what_they_choose_from() -> None:
    def names(kind: type, name: str) -> tuple[Any, ...]:
        allowed = next(item.metadata["kind"] for item in fields(kind) if item.name == name)
        assert isinstance(allowed, Choice)
        return allowed.values

    assert names(TrainConfig, "prediction") == get_args(Prediction)
    assert names(TrainConfig, "weighting") == tuple(LOSS_WEIGHTINGS)
    assert names(ScheduleConfig, "name") == tuple(BETA_SCHEDULES)
    assert names(DataConfig, "fit") == FITS
    assert names(DataConfig, "channels") == tuple(MODES)


@given(st.floats(allow_nan=True), st.floats(-5, 5), st.floats(0, 5), st.booleans(), st.booleans())
def test_a_range_admits_what_lies_in_it(x: float, low: float, width: float, below: bool, above: bool) -> None:
    high = low + width
    inside = (low < x if below else low <= x) and (x < high if above else x <= high)
    assert Range(float, low, high, open_low=below, open_high=above).admits(x) == inside


def test_every_setting_admits_its_own_default_and_has_a_help_text() -> None:
    for kind in (TrainConfig, DataConfig, ScheduleConfig, SampleConfig, EditConfig):
        for item in fields(kind):
            if item.metadata:
                assert item.default is None or item.metadata["kind"].admits(item.default), item.name
                assert item.metadata["help"]


def test_nothing_is_shared_between_configurations() -> None:
    one, other = TrainConfig(), TrainConfig()
    one.schedule.parameters["s"] = 0.5
    assert asdict(other)["schedule"]["parameters"] == {}


def test_the_command_line_loads_no_torch_before_it_needs_it() -> None:
    program = "import sys, noisestep.accelerated.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
