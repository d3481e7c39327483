"""The diffusers schedulers step, noise and draw as diffusers does, and as the reference says."""

import numpy as np
import pytest
import torch
from diffusers_cases import CONFIGS, FUSED, PAIRS, batch, generator, loop, ramp
from noisestep import reference
from noisestep.accelerated.address import FORWARD, INITIAL, REVERSE, NoiseAddress
from noisestep.accelerated.integrations.diffusers import FusedDDIMScheduler, FusedDDPMScheduler
from noisestep.accelerated.integrations.diffusers.base import thresholded
from noisestep.accelerated.ops import noise
from noisestep.accelerated.samplers.loop import sample
from noisestep.reference import Schedule
from torch.utils._python_dispatch import TorchDispatchMode

# diffusers takes 1 - alpha_bar_t / alpha_bar_s in float32: 2^-24 of 1 beside a beta of 1e-4 and more
FLOAT32_BETA = 2.0**-24 / 1e-4
ETAS = [{"eta": 0.0}, {"eta": 0.6}, {"eta": 1.0, "use_clipped_model_output": True}]


def options_of(fused):
    return [{}] if fused is FusedDDPMScheduler else ETAS


def assert_near(*, actual, expected):
    """Within what diffusers' own float32 coefficients may be off, of the largest number."""
    bound = 4 * FLOAT32_BETA * expected.abs().max()
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    assert (actual - expected).abs().max() <= bound


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_a_loop_with_a_generator_is_diffusers(theirs, ours, config):
    for options in options_of(ours):
        one, other = theirs(**config), ours(**config)
        # without the last step of "trailing", and with DDIM's previous t, that diffusers has wrong
        one.set_timesteps(20)
        other.set_timesteps(20)
        assert torch.equal(one.timesteps, other.timesteps)
        first, second = generator(7), generator(7)
        for t in one.timesteps[:-1]:
            # every step from the same x, so that differences do not add up
            x, output = batch(seed=int(t)), batch(seed=int(t) + 1)
            expected = one.step(output, t, x, generator=first, **options)
            actual = other.step(output, t, x, generator=second, **options)
            for name in ("prev_sample", "pred_original_sample"):
                assert_near(actual=actual[name], expected=expected[name])
            assert torch.equal(first.get_state(), second.get_state())


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_small_log", "fixed_large", "learned", "learned_range"])
@pytest.mark.parametrize("thresholding", [False, True])
def test_every_variance_is_diffusers(variance, thresholding):
    (theirs, ours), _ = PAIRS
    one, other = (kind(variance_type=variance, thresholding=thresholding) for kind in (theirs, ours))
    x, output = batch(), batch(seed=1)
    if variance.startswith("learned"):
        # in the range that a network is trained to give
        extra = batch(seed=2).tanh() if variance == "learned_range" else batch(seed=2).abs()
        output = torch.cat([output, extra], dim=1)
    for t in (0, 1, 2, 500, 999):
        expected, actual = (s.step(output, t, x, generator=generator()) for s in (one, other))
        for name in ("prev_sample", "pred_original_sample"):
            assert_near(actual=actual[name], expected=expected[name])


def test_a_learned_variance_that_is_none_leaves_the_last_step_alone():
    scheduler, x = FusedDDPMScheduler(variance_type="learned"), batch()
    result = scheduler.step(torch.cat([x, -x.abs()], dim=1), torch.tensor([0, 0, 0, 5]), x).prev_sample
    assert result.isfinite().all(dim=(1, 2, 3)).tolist() == [True, True, True, False]


def test_dynamic_thresholding_leaves_small_images_alone():
    for theirs, ours in PAIRS:
        x_0 = batch().clamp(-1, 1) / 2
        results = []
        for kind in (theirs, ours):
            scheduler = kind(thresholding=True, prediction_type="sample")
            scheduler.set_timesteps(10)
            results.append(scheduler.step(x_0, 300, batch(seed=1), generator=generator()))
        assert torch.equal(results[1].pred_original_sample, x_0)
        assert_near(actual=results[1].prev_sample, expected=results[0].prev_sample)


