"""A whole training step in one graph, in half precision, in parts, and with activations made again: the same losses."""

import itertools

import pytest
import torch
from noisestep.accelerated.address import FORWARD, NoiseAddress
from noisestep.accelerated.models import UNet, UNetConfig
from noisestep.accelerated.ops import noise, q_sample, simple_loss
from noisestep.accelerated.schedule import DeviceSchedule
from noisestep.reference import Schedule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

CONFIG = UNetConfig(
    in_channels=1, out_channels=1, channels=(8, 16), blocks=1, attention=(1,), middle=1, head=8, embedding=16, groups=4
)
SCHEDULE = DeviceSchedule(Schedule.from_name("cosine", 100))
BATCH, STEPS, SEED = 8, 5, 3
LR = 1e-2
# roundings that a number goes through on the longest way through the network: 8 blocks of two convolutions, two
# normalisations and a modulation, attention, and what stands between them
DEPTH = 64
UNIT = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


def images() -> Tensor:
    levels = torch.randint(0, 256, (BATCH, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    return levels.to(torch.uint8)


def timesteps(step: int) -> Tensor:
    return torch.randint(1, 101, (BATCH,), generator=torch.Generator().manual_seed(step))


def train(
    *, compiled: bool = False, dtype: torch.dtype | None = None, parts: int = 1, checkpointing: bool = False
) -> tuple[list[float], list[float]]:
    """The loss of each step, and the root mean square of the network's outputs there."""
    torch.manual_seed(0)
    network = UNet(CONFIG)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR)
    scaler = torch.amp.GradScaler("cpu", enabled=dtype is torch.float16)

    def forward(x_0: Tensor, t: Tensor, step: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        address = NoiseAddress(SEED, FORWARD, step, first + torch.arange(len(x_0)))
        x_t = q_sample(SCHEDULE, x_0, t, address)
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            output = checkpoint(network, x_t, t, use_reentrant=False) if checkpointing else network(x_t, t)
        return simple_loss(output, address), output.detach().float().square().mean()

    if compiled:
        torch._dynamo.reset()
        forward = torch.compile(forward, fullgraph=True, backend="aot_eager")
    losses, sizes = [], []
    for k in range(STEPS):
        loss_of_step = size_of_step = 0.0
        rows = BATCH // parts
        for i, (x_0, t) in enumerate(zip(images().split(rows), timesteps(k).split(rows), strict=True)):
            # the second step compiles nothing any more
            with torch._dynamo.config.patch(error_on_recompile=k > 0):
                loss, size = forward(x_0, t, torch.tensor(k), torch.tensor(i * rows))
            scaler.scale(loss / parts).backward()
            loss_of_step += float(loss.detach()) / parts
            size_of_step += float(size) / parts
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(loss_of_step)
        sizes.append(size_of_step**0.5)
    return losses, sizes


FLOAT32 = train()


def bound(k: int, dtype: torch.dtype) -> float:
    """How far the loss of step k may be off, by rounding to dtype.

    Roundings of either sign leave e = sqrt(DEPTH) u of an output, in any direction: the loss, a mean over N squares
    (o - eps)^2, moves by 2 (o - eps) e o, of which three standard deviations are 3 / sqrt(N), and by (e o)^2; and each
    optimizer step before this one, taken with gradients as far off, moves the next losses by as much again.
    """
    losses, sizes = FLOAT32
    e, N = DEPTH**0.5 * UNIT[dtype], BATCH * 64
    of_one = 2 * losses[k] ** 0.5 * e * sizes[k] * 3 / N**0.5 + (e * sizes[k]) ** 2
    # the loss itself is a float32 sum
    return (k + 1) * of_one + 8 * UNIT[torch.float32] * losses[k]


@pytest.mark.parametrize(
    ("compiled", "dtype", "parts", "checkpointing"),
    [
        (True, None, 1, False),
        (False, None, 4, False),
        (False, None, 1, True),
        (False, torch.bfloat16, 1, False),
        (False, torch.float16, 1, False),
        (True, torch.bfloat16, 2, True),
        (True, torch.float16, 2, True),
    ],
)
def test_the_losses_are_those_of_eager_float32(compiled, dtype, parts, checkpointing):
    losses, _ = train(compiled=compiled, dtype=dtype, parts=parts, checkpointing=checkpointing)
    for k, (actual, expected) in enumerate(zip(losses, FLOAT32[0], strict=True)):
        assert abs(actual - expected) <= bound(k, dtype or torch.float32)
    # and something is learned: the bound says nothing of losses that do not move
    assert losses[-1] < 0.6 * losses[0]


def test_half_precision_is_seen_in_the_losses():
    for dtype in (torch.bfloat16, torch.float16):
        assert train(dtype=dtype)[0][1:] != FLOAT32[0][1:]


def test_micro_batches_have_the_noise_of_the_whole_batch():
    x_0, t = images(), timesteps(0)
    for sizes in ([8], [4, 4], [1, 2, 5]):
        firsts = [0, *itertools.accumulate(sizes)]
        noised = [
            q_sample(
                SCHEDULE,
                x_0[a:b],
                t[a:b],
                NoiseAddress(SEED, FORWARD, torch.tensor(7), torch.arange(a, b)),
                return_eps=True,
            )
            for a, b in itertools.pairwise(firsts)
        ]
        x_t, eps = (torch.cat(parts) for parts in zip(*noised, strict=True))
        assert torch.equal(eps, noise(NoiseAddress(SEED, FORWARD, 7), x_0.shape))
        assert torch.equal(x_t, q_sample(SCHEDULE, x_0, t, eps))


def test_inductor_compiles_the_step_into_one_graph(inductor):
    torch.manual_seed(0)
    network = nn.Conv2d(1, 1, 3, padding=1)

    def forward(x_0, t, step):
        address = NoiseAddress(SEED, FORWARD, step)
        return simple_loss(network(q_sample(SCHEDULE, x_0, t, address)), address)

    torch._dynamo.reset()
    traced, gradients = torch.compile(forward, fullgraph=True), []
    for function in (traced, forward):
        loss = function(images(), timesteps(0), torch.tensor(4))
        loss.backward()
        gradients.append((loss.detach(), network.weight.grad.clone()))
        network.zero_grad()
    # sums of a convolution, in another order
    for actual, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
