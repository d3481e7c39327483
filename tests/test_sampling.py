"""Sampling: image k of a seed is the same image in any batch, and the one that the reference draws."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from noisestep.accelerated.backends import recording
from noisestep.accelerated.models import UNet
from noisestep.accelerated.samplers import SAMPLERS
from noisestep.accelerated.samplers import loop as sampling
from noisestep.accelerated.samplers.guidance import Guidance, Network
from noisestep.accelerated.samplers.loop import sample
from noisestep.accelerated.schedule import DeviceSchedule
from noisestep.reference import noise as reference_noise
from noisestep.reference.samplers.loop import sample as reference_sample
from noisestep.reference.schedule import Schedule
from sampler_laws import reference_sampler
from tiny_run import tiny_config
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

SHAPE = (1, 8, 8)
COSINE = Schedule.from_name("cosine", 40)
OPTIONS: list[dict[str, Any]] = [
    {"sampler": "ddpm", "variance": "posterior"},
    {"sampler": "ddpm", "variance": "beta"},
    {"sampler": "ddpm", "variance": "zero"},
    {"sampler": "ddim", "eta": 0.0},
    {"sampler": "ddim", "eta": 0.5},
    {"sampler": "ddim", "eta": 1.0, "temperature": 1.25},
    {"sampler": "heun"},
    {"sampler": "dpmpp_2m", "temperature": 1.25},
    {"sampler": "dpmpp_2m_sde", "eta": 0.5, "temperature": 1.25},
    {"sampler": "dpmpp_3m", "grid": "karras"},
    {"sampler": "unipc"},
    {"sampler": "deis"},
]


class Pointwise(nn.Module):
    """A network whose every output depends on one pixel and on t: no sums, so nothing to round otherwise."""

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        output = 0.9 * x - 0.001 * t[:, None, None, None]
        return output if label is None else output + label[:, None, None, None]


def draw(model: nn.Module, **options: Any) -> Tensor:
    return sample(model, COSINE, **{"shape": SHAPE, "count": 7, "steps": 5, **options}).images


@settings(max_examples=20)
@given(
    batch_size=st.integers(1, 9),
    first=st.integers(0, 2**40),
    skipped=st.integers(0, 6),
    seed=st.integers(0, 2**64 - 1),
    options=st.sampled_from(OPTIONS),
)
def test_an_image_is_the_same_in_any_batch_bit_for_bit(
    batch_size: int, first: int, skipped: int, seed: int, options: dict[str, Any]
) -> None:
    together = draw(Pointwise(), first=first, seed=seed, batch_size=100, **options)
    alone = draw(Pointwise(), first=first + skipped, count=7 - skipped, seed=seed, batch_size=batch_size, **options)
    assert torch.equal(alone, together[skipped:])


def test_the_noise_that_reaches_the_network_is_that_of_its_address() -> None:
    seen: list[Tensor] = []

    class Listening(nn.Module):
        def forward(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
            seen.append(x.clone())
            return torch.zeros_like(x)

    draw(Listening(), count=5, first=11, batch_size=2, seed=3, steps=1)
    expected = reference_noise.normal(3, reference_noise.INITIAL, 0, np.arange(11, 16), SHAPE)
    assert torch.equal(torch.cat(seen), torch.from_numpy(expected))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("prediction", ["eps", "x_0", "v", "flow"])
def test_it_is_the_reference_loop(options: dict[str, Any], prediction: str) -> None:
    steps, clip = 8, (-1.0, 1.0)
    # ends with a little of the image left: 1 / sqrt(alpha_bar_T) is about 9
    schedule = Schedule.from_name("linear", 40, start=1e-3, end=0.2)
    chain = schedule.respace(steps, options.get("grid", "uniform"))
    result = sample(
        Pointwise(),
        schedule,
        count=6,
        shape=SHAPE,
        seed=5,
        first=2,
        steps=steps,
        prediction=prediction,
        trajectory=6,
        **options,
    )
    expected = reference_sample(
        chain,
        lambda x, t: 0.9 * x - 0.001 * t[:, None, None, None],
        (6, *SHAPE),
        seed=5,
        numbers=2,
        prediction=prediction,
        clip=clip,
        trajectory=True,
        **{name: value for name, value in options.items() if name not in ("sampler", "grid")},
        sampler=reference_sampler(options["sampler"]),
    )[::-1]
    # a step makes about 10 float32 roundings of numbers no larger than |x| / sqrt(alpha_bar) for each of its calls of
    # the network, and no later step enlarges what went before by more than that
    bound = 10 * (2 * steps - 1) * 2**-24 * np.abs(expected).max() / chain.sqrt_alpha_bar.min()
    np.testing.assert_allclose(result.trajectory.numpy(), expected, rtol=0, atol=bound)
    assert bound < 1e-3
    torch.testing.assert_close(result.images, result.trajectory[-1], rtol=0, atol=0)


@pytest.fixture(scope="module")
def unet() -> UNet:
    model = tiny_config().model
    assert model is not None
    torch.manual_seed(0)
    network = UNet(model)
    # the last layer starts at zero, which would hide every difference
    for parameter in network.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return network.requires_grad_(False).eval()


@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[4]])
def test_with_a_real_network_pixels_agree_to_its_rounding(unet: UNet, options: dict[str, Any]) -> None:
    labels = torch.arange(12) % 10
    draw_all = {"shape": SHAPE, "count": 12, "labels": labels, "steps": 10, "seed": 1, **options}
    whole = sample(unet, COSINE, batch_size=12, **draw_all).images
    single = sample(unet, COSINE, batch_size=1, **draw_all).images

    # what rounding may do: the network's output moved by as much as its longest sums can round (32 channels of 3 x 3
    # products, over a dozen layers, in units of 2^-24), once up and once down, and followed through the whole loop
    def moved(sign: float) -> Callable[..., Tensor]:
        def network(x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
            output: Tensor = unet(x, t, label)
            return output + sign * 32 * 9 * 12 * 2**-24 * output.abs().amax()

        return network

    nudged = [sample(moved(sign), COSINE, batch_size=12, **draw_all).images for sign in (1.0, -1.0)]  # type: ignore[arg-type]
    bound = max((image - whole).abs().max().item() for image in nudged)
    assert (single - whole).abs().max().item() <= bound
    # far less than a grey level of 255, and the network has a say in the image
    assert bound < 2 / 255
    assert (sample(unet, COSINE, batch_size=12, **{**draw_all, "seed": 2}).images - whole).abs().max() > 0.1


def test_the_trajectory_goes_from_noise_to_the_image_for_as_many_as_asked() -> None:
    result = sample(Pointwise(), COSINE, count=7, shape=SHAPE, steps=5, batch_size=3, trajectory=4, seed=9)
    assert result.trajectory.shape == (6, 4, *SHAPE)
    initial = reference_noise.normal(9, reference_noise.INITIAL, 0, np.arange(4), SHAPE)
    assert torch.equal(result.trajectory[0], torch.from_numpy(initial))
    assert torch.equal(result.trajectory[-1], result.images[:4])
    assert sample(Pointwise(), COSINE, count=2, shape=SHAPE, steps=5).trajectory.shape == (6, 0, *SHAPE)


def test_all_steps_are_taken_where_none_are_named() -> None:
    told: list[list[int]] = []

    class Listening(nn.Module):
        def forward(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
            told.append(t.tolist())
            return torch.zeros_like(x)

    sample(Listening(), COSINE, count=2, shape=SHAPE)
    assert told == [[t, t] for t in range(40, 0, -1)]
    told.clear()
    sample(Listening(), COSINE, count=1, shape=SHAPE, steps=4)
    assert told == [[40], [30], [20], [10]]


def test_guidance_goes_through_the_labelled_output_away_from_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs: list[tuple[Tensor, Tensor]] = []
    step = sampling.reverse_step

    def listening(chain: Any, x: Tensor, output: Tensor, *arguments: Any, guidance: float, **options: Any) -> Tensor:
        without, labelled = output.chunk(2)
        outputs.append((without, labelled))
        guided = step(chain, x, output, *arguments, guidance=guidance, **options)
        by_hand = step(chain, x, without + guidance * (labelled - without), *arguments, **options)
        # one sum of three terms below 10 times 3, rounded in another order, times coefficients below 1000
        torch.testing.assert_close(guided, by_hand, rtol=0, atol=1000 * 30 * 2**-22)
        return guided

    monkeypatch.setattr(sampling, "reverse_step", listening)
    labels = torch.tensor([0, 3])
    guided = sample(Pointwise(), COSINE, count=2, shape=SHAPE, steps=3, labels=labels, guidance=2.0, null_label=7)
    assert len(outputs) == 3
    for without, labelled in outputs:
        # what the network adds is its label: 7 where there is none
        difference = (without - labelled).round()
        assert torch.equal(difference, torch.tensor([7.0, 4.0])[:, None, None, None].expand_as(difference))
    monkeypatch.undo()
    plain = sample(Pointwise(), COSINE, count=2, shape=SHAPE, steps=3, labels=labels, null_label=7)
    assert not torch.equal(plain.images, guided.images)


def chain_of(sampler: str, device: str = "cpu", **settings: Any) -> sampling.Chain:
    method, tables = SAMPLERS[sampler], DeviceSchedule(COSINE.respace(6), device)
    x_T, label = torch.randn(3, *SHAPE, device=device), torch.arange(3, device=device)
    network = Network(Pointwise(), tables, guidance=Guidance(1.0))
    options = {"clip": (-1.0, 1.0)}
    return sampling.Chain(
        method,
        method.with_defaults(settings),
        network,
        tables,
        x_T,
        label,
        None,
        seed=4,
        prediction="eps",
        options=options,
    )


UPDATES: list[dict[str, Any]] = [{"sampler": name} for name in SAMPLERS] + [{"sampler": "ddim", "eta": 0.5}]


@pytest.mark.parametrize("update", UPDATES)
def test_a_step_is_one_graph_that_reads_nothing_back(update: dict[str, Any]) -> None:
    # fake tensors have no values: whoever asks for one, or for a shape that depends on one, is told off
    with FakeTensorMode(allow_non_fake_inputs=True):
        chain_of(**update).step()
        with pytest.raises(DataDependentOutputException):
            chain_of(**update).t.item()


@pytest.mark.parametrize("update", UPDATES)
def test_the_launches_of_a_step_read_nothing_back(update: dict[str, Any]) -> None:
    # tensors on "meta" have no values
    with recording() as launches:
        chain_of(device="meta", **update).step()
    # UniPC corrects what it predicted a step before, and then predicts
    expected = ["update"] * (2 if update["sampler"] == "unipc" else 1) + ["advance"]
    if SAMPLERS[update["sampler"]].correct is not None:
        expected.append("update")
    assert [launch.kernel.fn.__module__.rpartition(".")[2] for launch in launches] == expected


@pytest.mark.gpu
@pytest.mark.parametrize("options", OPTIONS)
def test_replays_of_a_cuda_graph_are_the_eager_steps(options: dict[str, Any]) -> None:
    model = Pointwise()
    for labels in (None, torch.arange(7) % 3):
        common = dict(device="cuda", batch_size=3, labels=labels, trajectory=7, **options)
        eager, replayed = (
            sample(model, COSINE, shape=SHAPE, count=7, steps=5, cuda_graph=graph, **common) for graph in (False, True)
        )
        assert torch.equal(replayed.images, eager.images)
        assert torch.equal(replayed.trajectory, eager.trajectory)


def test_progress_counts_the_images() -> None:
    done: list[int] = []
    sample(Pointwise(), COSINE, count=7, shape=SHAPE, steps=2, batch_size=3, progress=done.append)
    assert done == [3, 6, 7]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "euler"}, "sampler is 'euler'; allowed: ddim, ddpm, deis, dpmpp_2m"),
        ({"variance": "beta"}, "variance means nothing to sampler ddim, which takes eta"),
        ({"sampler": "heun", "eta": 0.5}, "eta means nothing to sampler heun, which takes churn, s_min"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, r"labels have shape \(3,\); 7 images need \(7,\)"),
        ({"cuda_graph": True}, "cuda_graph=True needs a GPU, and the device is cpu"),
        ({"guidance": 2.0}, "guidance is 2; it needs labels, and a model trained with label dropout"),
        ({"guidance": 2.0, "labels": torch.zeros(7, dtype=torch.int64)}, "guidance is 2; it needs labels"),
        ({"steps": 41}, "40"),
        ({"steps": 4, "grid": "linear"}, "grid must be one of uniform, quadratic, karras, exponential, got 'linear'"),
        ({"eta": 2.0}, "eta"),
        ({"prediction": "epsilon"}, "prediction"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(Pointwise(), **options)
