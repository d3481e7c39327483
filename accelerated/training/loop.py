"""The training loop: noise an image, ask the network what was added, step; every random choice from its address."""

import math
import signal
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Self

import torch
from noisestep.reference.loss import loss_weights
from torch import Tensor, nn

from ..address import DROPOUT, FORWARD, TIMESTEP, NoiseAddress
from ..data import ImageSet, ImageStream
from ..errors import Interrupted, TrainingError
from ..ops import integers, q_sample, simple_loss, words
from ..schedule import DeviceSchedule
from . import checkpoint as checkpoints
from .batches import Feed
from .checkpoint import Checkpoint, DataRecord
from .config import TrainConfig
from .distributed import ALONE, World
from .log import Log, open_log
from .optimizer import learning_rate, update_average
from .state import State


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The type that the network computes in under autocast, or None for float32.

    Parameters
    ----------
    precision : {"auto", "float32", "bf16"}
        "auto" takes bf16 on a GPU that has it in hardware; on a CPU, where it seldom pays, float32.
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
    """One optimizer step after another: L_simple and its gradient (Ho et al. 2020, algorithm 1), AdamW, the average.

    Parameters
    ----------
    config : TrainConfig
        Complete, the model included.
    state : State
        Changed in place.
    feed : Feed
        The batches.
    device : torch.device
        Where the state is.
    world : World
        The processes that make the step together, each with its rows of the batch.
    """

    def __init__(
        self, config: TrainConfig, state: State, feed: Feed, device: torch.device, world: World = ALONE
    ) -> None:
        self._config, self._state, self._feed, self._device, self._world = config, state, feed, device, world
        self._pieces = world.pieces(config.batch_size, config.micro_batch)
        schedule = config.schedule.build()
        self._tables = DeviceSchedule(schedule, device)
        weights = loss_weights(schedule, config.weighting, prediction=config.prediction)
        self._weights = torch.from_numpy(weights).float().to(device)  # (T + 1,)
        self._model = world.replicate(state.model)
        self._network: Callable[..., Tensor] = torch.compile(self._model) if config.compile else self._model
        self._dropout = config.dropout > 0
        self._autocast = autocast_dtype(config.precision, device)
        self._format = torch.channels_last if config.channels_last else torch.contiguous_format

    def loss(self, step: int, rows: range | None = None) -> Tensor:
        """The mean loss of some rows of a step's batch, by default of all, 0-dim, ready for backward().

        A row has the number that it has in the global batch, wherever and with whatever else it is computed.
        """
        config, device = self._config, self._device
        rows = range(config.batch_size) if rows is None else rows
        x_0, label = self._feed(step, rows)
        first = rows.start
        t = integers(NoiseAddress(config.seed, TIMESTEP, step, first), len(rows), 1, self._tables.T, device)
        address = NoiseAddress(config.seed, FORWARD, step, first)
        noise: NoiseAddress | Tensor = address
        if device.type == "cpu":
            # to make eps again costs a CPU more than to keep it
            x_t, noise = q_sample(self._tables, x_0, t, address, return_eps=True)
        else:
            x_t = q_sample(self._tables, x_0, t, address)
        x_t = x_t.contiguous(memory_format=self._format)
        if self._dropout:
            # dropout draws from torch's generator: seeded anew for these rows, it has nothing to remember either, and
            # no two processes or micro-batches drop the same
            low, high = words(NoiseAddress(config.seed, DROPOUT, step, first), 1, 2)[0].tolist()
            torch.manual_seed(low | high << 32)
        with torch.autocast(device.type, self._autocast, enabled=self._autocast is not None):
            output = self._network(x_t, t, label)
        weight = None if config.weighting == "none" else self._weights[t]
        return simple_loss(
            output,
            noise,
            prediction=config.prediction,
            schedule=self._tables,
            t=t,
            x_0=x_0,
            weight=weight,
        )

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        config = self._config
        return learning_rate(
            step, highest=config.learning_rate, warmup=config.warmup, steps=config.steps, decay=config.decay
        )

    def __call__(self) -> Tensor:
        """Make the next step; returns this process' part of its loss.

        The parts of all processes add up to the mean over the batch. They are NaN if the loss or the gradient's norm is
        not finite.
        """
        config, state, world = self._config, self._state, self._world
        total = torch.zeros((), device=self._device)
        state.optimizer.zero_grad(set_to_none=True)
        for rows in self._pieces:
            with world.accumulating(self._model, last=rows is self._pieces[-1]):
                part = self.loss(state.step, rows) * (len(rows) / config.batch_size)
                # the mean over processes is taken of the gradients, where their sum is wanted
                (part * world.size).backward()
            total += part.detach()
        norm = world.whole(nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_gradient))
        for group in state.optimizer.param_groups:
            group["lr"] = self.learning_rate(state.step)
        state.optimizer.step()
        update_average(state.average, state.model, state.step, config.ema)
        state.step += 1
        # 0 · inf and 0 · NaN are NaN: both are noticed by one number, which nobody waits for
        return total + 0.0 * norm


