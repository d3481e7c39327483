"""Networks: shapes they take, laws they keep, and what they refuse."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from noisestep.accelerated.models import SimpleUNet, UNet, UNetConfig, timestep_embedding

SMALL = UNetConfig(
    in_channels=2,
    out_channels=2,
    channels=(8, 16),
    blocks=2,
    attention=(1,),
    middle=1,
    head=8,
    embedding=16,
    groups=4,
    num_classes=3,
)
# in float64 a rounding is 2^-53; the longest sum has 9 x 32 terms, some thirty layers follow each other and
# normalisation may amplify what enters it by ten or so
ROUNDING = 2.0**-53 * 9 * 32 * 30 * 10


def awake(config: UNetConfig = SMALL, seed: int = 0) -> UNet:
    """A U-Net in float64 with no parameter left at its zero start, so that every path is felt."""
    torch.manual_seed(seed)
    network = UNet(config).double().eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


def inputs(config: UNetConfig = SMALL, batch: int = 3, height: int = 4, width: int = 6):
    """Images, timesteps and labels that `config` takes, the last label being "no label"."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, config.in_channels, height, width, generator=generator, dtype=torch.float64)
    t = torch.arange(1, batch + 1) * 7
    label = torch.arange(batch) % (config.num_classes + 1) if config.num_classes else None
    return x, t, label


def assert_close(*, actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=ROUNDING, atol=ROUNDING)


@settings(deadline=None, max_examples=50)
@given(t=st.lists(st.integers(1, 4000), min_size=1, max_size=5), half=st.integers(1, 64))
def test_embedding_is_the_formula(t, half):
    actual = timestep_embedding(torch.tensor(t), 2 * half).numpy()
    angle = np.array(t, dtype=np.float64)[:, None] * np.exp(-np.log(10000.0) * np.arange(half) / half)
    expected = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    assert actual.dtype == np.float32
    # with e = 2^-24 and a = ln(10000) i / half: two roundings of a, one each of exp and of the angle, so the
    # angle t exp(-a) is off by at most t (2 a exp(-a) + 2) e < 3 t e; cosine and sine add two units of their own
    assert np.abs(actual - expected).max() <= (3 * max(t) + 4) * 2.0**-24


@pytest.mark.parametrize("channels", [1, 3])
def test_simple_unet_is_its_three_lines(channels):
    torch.manual_seed(0)
    network = SimpleUNet(channels=channels, width=8, embedding=6).double()
    x, t = torch.randn(2, channels, 5, 4, dtype=torch.float64), torch.tensor([1, 900])
    e = timestep_embedding(t, 6).double()
    time = e @ network.time.weight.T + network.time.bias
    conv = torch.nn.functional.conv2d
    h = (conv(x, network.conv1.weight, network.conv1.bias, padding=1) + time[:, :, None, None]).clamp(min=0)
    h = conv(h, network.conv2.weight, network.conv2.bias, padding=1).clamp(min=0)
    expected = conv(h, network.conv3.weight, network.conv3.bias, padding=1)
    assert_close(actual=network(x, t), expected=expected)
    assert list(dict(network.named_children())) == ["conv1", "conv2", "conv3", "time"]


@settings(deadline=None, max_examples=25)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 5),
    levels=st.integers(1, 3),
    blocks=st.integers(1, 2),
    sides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    learned=st.booleans(),
    data=st.data(),
)
def test_any_shape_the_strides_divide(batch, channels, levels, blocks, sides, learned, data):
    attention = data.draw(st.sets(st.integers(0, levels - 1)))
    config = UNetConfig(
        in_channels=channels,
        out_channels=channels * (2 if learned else 1),
        channels=(4, 8, 8)[:levels],
        blocks=blocks,
        attention=tuple(attention),
        middle=1,
        head=4,
        embedding=8,
        groups=2,
    )
    assert config.stride == 2 ** (levels - 1)
    height, width = (config.stride * side for side in sides)
    network = awake(config)
    x, t, _ = inputs(config, batch, height, width)
    assert network(x, t).shape == (batch, config.out_channels, height, width)


