"""What a diffusers user gains on a CPU from changing the scheduler alone: noising, steps, and a loop of 50 steps.

Both schedulers make the same thing from the same numbers in turn in one process, so that whatever else the machine does
falls on both; the ratio is the median over the pairs. Before anything is timed the two results are compared.
"""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.timing import measure_pairs, surroundings

diffusers = pytest.importorskip("diffusers", reason="the peer: pip install 'noisestep[bench]'")

from noisestep.accelerated.address import FORWARD, NoiseAddress  # noqa: E402
from noisestep.accelerated.integrations.diffusers import FusedDDIMScheduler, FusedDDPMScheduler  # noqa: E402
from noisestep.accelerated.ops import noise as noise_op  # noqa: E402

STEPS = 50
SHAPES = [(16, 3, 32, 32), (64, 3, 64, 64)]
# between float32 tables of diffusers and ours, of numbers about 4: see docs/integrations.md
CLOSE = 5e-3
Call = Callable[[], Tensor]


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def peak_memory(call: Call) -> int:
    """Bytes that a call holds at once, more than before it: the largest sum of its allocations and releases so far."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    held = highest = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            highest = max(highest, held)
    return highest


@pytest.fixture
def compare(benchmark, say, request) -> Callable[..., None]:
    """Time two calls in turn and say what each takes, in a line; samples a second where a call makes some."""

    def run(theirs: Call, ours: Call, *, rounds: int = 30, warmup: int = 3, samples: int = 0) -> None:
        pairs = measure_pairs(benchmark, ours, theirs, rounds=rounds, warmup=warmup)
        said = []
        for name, seconds, call in (("noisestep", pairs.ours, ours), ("diffusers", pairs.theirs, theirs)):
            mebibytes = peak_memory(call) / 2**20
            time = f"{samples / seconds:.1f} samples/s" if samples else f"{seconds * 1e6:.0f} µs"
            said.append(f"{time}, {mebibytes:.2f} MiB")
            benchmark.extra_info |= {f"{name} µs": round(seconds * 1e6, 1), f"{name} MiB": round(mebibytes, 3)}
            if samples:
                benchmark.extra_info[f"{name} samples/s"] = round(samples / seconds, 3)
        benchmark.extra_info |= surroundings("cpu")
        what = request.node.name.removeprefix("test_")
        say(f"noisestep's scheduler against diffusers', {what}: {pairs.ratio:.2f} x ({' against '.join(said)})")

    return run


@pytest.fixture(params=SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def x(request) -> Tensor:
    return torch.randn(request.param, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def t(x) -> Tensor:
    return torch.randint(0, 1000, (len(x),), generator=torch.Generator().manual_seed(1))


def assert_close(actual: Tensor, expected: Tensor) -> None:
    assert (actual - expected).abs().max() <= CLOSE


def test_noising_with_noise_given(compare, x, t):
    theirs, ours, eps = diffusers.DDPMScheduler(), FusedDDPMScheduler(), torch.randn_like(x)
    assert_close(ours.add_noise(x, eps, t), theirs.add_noise(x, eps, t))
    compare(lambda: theirs.add_noise(x, eps, t), lambda: ours.add_noise(x, eps, t))


def test_noising_with_fresh_noise(compare, x, t):
    theirs, ours, address = diffusers.DDPMScheduler(), FusedDDPMScheduler(), NoiseAddress(0, FORWARD, 0)
    assert_close(ours.add_noise(x, address, t), theirs.add_noise(x, noise_op(address, x.shape), t))
    compare(
        lambda: theirs.add_noise(x, torch.randn_like(x), t),
        lambda: ours.add_noise(x, address, t),
    )


@pytest.mark.parametrize("source", ["generator", "address"])
def test_a_ddpm_step(compare, x, source):
    theirs, ours, output = diffusers.DDPMScheduler(), FusedDDPMScheduler(), torch.randn_like(x)
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(STEPS)
    t, other_t = theirs.timesteps[20], ours.timesteps[20]
    one, other = (torch.Generator().manual_seed(0) for _ in range(2))
    assert_close(
        ours.step(output, other_t, x, generator=one).prev_sample, theirs.step(output, t, x, generator=other).prev_sample
    )
    options = {"generator": one} if source == "generator" else {"seed": 0}
    compare(
        lambda: theirs.step(output, t, x, generator=other).prev_sample,
        lambda: ours.step(output, other_t, x, **options).prev_sample,
    )


def test_a_ddim_step(compare, x):
    theirs, ours, output = diffusers.DDIMScheduler(), FusedDDIMScheduler(), torch.randn_like(x)
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(STEPS)
    t, other_t = theirs.timesteps[20], ours.timesteps[20]
    assert_close(ours.step(output, other_t, x).prev_sample, theirs.step(output, t, x).prev_sample)
    compare(
        lambda: theirs.step(output, t, x).prev_sample,
        lambda: ours.step(output, other_t, x).prev_sample,
    )


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_a_loop_of_50_steps_with_a_small_unet(compare, sampler):
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=16,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    ).eval()
    kinds = {
        "ddpm": (diffusers.DDPMScheduler, FusedDDPMScheduler),
        "ddim": (diffusers.DDIMScheduler, FusedDDIMScheduler),
    }[sampler]
    start = torch.randn(16, 3, 16, 16)

    theirs, ours = (kind() for kind in kinds)
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(STEPS)

    def loop(scheduler) -> Tensor:
        x, generator = start, torch.Generator().manual_seed(0)
        for t in scheduler.timesteps:
            x = scheduler.step(unet(x, t).sample, t, x, generator=generator).prev_sample
        return x

    # step by step from the same x: an untrained network takes any two loops apart, two of diffusers' in float32 and
    # float64 as well
    x, one, other = start, torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    for t in theirs.timesteps:
        output = unet(x, t).sample
        expected = theirs.step(output, t, x, generator=one).prev_sample
        assert_close(ours.step(output, t, x, generator=other).prev_sample, expected)
        x = expected
    compare(lambda: loop(theirs), lambda: loop(ours), rounds=7, warmup=1, samples=len(start))