class StopSignals:
    """SIGINT and SIGTERM as a wish, `number`, that the loop reads between two steps; a second one ends at once."""

    def __init__(self) -> None:
        self.number: int | None = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def __enter__(self) -> Self:
        """Take the signals over."""
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


def train(
    config: TrainConfig,
    images: ImageSet | ImageStream,
    record: DataRecord,
    run: Path,
    *,
    device: torch.device,
    world: World = ALONE,
    checkpoint: Checkpoint | None = None,
    draw: Callable[[State, Log], None] = lambda state, log: None,
) -> State:
    """Train, from the beginning or from a checkpoint, until `config.steps` steps are made.

    The same configuration and images give the same weights, bit for bit on one kind of CPU with one number of
    threads, whether or not the run was interrupted on the way. Several processes see the same images, labels,
    timesteps and noise as one; they add the gradients up in another order.

    Parameters
    ----------
    config : TrainConfig
        Complete, the model included.
    images : ImageSet or ImageStream
        The images to train on, held-out ones taken away.
    record : DataRecord
        Of the whole data set, for the checkpoints.
    run : Path
        The run folder, which exists: `log.csv`, `train.log`, `tensorboard/` and `checkpoints/` go there.
    device : torch.device
    world : World
        The processes that train together. The leader writes what is written; all of them make every step.
    checkpoint : Checkpoint, optional
        Where to go on from; the leader's has the tensors.
    draw : function of (State, log)
        Called every `config.sample_every` steps, to draw a grid of samples.

    Returns
    -------
    State

    Raises
    ------
    TrainingError
        The loss or a gradient is no longer finite.
    Interrupted
        SIGINT or SIGTERM came; a checkpoint has been written.
    """
    state = State.begin(config, device, world)
    if checkpoint is not None:
        state.restore(checkpoint, world)
    num_classes = config.model.num_classes if config.model is not None else None
    feed = Feed(config, images, num_classes, device, world.pieces(config.batch_size, config.micro_batch))
    step = Step(config, state, feed, device, world)
    total, since, seconds_since = torch.zeros((), device=device), state.step, state.seconds
    with (
        closing(feed),
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        open_log(run, config, start=state.step, kept=world.leader) as log,
        StopSignals() as stop,
    ):
        mark = time.perf_counter()
        while state.step < config.steps:
            total += step()
            log.advance()
            # read once: a signal may come at any time
            stopping = world.signal(stop.number)
            finished = state.step == config.steps
            logging = finished or state.step % config.log_every == 0
            saving = finished or stopping is not None or state.step % config.checkpoint_every == 0
            drawing = config.sample_every > 0 and state.step % config.sample_every == 0
            if not (logging or saving or drawing):
                continue
            # the one place where the device is waited for
            loss = world.sum(total.item()) / (state.step - since)
            now = time.perf_counter()
            state.seconds += now - mark
            if not math.isfinite(loss):
                raise TrainingError(_not_finite(run, since, state.step))
            if logging:
                log.measure(
                    step=state.step,
                    loss=loss,
                    learning_rate=step.learning_rate(state.step - 1),
                    images_per_second=(state.step - since) * config.batch_size / (state.seconds - seconds_since),
                    seconds=state.seconds,
                )
                total.zero_()
                since, seconds_since = state.step, state.seconds
            if saving:
                _save(run, config, record, state, world)
            if stopping is not None:
                name = signal.Signals(stopping).name
                raise Interrupted(
                    f"stopped by {name} after step {state.step} of {config.steps}; "
                    f"go on with: {world.program} train --resume {run}",
                    stopping,
                )
            if drawing:
                draw(state, log)
            mark = time.perf_counter()
    return state


def _save(run: Path, config: TrainConfig, record: DataRecord, state: State, world: World) -> None:
    tensors = state.tensors()
    # the loss was finite, but it was that of the weights before this step
    if not world.all(bool(torch.stack([world.local(x).isfinite().all() for x in tensors.values()]).all())):
        raise TrainingError(_not_finite(run, state.step - 1, state.step))
    saved = Checkpoint(state.step, state.seconds, config, record, world.collect(tensors))
    world.led(lambda: checkpoints.save(run / "checkpoints", saved, keep=config.keep))


def _not_finite(run: Path, first: int, last: int) -> str:
    saved = sorted(run.glob("checkpoints/step_*.json"))
    kept = f"the last good state is {saved[-1].with_suffix('.safetensors')}" if saved else "no checkpoint was due"
    return (
        f"the loss or a weight is no longer finite (steps {first + 1} to {last}); {kept}; "
        "try a lower --learning-rate, or --precision float32"
    )
