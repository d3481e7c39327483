"""The training loop: noise the images, predict the noise, step.  All random numbers come from addresses."""

import math
import signal
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Self

import numpy as np
import torch
from noisestep.reference.loss import loss_weights
from noisestep.reference.noise import words
from torch import Tensor, nn

from ..address import DROPOUT, FORWARD, STEPS, TIMESTEP, NoiseAddress
from ..data import ImageSet, ImageStream
from ..errors import Interrupted, LostRank, TrainingError
from ..ops import integers, loss_and_gradient, q_sample
from ..schedule import DeviceSchedule
from . import checkpoint as checkpoints
from .batches import Batches
from .checkpoint import Checkpoint, DataRecord, Unlogged
from .checkpoint_files import path_of, set_aside_after, steps
from .config import TrainConfig
from .distributed import SINGLE_PROCESS, World
from .graph import StepGraph, require_cuda_graph
from .log import Log, LogPaths, open_log
from .optimizer import learning_rate, update_ema
from .state import State

# steps whose dropout seeds are made at a time
_SEEDS_AHEAD = 64
# seconds after which a second Ctrl-C is of somebody who does not want to wait
_IMPATIENT = 3.0


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The autocast type of the network, or None for float32.

    Parameters
    ----------
    precision : {"auto", "float32", "bf16"}
        "auto" is bf16 on a GPU that has it in hardware, float32 elsewhere (on a CPU bf16 is rarely faster).
    device : torch.device

    Returns
    -------
    torch.dtype or None
    """
    if precision == "auto":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else None
    return torch.bfloat16 if precision == "bf16" else None


class Step:
    """Optimizer steps: L_simple and its gradient (Ho et al. 2020, algorithm 1), AdamW, the EMA.

    Parameters
    ----------
    config : TrainConfig
        Complete, the model included.
    state : State
        Changed in place.
    batches : Batches
    device : torch.device
        Where the state is.
    world : World
        The processes that share a step; each computes its rows of the batch.
    """

    def __init__(
        self, config: TrainConfig, state: State, batches: Batches, device: torch.device, world: World = SINGLE_PROCESS
    ) -> None:
        require_cuda_graph(config, device, world)
        self._config, self._state, self._batches, self._device, self._world = config, state, batches, device, world
        self._micro_batches = world.micro_batches(config.batch_size, config.micro_batch)
        schedule = config.schedule.build()
        self._tables = DeviceSchedule(schedule, device)
        weights = loss_weights(schedule, config.weighting, prediction=config.prediction)
        self._weights = torch.from_numpy(weights).float().to(device)  # (T + 1,)
        self._model = world.replicate(state.model)
        self._network: Callable[..., Tensor] = torch.compile(self._model) if config.compile else self._model
        self._dropout = DropoutSeeds(config.seed, self._micro_batches, device) if config.dropout > 0 else None
        self._autocast = autocast_dtype(config.precision, device)
        self._format = torch.channels_last if config.channels_last else torch.contiguous_format
        self._graph: StepGraph | None = None

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0; on a GPU a number of float32, as a captured step reads it."""
        config = self._config
        rate = learning_rate(
            step,
            peak=config.learning_rate,
            warmup=config.warmup,
            steps=config.steps,
            schedule=config.lr_schedule,
        )
        return rate if self._device.type == "cpu" else float(np.float32(rate))

    def __call__(self) -> Tensor:
        """Make the next step.

        Returns
        -------
        Tensor, shape ()
            This process's part of the loss: the parts of all processes sum to the mean over the batch. NaN if the loss
            or the gradient norm is not finite.
        """
        config, state = self._config, self._state
        total = self._replay() if config.cuda_graph else self._update(state.step, self._batch)
        update_ema(state.ema, state.model, state.step, config.ema)
        state.step += 1
        state.whole = True
        return total

    def add_gradient(self, x_0: Tensor, label: Tensor | None, step: int | Tensor, rows: range) -> Tensor:
        """Add the gradient of some rows' part of the loss to that of the weights, and return this part.

        The random numbers of a row depend on its number in the global batch alone, not on the process or the
        micro-batch.

        Parameters
        ----------
        x_0, label : Tensor, Tensor or None
            Images and labels of the rows, as `Batches` gives them.
        step : int or Tensor
            The number of the step; a captured step has it in an int64 tensor on the device.
        rows : range
            Of the global batch.

        Returns
        -------
        Tensor, shape ()
            The parts of all rows of a batch sum to its mean loss.
        """
        config, device = self._config, self._device
        t = integers(NoiseAddress(config.seed, TIMESTEP, step, rows.start), len(rows), 1, self._tables.T, device)
        address = NoiseAddress(config.seed, FORWARD, step, rows.start)
        noise: NoiseAddress | Tensor = address
        if device.type == "cpu":
            # on a CPU it is faster to keep eps than to generate it again, and to convert x_t afterwards
            x_t, noise = q_sample(self._tables, x_0, t, address, return_eps=True)
            x_t = x_t.contiguous(memory_format=self._format)
        else:
            x_t = q_sample(self._tables, x_0, t, address, dtype=self._autocast)
        with torch.autocast(device.type, self._autocast, enabled=self._autocast is not None):
            output = self._network(x_t, t, label)
        share = len(rows) / config.batch_size
        loss, gradient = loss_and_gradient(
            output,
            noise,
            prediction=config.prediction,
            schedule=self._tables,
            t=t,
            x_0=x_0,
            weight=None if config.weighting == "none" else self._weights[t],
            # DDP and FSDP average the gradients over the processes; the sum is needed
            scale=share * self._world.size,
        )
        output.backward(gradient)
        return share * loss

    def _batch(self, rows: range) -> tuple[Tensor, Tensor | None]:
        """Images and labels of some rows of the next step; dropout is seeded for them."""
        step = self._state.step
        batch = self._batches(step, rows)
        # after the batch, as a DataLoader that starts draws from the same generator
        if self._dropout is not None:
            self._dropout(step, rows)
        return batch

    def _update(self, step: int | Tensor, batch: Callable[[range], tuple[Tensor, Tensor | None]]) -> Tensor:
        """Make a step with the batch of each micro-batch's rows, without the EMA. Returns the loss."""
        config, state, world = self._config, self._state, self._world
        if not isinstance(step, Tensor):
            for group in state.optimizer.param_groups:
                group["lr"] = self.learning_rate(step)
        state.optimizer.zero_grad(set_to_none=True)
        parts = []
        for rows in self._micro_batches:
            with world.gradient_sync(self._model, last=rows is self._micro_batches[-1]):
                parts.append(self.add_gradient(*batch(rows), step, rows))
        norm = world.full_tensor(nn.utils.clip_grad_norm_(state.model.parameters(), config.max_grad_norm))
        state.whole = False
        state.optimizer.step()
        # 0 · inf and 0 · NaN are NaN, so the sum shows a bad gradient without waiting for the device
        return sum(parts[1:], start=parts[0]) + 0.0 * norm

    def _replay(self) -> Tensor:
        """`_update` from its CUDA graph, which the first call captures."""
        step, (rows,) = self._state.step, self._micro_batches
        images, labels = self._batches(step, rows)
        if self._graph is None:
            self._graph = StepGraph(
                lambda images, labels, step: self._update(step, lambda rows: (images, labels)),
                self._state,
                images,
                labels,
            )
        if self._dropout is not None:
            self._dropout(step, rows)
        self._state.whole = False
        return self._graph(images, labels, step, self.learning_rate(step))


