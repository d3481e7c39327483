"""The diffusers schedulers are diffusers': configs, saving, pipelines, timesteps, and what is refused."""

import copy
import json
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from diffusers_cases import CONFIGS, FUSED, PAIRS, batch, diffusers, generator
from noisestep.accelerated.integrations.diffusers import FusedDDIMScheduler, FusedDDPMScheduler


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_a_config_goes_there_and_back(theirs, ours, config, tmp_path):
    original = theirs(**config)
    fused = ours.from_config(original.config)
    assert isinstance(fused, theirs)
    assert {key: fused.config[key] for key in original.config if key[0] != "_"} == {
        key: value for key, value in original.config.items() if key[0] != "_"
    }
    fused.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "scheduler_config.json").read_text())["_class_name"] == theirs.__name__
    for again in (ours.from_pretrained(tmp_path), ours.from_config(json.loads(fused.to_json_string()))):
        assert torch.equal(again.betas, original.betas)
        assert again.config.compatible is False
    back = theirs.from_config(fused.config)
    assert type(back) is theirs
    assert torch.equal(back.alphas_cumprod, original.alphas_cumprod)


@pytest.mark.parametrize("fused", FUSED)
def test_compatible_is_in_the_config(fused, tmp_path):
    fused(compatible=True).save_pretrained(tmp_path)
    assert fused.from_pretrained(tmp_path).config.compatible is True
    assert fused.from_config(fused().config, compatible=True).config.compatible is True


@pytest.mark.parametrize("fused", FUSED)
@pytest.mark.parametrize("other", ["EulerDiscreteScheduler", "PNDMScheduler", "DDPMScheduler"])
def test_other_schedulers_give_and_take_the_config(fused, other):
    other = getattr(diffusers, other)
    assert other in fused().compatibles
    assert fused in fused().compatibles
    config = fused.from_config(other(beta_start=0.002).config).config
    assert config.beta_start == 0.002
    assert other.from_config(config).config.beta_start == 0.002


@pytest.mark.parametrize("fused", FUSED)
@pytest.mark.parametrize("other", ["LCMScheduler", "HeunDiscreteScheduler", "UnCLIPScheduler", "PNDMScheduler"])
def test_noise_levels_are_those_of_the_other_scheduler_where_it_has_other_defaults(fused, other):
    other = getattr(diffusers, other)()
    scheduler = fused.from_config(other.config)
    torch.testing.assert_close(scheduler.alphas_cumprod, other.alphas_cumprod)
    assert scheduler.config.beta_schedule == other.config.beta_schedule
    theirs, compatible = fused.__mro__[2].from_config(other.config), fused.from_config(other.config, compatible=True)
    assert torch.equal(compatible.alphas_cumprod, theirs.alphas_cumprod)
    assert fused.from_config(other.config, beta_end=0.03).config.beta_end == 0.03


