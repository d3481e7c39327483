"""What training changes: the network, the average of its weights and the optimizer, to and from a checkpoint."""

import copy
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from .checkpoint import Checkpoint
from .config import TrainConfig
from .errors import CheckpointError
from .models import UNet


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
    def begin(cls, config: TrainConfig, device: torch.device) -> Self:
        """The state before the first step; the weights are drawn on the CPU from `config.seed`, for any device."""
        assert config.model is not None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = UNet(config.model)
        model = model.to(device)
        if config.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(
            model.parameters(),
            betas=(config.beta_1, config.beta_2),
            weight_decay=config.weight_decay,
            fused=True,
        )
        return cls(model, copy.deepcopy(model).requires_grad_(False).eval(), optimizer)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state, by the name that it has in a checkpoint."""
        named = {f"model.{name}": x for name, x in self.model.state_dict().items()}
        named |= {f"ema.{name}": x for name, x in self.average.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            named |= {f"optimizer.{key}.{name}": x for key, x in self.optimizer.state[parameter].items()}
        return named

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over a checkpoint, into the memory order that the tensors here have: sums keep their order."""
        try:
            self.model.load_state_dict(checkpoint.part("model."))
            self.average.load_state_dict(checkpoint.part("ema."))
            for name, parameter in self.model.named_parameters():
                moments = {
                    key: torch.zeros_like(parameter, requires_grad=False).copy_(
                        checkpoint.tensors[f"optimizer.{key}.{name}"]
                    )
                    for key in ("exp_avg", "exp_avg_sq")
                }
                count = checkpoint.tensors[f"optimizer.step.{name}"].to(parameter.device)
                self.optimizer.state[parameter] = {"step": count, **moments}
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"the checkpoint of step {checkpoint.step} does not fit its own model: {str(error).splitlines()[0]}"
            ) from None
        self.step, self.seconds = checkpoint.step, checkpoint.seconds