@pytest.mark.parametrize("quantile", [0.0, 0.3, 0.995, 1.0])
@pytest.mark.parametrize("largest", [0.5, 1.0, 1.5, 4.0])
def test_dynamic_thresholding_is_that_of_the_quantile(quantile, largest):
    x_0 = 2 * batch()
    s = torch.quantile(x_0.double().abs().flatten(1), quantile, dim=1).clamp(min=1, max=largest)[:, None, None, None]
    expected = (x_0.double().clamp(-s, s) / s).float()
    assert_near(actual=thresholded(x_0, quantile, largest), expected=expected)
    x_0[2, 0, 0, 0] = torch.nan
    assert thresholded(x_0, quantile, 4.0)[2].isnan().all()


@pytest.mark.parametrize("variance", ["learned", "learned_range"])
def test_a_learned_variance_for_timesteps_of_their_own_and_for_all_one(variance):
    scheduler = FusedDDPMScheduler(variance_type=variance)
    scheduler.set_timesteps(10)
    x, output = batch(), torch.cat([batch(seed=1), batch(seed=2).tanh().abs()], dim=1)
    t = torch.tensor([900, 0, 300, 355])
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 2.0**-7)):
        together = scheduler.step(output.to(dtype), t, x.to(dtype), seed=3).prev_sample
        for i in range(4):
            alone = scheduler.step(output[i : i + 1].to(dtype), t[i], x[i : i + 1].to(dtype), seed=3, sample_ids=i)
            assert (together[i] - alone.prev_sample[0]).abs().max() <= tolerance * 8


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("fused", FUSED)
def test_a_step_is_the_references_on_the_respaced_schedule(fused, spacing, prediction):
    scheduler = fused(prediction_type=prediction, timestep_spacing=spacing)
    scheduler.set_timesteps(30)
    chain = Schedule(scheduler.betas.double().numpy()).respace(sorted(t + 1 for t in scheduler.timesteps.tolist()))
    x, output, z = batch(), batch(seed=1), batch(seed=2)
    arrays = [a.double().numpy() for a in (x, output)]
    kind = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v"}[prediction]
    for k, t in enumerate(reversed(scheduler.timesteps.tolist()), start=1):
        if fused is FusedDDPMScheduler:
            drawn = torch.randn(x.shape, generator=generator(t)) if t else z
            actual = scheduler.step(output, t, x, generator=generator(t)).prev_sample
            expected = reference.reverse_step(
                chain, *arrays, k, drawn.double().numpy(), prediction=kind, clip=(-1, 1), variance="posterior"
            )
        else:
            actual = scheduler.step(output, t, x, eta=0.5, variance_noise=z).prev_sample
            expected = reference.ddim_step(
                chain, *arrays, k, z.double().numpy(), eta=0.5, prediction=kind, clip=(-1, 1), rederive_eps=False
            )
        # eight roundings of float32, of numbers that a clip leaves below 16
        assert np.abs(actual.double().numpy() - expected).max() <= 8 * 2.0**-24 * 16


