"""A training step on a GPU: how many kernels it launches, that it waits for nothing, and the step in a CUDA graph.

Where there is no GPU, its tensors have no data, and a graph is emulated: the operations that it captured run again.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from noisestep.accelerated.backends import recording
from noisestep.accelerated.data import ImageSet, load_images
from noisestep.accelerated.errors import RunError
from noisestep.accelerated.training import batches as batches_module
from noisestep.accelerated.training import graph
from noisestep.accelerated.training import loop as training
from noisestep.accelerated.training.batches import Batches
from noisestep.accelerated.training.checkpoint import Checkpoint
from noisestep.accelerated.training.config import TrainConfig
from noisestep.accelerated.training.data import DataRecord
from noisestep.accelerated.training.distributed import SINGLE_PROCESS, World
from noisestep.accelerated.training.loop import DropoutSeeds, Step
from noisestep.accelerated.training.state import State
from noisestep.reference import noise as reference_noise
from tiny_run import tiny_config
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

# a device without memory or kernels stands for a GPU
CPU, FAKE = torch.device("cpu"), torch.device("meta")
# an operation that launches nothing, besides views
FREE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "lift_fresh", "alias"}
# results on the host
READS = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select"}


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return load_images("digits")


def begin(
    images: ImageSet, device: torch.device, config: TrainConfig | None = None, **changes: Any
) -> tuple[State, Step]:
    config = config or tiny_config(**changes)
    state = State.begin(config, device)
    return state, Step(config, state, Batches(config, images, 10, device), device)


# launches and waits, on a GPU that is not there


class Launches(TorchDispatchMode):
    """Counts what would be launched on the device, by the part of the step, and notes what would wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.part = "step"
        self.ours: Counter[str] = Counter()
        self.others: dict[str, Counter[str]] = {}
        self.waits: list[str] = []
        self._pinned: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        if name == "is_pinned":
            return any(args[0] is x for x in self._pinned)
        if name == "_pin_memory":
            self._pinned.append(args[0].clone())
            return self._pinned[-1]
        result = func(*args, **kwargs)
        if func.namespace == "noisestep":
            self.ours[name] += launches_of(func, args)
            return result
        if not any(isinstance(x, Tensor) and x.is_meta for x in tree_leaves((args, kwargs, result))):
            return result
        if name in READS:
            self.waits.append(f"{self.part}: {name}")
        if name in ("_to_copy", "copy_"):
            source = args[name == "copy_"]
            hurried = kwargs.get("non_blocking") or (name == "copy_" and args[2:] == (True,))
            if not source.is_meta and not (hurried and any(source is x for x in self._pinned)):
                self.waits.append(f"{self.part}: {name} of {tuple(source.shape)} from the CPU")
        if not func.is_view and name not in FREE:
            self.others.setdefault(self.part, Counter())[name] += 1
        return result

    def within(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose launches are those of a part."""

        def call(*args: Any, **kwargs: Any) -> Any:
            before, self.part = self.part, part
            try:
                return function(*args, **kwargs)
            finally:
                self.part = before

        return call


def launches_of(func: Any, args: tuple[Any, ...]) -> int:
    """The launches of one of our ops, which its Triton implementation makes for tensors that look like these."""

    def real(x: Any) -> Any:
        if isinstance(x, torch.device):
            return CPU
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype) if isinstance(x, Tensor) else x

    with torch.utils._python_dispatch._disable_current_modes(), recording() as launches:
        func(*tree_map(real, args))
    return len(launches)


@contextmanager
def counted(
    images: ImageSet, config: TrainConfig | None = None, **changes: Any
) -> Iterator[tuple[Launches, State, Step]]:
    """The state and the step on the device, and what counts its launches."""
    with pytest.MonkeyPatch.context() as patch:
        # such a device has no autocast
        patch.setattr(torch, "autocast", lambda *arguments, **options: nullcontext())
        state, step = begin(images, FAKE, config, dropout=0.0, **changes)
        launches = Launches()
        patch.setattr(step, "_network", launches.within("network", step._network))
        patch.setattr(Tensor, "backward", launches.within("network", Tensor.backward))
        # one launch a tensor here, and on a GPU one for many
        patch.setattr(torch.nn.utils, "clip_grad_norm_", launches.within("clip", torch.nn.utils.clip_grad_norm_))
        patch.setattr(state.optimizer, "step", launches.within("optimizer", state.optimizer.step))
        patch.setattr(training, "update_ema", launches.within("ema", training.update_ema))
        yield launches, state, step


@pytest.mark.parametrize(
    ("changes", "ours"),
    [
        ({}, {"integers": 1, "q_sample": 1, "loss_and_gradient": 2, "uniform": 2}),
        ({"data": {"flip": False}, "label_dropout": 0.0}, {"integers": 1, "q_sample": 1, "loss_and_gradient": 2}),
        (
            {"prediction": "v", "weighting": "min_snr", "channels_last": True},
            {"integers": 1, "q_sample": 1, "loss_and_gradient": 2, "uniform": 2},
        ),
    ],
)
def test_a_step_launches_little_and_waits_for_nothing(
    digits: ImageSet, changes: dict[str, Any], ours: dict[str, int]
) -> None:
    with counted(digits, **changes) as (launches, _, step), launches:
        step()
    assert launches.ours == ours
    assert sum(launches.ours.values()) <= 6
    # images, flips, labels, dropped labels, the sum of the loss: one line of PyTorch each
    assert sum(launches.others["step"].values()) <= 14, launches.others["step"]
    assert sum(launches.others["ema"].values()) <= 2
    assert sum(launches.others["optimizer"].values()) <= 3
    assert launches.waits == []


def test_images_that_do_not_fit_on_the_device_are_copied_without_a_wait(
    digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_module, "RESIDENT_BYTES", 1)
    with counted(digits) as (launches, _, step), launches:
        step()
    assert launches.waits == []


def test_x_t_reaches_the_network_in_its_dtype_and_layout(digits: ImageSet) -> None:
    # several channels, as one alone is in both layouts
    rgb = ImageSet(np.repeat(digits.images, 3, axis=1), digits.labels, digits.class_names, "rgb")
    config = tiny_config(dropout=0.0, precision="bf16", channels_last=True)
    assert config.model is not None
    config = replace(config, model=replace(config.model, in_channels=3, out_channels=3))
    seen = []

    def network(x_t: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        seen.append(x_t)
        return x_t.detach().requires_grad_()

    with counted(rgb, config) as (launches, _, step), pytest.MonkeyPatch.context() as patch, launches:
        patch.setattr(step, "_network", network)
        step()
        # the first step copies the indices of several
        launches.others.clear()
        step()
    assert seen[0].dtype == torch.bfloat16
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert not {"clone", "copy_", "_to_copy"} & set(launches.others["step"])


# dropout


def test_the_seeds_of_dropout_are_the_words_of_their_addresses() -> None:
    micro_batches = [range(0, 5), range(5, 11)]
    seeds = DropoutSeeds(2**63 + 5, micro_batches, CPU)
    last = reference_noise.STEPS - 1
    with torch.random.fork_rng(devices=[]):
        for step, rows in itertools.product((0, 1, 63, 64, 7, last), micro_batches):
            seeds(step, rows)
            low, high = reference_noise.words(2**63 + 5, reference_noise.DROPOUT, step, rows.start, 2)[0].tolist()
            drawn = torch.rand(4)
            torch.manual_seed(low | high << 32)
            assert torch.equal(drawn, torch.rand(4)), (step, rows)


# a step in a graph


class Tape(TorchDispatchMode):
    """Calls again what it saw, with the arguments that it saw: what a CUDA graph does, on a CPU.

    What was captured has not run: the tensors that it wrote have their contents from before.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, Any]] = []
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                for x in tree_leaves(value):
                    self._before.setdefault(x.data_ptr(), (x, x.clone()))
        result = func(*args, **kwargs)
        self._calls.append((func, args, kwargs, result))
        return result

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for x, before in self._before.values():
            x.detach().copy_(before)

    @torch.no_grad()
    def replay(self) -> None:
        """Run it."""
        for func, args, kwargs, results in self._calls:
            again = func(*args, **kwargs)
            for x, y in zip(tree_leaves(results), tree_leaves(again), strict=True):
                if isinstance(x, Tensor) and x.data_ptr() != y.data_ptr():
                    x.copy_(y)


