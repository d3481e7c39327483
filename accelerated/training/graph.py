"""The optimizer step in a CUDA graph: captured once, and replayed with one launch."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import RunError
from .config import TrainConfig
from .distributed import World
from .state import State

# what PyTorch's own wrapper runs before it captures (torch.cuda.make_graphed_callables)
_WARM_UP = 3


def require_cuda_graph(config: TrainConfig, device: torch.device, world: World) -> None:
    """Refuse `cuda_graph` where a step cannot be captured.

    Raises
    ------
    RunError
        The device is no GPU, or several processes share a step.
    """
    if not config.cuda_graph:
        return
    if device.type != "cuda":
        raise RunError(f"--cuda-graph needs a GPU, but the device is {device}; choose --no-cuda-graph or --device cuda")
    if world.size > 1:
        raise RunError(
            f"--cuda-graph captures the step of one process, but there are {world.size}; choose --no-cuda-graph"
        )


class StepGraph:
    """A captured step: x_t, network, loss, gradient and AdamW. The batch comes from outside, and the EMA follows it.

    A graph repeats its kernels with the same arguments. All that differs from step to step is therefore in tensors that
    stay where they are: the batch, the number of the step, from which the kernels make timesteps and noise, and the
    learning rate. A replay reads the seed of PyTorch's CUDA generator, which the caller sets before it: dropout's masks
    are those of an eager step with this seed.

    A replayed step makes the same bits as an eager one where PyTorch's own kernels do: batch, timesteps, noise, masks,
    loss, learning rate and EMA always, and the weights where cuDNN and attention add up in one order
    (`torch.use_deterministic_algorithms`). A run that is resumed captures its step anew, and goes on as exactly.

    Parameters
    ----------
    update : function of (images, labels or None, step)
        Makes a step from these tensors, and returns the loss. It must change nothing but the tensors of `state` and the
        gradients, and not wait for the device.
    state : State
        Not changed by the capture. Its optimizer takes the learning rate from the graph's tensor afterwards.
    images : Tensor
    labels : Tensor or None
        A batch; those of later steps have its shape.
    """

    def __init__(
        self,
        update: Callable[[Tensor, Tensor | None, Tensor], Tensor],
        state: State,
        images: Tensor,
        labels: Tensor | None,
    ) -> None:
        device = images.device
        self._images, self._labels = images.clone(), None if labels is None else labels.clone()
        self._step = torch.zeros((), dtype=torch.int64, device=device)
        self._learning_rate = torch.zeros((), device=device)
        for group in state.optimizer.param_groups:
            group["lr"] = self._learning_rate

        def work() -> Tensor:
            return update(self._images, self._labels, self._step)

        tensors = list(state.tensors().values())
        before = [x.clone() for x in tensors]
        with torch.cuda.device(device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream), warnings.catch_warnings():
                # the optimizer warns of steps outside of a capture
                warnings.filterwarnings("ignore", message="This instance was constructed with capturable=True")
                for _ in range(_WARM_UP):
                    work()
            torch.cuda.current_stream().wait_stream(stream)
            torch._foreach_copy_(tensors, before)
            self._graph = torch.cuda.CUDAGraph()
            # a thread that pins streamed images may call CUDA meanwhile
            with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
                self._loss = work()

    def __call__(self, images: Tensor, labels: Tensor | None, step: int, learning_rate: float) -> Tensor:
        """Make a step, and return its loss in a tensor of its own."""
        self._images.copy_(images)
        if self._labels is not None:
            assert labels is not None
            self._labels.copy_(labels)
        self._step.fill_(step)
        self._learning_rate.fill_(learning_rate)
        self._graph.replay()
        return self._loss.clone()
