"""A method of another library's object replaced by ours where nothing that was changed would be bypassed."""

import functools
import weakref
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any, NamedTuple

import numpy as np
import torch
from noisestep.reference.schedule import Schedule
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor, peek_interpreter_stack

from ..schedule import outside_of_modes
from .sources import changed
from .zero_based import ZeroBased

# the tables that a library's own methods read
FORWARD = ("sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod")
X_0_FROM_EPS = ("sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod")
POSTERIOR = ("posterior_mean_coef1", "posterior_mean_coef2", "posterior_log_variance_clipped")
DDIM = ("alphas_cumprod", "alphas_cumprod_prev")

# float32 tables are at most 1.2e-5 from those of float32 betas, measured, for betas up to 0.999; float16 is 5e-4 off
_RELATIVE, _ABSOLUTE = 1e-4, 1e-6


class Method(NamedTuple):
    """A method that may be replaced.

    Attributes
    ----------
    ours : callable
        ``ours(tables, target, *arguments)``, with a `Tables` and the library's arguments. For a call that it does not
        cover it returns NotImplemented, before it has done anything.
    calls : tuple of str
        The methods that the library's own calls, directly or not.
    reads : tuple of str
        The tables that it reads.
    """

    ours: Callable[..., Any]
    calls: tuple[str, ...]
    reads: tuple[str, ...]


class Tables:
    """Our tables for a target, made from its betas and compared with its own.

    Parameters
    ----------
    sources : mapping of str to Tensor or ndarray, shape (T,)
        The target's "betas", and those of its tables that count.

    Attributes
    ----------
    fault : str or None
        Why ours do not stand for its own.
    """

    def __init__(self, sources: Mapping[str, Any]) -> None:
        self._sources = {name: _version(source) for name, source in sources.items()}
        self._on: dict[torch.device, ZeroBased] = {}
        self.fault: str | None = None
        for name, source in sources.items():
            if not _readable(source):
                self.fault = f"its {name} cannot be read"
                return
        try:
            self._schedule = Schedule(_array(sources["betas"]))
        except ValueError as error:
            self.fault = f"its betas are refused: {error}"
            return
        for name, source in sources.items():
            # row 0 of the log-variance is each library's choice, and unused: no noise is added there
            actual, expected = _array(source)[1:], _table(self._schedule, name)[1:]
            if actual.shape != expected.shape or not np.allclose(actual, expected, rtol=_RELATIVE, atol=_ABSOLUTE):
                self.fault = f"its {name} does not follow from its betas"

    def made_from(self, sources: Mapping[str, Any]) -> bool:
        """Whether these are the arrays that ours were compared with, and have not been written to."""
        return all(_unchanged(source, *self._sources[name]) for name, source in sources.items())

    def on(self, device: torch.device) -> ZeroBased:
        """Ours on a device."""
        if device not in self._on:
            self._on[device] = ZeroBased(self._schedule, device)
        return self._on[device]


def _readable(source: Any) -> bool:
    """Whether an array has values, and is not one that a transform of functorch or another tracer puts in its place."""
    if not isinstance(source, Tensor):
        return True
    return type(source) in (Tensor, nn.Parameter) and not source.is_meta and not is_functorch_wrapped_tensor(source)


def _array(source: Any) -> np.ndarray:
    return source.detach().cpu().double().numpy() if isinstance(source, Tensor) else np.asarray(source, np.float64)


def _version(source: Any) -> tuple[Any, Any]:
    """An array, and what changes when it is written to."""
    if isinstance(source, Tensor):
        # a tensor of inference mode counts no versions
        return source, 0 if source.is_inference() else source._version
    return source, np.array(source)


def _unchanged(source: Any, known: Any, version: Any) -> bool:
    if isinstance(source, Tensor):
        return source is known and _version(source)[1] == version
    return np.array_equal(source, version)


