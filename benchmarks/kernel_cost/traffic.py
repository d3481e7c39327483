"""What each way of computing a function launches and moves: diffusers, plain eager PyTorch, and this package.

Counted op by op while the real code runs on a small batch on the CPU. torch.compile's counts come from `inductor`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from noisestep.accelerated.backends import recording
from torch import Tensor
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from . import plain
from .cases import CASES, DTYPES, batch
from .specialise import batch_bytes

_SHAPE = (64, 3, 32, 32)
# these make or name memory, and start nothing on a device
_FREE = ("empty", "empty_like", "empty_strided", "new_empty", "detach", "_local_scalar_dense", "lift_fresh")
_WAITS = ("_local_scalar_dense", "nonzero")


@dataclass
class Traffic:
    """What computing one function takes.

    Parameters
    ----------
    case, provider, dtype : str
    launches : int
        Kernels that are started.
    bytes_an_element : float
        Read and written, in tensors of the batch's size.
    reads : int
        Values that the host waits for.
    """

    case: str
    provider: str
    dtype: str
    launches: int = 0
    bytes_an_element: float = 0.0
    reads: int = 0


class _Counter(TorchDispatchMode):
    """Counts the ops that would run on a GPU.

    Parameters
    ----------
    traffic : Traffic
    elements : int
        Of the batch.
    on_device : iterable of Tensor, optional
        What would live on the GPU; with it all that is made from it. Everything where it is not given.
    """

    def __init__(self, traffic: Traffic, elements: int, on_device: Iterable[Tensor] | None = None) -> None:
        super().__init__()
        self.traffic, self.elements = traffic, elements
        # tensors are kept, so that no address is used twice
        self.kept = None if on_device is None else list(on_device)
        self.addresses = {tensor.untyped_storage().data_ptr() for tensor in self.kept or ()}

    def _is_there(self, tensor: Tensor) -> bool:
        return self.kept is None or tensor.untyped_storage().data_ptr() in self.addresses

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "noisestep":
            # past this counter to the op's implementation, whose own ops are counted
            with self:
                return func.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CPU), *args, **kwargs)
        result = func(*args, **kwargs)
        inputs = [leaf for leaf in _pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        outputs = [leaf for leaf in _pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
        name = func._schema.name.split("::")[1]
        there = any(map(self._is_there, inputs)) or (not inputs and any(t.numel() >= self.elements for t in outputs))
        if not there:
            return result
        if self.kept is not None:
            self.kept += outputs
            self.addresses |= {tensor.untyped_storage().data_ptr() for tensor in outputs}
        self.traffic.reads += name in _WAITS
        if not func.is_view and name not in _FREE:
            self.traffic.launches += 1
            # what an op writes in place is among its inputs and its outputs; copies do not read it, nor do ops like
            # randn_like read what they take the shape of
            read = inputs[1:] if name in ("copy_", "fill_", "zero_") or name.endswith("_like") else inputs
            moved = sum(t.numel() * t.element_size() for t in (*read, *outputs) if t.numel() >= self.elements)
            self.traffic.bytes_an_element += moved / self.elements
        return result


def _loss(x: Tensor) -> None:
    # as training scripts have it: in float32
    F.mse_loss(x.detach().requires_grad_().float(), torch.zeros_like(x).float()).backward()


def _diffusers(x: Tensor) -> Iterator[tuple[str, Callable[[], object], list[Tensor]]]:
    """Case, call, and what of it lives on the GPU: tables of `step` stay on the host, as in diffusers' pipelines."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    t = torch.arange(1, len(x) + 1)
    training = DDPMScheduler()
    on_device = [x, t, training.alphas_cumprod]
    yield "q_sample", lambda: training.add_noise(x, torch.randn_like(x), t), on_device  # type: ignore[arg-type]
    for case, options in (
        ("reverse_step, β variance", {"variance_type": "fixed_large", "clip_sample": False}),
        ("reverse_step, clipped, posterior variance", {"variance_type": "fixed_small", "clip_sample": True}),
    ):
        sampling = DDPMScheduler(**options)
        sampling.set_timesteps(1000)
        # views share their storage: one step's t is on the device because all of them are
        step = sampling.timesteps[500]
        yield case, lambda s=sampling, at=step: s.step(x, at, x), [x, sampling.timesteps]  # type: ignore[misc]


def _eager(x: Tensor) -> Iterator[tuple[str, Callable[[], object]]]:
    for case, (function, make) in plain.FUNCTIONS.items():
        if function is plain.loss_and_gradient:
            yield case, lambda: _loss(x)
        else:
            arguments = make(tuple(x.shape), x.dtype)
            yield case, lambda f=function, a=arguments: f(*a)  # type: ignore[misc]


def traffic(*, diffusers: bool) -> Iterator[Traffic]:
    """Eager PyTorch, this package and, where it is installed, diffusers, case by case, for each dtype."""
    ours = {case.name: case.prepare for case in CASES if case.name in plain.FUNCTIONS}
    for dtype in DTYPES:
        x = batch(_SHAPE, dtype, "contiguous")
        for case, call in _eager(x):
            yield _count(Traffic(case, "eager PyTorch", dtype), x, call)
        for case, call, on_device in _diffusers(x) if diffusers else ():
            yield _count(Traffic(case, "diffusers", dtype), x, call, on_device)
        for case, prepare in ours.items():
            found = Traffic(case, "noisestep", dtype)
            call = prepare(x)
            # once before: tables are made when they are first asked for
            with recording():
                call()
            with recording() as launches:
                _count(found, x, call)
            found.launches += len(launches)
            found.bytes_an_element += sum(batch_bytes(launch, x) for launch in launches) / x.numel()
            yield found


def _count(found: Traffic, x: Tensor, call: Callable[[], object], on_device: list[Tensor] | None = None) -> Traffic:
    with _Counter(found, x.numel(), on_device):
        call()
    return found