class DropoutSeeds:
    """Seeds PyTorch's generator, which dropout uses, from the address of the rows that a network is about to compute.

    So dropout has no state to save, and no two processes or micro-batches share a mask.

    Parameters
    ----------
    seed : int
    micro_batches : list of range
        The rows of a step that are computed at once.
    device : torch.device
        Whose generator is seeded.
    """

    def __init__(self, seed: int, micro_batches: list[range], device: torch.device) -> None:
        self._seed, self._firsts, self._device = seed, [rows.start for rows in micro_batches], device
        self._window: int | None = None

    def __call__(self, step: int, rows: range) -> None:
        """Seed the generator for some rows of a step."""
        window, place = divmod(step, _SEEDS_AHEAD)
        if window != self._window:
            # the words of many addresses at once take as long as those of one
            steps = window * _SEEDS_AHEAD + np.arange(min(_SEEDS_AHEAD, STEPS - window * _SEEDS_AHEAD))
            where = np.repeat(steps, len(self._firsts)), np.tile(self._firsts, len(steps))
            pairs = words(self._seed, DROPOUT, *where, 2).astype(np.uint64)
            seeds = pairs[:, 0] | pairs[:, 1] << np.uint64(32)
            self._seeds, self._window = seeds.reshape(len(steps), len(self._firsts)).tolist(), window
        self._generator().manual_seed(self._seeds[place][self._firsts.index(rows.start)])

    def _generator(self) -> torch.Generator:
        if self._device.type == "cpu":
            return torch.default_generator
        index = self._device.index
        return torch.cuda.default_generators[torch.cuda.current_device() if index is None else index]