@pytest.mark.parametrize("fused", FUSED)
@pytest.mark.parametrize("other", ["PNDMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_a_config_is_the_same_after_a_way_through_another_scheduler(fused, other):
    config = fused(beta_start=0.001).config
    again = fused.from_config(getattr(diffusers, other).from_config(config).config).config
    # with the names of what was left out, which diffusers' own test compares as well
    assert {key: again[key] for key in config} == dict(config)
    betas = np.linspace(0.1, 0.2, 4)
    given = fused(num_train_timesteps=4, trained_betas=betas)
    assert torch.equal(fused.from_config(given.config).betas, given.betas)


@pytest.mark.parametrize("fused", FUSED)
@pytest.mark.parametrize("ratio", [-0.1, 2.0, float("nan")])
def test_a_ratio_that_is_no_quantile_is_refused(fused, ratio):
    with pytest.raises(ValueError, match="dynamic_thresholding_ratio must be in"):
        fused(thresholding=True, dynamic_thresholding_ratio=ratio)
    fused(dynamic_thresholding_ratio=ratio)


def test_a_key_of_the_config_as_an_attribute_warns_as_diffusers_does():
    with pytest.warns(FutureWarning, match="Accessing config attribute `clip_sample`"):
        assert FusedDDPMScheduler().clip_sample is True


@pytest.mark.parametrize("fused", FUSED)
def test_a_change_of_config_or_schedule_takes_effect(fused):
    scheduler = fused()
    scheduler.set_timesteps(10)
    x, output = batch(), batch(seed=1)
    before = scheduler.step(output, 900, x, generator=generator()).prev_sample
    scheduler.register_to_config(prediction_type="v_prediction")
    expected = fused(prediction_type="v_prediction")
    expected.set_timesteps(10)
    after = scheduler.step(output, 900, x, generator=generator()).prev_sample
    assert torch.equal(after, expected.step(output, 900, x, generator=generator()).prev_sample)
    assert not torch.equal(after, before)
    # training scripts put another schedule in place
    rescaled = fused(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    scheduler.alphas_cumprod = rescaled.alphas_cumprod
    t = torch.tensor([0, 3, 500, 999])
    off = (scheduler.add_noise(x, output, t) - rescaled.add_noise(x, output, t)).abs().max()
    # the float32 of alphas_cumprod, beside that of the betas: 1e-4 of 1 - alpha_bar at the first step
    assert off <= 1e-3
    assert scheduler.add_noise(x, output, 999).sub(output).abs().max() == 0


@pytest.mark.parametrize("fused", FUSED)
def test_copies_and_pickles_step_alike(fused):
    scheduler, x = fused(), batch()
    scheduler.set_timesteps(10)
    scheduler.use_address(1)
    expected = scheduler.step(x, scheduler.timesteps[3], x).prev_sample
    for same in (copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))):
        assert torch.equal(same.step(x, same.timesteps[3], x).prev_sample, expected)


@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
@pytest.mark.parametrize("T", [1, 7, 250])
def test_timesteps_of_every_number_of_steps(theirs, ours, spacing, T):
    one, other = (kind(num_train_timesteps=T, timestep_spacing=spacing) for kind in (theirs, ours))
    for steps in range(1, T + 1):
        one.set_timesteps(steps)
        other.set_timesteps(steps)
        assert torch.equal(other.timesteps, one.timesteps[:steps])
        assert other.timesteps.dtype == torch.int64
        assert len(other.timesteps) == other.num_inference_steps == steps


@pytest.mark.parametrize("fused", FUSED)
def test_custom_timesteps_lead_from_each_to_the_next(fused):
    scheduler = fused()
    scheduler.set_timesteps(timesteps=[100, 87, 50, 1, 0], device="cpu")
    assert scheduler.timesteps.tolist() == [100, 87, 50, 1, 0]
    if fused is FusedDDPMScheduler:
        assert [int(scheduler.previous_timestep(t)) for t in scheduler.timesteps] == [87, 50, 1, 0, -1]
        assert scheduler.previous_timestep(torch.tensor([99, 2])).tolist() == [87, 1]
        assert FusedDDPMScheduler().previous_timestep(5) == 4


@pytest.mark.parametrize("fused", FUSED)
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"timesteps": [100, 87, 87]}, ValueError, r"in descending order, got \[100, 87, 87\]"),
        ({"timesteps": [0, 5]}, ValueError, "in descending order"),
        ({"timesteps": [1000, 5]}, ValueError, r"lie in 0..999, got 1000 to 5"),
        ({"timesteps": [5, -1]}, ValueError, r"lie in 0..999, got 5 to -1"),
        ({"timesteps": []}, ValueError, "at least one step"),
        ({"timesteps": [5.5]}, TypeError, "each of timesteps must be an int, got 5.5"),
        (
            {"num_inference_steps": 5, "timesteps": [5]},
            ValueError,
            "one of num_inference_steps and timesteps, got both",
        ),
        ({}, ValueError, "got neither"),
        ({"num_inference_steps": 0}, ValueError, r"must lie in 1..1000, the steps of the trained chain, got 0"),
        ({"num_inference_steps": 1001}, ValueError, "got 1001"),
        ({"num_inference_steps": 10.0}, TypeError, r"must be an int, got 10.0"),
    ],
)
def test_bad_timesteps_are_refused(fused, arguments, error, message):
    with pytest.raises(error, match=message):
        fused().set_timesteps(**arguments)


@pytest.mark.parametrize("fused", FUSED)
@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"prediction_type": "noise"},
            "prediction_type must be one of 'epsilon', 'sample', 'v_prediction', got 'noise'",
        ),
        ({"timestep_spacing": "even"}, "timestep_spacing must be one of 'linspace', 'leading', 'trailing', got 'even'"),
    ],
)
def test_bad_configs_are_refused(fused, config, message):
    with pytest.raises(ValueError, match=message):
        fused(**config)


