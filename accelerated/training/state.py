"""The state of a training run: network, EMA and optimizer, to and from a checkpoint."""

import copy
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ..models import UNet
from .checkpoint import Checkpoint
from .config import TrainConfig
from .distributed import SINGLE_PROCESS, World


@dataclass
class State:
    """Everything that training changes, and that a checkpoint holds.

    Attributes
    ----------
    model, ema : UNet
        The network, and the EMA of its weights, from which samples are drawn.
    optimizer : AdamW
    step : int
        Optimizer steps made.
    seconds : float
        Time that they took, without sample grids and checkpoints.
    whole : bool
        Whether all tensors are of the same step; not so while the optimizer and the EMA make the next one.
    """

    model: UNet
    ema: UNet
    optimizer: torch.optim.AdamW
    step: int = 0
    seconds: float = 0.0
    whole: bool = True

    @classmethod
    def begin(cls, config: TrainConfig, device: torch.device, world: World = SINGLE_PROCESS) -> Self:
        """The state before the first step; the weights are drawn on the CPU, and so are the same on any device."""
        assert config.model is not None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = UNet(config.model)
        # weights that will be sharded may not fit on one device
        model = model if world.mesh is not None else model.to(device)
        if config.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        ema = copy.deepcopy(model).requires_grad_(False).eval()
        world.shard(model)
        world.shard(ema)
        optimizer = torch.optim.AdamW(
            model.parameters(),
            betas=(config.adam_beta1, config.adam_beta2),
            weight_decay=config.weight_decay,
            fused=True,
            capturable=config.cuda_graph,
        )
        # as AdamW makes them in its first step, where a captured graph would make them again at each replay
        for parameter in model.parameters():
            optimizer.state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(parameter, requires_grad=False),
            }
        return cls(model, ema, optimizer)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state, by its name in a checkpoint."""
        named = {f"model.{name}": x for name, x in self.model.state_dict().items()}
        named |= {f"ema.{name}": x for name, x in self.ema.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            named |= {f"optimizer.{key}.{name}": x for key, x in self.optimizer.state[parameter].items()}
        return named

    @torch.no_grad()
    def restore(self, checkpoint: Checkpoint, world: World = SINGLE_PROCESS) -> None:
        """Load a checkpoint; only rank 0 needs its tensors.

        The tensors here keep their memory format, so that sums over them keep their order.
        """
        load_tensors(checkpoint, self.tensors(), world)
        self.step, self.seconds = checkpoint.step, checkpoint.seconds


def load_tensors(checkpoint: Checkpoint, tensors: dict[str, Tensor], world: World) -> None:
    """Copy a checkpoint's tensors into `tensors` of the same names, which may be sharded; rank 0 has the checkpoint's.

    Raises
    ------
    CheckpointError
        In every process, if a tensor is missing or has another shape.
    """
    world.on_rank0(lambda: checkpoint.require(tensors))
    for name, x in tensors.items():
        world.copy_from_rank0(x, checkpoint.tensors.get(name))
