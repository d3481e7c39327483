"""advance: a counter moves on, and a chain that steps itself is the chain that the host steps."""

import pytest
import torch
from interpreter import assert_same_bits, kernels, on_device
from noisestep.accelerated.address import REVERSE, NoiseAddress
from noisestep.accelerated.ops import advance, reverse_step
from op_cases import compiled, device_schedule

D = device_schedule("cosine", 50)


def test_it_counts_where_the_counter_is():
    counter = torch.tensor(3)
    assert advance(counter) is counter
    assert counter == 4


@pytest.mark.parametrize("path", ["torch", "kernel"])
def test_a_chain_steps_itself(path):
    schedule = on_device(D) if path == "kernel" else D

    def step(x, t):
        # what a graph would capture: nothing in it changes but what lies in tensors. The network's bits are the same on
        # every device
        reverse_step(schedule, x, 0.5 * x, t, NoiseAddress(3, REVERSE, t), clip=(-1, 1), in_place=True)
        advance(t, -1)

    x, t = torch.randn(2, 3, 5), torch.tensor(9)
    expected = x.clone()
    for host_t in range(9, 0, -1):
        expected = reverse_step(D, expected, 0.5 * expected, host_t, NoiseAddress(3, REVERSE, host_t), clip=(-1, 1))
    if path == "kernel":
        with kernels():
            x, t = on_device(x), on_device(t)
            for _ in range(9):
                step(x, t)
    else:
        one_graph = compiled(step)
        for _ in range(9):
            one_graph(x, t)
    assert t == 0
    assert_same_bits(actual=x.cpu(), expected=expected)