class Stop(BaseException):
    """Raised by a signal while the loop waits for images, as they may never come."""


class StopSignals:
    """Records signals that ask to stop in `number`, so that the loop can stop between steps.

    They are SIGINT, SIGTERM, SIGHUP and SIGUSR1, with which a queue announces the end of its time. More of them change
    nothing, as one and the same is often sent twice, to a group of processes and on to each of them; but another SIGINT
    after a few seconds ends at once.

    Parameters
    ----------
    waiting : function
        Whether a signal may interrupt what the process does at the moment: then it raises `Stop`.
    """

    def __init__(self, waiting: Callable[[], bool] = lambda: False) -> None:
        self.number: int | None = None
        self._waiting = waiting
        self._first = 0.0

    def _record(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.number is None:
            self.number, self._first = number, now
        elif number == signal.SIGINT and now - self._first > _IMPATIENT:
            raise KeyboardInterrupt
        if self._waiting():
            raise Stop

    def __enter__(self) -> Self:
        """Install the handlers."""
        numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
        # nohup has its way
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        self._before = {number: signal.signal(number, self._record) for number in numbers}
        return self

    def __exit__(self, *error: object) -> None:
        """Restore the previous handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


def train(
    config: TrainConfig,
    images: ImageSet | ImageStream,
    record: DataRecord,
    *,
    device: torch.device,
    checkpoint_folder: Path,
    log_paths: LogPaths,
    world: World = SINGLE_PROCESS,
    checkpoint: Checkpoint | None = None,
    draw: Callable[[State, Log], None] = lambda state, log: None,
    confirm: Callable[[], None] = lambda: None,
    after_saving: Callable[[State], None] = lambda state: None,
) -> State:
    """Train until `config.steps` steps are made, from the start or from a checkpoint.

    The same configuration and images give the same weights, bit for bit on one kind of CPU with one number of threads,
    whether or not the run was interrupted. Several processes see the same images, labels, timesteps and noise as one
    process; only the order in which gradients are summed differs.

    Parameters
    ----------
    config : TrainConfig
        With a model.
    images : ImageSet or ImageStream
        The images to train on, without those held out.
    record : DataRecord
        Of the whole data set, stored in the checkpoints.
    device : torch.device
    checkpoint_folder : Path
        Where checkpoints are written; created if it does not exist.
    log_paths : LogPaths
        Where the log is written, in folders that exist.
    world : World
        The processes that train together; rank 0 writes the files.
    checkpoint : Checkpoint, optional
        Where to continue; only rank 0 needs its tensors.
    draw : function of (State, Log)
        Called every `config.sample_every` steps, to draw a grid of samples.
    confirm : function
        Called on rank 0 before a checkpoint is written; raises if the folder is not this process's to write.
    after_saving : function of State
        Called after each checkpoint but that of the last step, when what was to be drawn at the same step is there.

    Returns
    -------
    State

    Raises
    ------
    TrainingError
        The loss or a gradient is not finite.
    Interrupted
        A signal was received; a checkpoint has been written.
    Exception
        Any other, with a note that says which state is saved: of a single process, that of the last whole step.
    """
    state = State.begin(config, device, world)
    if checkpoint is not None:
        state.restore(checkpoint, world)
    num_classes = config.model.num_classes if config.model is not None else None
    micro_batches = world.micro_batches(config.batch_size, config.micro_batch)
    batches = Batches(config, images, num_classes, device, micro_batches)
    step = Step(config, state, batches, device, world)
    before = Unlogged() if checkpoint is None else checkpoint.unlogged
    summed = before.loss
    since, seconds_since = state.step - before.steps, state.seconds - before.seconds
    # each process has its part of the sum; in float64, where it is the same however the steps are divided among them
    total = torch.full((), before.loss if world.rank == 0 else 0.0, dtype=torch.float64, device=device)
    with (
        closing(batches),
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        open_log(log_paths, config, start=state.step, rank=world.rank) as log,
        StopSignals(lambda: world.size == 1 and batches.waiting) as stop,
    ):
        saved = None if checkpoint is None else checkpoint.step
        saving, mark = False, time.perf_counter()

        def draw_if_due() -> None:
            if config.sample_every > 0 and state.step > 0 and state.step % config.sample_every == 0:
                draw(state, log)

        def take_up() -> None:
            """The loss and the time of the steps since the last entry; the only place that waits for the device."""
            nonlocal summed, mark
            summed = world.sum(total.item())
            now = time.perf_counter()
            state.seconds += now - mark
            mark = now
            if not math.isfinite(summed):
                raise TrainingError(_not_finite(checkpoint_folder, since, state.step))

        def save() -> None:
            nonlocal saved, saving
            saving = True
            unlogged = Unlogged(state.step - since, summed, state.seconds - seconds_since)
            _save(checkpoint_folder, config, record, state, unlogged, world, confirm, log.info)
            saved, saving = state.step, False

        def rescue() -> str:
            """Save what can be saved when the loop is left, and say what is."""
            problem = ""
            if world.size == 1 and not saving and state.whole and saved != state.step:
                try:
                    take_up()
                    save()
                except Exception as error:
                    problem = f"that of step {state.step} could not be saved ({error}); "
            if saved is None:
                return f"{problem}there is no checkpoint yet"
            return f"{problem}the state after step {saved} is saved"

        try:
            if checkpoint is None or checkpoint.config != config:
                # whatever happens from here on, there is something to go on from
                save()
            else:
                world.on_rank0(lambda: set_aside_after(checkpoint_folder, state.step, log.info))
            # a run that was stopped after its checkpoint has not drawn its grid
            draw_if_due()
            mark = time.perf_counter()
            while state.step < config.steps:
                total += step()
                log.advance()
                # read once, as a signal can arrive at any time
                stopping = world.signal(stop.number)
                finished = state.step == config.steps
                logging = finished or state.step % config.log_every == 0
                saving_now = finished or stopping is not None or state.step % config.checkpoint_every == 0
                drawing = config.sample_every > 0 and state.step % config.sample_every == 0
                if not (logging or saving_now or drawing):
                    continue
                take_up()
                if logging:
                    log.metrics(
                        step=state.step,
                        loss=summed / (state.step - since),
                        learning_rate=step.learning_rate(state.step - 1),
                        images_per_second=(state.step - since) * config.batch_size / (state.seconds - seconds_since),
                        seconds=state.seconds,
                    )
                    total.zero_()
                    summed, since, seconds_since = 0.0, state.step, state.seconds
                if saving_now:
                    save()
                if stopping is None:
                    draw_if_due()
                if saving_now and not finished:
                    after_saving(state)
                if stopping is not None:
                    raise _interrupted(stopping, state.step, config.steps)
                mark = time.perf_counter()
        except (TrainingError, Interrupted, LostRank):
            raise
        except Stop:
            kept = rescue()
            assert stop.number is not None
            stopped = _interrupted(stop.number, state.step, config.steps)
            if saved != state.step:
                stopped.add_note(kept)
            raise stopped from None
        except Exception as error:
            error.add_note(rescue())
            raise
    return state


def _save(
    folder: Path,
    config: TrainConfig,
    record: DataRecord,
    state: State,
    unlogged: Unlogged,
    world: World,
    confirm: Callable[[], None],
    report: Callable[[str], object],
) -> None:
    tensors = state.tensors()
    # the loss was finite, but it is that of the weights before this step
    if not world.all(bool(torch.stack([world.local_tensor(x).isfinite().all() for x in tensors.values()]).all())):
        raise TrainingError(_not_finite(folder, state.step - 1, state.step))
    saved = Checkpoint(state.step, state.seconds, config, record, world.full_tensors_on_rank0(tensors), unlogged)

    def write() -> None:
        confirm()
        checkpoints.save(folder, saved, keep=config.keep, report=report)

    world.on_rank0(write)


def _interrupted(number: int, step: int, last: int) -> Interrupted:
    return Interrupted(f"stopped by {signal.Signals(number).name} after step {step} of {last}", number)


def _not_finite(folder: Path, first: int, last: int) -> str:
    saved = steps(folder)
    kept = f"the last good state is {path_of(folder, saved[0])}" if saved else "there is no checkpoint yet"
    return (
        f"the loss or a weight is no longer finite (steps {first + 1} to {last}); {kept}; "
        "try a lower --learning-rate, or --precision float32"
    )
