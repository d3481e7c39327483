"""New images from a trained network: the loop from x_T to x_0, every number of its noise from an address."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from noisestep.reference.prediction import Prediction
from noisestep.reference.schedule import Schedule
from torch import Tensor, nn

from ..address import INITIAL, REVERSE, NoiseAddress
from ..ops import advance, noise, reverse_step
from ..schedule import DeviceSchedule


@dataclass(frozen=True, eq=False)
class Samples:
    """What `sample` returns, on the CPU.

    Attributes
    ----------
    images : Tensor
        float32 (count, C, H, W), about in [−1, 1].
    labels : Tensor or None
        int64 (count,), the class that each image was asked to be.
    trajectory : Tensor
        float32 (n + 1, k, C, H, W): x_T first, x_0 last, of the first k images, as many as were asked for.
    """

    images: Tensor
    labels: Tensor | None
    trajectory: Tensor


@torch.inference_mode()
def sample(
    model: nn.Module,
    schedule: Schedule,
    *,
    count: int,
    shape: tuple[int, int, int],
    seed: int = 0,
    first: int = 0,
    labels: Tensor | None = None,
    steps: int | None = None,
    sampler: str = "ddim",
    eta: float = 0.0,
    variance: Literal["posterior", "beta", "zero"] = "posterior",
    prediction: Prediction = "eps",
    clip: bool = True,
    guidance: float = 1.0,
    temperature: float = 1.0,
    null_label: int | None = None,
    batch_size: int = 100,
    trajectory: int = 0,
    device: str | torch.device = "cpu",
    cuda_graph: bool = False,
    progress: Callable[[int], object] = lambda images: None,
) -> Samples:
    """x_0 ~ p_θ, from x_T ~ N(0, I) by reverse steps (Ho et al. 2020, algorithm 2; Song et al. 2021, eq. 12).

    Image k of a seed has the noise of address (seed, INITIAL, 0, k) and (seed, REVERSE, t, k), t counted in the
    original chain: it is the same image alone, in any batch, on any machine, up to the rounding of the network.

    Parameters
    ----------
    model : Module
        `model(x, t, label)`, or `model(x, t)` where there are no labels; in evaluation mode.
    schedule : Schedule
        The chain that the model was trained on.
    count, first : int
        Images first, first + 1, ..., first + count − 1 of the seed.
    shape : (C, H, W)
        Of one image.
    seed : int
        In [0, 2^64).
    labels : Tensor, optional
        int64 (count,); the class of each image.
    steps : int, optional
        Steps of the respaced chain, 1..T; all T by default.
    sampler : {"ddim", "ddpm"}
        DDIM with `eta`, or the ancestral update with `variance`.
    eta : float
        DDIM's, 0..1.
    variance : {"posterior", "beta", "zero"}
        DDPM's.
    prediction : {"eps", "x_0", "v"}
        What the model predicts.
    clip : bool
        Keep the predicted x_0 in [−1, 1] at every step.
    guidance : float
        Weight of classifier-free guidance (Ho & Salimans 2022); other than 1 it runs the model with and without
        the labels, and needs `labels` and `null_label`.
    temperature : float
        What x_T and all fresh noise are multiplied by. A little above 1 it gives back the variety that few steps of
        DDIM lose.
    null_label : int, optional
        The label that says "no label".
    batch_size : int
        Images drawn together; a matter of speed and memory alone.
    trajectory : int
        Of how many of the first images every x_t is kept.
    device : str or torch.device
        Where the model is.
    cuda_graph : bool
        On a GPU, capture a step once for each size of batch and replay it: nothing of a step is left to the host. The
        model has to allow it (no value read back, no shape that depends on one).
    progress : function of int
        Told how many images are done, after each batch.

    Returns
    -------
    Samples

    Raises
    ------
    ValueError
        A sampler of another name, labels of another shape, guidance without what it needs, a graph on a device that
        has none, and what the schedule and the ops refuse.
    """
    if sampler not in ("ddim", "ddpm"):
        raise ValueError(f"sampler is {sampler!r}; allowed: ddim, ddpm")
    if labels is not None and labels.shape != (count,):
        raise ValueError(f"labels have shape {tuple(labels.shape)}; {count} images need ({count},)")
    unguided = guidance == 1.0
    if not unguided and (labels is None or null_label is None):
        raise ValueError(f"guidance is {guidance:g}; it needs labels, and a model trained with label dropout")
    if cuda_graph and torch.device(device).type != "cuda":
        raise ValueError(f"cuda_graph=True needs a GPU, and the device is {device}")
    chain = DeviceSchedule(schedule if steps is None else schedule.respace(steps), device)
    update = dict(
        prediction=prediction,
        clip=(-1.0, 1.0) if clip else None,
        variance=variance,
        eta=eta if sampler == "ddim" else None,
        guidance=None if unguided else guidance,
        temperature=temperature,
    )
    network = model if null_label is None or unguided else _guided(model, null_label)
    images, histories = [], []
    walk: Walk | None = None
    for start in range(0, count, batch_size):
        batch, number = min(batch_size, count - start), first + start
        label = None if labels is None else labels[start : start + batch].to(device)
        x_T = temperature * noise(NoiseAddress(seed, INITIAL, 0, number), (batch, *shape), device=device)
        if walk is None or len(walk.x) != batch:
            walk = Walk(network, chain, x_T, label, seed=seed, update=update)
            if cuda_graph:
                walk.capture()
        walk.begin(x_T, label, number)
        watched = max(0, min(trajectory - start, batch))
        # left on the device until the last step: to copy is to wait
        history = [x_T[:watched]]
        for _ in range(chain.T):
            walk.step()
            history.append(walk.x[:watched].clone())
        images.append(walk.x.to("cpu", copy=True))
        histories.append(torch.stack(history).cpu())
        progress(start + batch)
    return Samples(torch.cat(images), labels, torch.cat(histories, dim=1))


class Walk:
    """A batch on its way from x_T to x_0; a step takes nothing from the host, so that a CUDA graph can be made of it.

    Parameters
    ----------
    network : function
        `network(x, t, label)`.
    chain : DeviceSchedule
        T steps on the device of the batch.
    x_T : Tensor, shape (B, C, H, W)
        A batch like those that are walked.
    label : Tensor of int64, shape (B,), or None
    seed : int
        Of the noise; an image's number is its sample, the original timestep its step.
    update : dict
        Options of `noisestep.accelerated.ops.reverse_step`.

    Attributes
    ----------
    x : Tensor, shape (B, C, H, W)
        x_t, always in the same memory.
    t : Tensor of int64, shape ()
        Where the batch is; T steps lead to 0.
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        chain: DeviceSchedule,
        x_T: Tensor,
        label: Tensor | None,
        *,
        seed: int,
        update: dict[str, Any],
    ) -> None:
        self._network, self._chain, self._seed, self._update = network, chain, seed, update
        self.x = torch.empty_like(x_T)
        self.t = torch.zeros((), dtype=torch.int64, device=x_T.device)
        self._label = None if label is None else torch.empty_like(label)
        self._count = torch.arange(len(x_T), device=x_T.device)
        self._numbers = torch.empty_like(self._count)
        self.begin(x_T, label, 0)

    def begin(self, x_T: Tensor, label: Tensor | None, first: int) -> None:
        """Go to the start with a batch of images first, first + 1, ..."""
        self.x.copy_(x_T)
        if self._label is not None and label is not None:
            self._label.copy_(label)
        self._numbers.copy_(self._count + first)
        self.t.fill_(self._chain.T)

    def step(self) -> None:
        """x_t becomes x_{t-1}, and t is t − 1."""
        # a gather: to index with a tensor of no axes would read it back
        told = self._chain.timesteps.gather(0, self.t[None])
        output = self._network(self.x, told.expand(len(self.x)), self._label)
        place = NoiseAddress(self._seed, REVERSE, told, self._numbers)
        reverse_step(self._chain, self.x, output, self.t, place, in_place=True, **self._update)
        advance(self.t, -1)

    def capture(self) -> None:
        """Put a CUDA graph of it in the place of `step`."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            # what is compiled, tuned or allocated at first is not for the graph
            for _ in range(2):
                self.step()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        self.step = graph.replay  # type: ignore[method-assign]


def _guided(model: nn.Module, null_label: int) -> Callable[..., Tensor]:
    """The network run without and with the labels, in one batch of twice the size."""

    def both(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        without = torch.full_like(label, null_label)
        output: Tensor = model(torch.cat([x, x]), torch.cat([t, t]), torch.cat([without, label]))
        return output  # (2B, C, H, W)

    return both
