"""What every process of `test_distributed.py` does: `torchrun tests/distributed_worker.py FOLDER`.

Imported, it is the same for one process alone.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from noisestep.accelerated.data import load_images
from noisestep.accelerated.training.batches import Batches
from noisestep.accelerated.training.checkpoint import Checkpoint
from noisestep.accelerated.training.config import TrainConfig
from noisestep.accelerated.training.data import DataRecord
from noisestep.accelerated.training.distributed import SINGLE_PROCESS, World, process_group
from noisestep.accelerated.training.loop import Step
from noisestep.accelerated.training.state import State
from noisestep.accelerated.training.trained import TrainedModel
from tiny_run import tiny_config
from torch import Tensor

CPU = torch.device("cpu")
STEPS = 8
# 14 rows leave 4 processes with 3, 4, 3 and 4 of them
SETTINGS: dict[str, Any] = {"batch_size": 14, "dropout": 0.0, "steps": STEPS, "warmup": 2}
# the modes that are tried: weights sharded or not, rows at once
MODES = {"ddp": (False, 0), "ddp-3": (False, 3), "fsdp": (True, 0), "fsdp-3": (True, 3)}


@dataclass
class Outcome:
    """What a process saw, and its results.

    `seen` has the network's inputs x_t, t and label of each step, the rows of this process alone; `losses` the whole
    batch's; `tensors` the state at the end, `images` and `trajectory` five samples, complete on rank 0.
    """

    seen: list[tuple[Tensor, ...]]
    losses: list[float]
    weights: list[Tensor]
    tensors: dict[str, Tensor]
    images: Tensor
    trajectory: Tensor


def begin(world: World, micro_batch: int = 0) -> tuple[TrainConfig, State, Step]:
    """A training run on the digits, before its first step."""
    config = tiny_config(**SETTINGS, micro_batch=micro_batch)
    state = State.begin(config, CPU, world)
    return config, state, Step(config, state, Batches(config, load_images("digits"), 10, CPU), CPU, world)


def trained(world: World = SINGLE_PROCESS, micro_batch: int = 0) -> Outcome:
    """Train a few steps and draw five images."""
    config, state, step = begin(world, micro_batch)
    seen: list[tuple[Tensor, ...]] = []
    state.model.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(x.clone() for x in inputs)))
    losses = [world.sum(step().item()) for _ in range(STEPS)]
    weights = [x.detach().clone() for x in state.model.parameters()] if world.mesh is None else []
    settings = replace(config.sample, count=5, batch_size=2)
    drawn = TrainedModel(state.ema, config, DataRecord("", (1, 8, 8), tuple("0123456789")), CPU, world)
    samples = drawn.sample(settings, labels=drawn.labels(0, 5), trajectory=3)
    return Outcome(
        seen, losses, weights, world.full_tensors_on_rank0(state.tensors()), samples.images, samples.trajectory
    )


def restored(world: World, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint after it was loaded."""
    config, state, _ = begin(world)
    state.restore(Checkpoint(STEPS, 1.0, config, DataRecord("", (1, 8, 8), ()), tensors), world)
    return world.full_tensors_on_rank0(state.tensors())


def outcomes() -> Iterator[tuple[int, str, object]]:
    """Rank, name, and result."""
    with process_group(CPU, parallel="fsdp", timeout=60) as sharded:
        replicated = replace(sharded, mesh=None)
        for name, (shard, micro_batch) in MODES.items():
            outcome = trained(sharded if shard else replicated, micro_batch)
            yield sharded.rank, name, outcome
        whole = outcome.tensors if sharded.is_rank0 else {}
        yield sharded.rank, "restored", {"whole": whole, "here": restored(sharded, whole)}


if __name__ == "__main__":
    # under this name, as the test knows it
    import distributed_worker

    for rank, name, outcome in distributed_worker.outcomes():
        torch.save(outcome, Path(sys.argv[1]) / f"{name}-{rank}.pt")