def test_sums_of_diffusers_own_loops():
    ddim = FusedDDIMScheduler()
    ddim.set_timesteps(10)
    result = loop(ddim, ramp(), ddim.timesteps).abs()
    assert float(result.sum()) == pytest.approx(172.0067, abs=1e-2)
    assert float(result.mean()) == pytest.approx(0.223967, abs=1e-3)
    for name, total in (("epsilon", 258.9606), ("v_prediction", 202.0296)):
        ddpm = FusedDDPMScheduler(prediction_type=name)
        result = loop(ddpm, ramp(), range(999, -1, -1), generator=torch.manual_seed(0)).abs()
        assert float(result.sum()) == pytest.approx(total, abs=1e-2)
    ddim = FusedDDIMScheduler(prediction_type="v_prediction")
    ddim.set_timesteps(10)
    assert float(loop(ddim, ramp(), ddim.timesteps).abs().sum()) == pytest.approx(52.5302, abs=1e-2)
    for to_one, total in ((True, 149.8295), (False, 149.0784)):
        ddim = FusedDDIMScheduler(set_alpha_to_one=to_one, beta_start=0.01)
        ddim.set_timesteps(10)
        assert float(loop(ddim, ramp(), ddim.timesteps).abs().sum()) == pytest.approx(total, abs=1e-2)


@pytest.mark.parametrize(("compatible", "total"), [(False, 387.9673), (True, 387.9466)])
def test_two_noisy_steps_have_the_sum_of_float64_or_of_diffusers(compatible, total):
    scheduler = FusedDDPMScheduler(compatible=compatible)
    timesteps = scheduler.timesteps[-2:]
    x = scheduler.add_noise(ramp(), ramp(backwards=True), timesteps[:1])
    result = loop(scheduler, x, timesteps, generator=torch.manual_seed(0))
    assert float(result.abs().sum()) == pytest.approx(total, abs=2e-3)


@pytest.mark.parametrize("fused", FUSED)
def test_a_timestep_for_each_sample(fused):
    scheduler = fused()
    scheduler.set_timesteps(25)
    x, output, z = batch(), batch(seed=1), batch(seed=2)
    # of the chain, and between two of its steps
    t = torch.tensor([960, 0, 41, 40])
    options = {"eta": 1.0, "variance_noise": z} if fused is FusedDDIMScheduler else {"seed": 3}
    together = scheduler.step(output, t, x, **options)
    for row, step in enumerate(t.tolist()):
        rows = slice(row, row + 1)
        if fused is FusedDDIMScheduler:
            options = {"eta": 1.0, "variance_noise": z[rows]}
        else:
            options = {"seed": 3, "sample_ids": row}
        alone = scheduler.step(output[rows], step, x[rows], **options)
        assert torch.equal(together.prev_sample[rows], alone.prev_sample)
        assert torch.equal(together.pred_original_sample[rows], alone.pred_original_sample)


@pytest.mark.parametrize("spelling", ["int", "numpy", "view", "copy", "one element"])
def test_one_draw_for_each_timestep_above_0(spelling):
    theirs, ours = PAIRS[0][0](), FusedDDPMScheduler()
    first, second = generator(1), generator(1)
    x = batch()
    for scheduler, source in ((theirs, first), (ours, second)):
        scheduler.set_timesteps(5)
        for t in scheduler.timesteps:
            spelled = {"int": int(t), "numpy": np.int64(t), "view": t, "copy": t.clone(), "one element": t[None]}
            scheduler.step(x, spelled[spelling], x, generator=source)
    assert torch.equal(first.get_state(), second.get_state())


def test_a_list_of_generators_draws_a_sample_each():
    x = batch()
    results = [s().step(x, 500, x, generator=[generator(i) for i in range(4)]).prev_sample for s in PAIRS[0]]
    assert_near(actual=results[1], expected=results[0])