class Stream:
    def wait_stream(self, other: Any) -> None:
        pass


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA graphs on a CPU."""

    @contextmanager
    def nothing(*arguments: Any, **options: Any) -> Iterator[None]:
        yield

    monkeypatch.setattr(training, "require_cuda_graph", lambda *arguments: None)
    for name, value in {
        "Stream": Stream,
        "current_stream": Stream,
        "stream": nothing,
        "device": nothing,
        "CUDAGraph": Tape,
        "graph": lambda tape, **options: tape,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)


def outcome(state: State) -> dict[str, bytes]:
    return {name: x.cpu().numpy().tobytes() for name, x in state.tensors().items()}


@pytest.mark.parametrize("changes", [{}, {"prediction": "v", "weighting": "min_snr"}, {"channels_last": True}])
def test_a_replayed_step_is_the_step(digits: ImageSet, emulated: None, changes: dict[str, Any]) -> None:
    # a CPU's AdamW reads the learning rate in float64: one that is a number of float32 is the same in both
    changes = {"lr_schedule": "constant", "warmup": 0, "learning_rate": 2.0**-9, **changes}
    (eager_state, eager), (state, step) = (begin(digits, CPU, cuda_graph=x, **changes) for x in (False, True))
    for _ in range(3):
        assert torch.equal(step(), eager())
    assert state.step == 3
    assert outcome(state) == outcome(eager_state)


def test_a_replay_has_the_learning_rate_of_its_step(digits: ImageSet, emulated: None) -> None:
    (_, eager), (state, step) = (begin(digits, CPU, cuda_graph=x, dropout=0.0) for x in (False, True))
    for _ in range(3):
        # the rates differ by their rounding to float32, by 2^-25 of a step; the warm-up changes them threefold
        torch.testing.assert_close(step(), eager(), rtol=1e-5, atol=0)
    assert state.optimizer.param_groups[0]["lr"].item() == np.float32(step.learning_rate(2))


def test_a_replayed_run_goes_on_from_a_checkpoint(digits: ImageSet, emulated: None) -> None:
    whole, step = begin(digits, CPU, cuda_graph=True)
    for _ in range(2):
        step()
    tensors = {name: x.clone() for name, x in whole.tensors().items()}
    for _ in range(2):
        step()
    state, step = begin(digits, CPU, cuda_graph=True)
    state.restore(Checkpoint(2, 1.0, tiny_config(), DataRecord("", (1, 8, 8), ()), tensors))
    for _ in range(2):
        step()
    assert outcome(state) == outcome(whole)


def test_losses_of_replays_are_not_overwritten(digits: ImageSet, emulated: None) -> None:
    _, step = begin(digits, CPU, cuda_graph=True)
    first = step()
    before = first.item()
    step()
    assert first.item() == before


def test_where_a_step_cannot_be_captured_it_is_refused() -> None:
    config = tiny_config(cuda_graph=True)
    with pytest.raises(RunError, match="--cuda-graph needs a GPU, but the device is cpu; choose --no-cuda-graph"):
        graph.require_cuda_graph(config, CPU, SINGLE_PROCESS)
    with pytest.raises(RunError, match="--cuda-graph captures the step of one process, but there are 2"):
        graph.require_cuda_graph(config, torch.device("cuda"), World(size=2))
    with pytest.raises(ValueError, match="cuda_graph is on and micro_batch is 8"):
        tiny_config(cuda_graph=True, micro_batch=8)
    graph.require_cuda_graph(config, torch.device("cuda"), SINGLE_PROCESS)
    graph.require_cuda_graph(tiny_config(), CPU, World(size=2))


# on a GPU


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Sums of convolutions and embeddings in one order."""
    benchmark = torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, benchmark