@settings(deadline=None)
@given(channels=st.integers(1, 4), height=st.integers(1, 200), width=st.integers(1, 200))
def test_every_image_size_has_a_network(channels, height, width):
    config = UNetConfig.for_image(channels, height, width, 10, learned_variance=True)
    assert height % config.stride == 0
    assert width % config.stride == 0
    assert (config.in_channels, config.out_channels, config.num_classes) == (channels, 2 * channels, 10)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 12), (1, 28, 28), (3, 32, 32)])
def test_preset_runs(shape):
    network = UNet(UNetConfig.for_image(*shape, num_classes=10))
    x = torch.randn(2, *shape)
    # a fresh network's output convolution is zero, and so is what it says
    assert torch.equal(network(x, torch.tensor([1, 1000]), torch.tensor([0, 10])), torch.zeros_like(x))


def test_sample_does_not_see_its_batch():
    network = awake()
    x, t, label = inputs()
    whole = network(x, t, label)
    for row in range(len(x)):
        alone = network(x[row : row + 1], t[row : row + 1], label[row : row + 1])
        assert_close(actual=whole[row : row + 1], expected=alone)


def test_memory_layout_does_not_matter():
    network = awake()
    x, t, label = inputs()
    channels_last = x.contiguous(memory_format=torch.channels_last)
    assert_close(actual=network(channels_last, t, label), expected=network(x, t, label))


@pytest.mark.parametrize("network", [SimpleUNet(channels=2, width=4, embedding=4).double(), awake()])
def test_timestep_is_used(network):
    x, t, _ = inputs()
    assert (network(x, t) - network(x, t + 1)).abs().amax(dim=(1, 2, 3)).min() > 1e-6


def test_label_is_used_and_none_is_its_own_row():
    network = awake()
    x, t, _ = inputs()
    outputs = [network(x, t, torch.full_like(t, label)) for label in range(4)]
    for one in range(4):
        for other in range(one):
            assert (outputs[one] - outputs[other]).abs().amax(dim=(1, 2, 3)).min() > 1e-6
    assert torch.equal(network(x, t), outputs[3])