@pytest.mark.parametrize(("sampler", "settings"), [("ddpm", {}), ("ddim", {"eta": 1.0})])
def test_an_address_gives_the_samples_of_noisestep(sampler, settings):
    scheduler = FusedDDPMScheduler() if sampler == "ddpm" else FusedDDIMScheduler()
    scheduler.set_timesteps(timesteps=[999, 700, 30, 3])
    convolution = torch.nn.Conv2d(3, 3, 3, padding=1)

    class Network(torch.nn.Module):
        def forward(self, x, t, label):
            return convolution(x)

    chain = Schedule(scheduler.betas.double().numpy()).respace([4, 31, 701, 1000])
    expected = sample(Network(), chain, count=5, shape=(3, 8, 8), seed=9, sampler=sampler, **settings).images
    for ids in (torch.tensor([3, 1]), torch.tensor([2])):
        x = noise(NoiseAddress(9, INITIAL, 0, ids), (len(ids), 3, 8, 8))
        for t in scheduler.timesteps:
            options = {} if sampler == "ddpm" else {"eta": 1.0, "use_clipped_model_output": True}
            with torch.no_grad():
                x = scheduler.step(convolution(x), t, x, seed=9, sample_ids=ids, **options).prev_sample
        # the network rounds differently in another batch, and the tables come by another way
        assert (x - expected[ids]).abs().max() <= 1e-5


def test_noise_by_address_is_added_on_the_way():
    scheduler = FusedDDPMScheduler()
    x, t, address = batch(), torch.tensor([0, 3, 500, 999]), NoiseAddress(0, FORWARD, 5)
    eps = noise(address, x.shape)
    assert torch.equal(scheduler.add_noise(x, address, t), scheduler.add_noise(x, eps, t))
    assert torch.equal(scheduler.get_velocity(x, address, t), scheduler.get_velocity(x, eps, t))


@pytest.mark.parametrize(
    "timesteps", [torch.tensor([0, 3, 500, 999]), torch.tensor([7]), torch.tensor(7), torch.arange(4).int()]
)
def test_noising_and_velocity_are_diffusers(timesteps):
    theirs, ours = (kind() for kind in PAIRS[0])
    x, eps = batch(), batch(seed=1)
    for name in ("add_noise", "get_velocity"):
        assert_near(actual=getattr(ours, name)(x, eps, timesteps), expected=getattr(theirs, name)(x, eps, timesteps))


@pytest.mark.parametrize(
    "dtypes", [(torch.bfloat16,) * 2, (torch.float16, torch.float32), (torch.float32, torch.float16)]
)
def test_the_result_has_diffusers_dtype(dtypes):
    for theirs, ours in PAIRS:
        x, output = batch(dtype=dtypes[0]), batch(seed=1, dtype=dtypes[1])
        one, other = theirs(), ours()
        t = torch.tensor([5, 6, 7, 8])
        assert one.add_noise(x, output, t).dtype == other.add_noise(x, output, t).dtype
        results = []
        for scheduler in (one, other):
            scheduler.set_timesteps(10)
            results.append(scheduler.step(output, 100, x, generator=generator()).prev_sample)
        assert results[0].dtype == results[1].dtype


@pytest.mark.parametrize("config", CONFIGS[:6])
@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_gradients_are_diffusers(theirs, ours, config):
    gradients, values = [], []
    for kind in (theirs, ours):
        scheduler = kind(**config)
        scheduler.set_timesteps(10)
        t = scheduler.timesteps[4]
        x, output = batch().requires_grad_(), batch(seed=1).requires_grad_()
        # the thresholds depend on both, and so do the gradients
        result = scheduler.step(output, t, x, generator=generator())
        (result.prev_sample * batch(seed=2) + result.pred_original_sample).sum().backward()
        gradients.append((x.grad, output.grad))
        values.append(result.prev_sample.detach())
    assert_near(actual=values[1], expected=values[0])
    for actual, expected in zip(gradients[1], gradients[0], strict=True):
        assert_near(actual=actual, expected=expected)
    with torch.no_grad():
        without = scheduler.step(output, t, x, generator=generator()).prev_sample
    # the composed update is the op's but for the order of its sums
    assert (without - values[1]).abs().max() <= 1e-5 * values[1].abs().max()