X = batch()


@pytest.mark.parametrize("fused", FUSED)
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: s.step(X, -1, X), ValueError, "timestep must lie in 0..999, got -1"),
        (lambda s: s.step(X, 1000, X), ValueError, "timestep must lie in 0..999, got 1000"),
        (lambda s: s.step(X, torch.tensor(-1), X), ValueError, "timestep must lie in 0..999, got -1"),
        (lambda s: s.step(X, torch.tensor([0, 1, 2, -1]), X), ValueError, r"t must lie in 0..999, got values from -1"),
        (lambda s: s.step(X, torch.tensor([0, 1000]), X), ValueError, r"t must have shape \(\) or \(4,\)"),
        (lambda s: s.step(X, torch.tensor([0, 1, 2, 1000]), X), ValueError, "got values from 0 to 1000"),
        (lambda s: s.step(X, 0.5, X), TypeError, "timestep must be an int or a tensor of integers, got 0.5"),
        (lambda s: s.step(X, torch.tensor(0.5), X), TypeError, "t must be int64 or int32, got float32"),
        (lambda s: s.step(X[:2], 5, X), ValueError, r"output must have shape \(4, 3, 8, 8\)"),
        (lambda s: s.step(X, 5, X.to(torch.uint8)), TypeError, r"sample must be one of float32, .* got uint8"),
        (lambda s: s.step(X, 5, X, sample_ids=3), ValueError, "sample_ids needs seed"),
        (lambda s: s.add_noise(X.long(), X, torch.tensor(5)), TypeError, "original_samples must be one of float32"),
        (lambda s: s.add_noise(X, X, torch.tensor([0, 1, 2, -1])), ValueError, "got values from -1 to 2"),
        (lambda s: s.add_noise(X, X, torch.tensor(1000)), ValueError, "t must lie in 0..999, got values from 1000 to"),
        (lambda s: s.add_noise(X, X, 1000), ValueError, "timestep must lie in 0..999, got 1000"),
        (lambda s: s.add_noise(X, X, torch.tensor(5.0)), TypeError, "timesteps must be int64 or int32, got float32"),
        (lambda s: s.get_velocity(X.long(), X, torch.tensor(5)), TypeError, "sample must be one of float32"),
        (lambda s: s.get_velocity(X, X.long(), torch.tensor(5)), TypeError, "noise must be one of float32"),
    ],
)
def test_bad_calls_are_refused(fused, call, error, message):
    scheduler = fused()
    scheduler.set_timesteps(20)
    options = {} if fused is FusedDDPMScheduler else {"eta": 1.0}
    if options:
        step = scheduler.step
        scheduler.step = lambda *arguments, **others: step(*arguments, **options, **others)
    with pytest.raises(error, match=message):
        call(scheduler)


@pytest.mark.parametrize("fused", FUSED)
def test_integers_of_every_library_are_integers_and_nothing_else_is(fused):
    scheduler = fused(num_train_timesteps=20)
    eta = {} if fused is FusedDDPMScheduler else {"eta": np.float32(1)}

    def results(number, steps, offset=0):
        scheduler.register_to_config(steps_offset=offset)
        scheduler.set_timesteps(steps)
        result = [scheduler.timesteps, scheduler.add_noise(X, X, number), scheduler.get_velocity(X, X, number)]
        result.append(scheduler.step(X, number, X, seed=0, **eta).prev_sample)
        if not eta:
            result.append(torch.as_tensor(scheduler.previous_timestep(number)))
        scheduler.set_timesteps(timesteps=[number, 0])
        return [*result, scheduler.timesteps]

    expected = results(5, 10, 1)
    for kind in (np.int64, np.uint8, np.array, torch.tensor, lambda number: torch.tensor(number, dtype=torch.int32)):
        for one, other in zip(results(kind(5), kind(10), kind(1)), expected, strict=True):
            assert torch.equal(one, other)
    for number in (True, np.True_, torch.tensor(True), 5.0, np.float32(5), torch.tensor(5.0), "5"):
        calls = [
            lambda number=number: scheduler.set_timesteps(number),
            lambda number=number: scheduler.set_timesteps(timesteps=[number]),
            lambda number=number: scheduler.add_noise(X, X, number),
            lambda number=number: scheduler.step(X, number, X, seed=0),
            lambda number=number: fused(steps_offset=number).set_timesteps(3),
        ]
        if not eta:
            calls.append(lambda number=number: scheduler.previous_timestep(number))
        for call in calls:
            with pytest.raises(TypeError):
                call()
    if eta:
        for number in (True, "0.5", None):
            with pytest.raises(TypeError, match="eta must be a number"):
                scheduler.step(X, 5, X, eta=number)


