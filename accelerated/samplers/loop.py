"""New images from a trained network: the loop from x_T to x_0, every number of its noise from an address."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from noisestep.reference._arguments import integer
from noisestep.reference.prediction import Prediction
from noisestep.reference.schedule import Schedule
from torch import Tensor, nn

from ..address import INITIAL, REVERSE, NoiseAddress
from ..ops import advance, noise, reverse_step
from ..schedule import DeviceSchedule
from . import SAMPLERS, Sampler


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
    **settings: Any,
) -> Samples:
    """x_0 ~ p_θ, from x_T ~ N(0, I) by the steps of a sampler.

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
    sampler : str
        A name in `noisestep.accelerated.samplers.SAMPLERS`.
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
    **settings
        What the sampler takes besides: `eta` of ddim, in [0, 1]; `variance` of ddpm, "posterior", "beta" or "zero".

    Returns
    -------
    Samples

    Raises
    ------
    TypeError, ValueError
        A number that is no integer or out of range, a sampler of another name, a setting that means nothing to it,
        labels of another shape, guidance without what it needs, a graph on a device that has none, and what the
        schedule and the ops refuse.
    """
    count, first = integer("count", count, 1), integer("first", first, 0)
    batch_size, trajectory = integer("batch_size", batch_size, 1), integer("trajectory", trajectory, 0)
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler is {sampler!r}; allowed: {', '.join(SAMPLERS)}")
    method = SAMPLERS[sampler]
    settings = method.with_defaults(settings)
    if labels is not None and labels.shape != (count,):
        raise ValueError(f"labels have shape {tuple(labels.shape)}; {count} images need ({count},)")
    unguided = guidance == 1.0
    if not unguided and (labels is None or null_label is None):
        raise ValueError(f"guidance is {guidance:g}; it needs labels, and a model trained with label dropout")
    if cuda_graph and torch.device(device).type != "cuda":
        raise ValueError(f"cuda_graph=True needs a GPU, and the device is {device}")
    tables = DeviceSchedule(schedule if steps is None else schedule.respace(steps), device)
    options = dict(
        prediction=prediction,
        clip=(-1.0, 1.0) if clip else None,
        guidance=None if unguided else guidance,
        temperature=temperature,
    )
    network = model if null_label is None or unguided else _guided(model, null_label)
    images, histories = [], []
    chain: Chain | None = None
    for start in range(0, count, batch_size):
        batch, number = min(batch_size, count - start), first + start
        label = None if labels is None else labels[start : start + batch].to(device)
        x_T = temperature * noise(NoiseAddress(seed, INITIAL, 0, number), (batch, *shape), device=device)
        if chain is None or len(chain.x) != batch:
            chain = Chain(method, settings, network, tables, x_T, label, seed=seed, options=options)
            if cuda_graph:
                chain.capture()
        chain.begin(x_T, label, number)
        watched = max(0, min(trajectory - start, batch))
        # left on the device until the last step: to copy is to wait
        history = [x_T[:watched]]
        for _ in range(tables.T):
            chain.step()
            history.append(chain.x[:watched].clone())
        images.append(chain.x.to("cpu", copy=True))
        histories.append(torch.stack(history).cpu())
        progress(start + batch)
    return Samples(torch.cat(images), labels, torch.cat(histories, dim=1))


class Chain:
    """A batch between x_T and x_0; a step takes nothing from the host, so that CUDA graphs can be made of it.

    Parameters
    ----------
    sampler : Sampler
    settings : dict
        Of the sampler.
    network : function
        `network(x, t, label)`.
    schedule : DeviceSchedule
        T steps on the device of the batch.
    x_T : Tensor, shape (B, C, H, W)
        A batch like those that are drawn.
    label : Tensor of int64, shape (B,), or None
    seed : int
        Of the noise; an image's number is its sample, the original timestep its step.
    options : dict
        Options of `noisestep.accelerated.ops.reverse_step` that hold for every sampler.

    Attributes
    ----------
    x : Tensor, shape (B, C, H, W)
        x_t, always in the same memory.
    t : Tensor of int64, shape ()
        Where the batch is; T steps lead to 0.
    memory : list of Tensor, each of shape (B, C, H, W)
        What the sampler keeps.
    settings : dict
    """

    def __init__(
        self,
        sampler: Sampler,
        settings: dict[str, Any],
        network: Callable[..., Tensor],
        schedule: DeviceSchedule,
        x_T: Tensor,
        label: Tensor | None,
        *,
        seed: int,
        options: dict[str, Any],
    ) -> None:
        self.settings = settings
        self._sampler, self._network, self._schedule, self._seed = sampler, network, schedule, seed
        self._options = options
        self._weights: Tensor | None = None
        if sampler.weights is not None:
            self._weights = torch.from_numpy(sampler.weights(schedule.schedule)).to(x_T)
        self.x = torch.empty_like(x_T)
        self.t = torch.zeros((), dtype=torch.int64, device=x_T.device)
        self.memory = [torch.empty_like(x_T) for _ in range(sampler.memory)]
        self._label = None if label is None else torch.empty_like(label)
        self._count = torch.arange(len(x_T), device=x_T.device)
        self._numbers = torch.empty_like(self._count)
        self._graphs: list[torch.cuda.CUDAGraph] = []
        self.begin(x_T, label, 0)

    def begin(self, x_T: Tensor, label: Tensor | None, first: int) -> None:
        """Go to the start with a batch of images first, first + 1, ..."""
        self.x.copy_(x_T)
        if self._label is not None and label is not None:
            self._label.copy_(label)
        self._numbers.copy_(self._count + first)
        self.t.fill_(self._schedule.T)
        for tensor in self.memory:
            tensor.zero_()
        # t as the host counts it, which decides whether there is a step to correct
        self._left = self._schedule.T

    def step(self) -> None:
        """x_t becomes x_{t-1}, and t is t − 1."""
        self._run(0)
        self._left -= 1
        if self._sampler.correct is not None and self._left > 0:
            self._run(1)

    def capture(self) -> None:
        """Put CUDA graphs in the place of what a step computes: one, or two where the sampler corrects."""
        calls = [self._predict] if self._sampler.correct is None else [self._predict, self._correct]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            # what is compiled, tuned or allocated at first is not for the graph
            for _ in range(2):
                self.t.fill_(self._schedule.T)
                for call in calls:
                    call()
        torch.cuda.current_stream().wait_stream(aside)
        graphs = []
        for call in calls:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                call()
            graphs.append(graph)
        self._graphs = graphs

    def reverse_step(self, **options: Any) -> Any:
        """The op `noisestep.accelerated.ops.reverse_step` at `x` and `t`, with a call of the network."""
        # a gather: to index with a tensor of no axes would read it back
        model_t = self._schedule.timesteps.gather(0, self.t[None])
        output = self._network(self.x, model_t.expand(len(self.x)), self._label)
        address = NoiseAddress(self._seed, REVERSE, model_t, self._numbers)
        return reverse_step(self._schedule, self.x, output, self.t, address, **self._options, **options)

    def weight(self) -> Tensor:
        """The number at t of the sampler's `weights`, shape (1,)."""
        assert self._weights is not None
        return self._weights.gather(0, self.t[None])

    def _run(self, i: int) -> None:
        if self._graphs:
            self._graphs[i].replay()
        else:
            (self._predict, self._correct)[i]()

    def _predict(self) -> None:
        self._sampler.predict(self)
        advance(self.t, -1)

    def _correct(self) -> None:
        assert self._sampler.correct is not None
        self._sampler.correct(self)


def _guided(model: nn.Module, null_label: int) -> Callable[..., Tensor]:
    """The network run without and with the labels, in one batch of twice the size."""

    def both(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        without = torch.full_like(label, null_label)
        output: Tensor = model(torch.cat([x, x]), torch.cat([t, t]), torch.cat([without, label]))
        return output  # (2B, C, H, W)

    return both