class Watch(TorchDispatchMode):
    """What is dispatched, above the registered ops."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("fused", FUSED)
@pytest.mark.parametrize("config", [{}, {"thresholding": True}])
def test_nothing_is_read_back_in_a_loop_over_timesteps(fused, config):
    scheduler = fused(**config)
    scheduler.set_timesteps(10)
    x = batch()
    with Watch() as watch:
        for t in scheduler.timesteps:
            x = scheduler.step(x, t, x).prev_sample
        scheduler.step(x, torch.tensor([1, 5, 900, 0]), x)
        scheduler.add_noise(x, x, torch.tensor([1, 5, 900, 0]))
    read = [name for name in watch.seen if "local_scalar" in name or "nonzero" in name or "item" in name]
    assert watch.seen
    assert not read


@pytest.mark.parametrize("fused", FUSED)
def test_nothing_is_read_back_from_a_gpu(fused):
    # tensors without values: to read one is an error
    scheduler = fused()
    scheduler.set_timesteps(10)
    x = torch.empty(2, 3, 8, 8, device="meta")
    for t in (torch.tensor([1, 2], device="meta"), torch.tensor(5, device="meta")):
        assert scheduler.step(x, t, x).prev_sample.device.type == "meta"
        assert scheduler.add_noise(x, x, t).device.type == "meta"


@pytest.mark.parametrize(
    ("fused", "config"),
    [
        (FusedDDPMScheduler, {}),
        (FusedDDPMScheduler, {"thresholding": True}),
        (FusedDDPMScheduler, {"variance_type": "learned_range"}),
        (FusedDDIMScheduler, {}),
        (FusedDDIMScheduler, {"thresholding": True}),
    ],
)
@pytest.mark.parametrize("return_dict", [False, True])
@pytest.mark.parametrize("address", [False, True])
def test_a_step_is_one_graph(fused, config, return_dict, address):
    scheduler = fused(**config)
    scheduler.set_timesteps(10)
    options = {} if fused is FusedDDPMScheduler else {"eta": 0.5}
    if address:
        options |= {"seed": torch.tensor(3), "sample_ids": torch.arange(4)}
    x, output = batch(), batch(channels=6 if "variance_type" in config else 3, seed=1)

    def function(x, output, t):
        result = scheduler.step(output, t, x, return_dict=return_dict, **options)
        return result.prev_sample if return_dict else result[0]

    torch._dynamo.reset()
    traced = torch.compile(function, fullgraph=True, backend="aot_eager")
    for recompiles, t in ((True, torch.tensor([900, 0, 5, 300])), (False, torch.tensor([1, 2, 3, 4]))):
        torch.manual_seed(0)
        with torch._dynamo.config.patch(error_on_recompile=not recompiles):
            actual = traced(x, output, t)
        torch.manual_seed(0)
        assert torch.equal(actual, function(x, output, t))


def test_noising_is_one_graph():
    scheduler = FusedDDPMScheduler()

    def function(x, eps, t):
        return scheduler.add_noise(x, eps, t), scheduler.get_velocity(x, eps, t)

    arguments = batch(), batch(seed=1), torch.tensor([0, 1, 500, 999])
    torch._dynamo.reset()
    actual = torch.compile(function, fullgraph=True, backend="aot_eager")(*arguments)
    assert all(map(torch.equal, actual, function(*arguments)))


def test_the_stream_is_that_of_reverse_noise():
    scheduler = FusedDDPMScheduler(clip_sample=False)
    x = batch()
    quiet = scheduler.step(x, 0, x, seed=1).prev_sample
    assert torch.equal(quiet, scheduler.step(x, 0, x, generator=generator()).prev_sample)
    eps = noise(NoiseAddress(1, REVERSE, 501, 0), x.shape)
    sigma = float(scheduler._get_variance(500)) ** 0.5
    with_noise = scheduler.step(x, 500, x, seed=1).prev_sample
    other = scheduler.step(x, 500, x, seed=2).prev_sample
    eps_2 = noise(NoiseAddress(2, REVERSE, 501, 0), x.shape)
    assert (with_noise - other - sigma * (eps - eps_2)).abs().max() <= 1e-4 * sigma
