"""New images from a trained network: the loop from x_T to x_0, every number of its noise from an address."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast, get_args

import numpy as np
import torch
from noisestep.reference._arguments import MOST_ROWS, factor, integer, require_name, sizes, switch
from noisestep.reference.multistep import prediction_coefficients
from noisestep.reference.prediction import Prediction
from noisestep.reference.schedule import Schedule
from numpy.typing import NDArray
from torch import Tensor, nn

from ..address import INITIAL, REVERSE, NoiseAddress
from ..ops import advance, multistep, noise, reverse_step
from ..ops.checks import check_labels, check_values_of, device_of_values
from ..schedule import DeviceSchedule, StepTable
from . import ELSEWHERE, SAMPLERS, Sampler
from .editing import Edit, moves
from .guidance import Guidance, Network


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
        float32 (n + 1, k, C, H, W): where the chain starts first, x_0 last, of the first k images, as many as were
        asked for. n is the number of steps; with RePaint's resampling, of those up and down.
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
    guidance: float | Tensor | Guidance = 1.0,
    classifier: Callable[..., Tensor] | None = None,
    temperature: float = 1.0,
    null_label: int | None = None,
    x_T: Tensor | None = None,
    edit: Edit | None = None,
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
    prediction : {"eps", "x_0", "v", "flow"}
        What the model predicts.
    clip : bool
        Keep the predicted x_0 in [−1, 1] at every step.
    guidance : float, Tensor of shape (count,) or Guidance
        Scale of classifier-free guidance (Ho & Salimans 2022), for all images or for each; other than 1 it runs the
        model with and without the labels, and needs `labels` and `null_label`. A `Guidance` may also have an interval
        and a rescaling.
    classifier : function, optional
        `classifier(x, t, label)`, called like the model: the gradient of log p(y | x_t) in x_t, times a scale
        (Dhariwal & Nichol 2021, algorithm 2). It gets ordinary tensors, and autograd is on.
    temperature : float
        What x_T and all fresh noise are multiplied by. A little above 1 it gives back the variety that few steps of
        DDIM lose.
    null_label : int, optional
        The label that says "no label".
    x_T : Tensor, shape (count, C, H, W), optional
        Where to start in place of noise, floating. The temperature does not scale it.
    edit : Edit, optional
        Images to start from, or to keep in part.
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
        "beta" or "zero"; `churn`, `s_min`, `s_max` and `s_noise` of heun (Karras et al. 2022, algorithm 2).

    Returns
    -------
    Samples

    Raises
    ------
    TypeError, ValueError
        A number that is no integer or out of range, a sampler of another name, a setting that means nothing to it,
        labels, guidance, x_T or an edit of another shape, guidance without what it needs, two starts, a mask with a
        sampler that looks beyond one step, a graph on a device that has none or with a classifier, and what the
        schedule and the ops refuse.
    """
    count, batch_size = integer("count", count, 1, MOST_ROWS), integer("batch_size", batch_size, 1, MOST_ROWS)
    seed, first = integer("seed", seed, 0, 1 << 64), integer("first", first, 0, 1 << 63)
    trajectory = integer("trajectory", trajectory, 0, MOST_ROWS)
    shape, temperature = cast(tuple[int, int, int], sizes(shape)), factor("temperature", temperature)
    require_name("prediction", prediction, get_args(Prediction))
    clip, device = switch("clip", clip), device_of_values(device)
    if not isinstance(sampler, str):
        raise TypeError(f"sampler must be a name, got {sampler!r}")
    if sampler not in SAMPLERS:
        hint = f"; {sampler} is called {ELSEWHERE[sampler]} here" if sampler in ELSEWHERE else ""
        raise ValueError(f"sampler is {sampler!r}; allowed: {', '.join(SAMPLERS)}{hint}")
    method = SAMPLERS[sampler]
    settings = method.with_defaults(settings)
    check_labels(labels, count)
    if null_label is not None:
        null_label = integer("null_label", null_label, 0, 1 << 31)
    guidance = guidance if isinstance(guidance, Guidance) else Guidance(guidance)
    guidance.check(count, labelled=labels is not None and null_label is not None)
    if x_T is not None and (check_values_of("x_T", x_T).shape != (count, *shape) or not x_T.is_floating_point()):
        raise ValueError(f"x_T is {x_T.dtype} of shape {tuple(x_T.shape)}; it must be floating, {(count, *shape)}")
    if edit is not None:
        edit.check(count, shape, method)
        if x_T is not None and edit.strength is not None:
            raise ValueError("x_T and the edit's strength both say where to start; give one of them")
    if cuda_graph and device.type != "cuda":
        raise ValueError(f"cuda_graph=True needs a GPU, and the device is {device}")
    if cuda_graph and classifier is not None:
        raise ValueError("cuda_graph=True cannot capture a classifier, which is called from Python at every step")
    kept = schedule if steps is None else schedule.respace(steps, grid)
    tables = DeviceSchedule(kept if edit is None else edit.schedule(kept), device)
    ask = partial(
        Network, model, guidance=guidance, null_label=null_label, classifier=classifier, prediction=prediction
    )
    network, raised = ask(tables), None
    if method.raised is not None:
        rows = method.raised(tables.schedule, trained=schedule, **settings)
        if (schedule.timesteps[rows] != tables.schedule.timesteps).any():
            trained = DeviceSchedule(schedule, device)
            raised = Raised(rows, trained, ask(trained))
    options = dict(clip=(-1.0, 1.0) if clip else None, temperature=temperature)
    images, histories = [], []
    chain: Chain | None = None
    for start in range(0, count, batch_size):
        batch, number = min(batch_size, count - start), first + start
        label = None if labels is None else labels[start : start + batch].to(device)
        if x_T is None:
            x = temperature * noise(NoiseAddress(seed, INITIAL, 0, number), (batch, *shape), device=device)
        else:
            x = x_T[start : start + batch].to(device, torch.float32)
        here = None if edit is None else edit.rows(start, batch, device)
        if here is not None:
            x = here.start(tables, x)
        scale = network.scale_of(start, batch, device)
        if chain is None or len(chain.x) != batch:
            revisits = edit is not None and edit.resample > 1
            chain = Chain(
                method,
                settings,
                network,
                tables,
                x,
                label,
                scale,
                seed=seed,
                prediction=prediction,
                options=options,
                revisits=revisits,
                raised=raised,
            )
            if cuda_graph:
                chain.capture()
        chain.begin(x, label, scale, number)
        watched = max(0, min(trajectory - start, batch))
        # left on the device until the last step: to copy is to wait
        history = [x[:watched]]
        for _ in moves(chain, tables, here, seed=seed, number=number):
            history.append(chain.x[:watched].clone())
        images.append(chain.x.to("cpu", copy=True))
        histories.append(torch.stack(history).cpu())
        progress(start + batch)
    return Samples(torch.cat(images), labels, torch.cat(histories, dim=1))


