"""Several processes that train one model: who has which rows, what they tell each other, what happens if one is lost.

torchrun starts the processes and says in the environment which one is which. Gradients travel on the device's own
network (NCCL on GPUs, gloo on CPUs); everything else here is a few bytes between CPUs, on gloo.
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


def shares(batch: int, *, rank: int, size: int, micro_batch: int = 0) -> list[range]:
    """The rows of a global batch that one process computes, in the pieces that it computes at once.

    Every process has as many pieces as any other, so that they meet as often; their sizes differ by one row at most.

    Parameters
    ----------
    batch : int
        Rows of the global batch.
    rank, size : int
        Which process, of how many.
    micro_batch : int
        Most rows in a piece; 0 for all of a process' rows in one.

    Returns
    -------
    list of range
        Not empty, and no range is; those of rank 0, 1, ... one after another are 0..batch − 1.

    Raises
    ------
    RunError
        Too few rows for every piece to have one.
    """
    pieces = -(-batch // size // micro_batch) if micro_batch else 1
    if pieces > batch // size:
        given = f"--batch-size {batch} on {size} processes" + (f", --micro-batch {micro_batch}" if micro_batch else "")
        allowed = f"a batch size of at least {size}" if batch < size else f"a batch size that {size} divides"
        raise RunError(f"{given}: some would have no image to work on; choose {allowed}")
    low, high = batch * rank // size, batch * (rank + 1) // size
    cuts = [low + (high - low) * piece // pieces for piece in range(pieces + 1)]
    return [range(*ends) for ends in pairwise(cuts)]


@dataclass(frozen=True)
class World:
    """This process among those that work together; alone by default, and then every method does the obvious.

    Attributes
    ----------
    rank, size : int
        Number of this process, and how many there are.
    mesh : DeviceMesh or None
        What the weights are sharded over (FSDP2); None where every process has all of them (DDP).
    """

    rank: int = 0
    size: int = 1
    mesh: DeviceMesh | None = None

    @property
    def leader(self) -> bool:
        """Whether this is the one process that writes files and speaks."""
        return self.rank == 0

    @property
    def program(self) -> str:
        """What starts as many processes as one likes, or just the one."""
        return "noisestep" if self.size == 1 else "torchrun --nproc-per-node=N -m noisestep.accelerated.cli"

    def pieces(self, batch: int, micro_batch: int = 0) -> list[range]:
        """The rows of a global batch that this process computes; see `shares`."""
        return shares(batch, rank=self.rank, size=self.size, micro_batch=micro_batch)

    # the model

    def shard(self, model: nn.Module) -> None:
        """Leave this process its share of the weights, if they are sharded: each block on its own, then the rest."""
        if self.mesh is None:
            return
        # a second to import, which whoever does not shard need not wait for
        from torch.distributed.fsdp import fully_shard

        for blocks in model.children():
            if isinstance(blocks, nn.ModuleList):
                for block in blocks:
                    fully_shard(block, mesh=self.mesh)
        # by default the outermost part stays whole until backward(), which never comes where samples are drawn
        fully_shard(model, mesh=self.mesh, reshard_after_forward=True)

    def replicate(self, model: nn.Module) -> nn.Module:
        """The model to call in training: one whose backward() leaves the mean gradient of all processes."""
        if self.size == 1 or self.mesh is not None:
            return model
        # channels-last gradients name the stride of an axis of length 1 differently, and DDP warns of it
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        return DistributedDataParallel(model, gradient_as_bucket_view=True)

    def accumulating(self, model: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """For a forward and a backward pass; the gradients stay in this process until the last one of a step."""
        if self.mesh is not None:
            model.set_requires_gradient_sync(last)  # type: ignore[operator]
        return model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext()

    def fill(self, x: Tensor, value: Tensor | None) -> None:
        """Set x, a share or a whole, to a whole tensor that the leader has; the others' value is not looked at."""
        if self.size == 1:
            assert value is not None
            x.copy_(value)
            return
        whole = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        if self.leader:
            assert value is not None
            whole.copy_(value)
        if self._sharded(x):
            from torch.distributed.tensor import distribute_tensor

            x.copy_(distribute_tensor(whole, x.device_mesh, x.placements))
        else:
            dist.broadcast(whole, 0)
            x.copy_(whole)

    def collect(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors, in the leader's memory, not the device's; one after another passes through each device."""
        collected = {}
        for name, x in tensors.items():
            if self._sharded(x):
                x = self.whole(x)
                x = x.cpu() if self.leader else x.new_empty(0)
            collected[name] = x
        return collected

    def local(self, x: Tensor) -> Tensor:
        """The share of a tensor that this process holds; all of it, if it is not sharded."""
        return x.to_local() if self._sharded(x) else x

    def whole(self, x: Tensor) -> Tensor:
        """All of a tensor, to every process."""
        return x.full_tensor() if self._sharded(x) else x

    def _sharded(self, x: Tensor) -> TypeGuard["DTensor"]:
        if self.mesh is None:
            return False
        from torch.distributed.tensor import DTensor

        return isinstance(x, DTensor)

    # what the processes tell each other

    def sum(self, value: float) -> float:
        """The sum of every process' number."""
        return self._reduced(value, dist.ReduceOp.SUM)

    def all(self, flag: bool) -> bool:
        """Whether it is so in every process."""
        return bool(self._reduced(float(flag), dist.ReduceOp.MIN))

    def signal(self, number: int | None) -> int | None:
        """The signal that any process was sent, so that all of them stop after the same step."""
        return int(self._reduced(float(number or 0), dist.ReduceOp.MAX)) or None

    def _reduced(self, value: float, operation: Any) -> float:
        if self.size == 1:
            return value
        x = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(x, operation)
        return x.item()

    def wait(self) -> None:
        """Return when every process has come here."""
        self._reduced(0.0, dist.ReduceOp.MAX)

    def led(self, work: Callable[[], Result]) -> Result:
        """What `work` returns to the leader, who alone does it; a `RunError` of the leader is raised in all."""
        if self.size == 1:
            return work()
        told: list[Any] = [None, None]
        if self.leader:
            try:
                told[0] = work()
            except RunError as error:
                told[1] = error
        dist.broadcast_object_list(told, 0, device=torch.device("cpu"))
        result, refusal = told
        if refusal is not None:
            raise refusal
        return result

    def agree(self, what: str, value: object) -> None:
        """Refuse to go on if `what` is not the same everywhere."""
        if self.size == 1:
            return
        values: list[object] = [None] * self.size
        dist.all_gather_object(values, value)
        other = next((rank for rank, x in enumerate(values) if x != values[0]), None)
        if other is not None:
            raise RunError(f"{what} of rank {other} differs from that of rank 0: {values[other]} and {values[0]}")

    def gather(self, x: Tensor) -> Tensor:
        """To the leader: the rows of all processes, in order of rank, each having as many; to the others: theirs."""
        if self.size == 1:
            return x
        parts = [torch.empty_like(x) for _ in range(self.size)] if self.leader else None
        dist.gather(x.contiguous(), parts)
        return x if parts is None else torch.cat(parts)


ALONE = World()


def torchrun() -> tuple[int, int, int]:
    """Rank, number of processes, and rank within this machine, as torchrun says them; 0, 1, 0 without it."""
    rank, size, here = (int(os.environ.get(name, value)) for name, value in _ENVIRONMENT)
    return rank, size, here


_ENVIRONMENT = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))


