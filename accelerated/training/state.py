"""What training changes: the network, the average of its weights and the optimizer, to and from a checkpoint."""

import copy
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ..models import UNet
from .checkpoint import Checkpoint
from .config import TrainConfig
from .distributed import ALONE, World


@dataclass
class State:
    """All that training changes: what a checkpoint holds.

    Attributes
    ----------
    model, average : UNet
        The network, and the running average of its weights, which is what samples are drawn from.
    optimizer : AdamW
    step : int
        Optimizer steps made.
    seconds : float
        Time that they took, sample grids and checkpoints apart.
    """

    model: UNet
    average: UNet
    optimizer: torch.optim.AdamW
    step: int = 0
    seconds: float = 0.0

    @classmethod
    def begin(cls, config: TrainConfig, device: torch.device, world: World = ALONE) -> Self:
        """The state before the first step; the weights are drawn on the CPU from `config.seed`, for any device."""
        assert config.model is not None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = UNet(config.model)
        # weights that are to be shared may be too many for one device
        model = model if world.mesh is not None else model.to(device)
        if config.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        average = copy.deepcopy(model).requires_grad_(False).eval()
        world.shard(model)
        world.shard(average)
        optimizer = torch.optim.AdamW(
            model.parameters(),
            betas=(config.beta_1, config.beta_2),
            weight_decay=config.weight_decay,
            fused=True,
        )
        return cls(model, average, optimizer)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state, by the name that it has in a checkpoint."""
        named = {f"model.{name}": x for name, x in self.model.state_dict().items()}
        named |= {f"ema.{name}": x for name, x in self.average.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            named |= {f"optimizer.{key}.{name}": x for key, x in self.optimizer.state[parameter].items()}
        return named

    @torch.no_grad()
    def restore(self, checkpoint: Checkpoint, world: World = ALONE) -> None:
        """Take over a checkpoint, into the memory order that the tensors here have: sums keep their order.

        The leader alone needs the checkpoint's tensors; what the others lack is sent to them.
        """
        for parameter in self.model.parameters():
            self.optimizer.state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(parameter, requires_grad=False),
            }
        tensors = self.tensors()
        world.led(lambda: checkpoint.require(tensors))
        for name, x in tensors.items():
            world.fill(x, checkpoint.tensors.get(name))
        self.step, self.seconds = checkpoint.step, checkpoint.seconds
