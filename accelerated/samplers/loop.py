"""New images from a trained network: the loop from x_T to x_0, every number of its noise from an address."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from noisestep.reference._arguments import integer
from noisestep.reference.prediction import Prediction
from noisestep.reference.schedule import Schedule
from torch import Tensor, nn

from ..address import INITIAL, REVERSE, NoiseAddress
from ..ops import advance, multistep, noise, reverse_step
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
    grid: str = "uniform",
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
    grid : str
        Which steps of the chain they are: a name in `noisestep.reference.GRIDS`.
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
        What the sampler takes besides: `eta` of ddim and dpmpp_2m_sde, in [0, 1]; `variance` of ddpm, "posterior",
        "beta" or "zero".

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
    tables = DeviceSchedule(schedule if steps is None else schedule.respace(steps, grid), device)
    options = dict(
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
            chain = Chain(
                method, settings, network, tables, x_T, label, seed=seed, prediction=prediction, options=options
            )
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
    prediction : {"eps", "x_0", "v"}
        What the network predicts.
    options : dict
        `clip`, `guidance` and `temperature` of `noisestep.accelerated.ops.reverse_step` and `multistep`.

    Attributes
    ----------
    x : Tensor, shape (B, C, H, W)
        x_t, always in the same memory.
    t : Tensor of int64, shape ()
        Where the batch is; T steps lead to 0.
    kept : Tensor, shape (B, C, H, W)
        What `keep` was last given; for samplers that keep a state.
    settings : dict

    Raises
    ------
    ValueError
        If the sampler cannot start on this schedule.
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
        prediction: Prediction,
        options: dict[str, Any],
    ) -> None:
        self.settings = settings
        self._sampler, self._network, self._schedule, self._seed = sampler, network, schedule, seed
        self._prediction: Prediction = prediction
        self._options = options
        tables = () if sampler.tables is None else sampler.tables(schedule.schedule, **settings)
        self._tables = [
            schedule.step_table(table, prediction=prediction, memory=sampler.remembers)
            for table in (tables if isinstance(tables, tuple) else (tables,))
        ]
        self.x = torch.empty_like(x_T)
        self.t = torch.zeros((), dtype=torch.int64, device=x_T.device)
        # the earlier predictions; each step writes over the oldest
        self._ring = [torch.empty_like(x_T) for _ in range(sampler.memory)]
        if sampler.keeps_state:
            self.kept = torch.empty_like(x_T)
        self._label = None if label is None else torch.empty_like(label)
        self._count = torch.arange(len(x_T), device=x_T.device)
        self._numbers = torch.empty_like(self._count)
        self._graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}
        self.begin(x_T, label, 0)

    def begin(self, x_T: Tensor, label: Tensor | None, first: int) -> None:
        """Go to the start with a batch of images first, first + 1, ..."""
        self.x.copy_(x_T)
        if self._label is not None and label is not None:
            self._label.copy_(label)
        self._numbers.copy_(self._count + first)
        self.t.fill_(self._schedule.T)
        for tensor in self._ring:
            tensor.zero_()
        if self._sampler.keeps_state:
            self.kept.zero_()
        # steps as the host counts them: how many have been taken, and so which prediction is the oldest
        self._taken = 0

    @property
    def memory(self) -> list[Tensor]:
        """The earlier predictions, the latest first."""
        newest = -self._taken % max(1, len(self._ring))
        return self._ring[newest:] + self._ring[:newest]

    def step(self) -> None:
        """x_t becomes x_{t-1}, and t is t − 1."""
        self._run(0)
        self._taken += 1
        if self._sampler.correct is not None and self._taken < self._schedule.T:
            self._run(1)

    def capture(self) -> None:
        """Put CUDA graphs in the place of what a step computes: one for each tensor that may be the oldest prediction.

        Samplers with a second call have as many for it.
        """
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
        graphs = {}
        for oldest in range(max(1, len(self._ring))):
            self._taken = oldest
            for i, call in enumerate(calls):
                graphs[i, oldest] = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graphs[i, oldest]):
                    call()
        self._graphs = graphs

    def reverse_step(self, **options: Any) -> Any:
        """The op `noisestep.accelerated.ops.reverse_step` at `x` and `t`, in place."""
        return reverse_step(
            self._schedule,
            self.x,
            self._output,
            self.t,
            self._address,
            prediction=self._prediction,
            in_place=True,
            **self._options,
            **options,
        )

    def multistep(
        self, table: int, history: Sequence[Tensor], *, in_place: bool = False, remember: bool = False
    ) -> Tensor:
        """The op `noisestep.accelerated.ops.multistep` at `x` and `t`, with one of the sampler's tables.

        Parameters
        ----------
        table : int
        history : sequence of Tensor
            As many as the table has columns for.
        in_place : bool
            Write the result over `x`.
        remember : bool
            Write the prediction over the oldest one; after the step it is the latest of `memory`.

        Returns
        -------
        Tensor, shape (B, C, H, W)
        """
        return multistep(
            self._tables[table],
            self.x,
            self._output,
            history,
            self.t,
            self._address,
            keep=self.memory[-1] if remember and self._ring else None,
            in_place=in_place,
            **self._options,
        )

    def keep(self, x: Tensor) -> None:
        """Keep a tensor like x_t for the next step."""
        self.kept.copy_(x)

    def _run(self, i: int) -> None:
        if self._graphs:
            self._graphs[i, self._taken % max(1, len(self._ring))].replay()
        else:
            (self._predict, self._correct)[i]()

    def _predict(self) -> None:
        self._ask()
        self._sampler.predict(self)
        advance(self.t, -1)

    def _correct(self) -> None:
        assert self._sampler.correct is not None
        self._ask()
        self._sampler.correct(self)

    def _ask(self) -> None:
        # a gather: to index with a tensor of no axes would read it back
        model_t = self._schedule.timesteps.gather(0, self.t[None])
        self._output = self._network(self.x, model_t.expand(len(self.x)), self._label)
        self._address = NoiseAddress(self._seed, REVERSE, model_t, self._numbers)


def _guided(model: nn.Module, null_label: int) -> Callable[..., Tensor]:
    """The network run without and with the labels, in one batch of twice the size."""

    def both(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        without = torch.full_like(label, null_label)
        output: Tensor = model(torch.cat([x, x]), torch.cat([t, t]), torch.cat([without, label]))
        return output  # (2B, C, H, W)

    return both