def test_noise_from_two_places_is_refused():
    ddpm, ddim = FusedDDPMScheduler(), FusedDDIMScheduler()
    ddim.set_timesteps(10)
    with pytest.raises(ValueError, match="comes from generator or from seed, got both"):
        ddpm.step(X, 5, X, generator=generator(), seed=3)
    for other in ({"generator": generator()}, {"seed": 3}):
        with pytest.raises(ValueError, match="or from variance_noise, got both"):
            ddim.step(X, 5, X, eta=0.5, variance_noise=X, **other)
    with pytest.raises(ValueError, match="call set_timesteps before step"):
        FusedDDIMScheduler().step(X, 5, X)
    with pytest.raises(ValueError, match=r"eta must be finite and lie in 0..1, got 1.5"):
        ddim.step(X, 5, X, eta=1.5)
    compatible = FusedDDPMScheduler(compatible=True)
    with pytest.raises(ValueError, match="with compatible=True the noise comes from a generator"):
        compatible.step(X, 5, X, seed=3)


def test_a_variance_that_does_not_exist_is_refused_where_it_is_wanted():
    scheduler = FusedDDPMScheduler(variance_type="typo")
    scheduler.step(X, 0, X)
    for t in (5, torch.tensor([0, 1, 2, 3])):
        with pytest.raises(ValueError, match=r"variance_type must be one of 'fixed_small', .* got 'typo'"):
            scheduler.step(X, t, X)
    with pytest.raises(ValueError, match=r"twice the channels of sample, got \(4, 3, 8, 8\) for \(4, 3, 8, 8\)"):
        FusedDDPMScheduler(variance_type="learned").step(X, 5, X)


@pytest.mark.parametrize("fused", FUSED)
def test_betas_that_are_none_warn_and_their_steps_are_refused(fused):
    with pytest.warns(UserWarning, match=r"every beta must be in \(0, 1\)"):
        scheduler = fused(trained_betas=[0.1, 0.2, 1.5, 0.2])
    scheduler.set_timesteps(timesteps=[3, 1])
    scheduler.step(X, 1, X)
    for call in (scheduler.step, scheduler.add_noise):
        with pytest.raises(ValueError, match=r"at the first 2 timesteps, not at 3"):
            call(X, 3, X) if call == scheduler.step else call(X, X, 3)
    with pytest.raises(ValueError, match=r"t must lie in 0..1, got values from 0 to 3"):
        scheduler.add_noise(X, X, torch.tensor([0, 1, 0, 3]))
    with pytest.warns(UserWarning, match="not at 0"):
        none = fused(trained_betas=[1.5])
    with pytest.raises(ValueError, match="not at 0"):
        none.add_noise(X, X, 0)


@pytest.mark.parametrize("fused", FUSED)
def test_eps_where_nothing_of_x_0_is_left_is_refused(fused):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler = fused(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    scheduler.set_timesteps(4)
    assert torch.equal(scheduler.add_noise(X, -X, 999), -X)
    for t in (999, scheduler.timesteps[0]):
        with pytest.raises(ValueError, match=r"alphas_cumprod\[999\] is 0: epsilon tells nothing of x_0"):
            scheduler.step(X, t, X)
    assert scheduler.step(X, scheduler.timesteps[1], X).prev_sample.isfinite().all()


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    ).eval()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_pipeline_gives_the_same_images_is_saved_and_loaded(unet, tmp_path):
    pipe = diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler())
    pipe.set_progress_bar_config(disable=True)

    def images(pipe):
        return pipe(batch_size=2, generator=generator(), num_inference_steps=6, output_type="np").images

    expected = images(pipe)
    pipe.scheduler = FusedDDPMScheduler.from_config(pipe.scheduler.config)
    assert np.abs(images(pipe) - expected).max() <= 1e-3
    pipe.save_pretrained(tmp_path)
    loaded = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    assert type(loaded.scheduler) is diffusers.DDPMScheduler
    scheduler = FusedDDPMScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    loaded = diffusers.DDPMPipeline.from_pretrained(tmp_path, scheduler=scheduler)
    loaded.set_progress_bar_config(disable=True)
    assert np.array_equal(images(loaded), images(pipe))


