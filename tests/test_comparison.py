"""Samplers are compared by equal network calls, from the same noise, and against real images as many as the samples."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from noisestep.accelerated.evaluation import comparison
from noisestep.accelerated.evaluation.comparison import Cell, Comparison, DistanceToReal
from noisestep.accelerated.evaluation.metrics import fit_pixels, frechet_distance
from noisestep.accelerated.samplers import SAMPLERS
from noisestep.accelerated.samplers.loop import sample
from noisestep.accelerated.training.config import train_config, with_sampler
from noisestep.reference import Schedule

CELLS = (
    Cell("unipc", "uniform", 10, (0.2, 0.3)),
    Cell("unipc", "uniform", 5, (0.4, 0.6)),
    Cell("ddim", "uniform", 5, (0.5, 0.7)),
    Cell("ddim", "uniform", 10, (0.4, 0.4)),
)
COMPARED = Comparison("pixels (64 dimensions)", 0.2, 200, (3, 4), CELLS)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_takes_as_many_steps_as_fit_into_the_calls(name: str) -> None:
    schedule, calls_made = Schedule.from_name("cosine", 20), []

    def network(x: torch.Tensor, t: torch.Tensor, label: None) -> torch.Tensor:
        calls_made.append(len(x))
        return 0.1 * x

    for calls in (1, 2, 5, 6):
        calls_made.clear()
        steps = SAMPLERS[name].steps_within(calls)
        sample(network, schedule, count=1, shape=(1, 1, 1), steps=steps, sampler=name)
        # one more step would be too many
        assert calls - (1 if SAMPLERS[name].correct else 0) <= len(calls_made) <= calls


def test_a_sampler_is_run_with_its_own_settings_and_all_others_of_the_run() -> None:
    config = train_config({"sample": {"eta": 0.7, "seed": 5, "clip_x0": False}})
    assert with_sampler(config, "ddim", 7) == replace(config.sample, steps=7, eta=0.0)
    assert with_sampler(config, "heun", 7) == replace(config.sample, sampler="heun", steps=4)
    assert with_sampler(config, "dpmpp_2m_sde", 1).eta == 1.0
    with pytest.raises(ValueError, match="no sampler 'euler'; there are ddim, ddpm"):
        with_sampler(config, "euler", 7)
    with pytest.raises(ValueError, match="ddim with 1001 network calls: 1001 sampling steps, but the schedule has"):
        with_sampler(config, "ddim", 1001)


def test_a_ratio_is_the_mean_over_seeds_with_its_standard_error() -> None:
    # 1 and 1.5: their deviation of 0.354 over the root of 2
    assert COMPARED.ratio(CELLS[0]) == pytest.approx((1.25, 0.25))
    assert COMPARED.text(CELLS[0]) == "1.25 ± 0.25"
    rows = COMPARED.by_sampler("uniform")
    assert {name: [cell.calls for cell in cells] for name, cells in rows.items()} == {"unipc": [5, 10], "ddim": [5, 10]}
    assert COMPARED.by_sampler("karras") == {}
    lines = COMPARED.table().splitlines()
    assert lines[1].split() == ["5", "calls", "10", "calls"]
    assert "unipc   2.50 ± 0.50   1.25 ± 0.25" in lines
    assert "samples: 200 from each of the seeds 3 to 4" in lines


def test_a_comparison_survives_json_and_another_file_is_refused() -> None:
    plain = json.loads(json.dumps(COMPARED.to_dict()))
    assert Comparison.from_dict(plain) == COMPARED
    with pytest.raises(ValueError, match=r"not a comparison: missing keys \['cells'\], unknown keys \['fid'\]"):
        Comparison.from_dict({**{key: plain[key] for key in plain if key != "cells"}, "fid": 3})


def test_distances_are_those_of_the_features_to_the_held_out_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "REAL_SETS", 3)
    rng = np.random.default_rng(0)
    train, held_out, other = rng.integers(0, 256, (3, 40, 1, 3, 3), dtype=np.uint8)
    distance = DistanceToReal(fit_pixels(held_out), train, held_out, 10)
    assert distance.features == "pixels (9 dimensions)"
    flat = held_out.reshape(40, 9) / 255
    assert distance(other) == pytest.approx(frechet_distance(other.reshape(40, 9) / 255, flat), rel=1e-12)
    assert distance(held_out) == pytest.approx(0, abs=1e-12)
    order = np.random.default_rng(0)
    sets = [train[order.permutation(40)[:10]].reshape(10, 9) / 255 for _ in range(3)]
    assert distance.real == pytest.approx(np.mean([frechet_distance(images, flat) for images in sets]), rel=1e-12)
