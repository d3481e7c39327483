"""What docs/beside.md says of other sources of random numbers, as far as it can be seen on a CPU."""

import numpy as np
import pytest
import torch
from noisestep.accelerated import NoiseAddress, noise

from benchmarks import beside


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_the_address_gives_a_sample_the_same_numbers_in_every_batch_and_shard() -> None:
    whole = noise(NoiseAddress(seed=0, stream=0, step=5), (8, 3, 7))
    for first, count in ((0, 1), (3, 5), (7, 1)):
        numbers = torch.arange(first, first + count)
        part = noise(NoiseAddress(seed=0, stream=0, step=5, sample=numbers), (count, 3, 7))
        assert torch.equal(part, whole[first : first + count])


def test_pytorchs_generator_gives_the_first_sample_other_numbers_in_a_larger_batch() -> None:
    assert not torch.equal(randn(1, 8)[0], randn(2, 8)[0])


def test_pytorchs_keys_are_experimental_and_not_for_cpus() -> None:
    keys = pytest.importorskip("torch.func._random", reason="this PyTorch has no keys")
    assert "experimental and subject to change" in keys.__doc__
    assert keys.key(3).tolist() == [3, 0]
    if torch.__version__.startswith("2.13."):
        with pytest.raises(NotImplementedError):
            keys.normal(keys.key(3), (4,))


def test_jaxs_numbers_do_not_depend_on_the_size_and_its_keys_have_64_bits() -> None:
    jax = pytest.importorskip("jax", reason="compared where JAX is installed")
    key = jax.random.key(0)
    np.testing.assert_array_equal(jax.random.normal(key, (8,)), jax.random.normal(key, (1000,))[:8])
    data = jax.random.key_data(key)
    assert (data.size, data.dtype.itemsize) == (2, 4)


def test_what_is_timed_is_as_long_as_the_page_says() -> None:
    calls = beside.providers()
    assert {torch.as_tensor(np.asarray(call())).numel() for call in calls.values()} == {beside.COUNT}
    assert all(spent > 0 for spent in beside.nanoseconds(calls, turns=1).values())