@dataclass(frozen=True, eq=False)
class Raised:
    """Where the first call of each step is made, if the noise is raised before.

    Attributes
    ----------
    rows : ndarray of int64, shape (T + 1,)
        The step of `schedule` for each of the chain's.
    schedule : DeviceSchedule
        The whole chain, as the model was trained on it.
    network : Network
        For `schedule`.
    """

    rows: NDArray[np.int64]
    schedule: DeviceSchedule
    network: Network


class Chain:
    """A batch between x_T and x_0; a step takes nothing from the host, so that CUDA graphs can be made of it.

    Parameters
    ----------
    sampler : Sampler
    settings : dict
        Of the sampler.
    network : Network
    schedule : DeviceSchedule
        T steps on the device of the batch.
    x_T : Tensor, shape (B, C, H, W)
        A batch like those that are drawn.
    label : Tensor of int64, shape (B,), or None
    scale : Tensor, shape (B,), or None
        Of the guidance, where each image has its own.
    seed : int
        Of the noise; an image's number is its sample, the original timestep its step.
    prediction : {"eps", "x_0", "v", "flow"}
        What the network predicts.
    options : dict
        `clip` and `temperature` of `noisestep.accelerated.ops.reverse_step` and `multistep`.
    revisits : bool
        Whether the chain comes back to a t, as RePaint does: `visit` is then a tensor.
    raised : Raised, optional
        For a sampler that raises the noise.

    Attributes
    ----------
    x : Tensor, shape (B, C, H, W)
        x_t, always in the same memory.
    t : Tensor of int64, shape ()
        Where the batch is; T steps lead to 0.
    kept : Tensor, shape (B, C, H, W)
        What `keep` was last given; for samplers that keep a state.
    settings : dict
    visit : Tensor of int64, shape (), or None
        What is added to the step of the noise's address: VISIT times how often the chain has been at t before.

    Raises
    ------
    ValueError
        If the sampler cannot start on this schedule.
    """

    def __init__(
        self,
        sampler: Sampler,
        settings: dict[str, Any],
        network: Network,
        schedule: DeviceSchedule,
        x_T: Tensor,
        label: Tensor | None,
        scale: Tensor | None,
        *,
        seed: int,
        prediction: Prediction,
        options: dict[str, Any],
        revisits: bool = False,
        raised: Raised | None = None,
    ) -> None:
        self.settings = settings
        self._sampler, self._network, self._schedule, self._seed = sampler, network, schedule, seed
        self._prediction: Prediction = prediction
        self._options = options
        self._raised = raised
        whole = {} if raised is None else {"trained": raised.schedule.schedule}
        tables = () if sampler.tables is None else sampler.tables(schedule.schedule, **settings, **whole)
        tables = tables if isinstance(tables, tuple) else (tables,)
        self._tables = [schedule.step_table(table, prediction=prediction, memory=sampler.remembers) for table in tables]
        # for each call of a step, whether it is guided at each t
        self._guided = [network.guided, network.guided]
        if raised is not None:
            known = prediction_coefficients(raised.schedule.schedule, prediction)[raised.rows]
            self._tables[0] = StepTable(known, tables[0], memory=sampler.remembers, device=schedule.device)
            self._guided[0] = [raised.network.guided[row] for row in raised.rows]
            self._rows = torch.from_numpy(raised.rows).to(schedule.device)
        self.x = torch.empty_like(x_T)
        self.t = torch.zeros((), dtype=torch.int64, device=x_T.device)
        # the earlier predictions; each step writes over the oldest
        self._ring = [torch.empty_like(x_T) for _ in range(sampler.memory)]
        if sampler.keeps_state:
            self.kept = torch.empty_like(x_T)
        self.visit = torch.zeros_like(self.t) if revisits else None
        self._label = None if label is None else torch.empty_like(label)
        self._scale = None if scale is None else torch.empty_like(scale)
        self._count = torch.arange(len(x_T), device=x_T.device)
        self._numbers = torch.empty_like(self._count)
        # by the call of a step, the turn, and whether there is guidance
        self._graphs: dict[tuple[int, int, bool], torch.cuda.CUDAGraph] = {}
        self.begin(x_T, label, scale, 0)

    def begin(self, x_T: Tensor, label: Tensor | None, scale: Tensor | None, first: int) -> None:
        """Go to the start with a batch of images first, first + 1, ..., each with its scale of guidance."""
        self.x.copy_(x_T)
        if self._label is not None and label is not None:
            self._label.copy_(label)
        if self._scale is not None and scale is not None:
            self._scale.copy_(scale)
        self._numbers.copy_(self._count + first)
        for tensor in self._ring:
            tensor.zero_()
        if self._sampler.keeps_state:
            self.kept.zero_()
        # how many steps have been taken, modulo the number of earlier predictions
        self._turn = 0
        self.go_to(self._schedule.T)

    def go_to(self, t: int) -> None:
        """Say that `x` is x_t."""
        self.t.fill_(t)
        # t as the host counts it, which decides whether a step is guided, and whether there is one to correct
        self._left = t

    @property
    def memory(self) -> list[Tensor]:
        """The earlier predictions, the latest first."""
        newest = -self._turn % max(1, len(self._ring))
        return self._ring[newest:] + self._ring[:newest]

    def step(self) -> None:
        """x_t becomes x_{t-1}, and t is t − 1."""
        self._run(0)
        self._turn = (self._turn + 1) % max(1, len(self._ring))
        self._left -= 1
        if self._sampler.correct is not None and self._left > 0:
            self._run(1)

    def capture(self) -> None:
        """Put CUDA graphs in the place of what a step computes.

        One for each call of a step, each tensor that may be the oldest prediction, and without and with guidance as it
        occurs.
        """
        calls = (0,) if self._sampler.correct is None else (0, 1)
        turns = range(max(1, len(self._ring)))
        ways = [way for call in calls for way in itertools.product((call,), turns, sorted({*self._guided[call][1:]}))]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            # what is compiled, tuned or allocated at first is not for the graph
            for _ in range(2):
                for way in ways:
                    self.t.fill_(self._schedule.T)
                    self._compute(*way)
        torch.cuda.current_stream().wait_stream(aside)
        graphs = {}
        for way in ways:
            graphs[way] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graphs[way]):
                self._compute(*way)
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
            guidance=self._guidance,
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
            guidance=self._guidance,
            in_place=in_place,
            **self._options,
        )

    def keep(self, x: Tensor) -> None:
        """Keep a tensor like x_t for the next step."""
        self.kept.copy_(x)

    def _run(self, call: int) -> None:
        way = call, self._turn, self._guided[call][self._left]
        if self._graphs:
            self._graphs[way].replay()
        else:
            self._compute(*way)

    def _compute(self, call: int, turn: int, guided: bool) -> None:
        self._turn = turn
        self._ask(call, guided)
        if call == 0:
            self._sampler.predict(self)
            advance(self.t, -1)
        else:
            assert self._sampler.correct is not None
            self._sampler.correct(self)

    def _ask(self, call: int, guided: bool) -> None:
        # a gather: to index with a tensor of no axes would read it back
        network, t = self._network, self.t[None]
        model_t = self._schedule.timesteps.gather(0, t)
        step = model_t if self.visit is None else model_t + self.visit
        self._address = NoiseAddress(self._seed, REVERSE, step, self._numbers)
        if call == 0 and self._raised is not None:
            # what is predicted has no part in it
            self._output, self._guidance = self.x, None
            self.multistep(len(self._tables) - 1, [], in_place=True)
            network, t = self._raised.network, self._rows.gather(0, t)
            model_t = self._raised.schedule.timesteps.gather(0, t)
        self._output, self._guidance = network(
            self.x, t, model_t.expand(len(self.x)), self._label, guided=guided, scale=self._scale
        )
