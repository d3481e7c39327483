"""Data-parallel processes: the rows of each, collective operations, and errors when a process is lost.

torchrun starts the processes and sets RANK, WORLD_SIZE and LOCAL_RANK. Gradients use NCCL on GPUs and gloo on CPUs;
everything else here is a few bytes between CPUs, on gloo.
"""

import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from ..errors import LostRank, RunError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

Result = TypeVar("Result")


def micro_batch_rows(batch_size: int, *, rank: int, size: int, micro_batch: int = 0) -> list[range]:
    """The rows of a global batch that one process computes, one range per micro-batch.

    All processes have the same number of micro-batches, as they synchronise in each; their sizes differ by at most one
    row.

    Parameters
    ----------
    batch_size : int
        Rows of the global batch.
    rank, size : int
        Which process, of how many.
    micro_batch : int
        Maximum number of rows in a micro-batch; 0 for one micro-batch per process.

    Returns
    -------
    list of range
        Not empty, and no range is; those of rank 0, 1, ... one after another are 0..batch_size − 1.

    Raises
    ------
    RunError
        A micro-batch would be empty.
    """
    count = -(-batch_size // size // micro_batch) if micro_batch else 1
    if count > batch_size // size:
        given = f"--batch-size {batch_size} on {size} processes"
        given += f", --micro-batch {micro_batch}" if micro_batch else ""
        allowed = f"a batch size of at least {size}" if batch_size < size else f"a batch size that {size} divides"
        raise RunError(f"{given}: some would have no image to work on; choose {allowed}")
    low, high = batch_size * rank // size, batch_size * (rank + 1) // size
    cuts = [low + (high - low) * number // count for number in range(count + 1)]
    return [range(*ends) for ends in pairwise(cuts)]


@dataclass(frozen=True)
class World:
    """The process group as seen from this rank; with one process every method is a no-op.

    Attributes
    ----------
    rank, size : int
        Rank of this process, and number of processes.
    mesh : DeviceMesh or None
        The devices over which weights are sharded (FSDP2); None if every process has all of them (DDP).
    """

    rank: int = 0
    size: int = 1
    mesh: DeviceMesh | None = None

    @property
    def is_rank0(self) -> bool:
        """Whether this is rank 0, which writes files and prints."""
        return self.rank == 0

    def micro_batches(self, batch_size: int, micro_batch: int = 0) -> list[range]:
        """The rows of a global batch that this process computes; see `micro_batch_rows`."""
        return micro_batch_rows(batch_size, rank=self.rank, size=self.size, micro_batch=micro_batch)

    # the model

    def shard(self, model: nn.Module) -> None:
        """Shard the weights in place, if there is a mesh: each block is a unit, and the rest is one."""
        if self.mesh is None:
            return
        # a second to import, which only sharding needs
        from torch.distributed.fsdp import fully_shard

        for blocks in model.children():
            if isinstance(blocks, nn.ModuleList):
                for block in blocks:
                    fully_shard(block, mesh=self.mesh)
        # by default the root unit stays gathered until backward(), which sampling never calls
        fully_shard(model, mesh=self.mesh, reshard_after_forward=True)

    def replicate(self, model: nn.Module) -> nn.Module:
        """The model to train with: its backward() averages the gradients over all processes."""
        if self.size == 1 or self.mesh is not None:
            return model
        # channels-last gradients may have another stride for an axis of length 1, of which DDP warns
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        return DistributedDataParallel(model, gradient_as_bucket_view=True)

    def gradient_sync(self, model: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """The context of one micro-batch: gradients are synchronised in the last one of a step only."""
        if self.mesh is not None:
            model.set_requires_gradient_sync(last)  # type: ignore[operator]
        return model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext()

    def copy_from_rank0(self, x: Tensor, value: Tensor | None) -> None:
        """Set x, sharded or not, to the full tensor `value` of rank 0; that of other ranks is ignored."""
        if self.size == 1:
            assert value is not None
            x.copy_(value)
            return
        full = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        if self.is_rank0:
            assert value is not None
            full.copy_(value)
        if self._sharded(x):
            from torch.distributed.tensor import distribute_tensor

            x.copy_(distribute_tensor(full, x.device_mesh, x.placements))
        else:
            dist.broadcast(full, 0)
            x.copy_(full)

    def full_tensors_on_rank0(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Full tensors, on rank 0's CPU where they were sharded; other ranks get empty ones in their place.

        One tensor at a time is gathered on the devices.
        """
        gathered = {}
        for name, x in tensors.items():
            if self._sharded(x):
                x = self.full_tensor(x)
                x = x.cpu() if self.is_rank0 else x.new_empty(0)
            gathered[name] = x
        return gathered

    def local_tensor(self, x: Tensor) -> Tensor:
        """The shard of this process, or x itself if it is not sharded."""
        return x.to_local() if self._sharded(x) else x

    def full_tensor(self, x: Tensor) -> Tensor:
        """The full tensor, in every process."""
        return x.full_tensor() if self._sharded(x) else x

    def _sharded(self, x: Tensor) -> TypeGuard["DTensor"]:
        if self.mesh is None:
            return False
        from torch.distributed.tensor import DTensor

        return isinstance(x, DTensor)

    # collective operations

    def sum(self, value: float) -> float:
        """The sum over all processes."""
        return self._reduced(value, dist.ReduceOp.SUM)

    def all(self, flag: bool) -> bool:
        """Whether `flag` is true in all processes."""
        return bool(self._reduced(float(flag), dist.ReduceOp.MIN))

    def signal(self, number: int | None) -> int | None:
        """The signal that any process received, so that all stop after the same step."""
        return int(self._reduced(float(number or 0), dist.ReduceOp.MAX)) or None

    def _reduced(self, value: float, operation: Any) -> float:
        if self.size == 1:
            return value
        x = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(x, operation)
        return x.item()

    def on_rank0(self, work: Callable[[], Result]) -> Result:
        """Call `work` on rank 0 and return its result in all processes; a `RunError` or `OSError` is raised in all."""
        if self.size == 1:
            return work()
        outcome: list[Any] = [None, None]
        if self.is_rank0:
            try:
                outcome[0] = work()
            except (RunError, OSError) as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome, 0, device=torch.device("cpu"))
        result, refusal = outcome
        if refusal is not None:
            raise refusal
        return result

    def require_equal(self, name: str, value: object) -> None:
        """Raise `RunError` in all processes if the value called `name` is not the same in all."""
        if self.size == 1:
            return
        values: list[object] = [None] * self.size
        dist.all_gather_object(values, value)
        other = next((rank for rank, x in enumerate(values) if x != values[0]), None)
        if other is not None:
            raise RunError(f"{name} of rank {other} differs from that of rank 0: {values[other]} and {values[0]}")

    def gather(self, x: Tensor) -> Tensor:
        """On rank 0 the rows of all processes, in order of rank; elsewhere x. All have the same shape."""
        if self.size == 1:
            return x
        parts = [torch.empty_like(x) for _ in range(self.size)] if self.is_rank0 else None
        dist.gather(x.contiguous(), parts)
        return x if parts is None else torch.cat(parts)


SINGLE_PROCESS = World()


def torchrun() -> tuple[int, int, int]:
    """Rank, number of processes, and rank on this machine, as torchrun sets them; 0, 1, 0 without it."""
    rank, size, local_rank = (int(os.environ.get(name, value)) for name, value in _ENVIRONMENT)
    return rank, size, local_rank


_ENVIRONMENT = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))


@contextmanager
def process_group(device: torch.device, *, parallel: str = "ddp", timeout: float = 600) -> Iterator[World]:
    """Join the process group that torchrun started, if any, and leave it at the end.

    Parameters
    ----------
    device : torch.device
        Of this process.
    parallel : {"ddp", "fsdp"}
        Replicated or sharded weights (ZeRO stage 3, Rajbhandari et al. 2020).
    timeout : float
        Seconds without an answer after which another process counts as lost.

    Yields
    ------
    World

    Raises
    ------
    RunError
        "fsdp" with one process.
    LostRank
        Another process ended, or did not answer within `timeout`.
    """
    rank, size, _ = torchrun()
    if size == 1:
        if parallel == "fsdp":
            raise RunError(
                "--parallel fsdp shards the weights over processes, but there is one; "
                "start several with: torchrun --nproc-per-node=N -m noisestep.accelerated.cli"
            )
        yield SINGLE_PROCESS
        return
    gpu = device.type == "cuda"
    if gpu:
        torch.cuda.set_device(device)
    with lost_rank_errors(rank, "start the command again"):
        limit = timedelta(seconds=timeout)
        store, rank, size = next(dist.rendezvous("env://", timeout=limit))
        # torchrun keeps one store over its restarts: without a prefix of its own, a restarted group would read the
        # addresses of the processes that ended (pytorch/pytorch issue 135712)
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpu else "gloo",
            timeout=limit,
            store=dist.PrefixStore(f"restart {restart}", store),
            rank=rank,
            world_size=size,
            device_id=device if gpu else None,
        )
        mesh = init_device_mesh(device.type, (size,)) if parallel == "fsdp" else None
        yield World(rank, size, mesh)
    # not after a failure, as it would wait for the lost process
    dist.destroy_process_group()


@contextmanager
def lost_rank_errors(rank: int, advice: str) -> Iterator[None]:
    """Turn the error of a collective operation into a `LostRank` of one line, which ends with `advice`."""
    try:
        yield
    except LostRank:
        raise
    except RuntimeError as error:
        # gloo's errors have no class of their own, but each names a source file of gloo
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        reason = re.sub(r"^\[\S+\] ", "", str(error).strip().splitlines()[0]).split(". ")[0]
        raise LostRank(f"rank {rank} stops: another process ended or does not answer ({reason}); {advice}") from None