@pytest.mark.gpu
@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("resident", [True, False])
def test_a_step_on_a_gpu_does_not_wait(
    digits: ImageSet, monkeypatch: pytest.MonkeyPatch, cuda_graph: bool, resident: bool
) -> None:
    if not resident:
        monkeypatch.setattr(batches_module, "RESIDENT_BYTES", 1)
    # 4 steps a window of indices, so that one of the steps starts a new one
    monkeypatch.setattr(batches_module, "_INDICES_AHEAD", 64)
    _, step = begin(digits, torch.device("cuda"), cuda_graph=cuda_graph)
    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(6):
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dropout": 0.0},
        {"precision": "float32"},
        {"prediction": "v", "weighting": "min_snr", "channels_last": True},
    ],
)
def test_a_captured_step_is_the_step_and_goes_on_from_a_checkpoint(
    digits: ImageSet, deterministic: None, changes: dict[str, Any]
) -> None:
    device = torch.device("cuda")
    (eager_state, eager), (state, step) = (begin(digits, device, cuda_graph=x, **changes) for x in (False, True))
    for k in range(5):
        assert torch.equal(step(), eager()), k
        if k == 2:
            tensors = {name: x.clone() for name, x in state.tensors().items()}
    assert outcome(state) == outcome(eager_state)
    resumed, again = begin(digits, device, cuda_graph=True, **changes)
    resumed.restore(Checkpoint(3, 1.0, tiny_config(), DataRecord("", (1, 8, 8), ()), tensors))
    for _ in range(2):
        again()
    assert outcome(resumed) == outcome(state)