# in a process that has not imported noisestep, and cannot
LOADS = """
import sys, diffusers
sys.modules["noisestep"] = None
for folder, kind in (("ddpm", "DDPM"), ("ddim", "DDIM")):
    pipe = getattr(diffusers, kind + "Pipeline").from_pretrained(sys.argv[1] + "/" + folder)
    assert type(pipe.scheduler) is getattr(diffusers, kind + "Scheduler"), type(pipe.scheduler)
    assert pipe.scheduler.config.clip_sample_range == 0.5
del sys.modules["noisestep"]
from noisestep.accelerated.integrations.diffusers import FusedDDIMScheduler, FusedDDPMScheduler
for folder, kind in (("ddpm", FusedDDPMScheduler), ("ddim", FusedDDIMScheduler)):
    pipe = diffusers.DiffusionPipeline.from_pretrained(sys.argv[1] + "/" + folder)
    for scheduler in (
        kind.from_config(pipe.scheduler.config), kind.from_pretrained(sys.argv[1] + "/" + folder, subfolder="scheduler")
    ):
        assert type(scheduler) is kind and scheduler.config.clip_sample_range == 0.5
"""


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_saved_pipeline_loads_in_a_new_process_with_and_without_noisestep(unet, tmp_path):
    for folder, pipeline, fused in (
        ("ddpm", diffusers.DDPMPipeline, FusedDDPMScheduler),
        ("ddim", diffusers.DDIMPipeline, FusedDDIMScheduler),
    ):
        pipeline(unet, fused(clip_sample_range=0.5)).save_pretrained(tmp_path / folder)
    done = subprocess.run([sys.executable, "-c", LOADS, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # a key that diffusers does not know would be told of
    assert "not expected" not in done.stderr


def test_a_scheduler_of_a_subclass_is_saved_by_its_own_name(unet):
    class Mine(FusedDDPMScheduler):
        pass

    pipe = diffusers.DDPMPipeline(unet, Mine())
    assert pipe.config.scheduler == (__name__, "Mine")
    pipe.scheduler = FusedDDPMScheduler()
    assert pipe.config.scheduler == ("diffusers", "DDPMScheduler")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_pipeline_takes_its_noise_from_an_address(unet):
    scheduler = FusedDDPMScheduler()
    pipe = diffusers.DDPMPipeline(unet, scheduler)
    pipe.set_progress_bar_config(disable=True)
    scheduler.use_address(5, sample_ids=torch.tensor([7, 8]))
    before = torch.get_rng_state()
    torch.manual_seed(0)
    first = pipe(batch_size=2, num_inference_steps=4, output_type="np").images
    # the first noise is the pipeline's, that of the steps is not drawn
    torch.manual_seed(0)
    torch.randn(2, 3, 8, 8)
    after_one_draw = torch.get_rng_state()
    torch.manual_seed(0)
    again = pipe(batch_size=2, num_inference_steps=4, output_type="np").images
    assert torch.equal(torch.get_rng_state(), after_one_draw)
    assert np.array_equal(first, again)
    # a generator draws the first latents alone
    source = generator()
    drawn = pipe(batch_size=2, generator=source, num_inference_steps=4, output_type="np").images
    expected = generator()
    torch.randn(2, 3, 8, 8, generator=expected)
    assert torch.equal(source.get_state(), expected.get_state())
    scheduler.use_address(6, sample_ids=torch.tensor([7, 8]))
    other = pipe(batch_size=2, generator=generator(), num_inference_steps=4, output_type="np").images
    assert not np.array_equal(other, drawn)
    scheduler.use_address(None)
    assert not np.array_equal(
        pipe(batch_size=2, generator=generator(), num_inference_steps=4, output_type="np").images, first
    )
    torch.set_rng_state(before)


def test_the_package_does_not_import_diffusers():
    code = "import sys, noisestep.accelerated, noisestep.accelerated.ops; assert 'diffusers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
