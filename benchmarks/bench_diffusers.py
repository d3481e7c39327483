"""What a diffusers user gains on a CPU from changing the scheduler alone: noising, steps, and a loop of 50 steps.

Both schedulers make the same thing from the same numbers in turn in one process, so that whatever else the machine does
falls on both; the ratio is the median over the pairs. Before anything is timed the two results are compared.

    OMP_WAIT_POLICY=passive pytest benchmarks/bench_diffusers.py -s
"""

import statistics
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

diffusers = pytest.importorskip("diffusers", reason="the peer: pip install 'noisestep[bench]'")

from noisestep.accelerated.integrations.diffusers import FusedDDIMScheduler, FusedDDPMScheduler  # noqa: E402
from noisestep.accelerated.noise import FORWARD, Noise  # noqa: E402
from noisestep.accelerated.ops import noise as noise_op  # noqa: E402

THREADS, PAIRS, WARMUP, STEPS = 2, 30, 3, 50
SHAPES = [(16, 3, 32, 32), (64, 3, 64, 64)]
# between float32 tables of diffusers and ours, of numbers about 4: see docs/integrations.md
CLOSE = 5e-3
Call = Callable[[], Tensor]


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    with torch.inference_mode():
        yield
    torch.set_num_threads(before)


def seconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


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


def compare(benchmark, theirs: Call, ours: Call, *, rounds: int = PAIRS, per_call: int = 0) -> None:
    """Time two calls in turn and print their times, memory and ratio; samples/s too where a call makes some."""
    for _ in range(WARMUP if rounds > 3 else 1):
        theirs(), ours()
    pairs: list[tuple[float, float]] = []
    benchmark.pedantic(lambda: pairs.append((seconds(theirs), seconds(ours))), rounds=rounds)
    ratio = statistics.median(slow / fast for slow, fast in pairs)
    for name, column, call in (("diffusers", 0, theirs), ("noisestep", 1, ours)):
        median, memory = statistics.median(pair[column] for pair in pairs), peak_memory(call)
        line = f"{median * 1e6:.0f} us, peak memory {memory / 2**20:.2f} MiB"
        if per_call:
            line = f"{per_call / median:.2f} samples/s, peak memory {memory / 2**20:.2f} MiB"
            benchmark.extra_info[f"{name} samples/s"] = round(per_call / median, 3)
        benchmark.extra_info[f"{name} us"] = round(median * 1e6, 1)
        benchmark.extra_info[f"{name} MiB"] = round(memory / 2**20, 3)
        print(f"\n{name}: {line}", end="")
    benchmark.extra_info |= {
        "ratio": round(ratio, 2),
        "threads": THREADS,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }
    print(f"\nratio: {ratio:.2f}")


@pytest.fixture(params=SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def x(request) -> Tensor:
    return torch.randn(request.param, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def t(x) -> Tensor:
    return torch.randint(0, 1000, (len(x),), generator=torch.Generator().manual_seed(1))


def assert_close(actual: Tensor, expected: Tensor) -> None:
    assert (actual - expected).abs().max() <= CLOSE


def test_noising_with_noise_given(benchmark, x, t):
    theirs, ours, eps = diffusers.DDPMScheduler(), FusedDDPMScheduler(), torch.randn_like(x)
    assert_close(ours.add_noise(x, eps, t), theirs.add_noise(x, eps, t))
    compare(benchmark, lambda: theirs.add_noise(x, eps, t), lambda: ours.add_noise(x, eps, t))


def test_noising_with_fresh_noise(benchmark, x, t):
    theirs, ours, address = diffusers.DDPMScheduler(), FusedDDPMScheduler(), Noise(0, FORWARD, 0)
    assert_close(ours.add_noise(x, address, t), theirs.add_noise(x, noise_op(address, x.shape), t))
    compare(
        benchmark,
        lambda: theirs.add_noise(x, torch.randn_like(x), t),
        lambda: ours.add_noise(x, address, t),
    )


@pytest.mark.parametrize("source", ["generator", "address"])
def test_a_ddpm_step(benchmark, x, source):
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
        benchmark,
        lambda: theirs.step(output, t, x, generator=other).prev_sample,
        lambda: ours.step(output, other_t, x, **options).prev_sample,
    )


def test_a_ddim_step(benchmark, x):
    theirs, ours, output = diffusers.DDIMScheduler(), FusedDDIMScheduler(), torch.randn_like(x)
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(STEPS)
    t, other_t = theirs.timesteps[20], ours.timesteps[20]
    assert_close(ours.step(output, other_t, x).prev_sample, theirs.step(output, t, x).prev_sample)
    compare(
        benchmark,
        lambda: theirs.step(output, t, x).prev_sample,
        lambda: ours.step(output, other_t, x).prev_sample,
    )


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_a_loop_of_50_steps_with_a_small_unet(benchmark, sampler):
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
    compare(benchmark, lambda: loop(theirs), lambda: loop(ours), rounds=7, per_call=len(start))