def test_every_parameter_learns():
    network = awake().train()
    x, t, label = inputs()
    network(x, t, label).square().sum().backward()
    silent = [name for name, parameter in network.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert silent == []


def test_gradient_is_the_derivative():
    config = UNetConfig(
        in_channels=1,
        out_channels=1,
        channels=(4, 4),
        blocks=1,
        attention=(1,),
        middle=1,
        head=4,
        embedding=4,
        groups=2,
    )
    network = awake(config)
    x, t, _ = inputs(config, batch=2, height=2, width=2)
    assert torch.autograd.gradcheck(lambda image: network(image, t), x.requires_grad_())


def test_attention_follows_its_pixels():
    attention = awake().middle[0].attention
    x = torch.randn(2, 16, 2, 3, dtype=torch.float64)
    order = torch.tensor([4, 2, 0, 5, 1, 3])

    def shuffle(images):
        return images.flatten(2)[:, :, order].view_as(images)

    assert_close(actual=attention(shuffle(x)), expected=shuffle(attention(x)))
    assert (attention(x) - x).abs().max() > 1e-3


def test_fresh_stage_is_its_straight_path():
    stage = UNet(SMALL).middle[0]
    x = torch.randn(2, 16, 2, 2)
    assert torch.equal(stage(x, torch.randn(2, 16)), x)


def test_dropout_only_while_training():
    network = awake(UNetConfig.from_dict(SMALL.to_dict() | {"dropout": 0.5}))
    x, t, label = inputs()
    assert torch.equal(network(x, t, label), network(x, t, label))
    network.train()
    assert not torch.equal(network(x, t, label), network(x, t, label))


@pytest.mark.parametrize("network", [SimpleUNet(channels=2, width=4, embedding=4).double(), awake()])
def test_compiles_to_one_graph(network):
    x, t, label = inputs()
    arguments = (x, t, label) if isinstance(network, UNet) else (x, t)
    # dynamo alone, which is where a graph would break; the code behind it is PyTorch's affair
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    assert_close(actual=compiled(*arguments), expected=network(*arguments))


def test_config_survives_json():
    assert UNetConfig.from_dict(json.loads(json.dumps(SMALL.to_dict()))) == SMALL


def test_state_survives_a_copy():
    source, target = awake(seed=0), awake(seed=1)
    target.load_state_dict(source.state_dict())
    assert all(value.is_contiguous() for value in source.state_dict().values())
    assert torch.equal(target(*inputs()), source(*inputs()))


X, T, LABEL = torch.zeros(2, 2, 4, 4), torch.ones(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
REFUSED_CALLS = {
    "rank": (X[0], T, LABEL, ValueError, r"x has shape \(2, 4, 4\): expected \(B, C, H, W\)"),
    "channels": (X[:, :1], T, LABEL, ValueError, "x has 1 channels: this network was built for 2"),
    "dtype": (X.long(), T, LABEL, TypeError, "x has dtype torch.int64: expected a floating-point image"),
    "height": (X[:, :, :3], T, LABEL, ValueError, "x has height 3: .* a multiple of 2"),
    "width": (X[:, :, :, :1], T, LABEL, ValueError, "x has width 1: .* a multiple of 2"),
    "no pixels": (X[:, :, :0], T, LABEL, ValueError, "x has height 0"),
    "timestep": (X, T[:1], LABEL, ValueError, r"t has shape \(1,\): expected \(2,\)"),
    "scalar timestep": (X, T[0], LABEL, ValueError, r"t has shape \(\): expected \(2,\)"),
    "label shape": (X, T, LABEL[:1], ValueError, r"label has shape \(1,\): expected \(2,\)"),
    "label dtype": (X, T, LABEL.float(), TypeError, "label has dtype torch.float32: expected torch.int64"),
    "label above": (X, T, LABEL + 4, ValueError, r"label 4: expected 0..2, or 3 for no label"),
    "label below": (X, T, LABEL - 1, ValueError, r"label -1: expected 0..2, or 3 for no label"),
}


@pytest.mark.parametrize("case", REFUSED_CALLS)
def test_bad_input_is_refused(case):
    x, t, label, error, message = REFUSED_CALLS[case]
    with pytest.raises(error, match=message):
        UNet(SMALL)(x, t, label)


@pytest.mark.parametrize("network", [SimpleUNet(2), UNet(UNetConfig.for_image(2, 4, 4))])
def test_label_for_a_network_without_classes_is_refused(network):
    with pytest.raises(ValueError, match="label was given, but"):
        network(X, T, LABEL)


REFUSED_SHAPES = {
    "in_channels must be at least 1, got 0": {"in_channels": 0},
    "out_channels=3: expected 2 .* or 4": {"out_channels": 3},
    r"channels=\(\)": {"channels": ()},
    r"channels=\(8, 18\): 18 is no multiple of groups=4": {"channels": (8, 18)},
    "the first width must be even": {"channels": (9, 9), "groups": 3, "head": 3},
    "blocks must be at least 1, got 0": {"blocks": 0},
    "middle must be at least 1, got 0": {"middle": 0},
    r"attention=\(2,\): levels are 0..1": {"attention": (2,)},
    "head=5: it must divide the width 16 of level 1": {"head": 5},
    "embedding must be at least 1, got 0": {"embedding": 0},
    "groups must be at least 1, got 0": {"groups": 0},
    "dropout=1.0": {"dropout": 1.0},
    "num_classes must be at least 1, got 0": {"num_classes": 0},
    "unknown field 'depth'": {"depth": 3},
}


@pytest.mark.parametrize("message", REFUSED_SHAPES)
def test_bad_shape_is_refused(message):
    with pytest.raises(ValueError, match=message):
        UNetConfig.from_dict(SMALL.to_dict() | REFUSED_SHAPES[message])


def test_other_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="height must be at least 1, got 0"):
        UNetConfig.for_image(1, 0, 8)
    for name in ("channels", "width"):
        with pytest.raises(ValueError, match=f"{name}=0: expected at least 1"):
            SimpleUNet(**{name: 0})
    with pytest.raises(ValueError, match="embedding=3: expected an even number"):
        SimpleUNet(embedding=3)
    with pytest.raises(ValueError, match="width=3"):
        timestep_embedding(T, 3)
    with pytest.raises(ValueError, match=r"t has shape \(2, 1\)"):
        timestep_embedding(T[:, None], 4)