def _table(schedule: Schedule, name: str) -> np.ndarray:
    alpha_bar, rest = schedule.alpha_bar[1:], schedule.one_minus_alpha_bar[1:]
    return {
        "betas": schedule.beta[1:],
        "alphas_cumprod": alpha_bar,
        "alphas_cumprod_prev": schedule.alpha_bar[:-1],
        "sqrt_alphas_cumprod": schedule.sqrt_alpha_bar[1:],
        "sqrt_one_minus_alphas_cumprod": schedule.sqrt_one_minus_alpha_bar[1:],
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / alpha_bar),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(rest / alpha_bar),
        "posterior_mean_coef1": schedule.posterior_mean_coef_x_0[1:],
        "posterior_mean_coef2": schedule.posterior_mean_coef_x_t[1:],
        "posterior_log_variance_clipped": schedule.posterior_log_variance[1:],
    }[name]


def replacements(
    target: Any, methods: Mapping[str, Method], known: Mapping[str, frozenset[str]]
) -> tuple[dict[str, Any], dict[str, str]]:
    """What to put in place of which methods of a target, and why the others are left alone.

    Parameters
    ----------
    target : object
    methods : mapping of str to Method
    known : mapping of str to frozenset of str
        Digests of the library's own methods (`sources.digest`).

    Returns
    -------
    tuple of two dicts
        Bound methods, and reasons, by name.
    """
    functions: dict[str, Callable[..., Any]] = {}
    left_alone = {}
    for name, method in methods.items():
        why = changed(target, (name, *method.calls), known) or _tables_of(target, method.reads).fault
        if why is None:
            functions[name] = _replacement(method, getattr(type(target), name), type(target), functions)
        else:
            left_alone[name] = why
    # bound, so that a deep copy of the target is bound to the copy, as an EMA of the weights needs it
    return {name: MethodType(function, target) for name, function in functions.items()}, left_alone


def _replacement(
    method: Method, theirs: Callable[..., Any], kind: type, functions: Mapping[str, Callable[..., Any]]
) -> Callable[..., Any]:
    calls = {name: getattr(kind, name) for name in method.calls if hasattr(kind, name)}
    kept: weakref.WeakKeyDictionary[Any, Tables] = weakref.WeakKeyDictionary()

    def covered(target: Any) -> Tables | None:
        """Our tables, if nothing has been changed since the target was patched."""
        own = vars(target)
        for name, function in calls.items():
            if getattr(kind, name) is not function:
                return None
            # one of our own replacements is no change
            if name in own and (name not in functions or getattr(own[name], "__func__", None) is not functions[name]):
                return None
        tables = kept.get(target)
        if tables is None or not tables.made_from(_sources(target, method.reads)):
            tables = kept[target] = _tables_of(target, method.reads)
        return tables if tables.fault is None else None

    @functools.wraps(theirs)
    def replacement(target: Any, *arguments: Any, **options: Any) -> Any:
        if not _transformed():
            tables = covered(target)
            if tables is not None:
                result = method.ours(tables, target, *arguments, **options)
                if result is not NotImplemented:
                    return result
        return theirs(target, *arguments, **options)

    return replacement


def _transformed() -> bool:
    """Whether the library's own code is traced or transformed: the ops have no transforms, and a compiler fuses it."""
    return (
        torch.compiler.is_compiling()
        or peek_interpreter_stack() is not None
        or torch.autograd.forward_ad._current_level >= 0
    )


def _sources(target: Any, reads: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(target, name) for name in ("betas", *reads)}


def _tables_of(target: Any, reads: tuple[str, ...]) -> Tables:
    with outside_of_modes():
        return Tables(_sources(target, reads))


def plain(x: Any, t: Any, *others: Any) -> bool:
    """Whether x is float32, (B, ...), and t int64, (B,), neither of a subclass of Tensor, and the others like x."""
    return (
        all(type(other) in (Tensor, nn.Parameter) for other in (x, t, *others))
        and x.dtype == torch.float32
        and t.dtype == torch.int64
        and t.shape == x.shape[:1]
        and all(other.dtype == x.dtype and other.shape == x.shape for other in others)
    )