@contextmanager
def join(device: torch.device, *, parallel: str = "ddp", timeout: float = 600) -> Iterator[World]:
    """Meet the other processes, if torchrun started any, and part from them at the end.

    Parameters
    ----------
    device : torch.device
        Of this process.
    parallel : {"ddp", "fsdp"}
        Every process with all weights, or each with a share of them (Rajbhandari et al. 2020, stage 3).
    timeout : float
        Seconds that a process waits for the others before it takes them for lost.

    Yields
    ------
    World

    Raises
    ------
    RunError
        Shares of the weights, but no other process.
    LostRank
        Another process ended, or was not heard of for `timeout`.
    """
    rank, size, _ = torchrun()
    if size == 1:
        if parallel == "fsdp":
            raise RunError(
                "--parallel fsdp shares the weights among processes, but there is one; "
                "start several with: torchrun --nproc-per-node=N -m noisestep.accelerated.cli"
            )
        yield ALONE
        return
    gpu = device.type == "cuda"
    if gpu:
        torch.cuda.set_device(device)
    with listening(rank, "start the command again"):
        limit = timedelta(seconds=timeout)
        store, rank, size = next(dist.rendezvous("env://", timeout=limit))
        # torchrun keeps one store over its restarts: without a place of its own, a restarted group would read the
        # addresses of the processes that are gone (pytorch/pytorch issue 135712)
        life = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpu else "gloo",
            timeout=limit,
            store=dist.PrefixStore(f"life {life}", store),
            rank=rank,
            world_size=size,
            device_id=device if gpu else None,
        )
        mesh = init_device_mesh(device.type, (size,)) if parallel == "fsdp" else None
        yield World(rank, size, mesh)
    # not after a failure: who is lost would be waited for
    dist.destroy_process_group()


@contextmanager
def listening(rank: int, advice: str) -> Iterator[None]:
    """Say it in one line, with an advice, where another process did not answer."""
    try:
        yield
    except LostRank:
        raise
    except RuntimeError as error:
        # gloo has no class of its own for its errors, but each names the line of gloo that it is from
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        reason = re.sub(r"^\[\S+\] ", "", str(error).strip().splitlines()[0]).split(". ")[0]
        raise LostRank(f"rank {rank} stops: another process ended or does not answer ({reason}); {advice}") from None
