"""A registered op, described once: its schema, what it runs on each backend, its fake and its gradient.

    op = Registered("q_sample(Tensor x_0, Tensor t, Address address, bool return_eps) -> (Tensor, Tensor)")

    @op.eager
    def _(x_0, t, address, return_eps): ...

In a schema, ``Address address`` stands for the seven parts of a noise address. They reach an implementation as one
argument, `noisestep.accelerated.address.Address`. ``Number name`` stands for a Python number or a tensor of them, and
reaches an implementation as whichever it is, or as None. An implementation returns None for a result that was not asked
for.
"""

import re
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import _SingleLevelFunction

from .. import backends

_ADDRESS = (
    "SymInt seed, Tensor? seed_tensor, SymInt stream, SymInt step, Tensor? step_tensor, SymInt sample, "
    "Tensor? sample_tensor"
)
# how many arguments of the op stand for one of these
_PARTS = {"Address": 7, "Number": 2}

# by name, every op of the package
OPS: dict[str, "Registered"] = {}

_peek_functorch = torch._C._functorch.peek_interpreter_stack
_dispatch_keys = torch._C._dispatch_keys
_TYPES = (Tensor, torch.nn.Parameter)
_ordinary_keys: set[int] = set()


class Registered:
    """An op of the namespace noisestep.

    A call with nothing but ordinary tensors, outside of torch.compile, functorch and every mode, goes straight to the
    implementation; every other call goes through PyTorch's dispatcher. Both do the same.

    Parameters
    ----------
    schema : str
        PyTorch's, with ``Address address`` for a noise address, and ``Number name`` for a number or a tensor. A tensor
        that is written to is ``Tensor(a!)``.
    """

    def __init__(self, schema: str) -> None:
        self.name, _, signature = schema.partition("(")
        inside, _, results = signature.rpartition(") -> ")
        inside, results = (inside, results) if results else (signature.rpartition(")")[0], "()")
        declared = [argument.split() for argument in inside.split(", ")]
        self.names = [name for _, name in declared]
        # the arguments, or something of each, by name
        self._named = _named(self.names)
        kinds = [kind for kind, _ in declared]
        self._parts = [_PARTS.get(kind, 1) for kind in kinds]
        self._address = self.names.index("address") if "address" in self.names else None
        self._tensors = [i for i, kind in enumerate(kinds) if kind.startswith("Tensor")]
        # a table is a constant of a `Steps`, which is ordinary
        self._foreign = [i for i in self._tensors if self.names[i] != "table"]
        self._numbers = [i for i, kind in enumerate(kinds) if kind == "Number"]
        self._mutated = [i for i, kind in enumerate(kinds) if "!" in kind]
        self._device = self.names.index("device") if "device" in self.names else None
        # how many results are tensors: an op that gives one gives it alone
        self._results = results.count("Tensor")
        self._implementations: dict[str, Callable[..., Any]] = {}
        self._function: Any = None
        self.op = torch.library.custom_op(
            f"noisestep::{self.name}",
            self._registered,
            mutates_args=[self.names[i] for i in self._mutated],
            schema=f"({_expanded(inside)}) -> {results}",
        )
        OPS[self.name] = self

    def __call__(self, *arguments: Any) -> Any:
        """The op, with an address as `NoiseAddress.arguments` gives it; None for a result that was not asked for."""
        if not self._straight(arguments):
            return self._dispatched(arguments)
        if torch.is_grad_enabled() and self._differentiates(arguments):
            if self._function is None:
                return self._dispatched(arguments)
            return self._function.apply(*arguments)
        result = self.run(*arguments)
        for i in self._mutated:
            if arguments[i] is not None:
                torch.autograd.graph.increment_version(arguments[i])
        return result

    def eager(self, implementation: Callable[..., Any]) -> Callable[..., Any]:
        """PyTorch's operations, for every device, dtype and layout."""
        self._implementations["eager"] = implementation
        return implementation

    def native(self, implementation: Callable[..., Any]) -> Callable[..., Any]:
        """C++ on a CPU. Returns NotImplemented for tensors that it has no form for."""
        self._implementations["native"] = implementation
        return implementation

    def triton(self, implementation: Callable[..., Any]) -> Callable[..., Any]:
        """Launches of Triton kernels."""
        self._implementations["triton"] = implementation
        return implementation

    def fake(self, function: Callable[..., Any]) -> None:
        """What the results look like, from arguments that have no data."""
        self.op.register_fake(lambda *flat: self._filled(function(*self._packed(flat)), flat))

    def backward(
        self, save: Callable[[Any, Any, Any], None], backward: Callable[..., dict[str, Tensor | None]]
    ) -> None:
        """The gradient: `save(ctx, arguments by name, result)`, and `backward(ctx, gradient)`, which returns by name.

        `gradient` is that of the first result; the others have none. In `backward`, `ctx.wanted` says by name which
        arguments want a gradient.
        """

        def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            # no zeros for a result that has no gradient
            ctx.set_materialize_grads(False)
            save(ctx, self._named(*self._packed(inputs)), output)

        def run(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
            ctx.wanted = self._named(*self._packed(ctx.needs_input_grad))
            by_name = {} if gradients[0] is None else backward(ctx, gradients[0])
            flat: list[Any] = []
            for name, parts in zip(self.names, self._parts, strict=True):
                flat += [by_name.get(name)] if parts == 1 else [None] * parts
            return tuple(flat)

        self.op.register_autograd(run, setup_context=setup)
        owner = self

        # what torch.autograd.Function adds to it is for functorch, which takes the other way
        class Straight(_SingleLevelFunction):
            @staticmethod
            def forward(ctx: Any, *arguments: Any) -> Any:
                result = owner.run(*arguments)
                ctx.set_materialize_grads(False)
                save(ctx, owner._named(*arguments), result)
                return result

            @staticmethod
            def backward(ctx: Any, *gradients: Any) -> Any:
                ctx.wanted = owner._named(*ctx.needs_input_grad)
                by_name = {} if gradients[0] is None else backward(ctx, gradients[0])
                return tuple(map(by_name.get, owner.names))

        self._function = Straight

    def _differentiates(self, arguments: tuple[Any, ...]) -> bool:
        return any(arguments[i] is not None and arguments[i].requires_grad for i in self._tensors)

    def _straight(self, arguments: tuple[Any, ...]) -> bool:
        """Whether there is nothing but ordinary tensors, and nobody who wants to see the call."""
        if (
            torch.compiler.is_compiling()
            or torch._C._len_torch_dispatch_stack()
            or torch._C._len_torch_function_stack()
            or _peek_functorch() is not None
            or torch._C._get_tracing_state() is not None
        ):
            return False
        for i in self._foreign:
            x = arguments[i]
            if x is not None and not _ordinary(x):
                return False
        for i in self._numbers:
            x = arguments[i]
            if x is not None and type(x) is not float and not _ordinary(x):
                return False
        at = self._address
        if at is not None:
            _, seed, _, _, step, _, sample = arguments[at]
            for part in (seed, step, sample):
                if part is not None and not _ordinary(part):
                    return False
        return True

    def _dispatched(self, arguments: tuple[Any, ...]) -> Any:
        flat: list[Any] = []
        for i, argument in enumerate(arguments):
            if i == self._address:
                flat += argument
            elif i in self._numbers:
                flat += (None, argument) if isinstance(argument, Tensor) else (argument, None)
            else:
                flat.append(argument)
        return self.op(*flat)

    def run(self, *arguments: Any) -> Any:
        """The implementation of the chosen backend, for ordinary tensors: what other ops' implementations call."""
        device = arguments[self._tensors[0]].device if self._device is None else arguments[self._device]
        implementation = self._implementations.get(backends.chosen(device))
        if implementation is not None:
            result = implementation(*arguments)
            if result is not NotImplemented:
                return result
        return self._implementations["eager"](*arguments)

    def _registered(self, *flat: Any) -> Any:
        return self._filled(self.run(*self._packed(flat)), flat)

    def _filled(self, result: Any, flat: tuple[Any, ...]) -> Any:
        # the dispatcher wants a tensor where a result was not asked for
        if self._results == 0:
            return None
        if self._results == 1 and result is not None:
            return result
        like = flat[self._tensors[0]]
        if self._results == 1:
            return like.new_empty(0)
        return tuple(like.new_empty(0) if part is None else part for part in result)

    def _packed(self, flat: tuple[Any, ...]) -> tuple[Any, ...]:
        arguments, at = [], 0
        for i, parts in enumerate(self._parts):
            if i == self._address:
                arguments.append(flat[at : at + parts])
            else:
                # of a number, the tensor or else the number
                arguments.append(flat[at] if flat[at + parts - 1] is None else flat[at + parts - 1])
            at += parts
        return tuple(arguments)


def _expanded(arguments: str) -> str:
    """A schema's arguments with the parts of each address and number."""
    arguments = arguments.replace("Address address", _ADDRESS)
    return re.sub(r"\bNumber (\w+)", r"float? \1, Tensor? \1_tensor", arguments)


def _named(names: list[str]) -> Any:
    return namedtuple("Arguments", names)


def _ordinary(x: Tensor) -> bool:
    """Whether x is a tensor of its device and nothing more: no subclass, no fake, no negated or conjugate view."""
    if type(x) not in _TYPES:
        return False
    keys = _dispatch_keys(x).raw_repr()
    return keys in _ordinary_keys or _learn(keys, x.device)


def _learn(keys: int, device: torch.device) -> bool:
    # what the dispatcher finds on a plain tensor of this device, made in inference mode or not
    for mode in (False, True):
        with torch.inference_mode(mode):
            _ordinary_keys.add(torch._C._dispatch_keys(torch.empty(0, device=device)).raw_repr())
    return keys in _ordinary_keys
